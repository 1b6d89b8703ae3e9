//! What `/debug/status` says, as types: its JSON is theirs.

use serde::Serialize;

/// `/debug/status`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Configuration objects, and files that have something wrong with them.
    pub resources: Vec<ResourceReport>,
    /// Sidecars and gateways.
    pub proxies: Vec<ProxyStatus>,
    /// Services and their endpoints.
    pub services: Vec<ServiceStatus>,
    /// The first listing is done.
    pub loaded: bool,
}

/// One object.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct ResourceReport {
    /// Its kind; `File` for a file.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name; the path of a file.
    pub name: String,
    /// `file:line`.
    pub location: String,
    /// Counted by the API server: of the version that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// In force or not.
    pub state: State,
    /// Why not, or what else there is to say about the state.
    pub message: String,
    /// What deserves a look though it is in force.
    pub warnings: Vec<String>,
    /// Which proxies have it.
    pub observers: ObserversReport,
}

/// How an object stands.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Every proxy that wants something of it has acknowledged it.
    InForce,
    /// Good; no proxy wants it, or not all have acknowledged it yet.
    Accepted,
    /// Its newest version is not in force (an older one may be).
    Refused,
    /// Good, and without effect: another object takes its place.
    Superseded,
}

/// Which proxies have an object.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
pub struct ObserversReport {
    /// Have acknowledged it.
    pub acked: usize,
    /// Want it.
    pub subscribed: usize,
}

/// One proxy.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyStatus {
    /// Its node id; empty while it is not connected.
    pub node: String,
    /// Of its pod.
    pub namespace: String,
    /// Of its pod.
    pub name: String,
    /// Of its certificate.
    pub identity: String,
    /// It has a stream.
    pub connected: bool,
    /// It has acknowledged everything.
    pub synced: bool,
    /// Resources that it has not acknowledged yet.
    pub pending: usize,
    /// Resources that it refuses.
    pub rejected: Vec<RejectedReport>,
    /// Milliseconds since it acknowledged something.
    pub last_ack_ms: Option<u64>,
}

/// A resource that a proxy refuses.
#[derive(Debug, Clone, Serialize)]
pub struct RejectedReport {
    /// `kind/name`.
    pub resource: String,
    /// The proxy's words.
    pub reason: String,
}

/// One service.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// FQDN.
    pub host: String,
    /// Its cluster IP; empty if it has none.
    pub vip: String,
    /// All of them: one a family.
    pub vips: Vec<String>,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// The pods behind it.
    pub endpoints: Vec<EndpointStatus>,
}

/// A service port.
#[derive(Debug, Clone, Serialize)]
pub struct PortStatus {
    /// Its number.
    pub number: u16,
    /// `http`, `tcp` ... or `auto`.
    pub protocol: &'static str,
    /// Its name.
    pub name: String,
}

/// A pod behind a service.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    /// Of the pod.
    pub uid: String,
    /// `ip:port` for the service's first port that leads there.
    pub address: String,
    /// It gets traffic.
    pub ready: bool,
}
