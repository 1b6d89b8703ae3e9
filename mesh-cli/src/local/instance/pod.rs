//! The Pod object that a pod's instance is told to the pilot by: one file, replaced by rename.

use std::net::IpAddr;
use std::path::PathBuf;

use mesh_proto::crd::meta::LOW_PORT_OFFSET;
use serde_json::{Value, json};

use super::Instance;
use crate::local::api::{InstanceState, WorkloadKind};
use crate::local::dir;
use crate::local::net::PORT_OFFSET;

/// Says that the pod has a sidecar: its ports take mTLS.
const INJECTED: &str = "sidecar.istio.io/status";

/// Now, as Kubernetes writes it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Instance {
    fn pod_file(&self) -> PathBuf {
        self.context.dir.pods().join(format!("{}.{}.yaml", self.namespace, self.name))
    }

    /// Tells the pilot.
    pub(super) fn write_pod(&self) {
        let pod = self.pod().to_string();
        if let Err(error) = dir::write(&self.pod_file(), pod.as_bytes()) {
            let text = format!("{}: cannot write {}: {error}", self.name, self.pod_file().display());
            self.context.journal.tell("failed", text);
        }
    }

    /// Gives back what it had; its logs stay.
    pub(super) fn clean_up(&self) {
        match self.inside.lock().take() {
            // Nothing more reaches it.
            Some(inside) => drop(inside),
            None => self.context.app_ports.lock().give_back(self.ports.iter().map(|p| p.target.port())),
        }
        let _ = std::fs::remove_file(self.pod_file());
        let id = self.file_id();
        let _ = std::fs::remove_file(self.context.dir.config_of(&id));
        let _ = std::fs::remove_file(self.context.dir.token_of(&id));
        let _ = std::fs::remove_dir_all(self.context.dir.state_of(&id));
    }

    /// Its name in file names.
    pub(super) fn file_id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    pub(super) fn refresh_token(&self) {
        let written = self.context.write_token(
            &self.file_id(),
            &self.namespace,
            &self.template.service_account,
            &self.name,
        );
        if let Err(error) = written {
            self.context.journal.tell("failed", format!("{}: cannot write its token: {error}", self.name));
        }
    }

    fn pod(&self) -> Value {
        let phase = self.phase();
        let mut annotations = self.template.annotations.clone();
        annotations.insert(INJECTED.to_owned(), "injected".to_owned());
        if self.ports.iter().any(|p| p.port != p.listen.port()) {
            annotations.insert(LOW_PORT_OFFSET.to_owned(), PORT_OFFSET.to_string());
        }
        let mut metadata = json!({
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
            "labels": self.template.labels,
            "annotations": annotations,
            "creationTimestamp": self.created,
        });
        if let Some(deleted) = &phase.deleted {
            metadata["deletionTimestamp"] = json!(deleted);
        }
        let ready = phase.state == InstanceState::Ready;
        let v6 = self.place.as_ref().and_then(|place| place.pod_ip6);
        let ips = std::iter::once(IpAddr::from(self.ip())).chain(v6.map(Into::into));
        let ips: Vec<Value> = ips.map(|ip| json!({"ip": ip})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "serviceAccountName": self.template.service_account,
                "nodeName": "localhost",
                "containers": self.pod_containers(),
            },
            "status": {
                "phase": if phase.state == InstanceState::Starting { "Pending" } else { "Running" },
                "podIP": self.ip().to_string(),
                "podIPs": ips,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        })
    }

    fn pod_containers(&self) -> Vec<Value> {
        let port = |p: &crate::local::plan::Port| {
            let mut value = json!({"containerPort": p.number});
            if let Some(name) = &p.name {
                value["name"] = json!(name);
            }
            value
        };
        let mut containers: Vec<Value> = self
            .template
            .containers
            .iter()
            .map(|c| {
                let ports: Vec<Value> = c.ports.iter().map(port).collect();
                json!({"name": c.name, "image": c.image, "ports": ports})
            })
            .collect();
        if containers.is_empty() {
            let image = if self.kind == WorkloadKind::Gateway { "auto" } else { "none" };
            containers.push(json!({"name": "istio-proxy", "image": image}));
        }
        containers
    }
}
