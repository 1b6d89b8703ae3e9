//! One temporary namespace a test: made before, dumped on failure, removed after.

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::finally::finally;
use crate::turn::{Kind, Place};
use crate::{dump, times, workload};

/// Whether a test bears others at its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// It stays in its namespace.
    Welcome,
    /// As [`Self::Welcome`], and takes long: it begins first.
    Early,
    /// It works on what everybody uses (the control plane, the shared gateway), or uses the machine as if it were alone: one such
    /// at a time. Tests that stay in their namespaces go on beside it: they must not notice.
    Operator,
    /// It says [`Namespace::alone`] when it is ready for it, and then takes away what everybody uses. It begins last.
    Alone,
}

/// A namespace of a test.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// The cluster that it is in.
    pub cluster: Cluster,
    place: RefCell<Option<Place>>,
    waited: Cell<Duration>,
}

/// Runs a test in a namespace of its own (`istio-injection: enabled`). Without a cluster it says so and passes, unless
/// `E2E_REQUIRED` is set. How long it took is a line in the file that `E2E_TIMES` names.
///
/// # Panics
/// When the test fails; its namespace has been dumped by then.
pub fn test(name: &str, company: Company, body: impl AsyncFnOnce(&Namespace) -> anyhow::Result<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let cluster = match runtime.block_on(Cluster::find()) {
        Ok(cluster) => cluster,
        Err(error) if std::env::var_os("E2E_REQUIRED").is_none() => {
            eprintln!("skipped {name}: {error:#}");
            return;
        }
        Err(error) => panic!("{error:#}"),
    };
    let began = Instant::now();
    let place = runtime.block_on(Place::take(match company {
        Company::Welcome => Kind::Welcome,
        Company::Early => Kind::Early,
        Company::Operator => Kind::Operator,
        Company::Alone => Kind::Last,
    }));
    let waited = began.elapsed();
    let namespace = match runtime.block_on(Namespace::make(cluster, name, place)) {
        Ok(namespace) => namespace,
        Err(error) => panic!("{name}: {error:#}"),
    };
    namespace.waited.set(waited);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(body(&namespace))));
    let failed = !matches!(outcome, Ok(Ok(())));
    let took = began.elapsed().saturating_sub(namespace.waited.get());
    runtime.block_on(async {
        if failed {
            let why = match &outcome {
                Ok(Err(error)) => format!("{error:?}\n"),
                _ => "it panicked\n".to_owned(),
            };
            let place = dump::namespace(&namespace, &why).await;
            eprintln!("{name}: what was there is in {}", place.display());
        }
        if company == Company::Alone {
            // What everybody is subject to is gone before the next one begins.
            let routes = ["delete", "virtualservices,gateways.networking.istio.io", "--all"];
            let _ = namespace.kubectl(&routes).await;
        }
        drop(namespace.place.take());
        if !(failed && std::env::var_os("E2E_KEEP").is_some()) {
            namespace.remove().await;
        }
    });
    times::write(name, took, namespace.waited.get());
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Namespace {
    async fn make(cluster: Cluster, test: &str, place: Place) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let short: String = test.chars().map(|c| if c == '_' { '-' } else { c }).take(36).collect();
        let unique = format!("{:x}", std::process::id());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{}-{unique}{number}", short.trim_matches('-'));
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{istio-injection: enabled, mesh-e2e: test}}\n"
        );
        cluster.fed("kubectl", &["apply", "-f", "-"], &yaml).await?;
        let namespace = Self { name, cluster, place: RefCell::new(Some(place)), waited: Cell::default() };
        eventually("the roots are in the namespace", async || {
            namespace.kubectl(&["get", "configmap", "istio-ca-root-cert"]).await
        })
        .await?;
        eventually("the default account is there", async || {
            namespace.kubectl(&["get", "serviceaccount", "default"]).await
        })
        .await?;
        Ok(namespace)
    }

    /// Asks for it to be removed. Nobody waits until it is: its pods are told to end at once, without their drain, so that
    /// they do not use the machine beside the next test.
    async fn remove(&self) {
        let delete = ["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"];
        let _ = self.cluster.kubectl(&delete).await;
        let now = ["delete", "pods", "--all", "--grace-period=1", "--wait=false", "-n", &self.name];
        let _ = self.cluster.kubectl(&now).await;
    }

    /// Waits until every other test has ended or waits for the same; none goes on before this one has ended. What needs no
    /// solitude is done before.
    pub async fn alone(&self) {
        let asked = Instant::now();
        drop(self.place.take());
        let place = Place::take(Kind::Alone).await;
        self.place.replace(Some(place));
        self.waited.set(self.waited.get() + asked.elapsed());
    }

    /// Another namespace in the mesh, `NAME-suffix`, for what `work` does; it is removed afterwards.
    ///
    /// # Errors
    /// The work's, or when it cannot be made.
    pub async fn beside<T>(
        &self,
        suffix: &str,
        work: impl AsyncFnOnce(&str) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let name = format!("{}-{suffix}", self.name);
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{istio-injection: enabled, mesh-e2e: test}}}}\n"
        );
        self.cluster.fed("kubectl", &["apply", "-f", "-"], &yaml).await?;
        let made = async {
            eventually("the other namespace's account is there", async || {
                self.cluster.kubectl(&["get", "serviceaccount", "default", "-n", &name]).await
            })
            .await?;
            work(&name).await
        };
        finally(made, async || {
            let delete = ["delete", "namespace", &name, "--wait=false", "--ignore-not-found"];
            self.cluster.kubectl(&delete).await.map(drop)
        })
        .await
    }

    /// `kubectl -n`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["-n", &self.name], arguments].concat()).await
    }

    /// `kubectl -n ... -o json`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        self.cluster.json(&[&["-n", &self.name], arguments].concat()).await
    }

    /// Applies YAML here.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        self.cluster.apply(&self.name, yaml).await
    }

    /// Applies YAML that ought to be refused; the refusal.
    ///
    /// # Errors
    /// When it was taken.
    pub async fn refused(&self, yaml: &str) -> anyhow::Result<String> {
        let arguments = ["apply", "-n", &self.name, "-f", "-"];
        eventually("an answer in time", async || {
            let (taken, said) = self.cluster.told("kubectl", &arguments, yaml).await?;
            // A starved machine's webhook says nothing of the object.
            anyhow::ensure!(!said.contains("context deadline exceeded"), "{said}");
            Ok((taken, said))
        })
        .await
        .and_then(|(taken, said)| {
            anyhow::ensure!(!taken, "it was taken: {said}");
            Ok(said)
        })
    }

    /// Applies workloads and waits until each is rolled out.
    ///
    /// # Errors
    /// When one does not get ready.
    pub async fn deploy(&self, apps: &[workload::App]) -> anyhow::Result<()> {
        let yaml: Vec<_> = apps.iter().map(workload::App::yaml).collect();
        self.apply(&yaml.join("---\n")).await?;
        for app in apps {
            self.rolled_out(&app.deployment()).await?;
        }
        Ok(())
    }

    /// As [`Self::deploy`], and a pod `client` to send from, in the mesh: side by side.
    ///
    /// # Errors
    /// When one does not get ready.
    pub async fn deploy_with_client(&self, apps: &[workload::App]) -> anyhow::Result<Client> {
        self.apply(&workload::client("client", "")).await?;
        self.deploy(apps).await?;
        self.client("client").await
    }

    /// Waits for a Deployment.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn rolled_out(&self, deployment: &str) -> anyhow::Result<()> {
        self.cluster.rolled_out(&self.name, &format!("deployment/{deployment}")).await
    }

    /// A pod to send from, in the mesh, of account `name`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn client(&self, name: &str) -> anyhow::Result<Client> {
        self.client_with(name, "").await
    }

    /// A pod to send from, without a sidecar.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn outsider(&self, name: &str) -> anyhow::Result<Client> {
        self.client_with(name, "    labels: {sidecar.istio.io/inject: \"false\"}\n").await
    }

    /// A pod to send from, in the mesh, in a locality (`region.zone`).
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn client_in(&self, name: &str, locality: &str) -> anyhow::Result<Client> {
        self.client_with(name, &format!("    labels: {{istio-locality: {locality}}}\n")).await
    }

    /// A pod to send from with more in its metadata: YAML lines, indented by four.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn client_with(&self, name: &str, metadata: &str) -> anyhow::Result<Client> {
        self.apply(&workload::client(name, metadata)).await?;
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=180s"]).await?;
        Ok(Client::new(self.cluster.clone(), &self.name, name))
    }

    /// The names of an application's pods that are not being deleted.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, selector: &str) -> anyhow::Result<Vec<String>> {
        let list = self.json(&["get", "pods", "-l", selector]).await?;
        let items = list["items"].as_array().context("a list has items")?;
        let living = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(living.filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned).collect())
    }

    /// Runs a program of an application's container.
    ///
    /// # Errors
    /// When it fails.
    pub async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[&["exec", pod, "-c", container, "--"], command].concat()).await
    }
}
