//! The bootstrap, parsed once into types: one JSON file that the supervisor writes, or on Kubernetes the environment.
//!
//! In: a file, or [`environment`]. Out: [`Config`]. Everything else that a proxy needs to know comes over discovery.

pub mod agent;
pub mod environment;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::Ipv4Net;
use mesh_proto::model::{HostPort, InvalidIdentity, SpiffeId, TrustDomain};
use serde::{Deserialize, Deserializer};

pub use agent::{Agent, Termination};

#[cfg(test)]
mod tests;

/// What a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Beside an application.
    Sidecar,
    /// A gateway.
    Router,
}

/// The workload that this proxy belongs to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Sidecar or gateway.
    pub kind: NodeKind,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's service account.
    pub service_account: String,
    /// The pod's UID; state on disk is bound to it.
    pub uid: String,
}

/// Where the certificate authority is and what it asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ca {
    /// Its gRPC address; a name is resolved at each connect.
    #[serde(deserialize_with = "from_text")]
    pub address: HostPort,
    /// PEM file with the roots that its own certificate chains to.
    pub roots: PathBuf,
    /// File with the attestation token.
    pub token: PathBuf,
    /// The life that is asked for certificates (`SECRET_TTL`); the authority's default where nothing is said.
    #[serde(skip)]
    pub life: Option<Duration>,
}

/// Where the pilot is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pilot {
    /// Its gRPC address; a name is resolved at each connect.
    #[serde(deserialize_with = "from_text")]
    pub address: HostPort,
}

/// One port of the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundPort {
    /// Where the mesh reaches it.
    pub listen: SocketAddr,
    /// The container port, by which policy knows it.
    pub port: u16,
    /// Where the application listens.
    pub target: SocketAddr,
}

/// How a service's cluster IP maps to the address on which this instance's application reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vips {
    /// The range of cluster IPs.
    pub from: Ipv4Net,
    /// The range of this instance's own listeners; the host bits are kept.
    pub to: Ipv4Net,
}

/// How the application's outgoing traffic comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// The HTTP proxy port (`HTTP_PROXY`).
    pub http_proxy: SocketAddr,
    /// The listeners per service.
    #[serde(default)]
    pub vips: Option<Vips>,
}

/// The HTTP proxy port of a sidecar to which everything is brought anyway: for `meshctl request`, from inside the pod.
pub const LOCAL_HTTP_PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15002);

/// Where the kernel brings the pod's captured traffic. An unspecified address means both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// What the application opens (Istio: 15001).
    pub outbound: SocketAddr,
    /// What comes to the application (Istio: 15006).
    pub inbound: SocketAddr,
    /// Inbound comes by TPROXY instead of REDIRECT: the application sees its client's address. Needs `CAP_NET_ADMIN`.
    #[serde(default)]
    pub tproxy: bool,
}

/// A gateway's listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// The address of all its listeners.
    pub listen_ip: IpAddr,
    /// Added to ports below 1024. Without it they are tried as they are, and moved by 8000 where that is refused.
    #[serde(default)]
    pub port_offset: Option<u16>,
}

/// A directory of the workload that is elsewhere on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// As Gateways say it.
    pub path: PathBuf,
    /// Where it is.
    pub dir: PathBuf,
}

/// The bootstrap.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who we are.
    pub node: Node,
    /// The trust domain of our identity.
    #[serde(deserialize_with = "from_text")]
    pub trust_domain: TrustDomain,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// Where pilot and authority live; part of the identities that they must prove.
    #[serde(default = "istio_system")]
    pub control_plane_namespace: String,
    /// The certificate authority.
    pub ca: Ca,
    /// The pilot.
    pub pilot: Pilot,
    /// The workload's ports.
    #[serde(default)]
    pub inbound: Vec<InboundPort>,
    /// The application's explicit way out; absent for gateways, and where everything is captured.
    #[serde(default)]
    pub outbound: Option<Outbound>,
    /// The pod's rules bring all of its traffic here.
    #[serde(default)]
    pub capture: Option<Capture>,
    /// Gateways only.
    #[serde(default)]
    pub gateway: Option<Gateway>,
    /// Where the directories of certificate files are; those that are not named are as they are.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The name servers for names outside of the mesh; none: those of the machine.
    #[serde(default)]
    pub name_servers: Vec<SocketAddr>,
    /// `/healthz/ready`.
    pub status: SocketAddr,
    /// `/stats/prometheus`.
    pub metrics: SocketAddr,
    /// `/config_dump`, `/certs`, `/drain`, `/ready`.
    pub admin: SocketAddr,
    /// Last good resources, leaf and key.
    pub state_dir: PathBuf,
    /// Data threads.
    #[serde(default = "one_worker")]
    pub workers: NonZeroUsize,
    /// Whether requests are logged (the pilot's settings can switch it on too).
    #[serde(default)]
    pub access_log: bool,
    /// The supervisor: when it dies, so do we.
    #[serde(default)]
    pub parent_pid: Option<u32>,
    /// What the kubelet asks (port 15020). Only on Kubernetes.
    #[serde(skip)]
    pub agent: Option<Agent>,
    /// How the end goes.
    #[serde(skip)]
    pub termination: Termination,
    /// What was asked for and is not followed; logged at the start.
    #[serde(skip)]
    pub notices: Vec<String>,
}

