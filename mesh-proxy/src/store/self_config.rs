//! This workload's own settings.
//!
//! In: `self/self`. Out: [`SelfConfig`], parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::host_port::InvalidHostPort;
use mesh_proto::model::tls::InvalidTls;
use mesh_proto::model::{InvalidIdentity, Protocol, SpiffeId, TlsParameters};
use mesh_proto::runtime::identity::MeshTls;
use mesh_proto::wire::mesh::v1 as wire;
pub use wire::MtlsMode;

use super::workload;
use crate::authentication::{InvalidJwtRule, JwtRules};
use crate::authorization::external::{External, InvalidExternal};
use crate::authorization::{InvalidPolicy, Policies};
use crate::cluster::Locality;
use crate::destination::Services;

/// Why `self/self` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSelf {
    /// Field `identity`.
    #[error("identity: {0}")]
    Identity(#[from] InvalidIdentity),
    /// A field holds what this build does not know; guessing could open what should be closed.
    #[error("{field}: unknown value {value}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its number on the wire.
        value: i32,
    },
    /// A port out of range.
    #[error("{field}: {port} is no port from 1 to 65535")]
    Port {
        /// The field.
        field: &'static str,
        /// What stands there.
        port: u32,
    },
    /// Field `ports.services`.
    #[error("ports.services: {0}")]
    Service(#[from] InvalidHostPort),
    /// Field `authorization`.
    #[error("authorization: {0}")]
    Authorization(#[from] InvalidPolicy),
    /// Field `external_authorization`.
    #[error("external_authorization: {0}")]
    External(#[from] InvalidExternal),
    /// Field `jwt_rules`.
    #[error("jwt_rules: {0}")]
    Jwt(#[from] InvalidJwtRule),
    /// Field `mesh_tls`: spoken in another way than asked for would be weaker.
    #[error("mesh_tls: {0}")]
    Tls(#[from] InvalidTls),
    /// Field `trust_domains`.
    #[error("trust_domains: {0}")]
    TrustDomain(InvalidIdentity),
    /// A negative or too long time.
    #[error("protocol_detection_timeout is no time from 0")]
    DetectionTimeout,
}

/// This workload, as the pilot sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfConfig {
    /// The identity that the certificate must have.
    pub identity: SpiffeId,
    /// For metric labels and logs.
    pub facts: Arc<wire::WorkloadFacts>,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// The service account.
    pub service_account: String,
    /// Merged PeerAuthentication, for ports without one of their own.
    pub mtls: MtlsMode,
    /// Merged PeerAuthentication of single container ports.
    pub mtls_by_port: BTreeMap<u16, MtlsMode>,
    /// Where `mtls` comes from; absent: the default.
    pub mtls_origin: Option<Arc<wire::Origin>>,
    /// Set: a policy that restricts this workload cannot be enforced, so nothing inbound is let through.
    pub deny_all: Option<Arc<wire::Origin>>,
    /// By container port.
    pub ports: BTreeMap<u16, InboundPort>,
    /// How long to wait for a client's first bytes on an undeclared port; zero: for ever.
    pub protocol_detection_timeout: Duration,
    /// False: names that nobody registered are refused (REGISTRY_ONLY).
    pub allow_any_outbound: bool,
    /// Whether requests are logged.
    pub access_log: bool,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Where it runs.
    pub locality: Locality,
    /// Who may do what here.
    pub authorization: Policies,
    /// Who is asked about requests before that.
    pub external: Option<Arc<External>>,
    /// Whoever is denied is told which rule did it.
    pub deny_reason_header: bool,
    /// Which tokens are valid here.
    pub jwt_rules: JwtRules,
    /// What is done to a request's path before anybody looks at it.
    pub path_normalization: wire::PathNormalization,
    /// How mTLS is spoken, and which trust domains are one.
    pub tls: MeshTls,
}

/// One container port.
#[derive(Debug, Clone, PartialEq)]
pub struct InboundPort {
    /// Declared protocol.
    pub protocol: Protocol,
    /// The port's name.
    pub name: String,
    /// The services whose target it is; the first one is reported in metrics.
    pub services: Vec<Arc<wire::ServiceRef>>,
    /// Their names, `host:service port`; `None` when there are none.
    pub names: Services,
}

impl SelfConfig {
    /// The PeerAuthentication mode of a container port.
    #[must_use]
    pub fn mtls_of(&self, port: u16) -> MtlsMode {
        self.mtls_by_port.get(&port).copied().unwrap_or(self.mtls)
    }

    /// The declared protocol of a container port.
    #[must_use]
    pub fn protocol_of(&self, port: u16) -> Protocol {
        self.ports.get(&port).map_or(Protocol::Auto, |p| p.protocol)
    }
}

impl TryFrom<wire::SelfConfig> for SelfConfig {
    type Error = InvalidSelf;

    fn try_from(wire: wire::SelfConfig) -> Result<Self, InvalidSelf> {
        let timeout = wire.protocol_detection_timeout.unwrap_or_default();
        let mut mtls_by_port = BTreeMap::new();
        for (port, mode) in &wire.mtls_by_port {
            mtls_by_port.insert(port_of("mtls_by_port", *port)?, mode_of("mtls_by_port", *mode)?);
        }
        let outbound = wire::OutboundPolicy::try_from(wire.outbound_policy)
            .map_err(|e| InvalidSelf::Unknown { field: "outbound_policy", value: e.0 })?;
        let mut ports = BTreeMap::new();
        for port in wire.ports {
            ports.insert(port_of("ports", port.port)?, InboundPort::try_from(port)?);
        }
        Ok(Self {
            identity: wire.identity.parse()?,
            facts: Arc::new(wire.facts.unwrap_or_default()),
            labels: wire.labels,
            service_account: wire.service_account,
            mtls: mode_of("mtls", wire.mtls)?,
            mtls_by_port,
            mtls_origin: wire.mtls_origin.map(Arc::new),
            deny_all: wire.deny_all.map(Arc::new),
            ports,
            protocol_detection_timeout: timeout.try_into().map_err(|_| InvalidSelf::DetectionTimeout)?,
            allow_any_outbound: outbound == wire::OutboundPolicy::OutboundAllowAny,
            access_log: wire.access_log,
            cluster_domain: wire.cluster_domain,
            locality: Locality::new(&wire.locality),
            authorization: Policies::parse(&wire.authorization)?.watching(&wire.watched_authorization)?,
            deny_reason_header: wire.deny_reason_header,
            external: wire.external_authorization.as_ref().map(External::parse).transpose()?.map(Arc::new),
            jwt_rules: JwtRules::parse(&wire.jwt_rules)?,
            path_normalization: wire::PathNormalization::try_from(wire.path_normalization)
                .map_err(|e| InvalidSelf::Unknown { field: "path_normalization", value: e.0 })?,
            tls: mesh_tls(wire.mesh_tls.as_ref(), &wire.trust_domains)?,
        })
    }
}

fn mesh_tls(parameters: Option<&wire::TlsParameters>, domains: &[String]) -> Result<MeshTls, InvalidSelf> {
    let domains = domains.iter().map(|domain| domain.parse().map_err(InvalidSelf::TrustDomain));
    Ok(MeshTls {
        parameters: parameters.map(TlsParameters::try_from).transpose()?.unwrap_or_default(),
        trust_domains: domains.collect::<Result<_, _>>()?,
    })
}

impl TryFrom<wire::InboundPort> for InboundPort {
    type Error = InvalidSelf;

    fn try_from(wire: wire::InboundPort) -> Result<Self, InvalidSelf> {
        let protocol = Protocol::try_from(wire.protocol)
            .map_err(|e| InvalidSelf::Unknown { field: "ports.protocol", value: e.0 })?;
        let names = workload::names(&wire.services)?;
        let services = wire.services.into_iter().map(Arc::new).collect();
        Ok(Self { protocol, name: wire.name, services, names })
    }
}

fn mode_of(field: &'static str, value: i32) -> Result<MtlsMode, InvalidSelf> {
    MtlsMode::try_from(value).map_err(|_| InvalidSelf::Unknown { field, value })
}

fn port_of(field: &'static str, port: u32) -> Result<u16, InvalidSelf> {
    let number = u16::try_from(port).ok().filter(|p| *p != 0);
    number.ok_or(InvalidSelf::Port { field, port })
}
