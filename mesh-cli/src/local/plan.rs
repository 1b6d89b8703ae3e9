//! What is to run: the user's objects, seen as a kubelet and a controller manager would. Pure.
//!
//! In: accepted objects. Out: workloads with their pods' templates, the Services that are implied, and what has to be said
//! about them.

mod container;
mod proxy_config;

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_proto::crd::meta::holds_all;
use mesh_proto::crd::workload::{PodSpec, Service, ServicePort, ServiceSpec};
use mesh_proto::crd::{IntOrString, Labels, Object, ObjectMeta, Resource};

pub use container::{Check, Container, Env, EnvValue, Port, Probe, Run};
use container::{Settings, container};

use super::api::{GatewayResource, WorkloadKind};

/// The namespace of the control plane and the gateway.
pub const SYSTEM: &str = "istio-system";
/// The gateway that `up` always runs.
pub const GATEWAY: &str = "istio-ingressgateway";
/// The built-in client.
pub const CLIENT: &str = "client";
/// How long an application may take to end when its pod does not say (as in Kubernetes).
const GRACE: Duration = Duration::from_secs(30);
/// A Deployment whose pods are gateways carries this annotation (Istio's gateway injection).
const TEMPLATES: &str = "inject.istio.io/templates";

/// Which workload: namespace and name.
pub type Key = (String, String);

/// What is to run.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub workloads: BTreeMap<Key, Workload>,
    /// Services that no file declares.
    pub implied: Vec<Service>,
    pub gateways: Vec<GatewayResource>,
    /// What `up` says about the user's files.
    pub notices: Vec<String>,
}

/// A Deployment, a Pod, the client or a gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub namespace: String,
    pub name: String,
    pub replicas: u32,
    pub template: Template,
}

/// What each pod of a workload looks like. A change means new pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub labels: Labels,
    pub annotations: Labels,
    pub service_account: String,
    pub containers: Vec<Container>,
    pub grace: Duration,
    /// Workers of its proxy if it says (0: one a CPU).
    pub concurrency: Option<u16>,
    /// Why it cannot run.
    pub blocked: Option<String>,
}

impl Plan {
    /// Makes the plan.
    #[must_use]
    pub fn of(resources: &[Resource]) -> Self {
        let mut plan = Self::default();
        let settings = Settings::of(resources);
        for resource in resources {
            match &resource.object {
                Object::Deployment(d) => {
                    let template = &d.spec.template;
                    let replicas = d.spec.replicas.unwrap_or(1);
                    plan.add(
                        WorkloadKind::Deployment,
                        &d.metadata,
                        replicas,
                        &template.metadata,
                        &template.spec,
                        &settings,
                    );
                }
                Object::Pod(p) => {
                    plan.add(WorkloadKind::Pod, &p.metadata, 1, &p.metadata, &p.spec, &settings);
                }
                Object::Gateway(g) => plan.gateways.push(GatewayResource {
                    namespace: g.metadata.namespace.clone(),
                    name: g.metadata.name.clone(),
                    selector: g.spec.selector.clone(),
                }),
                _ => {}
            }
        }
        let services: Vec<&Service> = resources.iter().filter_map(as_service).collect();
        plan.tell_stand_ins();
        plan.imply(&services);
        plan.built_in();
        plan
    }

    fn add(
        &mut self,
        kind: WorkloadKind,
        metadata: &ObjectMeta,
        replicas: u32,
        pod: &ObjectMeta,
        spec: &PodSpec,
        settings: &Settings<'_>,
    ) {
        let gateway = pod.annotations.get(TEMPLATES).is_some_and(|t| t.contains("gateway"));
        let workload = Workload {
            kind: if gateway { WorkloadKind::Gateway } else { kind },
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            replicas,
            template: self.template(&metadata.namespace, &metadata.name, pod, spec, settings, gateway),
        };
        self.workloads.insert((workload.namespace.clone(), workload.name.clone()), workload);
    }

    fn template(
        &mut self,
        namespace: &str,
        name: &str,
        pod: &ObjectMeta,
        spec: &PodSpec,
        settings: &Settings<'_>,
        gateway: bool,
    ) -> Template {
        let about = format!("{name} in {namespace}");
        let mut blocked = None;
        let mut containers = Vec::new();
        // A gateway's only container is the proxy itself (`image: auto`).
        for wanted in spec.containers.iter().filter(|_| !gateway) {
            match container(wanted, namespace, settings) {
                Ok(container) => containers.push(container),
                Err(why) => blocked = Some(why),
            }
            for what in container::not_in_force(wanted) {
                self.notices.push(format!("{about}: container {}: {what}", wanted.name));
            }
        }
        if !spec.init_containers.is_empty() {
            blocked = Some("initContainers are not run on one machine yet; remove them".to_owned());
        }
        let (concurrency, not_followed) = proxy_config::concurrency(&pod.annotations);
        self.notices.extend(not_followed.into_iter().map(|what| format!("{about}: {what}")));
        if spec.host_network {
            self.notices
                .push(format!("{about}: hostNetwork is not followed: it gets a sidecar as every other pod"));
        }
        let injected =
            |labels: &Labels| labels.get("sidecar.istio.io/inject").map(String::as_str) != Some("false");
        if !injected(&pod.labels) || !injected(&pod.annotations) {
            self.notices.push(format!(
                "{about}: sidecar.istio.io/inject: \"false\" is not followed: on one machine the sidecar is what gives a \
                 pod its address"
            ));
        }
        if let Some(why) = &blocked {
            self.notices.push(format!("{about} cannot run: {why}"));
        }
        let account =
            if spec.service_account_name.is_empty() { "default" } else { &spec.service_account_name };
        Template {
            labels: pod.labels.clone(),
            annotations: pod.annotations.clone(),
            service_account: account.to_owned(),
            containers,
            concurrency,
            grace: spec.termination_grace_period_seconds.map_or(GRACE, Duration::from_secs),
            blocked,
        }
    }

