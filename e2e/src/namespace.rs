//! One temporary namespace a test: made before, dumped on failure, removed after.

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::eventually::eventually;
use crate::{dump, workload};

/// Whether a test bears others at its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// It stays in its namespace.
    Welcome,
    /// It disturbs what everybody uses: the control plane, the API server, a gateway.
    Alone,
}

/// Everybody holds it for reading; who wants to be alone, for writing. It is fair: nobody starts before one who waits.
static TURN: LazyLock<RwLock<()>> = LazyLock::new(|| RwLock::new(()));

enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// A namespace of a test.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// The cluster that it is in.
    pub cluster: Cluster,
}

/// Runs a test in a namespace of its own (`istio-injection: enabled`). Without a cluster it says so and passes, unless
/// `E2E_REQUIRED` is set.
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
    let turn = runtime.block_on(async {
        match company {
            Company::Welcome => Turn::Shared { _guard: TURN.read().await },
            Company::Alone => Turn::Alone { _guard: TURN.write().await },
        }
    });
    let started = Instant::now();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let namespace = Namespace::make(cluster.clone(), name).await?;
            Ok::<_, anyhow::Error>(namespace)
        })
    }));
    let namespace = match outcome {
        Ok(Ok(namespace)) => namespace,
        Ok(Err(error)) => panic!("{name}: {error:#}"),
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(body(&namespace))));
    let failed = !matches!(outcome, Ok(Ok(())));
    runtime.block_on(async {
        if failed {
            let place = dump::namespace(&namespace).await;
            eprintln!("{name}: what was there is in {}", place.display());
        }
        if !(failed && std::env::var_os("E2E_KEEP").is_some()) {
            namespace.remove().await;
        }
    });
    drop(turn);
    eprintln!("{name}: {:.0} s", started.elapsed().as_secs_f64());
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:?}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

impl Namespace {
    async fn make(cluster: Cluster, test: &str) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let short: String = test.chars().map(|c| if c == '_' { '-' } else { c }).take(36).collect();
        let unique = format!("{:x}", std::process::id());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("e2e-{}-{unique}{number}", short.trim_matches('-'));
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{istio-injection: enabled, mesh-e2e: test}}\n"
        );
        cluster.fed("kubectl", &["apply", "-f", "-"], &yaml).await?;
        let namespace = Self { name, cluster };
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

    async fn remove(&self) {
        let _ = self
            .cluster
            .kubectl(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"])
            .await;
        // Its pods go on using the machine until they are gone.
        let _ = tokio::time::timeout(
            Duration::from_secs(90),
            self.cluster.kubectl(&[
                "wait",
                "--for=delete",
                &format!("namespace/{}", self.name),
                "--timeout=80s",
            ]),
        )
        .await;
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
        let (taken, said) = self.cluster.told("kubectl", &arguments, yaml).await?;
        anyhow::ensure!(!taken, "it was taken: {said}");
        Ok(said)
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

    async fn client_with(&self, name: &str, labels: &str) -> anyhow::Result<Client> {
        self.apply(&workload::client(name, labels)).await?;
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
