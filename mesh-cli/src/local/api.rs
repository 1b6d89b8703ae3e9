//! What the supervisor tells about a running mesh, as JSON over its control socket.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::http::Server;
use super::net::port;

/// A running mesh as its supervisor sees it (`GET /mesh`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mesh {
    /// Its name.
    pub name: String,
    /// The version of meshctl that runs it.
    pub version: String,
    /// The supervisor's process.
    pub pid: u32,
    /// The trust domain of its identities.
    pub trust_domain: String,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// 127.N.0.0/16, or 10.N.0.0/16 with `--netns`.
    pub network: String,
    /// With `--netns`: the network namespace with the bridge between the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<PathBuf>,
    /// What the user gave.
    pub paths: Vec<PathBuf>,
    /// Everything was ready once.
    pub ready: bool,
    /// The root certificates (PEM).
    pub roots: PathBuf,
    /// The pilot's admin address (`/debug/status`).
    pub pilot_admin: SocketAddrV4,
    /// Applications, the built-in client, gateways.
    pub workloads: Vec<Workload>,
    /// The Gateway resources of the user's files.
    #[serde(default)]
    pub gateways: Vec<GatewayResource>,
    /// mesh-pilot and mesh-ca.
    pub control_plane: Vec<Process>,
    /// What `up` has to say about the user's files (stand-ins, implied Services).
    pub notices: Vec<String>,
}

/// What a workload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A Pod that the user wrote.
    Pod,
    /// The built-in client: a sidecar without an application.
    Client,
    /// A gateway.
    Gateway,
}

/// A workload and its instances.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Workload {
    pub kind: WorkloadKind,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    /// `spiffe://...`.
    pub identity: String,
    pub labels: BTreeMap<String, String>,
    pub instances: Vec<Instance>,
}

/// One replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// The pod's name: `reviews-v2-0`.
    pub name: String,
    pub uid: String,
    pub pod_ip: Ipv4Addr,
    /// With `--netns`: where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    pub state: InstanceState,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Container ports and where the sidecar or gateway listens for them.
    pub ports: Vec<Port>,
    /// The sidecar's outbound HTTP proxy (podIP:15001); with `--netns` 127.0.0.1:15002 within the pod's namespace.
    pub http_proxy: SocketAddrV4,
    /// podIP:15000; with `--netns` 127.0.0.1:15000 within the pod's namespace.
    pub admin: SocketAddrV4,
    /// podIP:15090, `/stats/prometheus`.
    pub metrics: SocketAddrV4,
    /// podIP:15021, `/healthz/ready`.
    pub status: SocketAddrV4,
    /// Where a gateway listens; port p < 1024 is `port_offset` + p where binding p is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayAddress>,
    /// The application's processes, one a container (none: client, gateway).
    pub containers: Vec<Process>,
    pub sidecar: Process,
}

impl Instance {
    /// One of its own servers: from within its namespace, where it has one.
    #[must_use]
    pub fn server(&self, at: SocketAddrV4) -> Server {
        match &self.place {
            Some(place) => Server::Within(place.netns.clone(), at),
            None => Server::Tcp(at),
        }
    }

    /// An instance that does not run: stopped, or with a reason why it cannot start.
    #[must_use]
    pub fn absent(name: &str, pod_ip: Ipv4Addr, failed: Option<String>) -> Self {
        let at = |port| SocketAddrV4::new(pod_ip, port);
        Self {
            name: name.to_owned(),
            uid: String::new(),
            pod_ip,
            place: None,
            state: if failed.is_some() { InstanceState::Failed } else { InstanceState::Stopped },
            reason: failed,
            ports: Vec::new(),
            http_proxy: at(port::OUTBOUND),
            admin: at(port::ADMIN),
            metrics: at(port::METRICS),
            status: at(port::STATUS),
            gateway: None,
            containers: Vec::new(),
            sidecar: Process {
                name: format!("{name}/sidecar"),
                state: ProcessState::Stopped,
                pid: None,
                restarts: 0,
                last_exit: None,
            },
        }
    }
}

/// The inside of a pod with `--netns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its `/etc/hosts`.
    pub hosts: PathBuf,
    /// Its `/etc/resolv.conf`.
    pub resolver: PathBuf,
    /// Its IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ip6: Option<Ipv6Addr>,
}

impl Place {
    /// What a program there sees in place of this machine's files.
    #[must_use]
    pub fn files(&self) -> [(&Path, &'static str); 2] {
        [(&self.hosts, "/etc/hosts"), (&self.resolver, "/etc/resolv.conf")]
    }
}

/// A Gateway resource: which gateway workload serves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayResource {
    pub namespace: String,
    pub name: String,
    /// The labels of the workloads that serve it.
    pub selector: BTreeMap<String, String>,
}

/// Where a gateway listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayAddress {
    pub listen_ip: Ipv4Addr,
    pub port_offset: u16,
}

/// A port of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Port {
    /// What the YAML says.
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the sidecar serves it.
    pub listen: SocketAddrV4,
    /// Where the application serves it.
    pub target: SocketAddrV4,
}

/// What an instance does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Processes start or probes do not pass yet.
    Starting,
    /// Gets traffic.
    Ready,
    /// Was ready; a probe fails or a process died.
    Unready,
    /// Withdrawn, answers what is in flight.
    Draining,
    /// Stopped by `meshctl stop`.
    Stopped,
    /// Cannot start.
    Failed,
}

/// A process of the mesh.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Name for `logs`, `stop`, `start`.
    pub name: String,
    pub state: ProcessState,
    pub pid: Option<i32>,
    pub restarts: u32,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
}

/// What a process does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Not started yet.
    Waiting,
    Running,
    /// Died by itself; comes back after its backoff.
    Backoff,
    /// Stopped on purpose.
    Stopped,
}
