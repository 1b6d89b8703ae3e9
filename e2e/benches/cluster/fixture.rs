//! What is measured on: a namespace with 200 Services whose EndpointSlices are written by hand, an application and clients with
//! sidecars and without, and a pod that does nothing.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Context as _;
use e2e::workload::{self, App};
use e2e::{Client, Cluster, eventually};
use serde_json::Value;

use super::api::Api;

/// Services beside those that are used.
pub const SERVICES: usize = 200;
/// Pods whose sidecars subscribe to the service that changes.
pub const WATCHERS: usize = 4;

/// All of it.
pub struct Fixture {
    /// The cluster.
    pub cluster: Cluster,
    /// Its API server.
    pub api: Api,
    /// The namespace.
    pub namespace: String,
    /// When everything was there.
    pub since: Instant,
}

impl Fixture {
    /// Makes it and waits until it is ready.
    pub async fn make(cluster: Cluster) -> anyhow::Result<Self> {
        let api = Api::start(&cluster).await?;
        let namespace = format!("e2e-bench-{:x}", std::process::id());
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n  labels: {{istio-injection: enabled, mesh-e2e: test}}\n"
        );
        cluster.fed("kubectl", &["apply", "-f", "-"], &yaml).await?;
        let mut this = Self { cluster, api, namespace, since: Instant::now() };
        if let Err(error) = this.fill().await {
            this.remove().await;
            return Err(error);
        }
        Ok(this)
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        eventually("the namespace is ready", async || {
            self.kubectl(&["get", "configmap", "istio-ca-root-cert"]).await?;
            self.kubectl(&["get", "serviceaccount", "default"]).await
        })
        .await?;
        eprintln!("{SERVICES} services, pods");
        let apps =
            [App::new("web"), App::new("other"), App::new("plain").label("sidecar.istio.io/inject", "false")];
        let mut yaml = String::new();
        for app in &apps {
            writeln!(yaml, "{}---", app.yaml())?;
        }
        for number in 0..WATCHERS {
            writeln!(yaml, "{}---", workload::client(&watcher(number), ""))?;
        }
        let outside = "    labels: {sidecar.istio.io/inject: \"false\"}\n";
        write!(yaml, "{}---\n{}---\n", workload::client("outside", outside), workload::client("idle", ""))?;
        self.cluster.apply(&self.namespace, &yaml).await?;
        let mut yaml = String::new();
        for number in 0..SERVICES {
            let address = format!("10.254.{}.{}", number / 100, 1 + number % 100);
            write!(yaml, "{}", service(&format!("s{number}"), &address))?;
        }
        self.cluster.apply(&self.namespace, &yaml).await?;
        for app in &apps {
            self.cluster.rolled_out(&self.namespace, &format!("deployment/{}", app.deployment())).await?;
        }
        self.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=240s"]).await?;
        self.since = Instant::now();
        Ok(())
    }

    /// Removes it.
    pub async fn remove(&self) {
        let name = &self.namespace;
        let _ = self.cluster.kubectl(&["delete", "namespace", name, "--wait=false"]).await;
        let now = ["delete", "pods", "--all", "--grace-period=1", "--wait=false", "-n", name];
        let _ = self.cluster.kubectl(&now).await;
    }

    /// `kubectl -n`.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["-n", &self.namespace], arguments].concat()).await
    }

    /// A pod to send from.
    pub fn client(&self, pod: &str) -> Client {
        Client::new(self.cluster.clone(), &self.namespace, pod)
    }

    /// The first pod of a selector: its metadata and status.
    pub async fn pod(&self, namespace: &str, selector: &str) -> anyhow::Result<Value> {
        let mut pods = self.pods(namespace, selector).await?;
        anyhow::ensure!(!pods.is_empty(), "no pod {selector} in {namespace}");
        Ok(pods.remove(0))
    }

    /// The pods of a selector.
    pub async fn pods(&self, namespace: &str, selector: &str) -> anyhow::Result<Vec<Value>> {
        let mut list = self.cluster.json(&["get", "pods", "-n", namespace, "-l", selector]).await?;
        let items = list["items"].as_array_mut().context("a list has items")?;
        Ok(std::mem::take(items))
    }

    /// The UID of a pod by name.
    pub async fn uid(&self, pod: &str) -> anyhow::Result<String> {
        self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).await
    }
}

/// The name of a pod that watches.
pub fn watcher(number: usize) -> String {
    format!("watcher-{number}")
}

/// A Service without a selector, and its EndpointSlice with one address.
pub fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
---
"
    )
}
