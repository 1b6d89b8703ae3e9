//! The API server without a process for each call: `kubectl proxy` on a loopback port, one HTTP connection a call. In: method,
//! path, JSON. Out: the answer, or the events of a watch, each at the moment at which it came.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use e2e::Cluster;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;

/// The proxy; it ends with this.
pub struct Api {
    address: String,
    _proxy: Child,
}

/// A watch under way.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Api {
    /// Starts the proxy.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut command = cluster.command("kubectl", &["proxy", "--port=0", "--disable-filter=true"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut proxy = command.spawn().context("kubectl proxy")?;
        let stdout = proxy.stdout.take().context("it was asked for")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("kubectl proxy says nothing")?;
        let address = line.rsplit(' ').next().unwrap_or_default().to_owned();
        ensure!(address.starts_with("127.0.0.1:"), "kubectl proxy says {line}");
        Ok(Self { address, _proxy: proxy })
    }

    async fn open(&self, method: &str, path: &str, kind: &str, body: &Value) -> anyhow::Result<Incoming> {
        let stream = TcpStream::connect(&self.address).await.context("kubectl proxy")?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(serde_json::to_vec(body)?) };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", kind)
            .body(Full::new(body))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        if !status.is_success() {
            let said = answer.into_body().collect().await?.to_bytes();
            anyhow::bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&said));
        }
        Ok(answer.into_body())
    }

    async fn whole(&self, method: &str, path: &str, kind: &str, body: &Value) -> anyhow::Result<Value> {
        let body = self.open(method, path, kind, body).await?.collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body)?)
    }

    /// Creates an object in a collection.
    pub async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.whole("POST", path, "application/json", object).await
    }

    /// Changes parts of an object.
    pub async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        self.whole("PATCH", path, "application/merge-patch+json", patch).await
    }

    /// Deletes an object.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.whole("DELETE", path, "application/json", &Value::Null).await
    }

    /// Watches a collection (`path?watch=1...`).
    pub async fn watch(&self, path: &str) -> anyhow::Result<Events> {
        let body = self.open("GET", path, "application/json", &Value::Null).await?;
        Ok(Events { body, buffer: BytesMut::new() })
    }
}

impl Events {
    /// The next one.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(serde_json::from_slice(&self.buffer.split_to(end + 1))?);
            }
            let frame = self.body.frame().await.context("the watch has ended")??;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