/// Why a bootstrap is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no bootstrap.
    #[error("{path}: {source}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Namespace or service account are no names.
    #[error("node: {0}")]
    Identity(#[from] InvalidIdentity),
    /// The ranges of cluster IPs and listeners differ in size.
    #[error("outbound.vips: {from} and {to} must have the same size")]
    Vips {
        /// The cluster IPs.
        from: Ipv4Net,
        /// The listeners.
        to: Ipv4Net,
    },
    /// A field that this kind of node needs is missing.
    #[error("a {kind:?} needs {field}")]
    Missing {
        /// What the node is.
        kind: NodeKind,
        /// What it needs.
        field: &'static str,
    },
}

impl Config {
    /// Reads and parses a bootstrap file.
    ///
    /// # Errors
    /// When it cannot be read or is no bootstrap.
    pub fn read(path: &Path) -> Result<Self, InvalidConfig> {
        let text =
            std::fs::read(path).map_err(|source| InvalidConfig::Read { path: path.to_owned(), source })?;
        let config: Self = serde_json::from_slice(&text)
            .map_err(|source| InvalidConfig::Parse { path: path.to_owned(), source })?;
        config.checked()
    }

    /// What the types cannot say.
    fn checked(self) -> Result<Self, InvalidConfig> {
        self.identity()?;
        self.pilot_identity()?;
        if let Some(vips) = self.outbound.and_then(|o| o.vips)
            && vips.from.prefix_len() != vips.to.prefix_len()
        {
            return Err(InvalidConfig::Vips { from: vips.from, to: vips.to });
        }
        let missing = |field| InvalidConfig::Missing { kind: self.node.kind, field };
        match self.node.kind {
            NodeKind::Router if self.gateway.is_none() => Err(missing("gateway")),
            NodeKind::Sidecar if self.outbound.is_none() && self.capture.is_none() => {
                Err(missing("outbound or capture"))
            }
            NodeKind::Router | NodeKind::Sidecar => Ok(self),
        }
    }

    /// The HTTP proxy port.
    #[must_use]
    pub fn http_proxy(&self) -> Option<SocketAddr> {
        self.outbound.map(|outbound| outbound.http_proxy).or(self.capture.map(|_| LOCAL_HTTP_PROXY))
    }

    /// Whether a connection to `address` would come back to one of this proxy's own sockets. Listeners that stand for
    /// services are no such sockets: what they take is routed on.
    #[must_use]
    pub fn is_own_socket(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let agent = self.agent.as_ref().map(|a| a.listen);
        let captured = self.capture.iter().flat_map(|c| [c.outbound, c.inbound]);
        let own = self.http_proxy().into_iter().chain(agent).chain(captured);
        let own = own.chain([self.status, self.metrics, self.admin]);
        own.chain(self.inbound.iter().map(|p| p.listen)).any(|own| {
            let any = own.ip().is_unspecified() && (ip.is_loopback() || ip == self.pod_ip);
            // To connect to "any address" is to connect to this machine.
            let here = ip.is_unspecified() && (own.ip().is_loopback() || own.ip().is_unspecified());
            own.port() == address.port() && (own.ip() == ip || any || here)
        })
    }

    /// The identity that this proxy asks the CA for.
    ///
    /// # Errors
    /// When namespace or service account are no Kubernetes names.
    pub fn identity(&self) -> Result<SpiffeId, InvalidIdentity> {
        SpiffeId::new(&self.trust_domain, &self.node.namespace, &self.node.service_account)
    }

    /// The CA's identity.
    ///
    /// # Errors
    /// When the control plane's namespace is no Kubernetes name.
    pub fn ca_identity(&self) -> Result<SpiffeId, InvalidIdentity> {
        SpiffeId::new(&self.trust_domain, &self.control_plane_namespace, "mesh-ca")
    }

    /// The pilot's identity.
    ///
    /// # Errors
    /// When the control plane's namespace is no Kubernetes name.
    pub fn pilot_identity(&self) -> Result<SpiffeId, InvalidIdentity> {
        SpiffeId::new(&self.trust_domain, &self.control_plane_namespace, "mesh-pilot")
    }
}

impl Vips {
    /// The listener for a cluster IP: the same host bits in the other range.
    #[must_use]
    pub fn listener(&self, vip: IpAddr) -> Option<IpAddr> {
        let IpAddr::V4(vip) = vip else { return None };
        if !self.from.contains(&vip) {
            return None;
        }
        let host = vip.to_bits() & self.from.hostmask().to_bits();
        Some(IpAddr::V4(Ipv4Addr::from_bits(self.to.network().to_bits() | host)))
    }
}

fn one_worker() -> NonZeroUsize {
    NonZeroUsize::MIN
}

fn istio_system() -> String {
    "istio-system".to_owned()
}

fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