    /// One line for all of them: most examples have only images.
    fn tell_stand_ins(&mut self) {
        let has_one = |w: &&Workload| w.template.containers.iter().any(|c| c.run == Run::StandIn);
        let named: Vec<&str> = self.workloads.values().filter(has_one).map(|w| w.name.as_str()).collect();
        if !named.is_empty() {
            self.notices.push(format!(
                "images are not run here: the sample application stands in for {}; a container with a `command` runs it",
                named.join(", ")
            ));
        }
    }

    /// What says how to capture, where nothing is captured.
    pub fn tell_uncaptured(&mut self) {
        let about_capture = |name: &&String| {
            name.starts_with("traffic.sidecar.istio.io/") || *name == "sidecar.istio.io/interceptionMode"
        };
        for workload in self.workloads.values() {
            for annotation in workload.template.annotations.keys().filter(about_capture) {
                self.notices.push(format!(
                    "{} in {}: {annotation} is followed only with `meshctl up --netns`: without, nothing is captured",
                    workload.name, workload.namespace
                ));
            }
        }
    }

    /// A Deployment with ports that no Service selects gets a Service of its own name.
    fn imply(&mut self, services: &[&Service]) {
        for workload in self.workloads.values().filter(|w| w.kind == WorkloadKind::Deployment) {
            let here = |s: &&&Service| s.metadata.namespace == workload.namespace;
            let mut near = services.iter().filter(here);
            let covers = |s: &&Service| {
                s.metadata.name == workload.name
                    || !s.spec.selector.is_empty() && holds_all(&s.spec.selector, &workload.template.labels)
            };
            let ports: Vec<&Port> = workload.template.containers.iter().flat_map(|c| &c.ports).collect();
            if near.any(covers) || ports.is_empty() || workload.template.labels.is_empty() {
                continue;
            }
            let listed: Vec<String> = ports.iter().map(|p| p.number.to_string()).collect();
            self.notices.push(format!(
                "no Service selects {} in {}: Service {} with port {} is implied",
                workload.name,
                workload.namespace,
                workload.name,
                listed.join(", ")
            ));
            self.implied.push(service(workload, &ports));
        }
    }

    /// The gateway and the client, unless the user has workloads of those names.
    fn built_in(&mut self) {
        let own = |list: &[(&str, &str)]| -> Labels {
            list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let bare = |account: &str, labels: &[(&str, &str)]| Template {
            labels: own(labels),
            annotations: Labels::new(),
            service_account: account.to_owned(),
            containers: Vec::new(),
            grace: GRACE,
            concurrency: None,
            blocked: None,
        };
        let mut gateway =
            bare(&format!("{GATEWAY}-service-account"), &[("istio", "ingressgateway"), ("app", GATEWAY)]);
        gateway.annotations = own(&[(TEMPLATES, "gateway")]);
        let client = bare(CLIENT, &[("app", CLIENT)]);
        for (kind, namespace, name, template) in [
            (WorkloadKind::Gateway, SYSTEM, GATEWAY, gateway),
            (WorkloadKind::Client, "default", CLIENT, client),
        ] {
            let workload = Workload {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                replicas: 1,
                template,
            };
            self.workloads.entry((namespace.to_owned(), name.to_owned())).or_insert(workload);
        }
    }
}

impl Workload {
    /// The pod's name of the replica `ordinal`. A Pod has its own.
    #[must_use]
    pub fn instance(&self, ordinal: u32) -> String {
        match self.kind {
            WorkloadKind::Pod => self.name.clone(),
            _ => format!("{}-{ordinal}", self.name),
        }
    }
}

fn as_service(resource: &Resource) -> Option<&Service> {
    match &resource.object {
        Object::Service(service) => Some(service),
        _ => None,
    }
}

fn service(workload: &Workload, ports: &[&Port]) -> Service {
    let port = |port: &&Port| ServicePort {
        name: match (&port.name, ports.len()) {
            (Some(name), _) => name.clone(),
            (None, 1) => String::new(),
            // Services with several ports need names; "port" is no protocol, so that it is detected.
            (None, _) => format!("port-{}", port.number),
        },
        port: port.number,
        target_port: Some(IntOrString::Number(port.number)),
        ..ServicePort::default()
    };
    Service {
        metadata: ObjectMeta {
            name: workload.name.clone(),
            namespace: workload.namespace.clone(),
            ..ObjectMeta::default()
        },
        spec: ServiceSpec {
            ports: ports.iter().map(port).collect(),
            selector: workload.template.labels.clone(),
            ..ServiceSpec::default()
        },
    }
}

#[cfg(test)]
mod tests;
