//! What belongs to a pod: the probes that we perform for the kubelet, and how the end goes.
//!
//! In: JSON of the injector, in the environment. Out: types. The form of the probes is Istio's `ISTIO_KUBE_APP_PROBERS`: a
//! map from a path on port 15020 to the probe (or the hook of its life) as the container had it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

/// The most probes that a pod's containers have: three each, and room.
const MAX_PROBES: usize = 256;

/// What the kubelet asks of us.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Where (port 15020).
    pub listen: SocketAddr,
    /// `/drain/<token>`; without it there is no such path.
    pub drain_token: Option<String>,
    /// By path (`/app-health/<container>/readyz`).
    pub probes: BTreeMap<String, Probe>,
    /// The application's own metrics, told together with ours.
    pub scrape: Option<Scrape>,
}

/// How a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Termination {
    /// The least time between the start of a drain and its answer: so long it may take until every client knows that the
    /// endpoint is withdrawn (`MINIMUM_DRAIN_DURATION`).
    pub minimum: Duration,
    /// The most that a drain waits for what is in flight, counted from its start.
    pub drain: Duration,
    /// The most that the end after SIGTERM waits for each direction (`terminationDrainDuration`).
    pub shutdown: Duration,
    /// A drain that no SIGTERM has followed for so long was no end of the pod: the kubelet restarts a container with the
    /// same hook. It is lifted then. Without it a drain is for ever.
    pub lift_after: Option<Duration>,
    /// SIGTERM comes at the same time as the application's, not after its end (a classic sidecar): the application may
    /// still need its way out.
    pub with_application: bool,
}

impl Default for Termination {
    /// The local mesh: the supervisor orders the steps and waits between them.
    fn default() -> Self {
        Self {
            minimum: Duration::ZERO,
            drain: Duration::from_secs(30),
            shutdown: Duration::from_secs(5),
            lift_after: None,
            with_application: false,
        }
    }
}

/// A container's probe, performed here because the kubelet cannot reach the application under mTLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// A GET.
    #[serde(default)]
    pub http_get: Option<HttpGet>,
    /// A connection.
    #[serde(default)]
    pub tcp_socket: Option<TcpSocket>,
    /// `grpc.health.v1`.
    #[serde(default)]
    pub grpc: Option<Grpc>,
    /// Kubernetes' default is a second.
    #[serde(default)]
    pub timeout_seconds: u32,
}

/// A GET, as Kubernetes writes it, with the port resolved.
#[derive(Debug, Clone, Deserialize)]
pub struct HttpGet {
    /// `/` when empty.
    #[serde(default)]
    pub path: String,
    /// The container port.
    pub port: u16,
    /// Where, instead of the pod's address.
    #[serde(default)]
    pub host: String,
    /// `HTTP` or `HTTPS`.
    #[serde(default)]
    pub scheme: String,
    /// More fields; `Host` is the authority.
    #[serde(default, rename = "httpHeaders")]
    pub headers: Vec<Header>,
}

/// A header field.
#[derive(Debug, Clone, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// A connection.
#[derive(Debug, Clone, Deserialize)]
pub struct TcpSocket {
    /// The container port.
    pub port: u16,
    /// Where, instead of the pod's address.
    #[serde(default)]
    pub host: String,
}

/// A gRPC health check.
#[derive(Debug, Clone, Deserialize)]
pub struct Grpc {
    /// The container port.
    pub port: u16,
    /// Empty: the whole server.
    #[serde(default)]
    pub service: Option<String>,
}

/// Where the application tells its metrics: the pod's `prometheus.io` annotations, as Istio's injector hands them on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrape {
    /// The port.
    pub port: u16,
    /// `/metrics` when not told.
    pub path: String,
}

/// Reads `ISTIO_KUBE_APP_PROBERS`.
///
/// # Errors
/// In words.
pub fn probes(text: &str) -> Result<BTreeMap<String, Probe>, String> {
    let probes: BTreeMap<String, Probe> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if probes.len() > MAX_PROBES {
        return Err(format!("{} probes, and at most {MAX_PROBES} are taken", probes.len()));
    }
    for (path, probe) in &probes {
        let kinds = [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
        if kinds.iter().filter(|k| **k).count() != 1 {
            return Err(format!("{path}: needs exactly one of httpGet, tcpSocket, grpc"));
        }
        if !["/app-health/", "/app-lifecycle/"].iter().any(|prefix| path.starts_with(prefix)) {
            return Err(format!("{path}: begins with neither /app-health/ nor /app-lifecycle/"));
        }
    }
    Ok(probes)
}

/// Reads `ISTIO_PROMETHEUS_ANNOTATIONS`; `None` where nothing is to be scraped.
///
/// # Errors
/// In words.
pub fn scrape(text: &str) -> Result<Option<Scrape>, String> {
    #[derive(Deserialize)]
    struct Annotations {
        #[serde(default)]
        scrape: String,
        #[serde(default)]
        path: String,
        #[serde(default)]
        port: String,
    }
    let told: Annotations = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if told.scrape != "true" {
        return Ok(None);
    }
    // Prometheus' own default in the usual scrape configurations.
    let port = if told.port.is_empty() { "80" } else { &told.port };
    let port: u16 = port.parse().map_err(|_| format!("port {port:?} is none"))?;
    let path = if told.path.is_empty() { "/metrics".to_owned() } else { told.path };
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    Ok(Some(Scrape { port, path }))
}
