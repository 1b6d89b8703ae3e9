//! A client of the API server, from the flags and the kubeconfig.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::flags::{ClusterFlags, Reach};

/// How long one question to the API server may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    /// The namespace that the command is about.
    pub namespace: String,
    /// The namespace of the control plane.
    pub system: String,
    /// For people: the context, or the API server's address.
    pub name: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How to reach the API server that a kubeconfig file (absent: the usual places) names, in one of its contexts (absent: the
/// current one).
///
/// # Errors
/// When there is no such file, context or cluster.
pub async fn kubeconfig(file: Option<&Path>, context: Option<String>) -> anyhow::Result<Config> {
    mesh_proto::runtime::crypto::install_provider();
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = match file {
        Some(path) => {
            let text = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}: cannot be used", path.display()))?;
            Config::from_custom_kubeconfig(text, &options).await.map_err(anyhow::Error::from)
        }
        None if options.context.is_some() => {
            Config::from_kubeconfig(&options).await.map_err(anyhow::Error::from)
        }
        None => Config::infer().await.map_err(anyhow::Error::from),
    };
    config.context("no cluster: give --kubeconfig FILE or set KUBECONFIG; --context names one in it")
}

impl Cluster {
    /// By the flags.
    ///
    /// # Errors
    /// When there is no such cluster to be found.
    pub async fn connect(flags: &ClusterFlags) -> anyhow::Result<Self> {
        Self::reach(&flags.reach, flags.namespace.as_deref()).await
    }

    /// By the flags of a command that is about `namespace`.
    ///
    /// # Errors
    /// When there is no such cluster to be found.
    pub async fn reach(reach: &Reach, namespace: Option<&str>) -> anyhow::Result<Self> {
        let mut config = kubeconfig(reach.kubeconfig.as_deref(), reach.context.clone()).await?;
        // A port-forward may be silent for as long as it likes; questions have a bound of their own.
        config.read_timeout = None;
        config.connect_timeout = Some(PATIENCE);
        let name = reach.context.clone().unwrap_or_else(|| config.cluster_url.to_string());
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), ToOwned::to_owned);
        let client = Client::try_from(config).context("a client for the API server")?;
        Ok(Self { client, namespace, system: reach.istio_namespace.clone(), name })
    }

    /// Waits for an answer of the API server; what went wrong in words, `what` being what was asked for.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> anyhow::Result<T> {
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => bail!("{what}: {}", self.explain(&error)),
            Err(_) => {
                bail!(
                    "{what}: the API server at {} did not answer within {} s",
                    self.name,
                    PATIENCE.as_secs()
                )
            }
        }
    }

    /// A failed call in one line, with what to do about it.
    #[must_use]
    pub fn explain(&self, error: &kube::Error) -> String {
        if let kube::Error::Api(status) = error {
            let hint = match status.code {
                401 => " (the kubeconfig's credentials are not accepted)",
                403 => " (ask for the right in RBAC)",
                _ => "",
            };
            return format!("{}{hint}", status.message);
        }
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let told = cause.to_string();
            if !text.contains(&told) {
                text = format!("{text}: {told}");
            }
            source = cause.source();
        }
        format!("cannot reach the API server of {}: {text}; does `kubectl cluster-info` answer?", self.name)
    }
}
