//! The webhook of a pilot in a cluster: where its settings, its certificate and its caller's trust come from.
//!
//! ```text
//! /etc/istio/inject/values ─┐
//! /etc/istio/config/mesh  ──┴─► settings ─┐
//! our own leaf ───────────────────────────┴─► server :15017 ◄─ API server ◄─ caBundle ◄─ roots (bundle)
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kube::Client;
use mesh_proto::crd::yaml;
use mesh_proto::runtime::drain;
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::bundle;
use super::server::{self, Current};
use super::settings::{ControlPlane, Settings};

/// How often the mounted files are looked at: the kubelet swaps a link, and takes up to a minute for it.
const LOOK: Duration = Duration::from_secs(3);
/// A ConfigMap has at most 1 MiB.
const MAX_FILE: u64 = 2 << 20;

/// Where everything is.
pub struct Webhook {
    /// The API server.
    pub client: Client,
    /// Where it asks us (15017).
    pub listen: SocketAddr,
    /// The chart's values.
    pub values: PathBuf,
    /// MeshConfig.
    pub mesh: PathBuf,
    /// Which control plane this is.
    pub control_plane: ControlPlane,
    /// Our certificate, as soon as there is one.
    pub identity: watch::Receiver<Option<Identity>>,
    /// The end.
    pub drain: drain::Watch,
}

impl Webhook {
    /// Serves until the drain starts.
    ///
    /// # Errors
    /// When the address is in use. Settings that cannot be read keep pods from being made, and nothing else: what runs already
    /// needs its pilot.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.with_context(|| format!("webhook at {}", self.listen))?;
        let settings = self.read();
        if let Err(why) = &settings {
            tracing::error!(
                why,
                "the injector's settings cannot be used; pods that are to have a sidecar are refused"
            );
        }
        let current: Current = Arc::new(ArcSwap::from_pointee(settings));
        let Some(identity) = self.identity.wait_for(Option::is_some).await.ok().and_then(|i| i.clone())
        else {
            return Ok(());
        };
        // The API server shows no certificate; whoever shows one must have a good one.
        let tls = server_config(&identity, ClientAuth::Optional, &[b"h2", b"http/1.1"]);
        let serving = server::serve(listener, tls, current.clone(), self.drain.clone());
        tracing::info!(address = %self.listen, "serving the webhooks");
        let names = bundle::Names::of(&self.control_plane);
        tokio::select! {
            () = serving => {}
            () = bundle::keep(self.client.clone(), names, identity) => {}
            () = self.follow(&current) => {}
        }
        Ok(())
    }

    fn read(&self) -> Result<Settings, String> {
        let (values, mesh) = (document(&self.values)?, document(&self.mesh)?);
        let told = |value: &Value, pointer: &str| {
            value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let mut control_plane = self.control_plane.clone();
        if let Some(domain) = told(&values, "/global/proxy/clusterDomain") {
            control_plane.cluster_domain = domain;
        }
        Settings::read(&values, &mesh, control_plane)
    }

    /// Settings that turned bad change nothing, and are told.
    async fn follow(&self, current: &Current) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            match self.read() {
                Ok(settings) => {
                    let settings = Ok(settings);
                    if settings != **current.load() {
                        tracing::info!("the injector's settings have changed");
                        current.store(Arc::new(settings));
                    }
                    told.clear();
                }
                // None were good yet: the newest reason is the one to be told.
                Err(why) if current.load().is_err() => current.store(Arc::new(Err(why))),
                Err(why) if why != told => {
                    tracing::error!(
                        why,
                        "the injector's settings cannot be read; the known ones stay in force"
                    );
                    told = why;
                }
                Err(_) => {}
            }
        }
    }
}

/// A mounted YAML document; nothing where no file is: then everything has its default.
fn document(path: &Path) -> Result<Value, String> {
    let failed = |why: String| format!("{}: {why}", path.display());
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(json!({})),
        Err(error) => return Err(failed(error.to_string())),
        Ok(facts) if facts.len() > MAX_FILE => return Err(failed(format!("more than {MAX_FILE} bytes"))),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let Some(chunk) = yaml::split(&text).into_iter().next() else { return Ok(json!({})) };
    let tree = yaml::read(chunk).map_err(|e| failed(format!("line {}: {e}", e.position.line)))?;
    match tree.map(|tree| tree.value) {
        None => Ok(json!({})),
        Some(value @ Value::Object(_)) => Ok(value),
        Some(_) => Err(failed("expected a map".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_documents() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("values");
        assert_eq!(document(&file).unwrap(), json!({}));
        for (text, value) in
            [("", json!({})), ("a: {b: 1}", json!({"a": {"b": 1}})), (r#"{"a":2}"#, json!({"a": 2}))]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(document(&file).unwrap(), value);
        }
        std::fs::write(&file, "[1]").unwrap();
        assert!(document(&file).unwrap_err().ends_with("values: expected a map"));
        std::fs::write(&file, "a: 1\nb: [").unwrap();
        assert!(document(&file).unwrap_err().contains("not YAML"));
    }
}
