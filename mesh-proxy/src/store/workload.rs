//! Who is behind a pod's address.
//!
//! In: `workload/<ip>`. Out: [`Workload`], for traffic to the pod itself (headless services, direct dialling).

use std::collections::BTreeMap;
use std::net::{AddrParseError, IpAddr};
use std::sync::Arc;

use mesh_proto::model::host_port::InvalidHostPort;
use mesh_proto::model::{HostPort, InvalidIdentity, Protocol, SpiffeId};
use mesh_proto::wire::mesh::v1 as wire;

use crate::destination::Services;

/// Why a workload's facts cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWorkload {
    /// Field `address`.
    #[error("address {0:?}: {1}")]
    Address(String, AddrParseError),
    /// Field `identity`.
    #[error("identity: {0}")]
    Identity(#[from] InvalidIdentity),
    /// Field `ports`.
    #[error("ports: {0} is no port from 1 to 65535")]
    Port(u32),
    /// Field `ports.services`.
    #[error("ports.services: {0}")]
    Service(#[from] InvalidHostPort),
    /// Field `ports.protocol`.
    #[error("ports.protocol: unknown value {0}")]
    Protocol(i32),
}

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The pod's address.
    pub address: IpAddr,
    /// Stable over pushes.
    pub uid: Arc<str>,
    /// Absent: not in the mesh.
    pub identity: Option<SpiffeId>,
    /// For metric labels.
    pub facts: Arc<wire::WorkloadFacts>,
    /// By container port.
    pub ports: BTreeMap<u16, WorkloadPort>,
}

/// One container port.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadPort {
    /// Declared protocol.
    pub protocol: Protocol,
    /// Its sidecar accepts mesh mTLS there.
    pub mtls: bool,
    /// The services whose target it is.
    pub services: Vec<Arc<wire::ServiceRef>>,
    /// Their names, `host:service port`; `None` when there are none.
    pub names: Services,
}

/// The names of services.
pub(super) fn names(services: &[wire::ServiceRef]) -> Result<Services, InvalidHostPort> {
    let names = services.iter().map(|service| {
        HostPort::try_from(&wire::HostPort { host: service.host.clone(), port: service.port })
    });
    let names = names.collect::<Result<Vec<_>, _>>()?;
    Ok((!names.is_empty()).then(|| names.into()))
}

impl TryFrom<wire::Workload> for Workload {
    type Error = InvalidWorkload;

    fn try_from(wire: wire::Workload) -> Result<Self, InvalidWorkload> {
        let address = wire.address.parse().map_err(|e| InvalidWorkload::Address(wire.address.clone(), e))?;
        let identity = if wire.identity.is_empty() { None } else { Some(wire.identity.parse::<SpiffeId>()?) };
        let mut ports = BTreeMap::new();
        for port in wire.ports {
            let number = u16::try_from(port.port).ok().filter(|p| *p != 0);
            let number = number.ok_or(InvalidWorkload::Port(port.port))?;
            let names = names(&port.services)?;
            ports.insert(
                number,
                WorkloadPort {
                    protocol: Protocol::try_from(port.protocol)
                        .map_err(|e| InvalidWorkload::Protocol(e.0))?,
                    mtls: port.mtls,
                    names,
                    services: port.services.into_iter().map(Arc::new).collect(),
                },
            );
        }
        Ok(Self {
            address,
            uid: Arc::from(wire.uid),
            identity,
            facts: Arc::new(wire.facts.unwrap_or_default()),
            ports,
        })
    }
}
