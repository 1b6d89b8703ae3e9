//! Conversations with a port on loopback inside a pod.

use std::time::Duration;

use ::http::{Method, Request};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use mesh_proto::runtime::operator::HEADER;
use tokio::io::DuplexStream;

use super::client::Cluster;
use crate::local::http::{self, Answer};

/// How long a pod may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a refused connection may take to be told. Everything else waits as long.
const REFUSED: Duration = Duration::from_millis(100);

/// A port inside a pod.
#[derive(Debug, Clone)]
pub struct Target {
    pub cluster: Cluster,
    pub namespace: String,
    pub pod: String,
    pub port: u16,
}

impl Target {
    /// A connection to it.
    ///
    /// # Errors
    /// When the API server does not make one.
    pub async fn connect(&self) -> anyhow::Result<DuplexStream> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let what = format!("port-forward to {}/{}", self.namespace, self.pod);
        let mut forward = self.cluster.ask(&what, pods.portforward(&self.pod, &[self.port])).await?;
        let stream = forward.take_stream(self.port).context("the API server forwards another port")?;
        // The kubelet connects only now; that nothing listens there comes back as words beside the stream.
        if let Some(failed) = forward.take_error(self.port)
            && let Ok(Some(why)) = tokio::time::timeout(REFUSED, failed).await
        {
            bail!("{self}: nothing answers there ({})", why.trim());
        }
        Ok(stream)
    }

    /// GET.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path).await
    }

    /// POST without a body.
    ///
    /// # Errors
    /// When there is no good answer.
    pub async fn post(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::POST, path).await
    }

    /// Sends a request; the answer, whatever it is.
    ///
    /// # Errors
    /// When there is none.
    pub async fn exchange(&self, request: Request<Bytes>) -> anyhow::Result<Answer> {
        let stream = self.connect().await?;
        http::over(stream, request, PATIENCE).await.with_context(|| {
            format!(
                "{self} does not answer (is the container running? `kubectl -n {} get pod {}`)",
                self.namespace, self.pod
            )
        })
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header(HEADER, "meshctl").body(Bytes::new())?;
        let answer = self.exchange(request).await?;
        if !answer.status.is_success() {
            bail!("{self}{path} answered {}: {}", answer.status, answer.text().trim());
        }
        Ok(answer)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} port {}", self.namespace, self.pod, self.port)
    }
}
