//! One endpoint, and what is counted about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_proto::model::identity::SpiffeId;
use mesh_proto::wire::mesh::v1 as wire;

use super::InvalidCluster;
use super::latency::Latency;
use crate::telemetry::Party;

/// An endpoint as the pilot describes it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Stable over pushes.
    pub uid: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Who must answer there; `None`: it is not in the mesh.
    pub identity: Option<SpiffeId>,
    /// It has a sidecar that accepts mesh mTLS on this port.
    pub mtls: bool,
    /// May get traffic.
    pub ready: bool,
    /// Where it runs.
    pub locality: Locality,
    /// Relative to the other endpoints; at least 1.
    pub weight: u32,
    /// Those that some subset uses.
    pub labels: BTreeMap<String, String>,
    /// For metrics and logs.
    pub party: Arc<Party>,
    /// What is counted, the same object over every push.
    pub state: Arc<EndpointState>,
    /// Position in the order of rotation: a hash of the uid, unique within a cluster.
    pub(crate) key: u64,
}

/// Region, zone, subzone; empty where not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// `region`
    pub region: Box<str>,
    /// `zone`
    pub zone: Box<str>,
    /// `subzone`
    pub subzone: Box<str>,
}

/// Counters of an endpoint, shared by all workers.
#[derive(Debug, Default)]
pub struct EndpointState {
    pub(super) active: AtomicU64,
    pub(super) total: AtomicU64,
    /// How long it takes to answer.
    pub latency: Latency,
}

impl EndpointState {
    /// Requests (or connections, for bytes) that it is busy with, from this proxy.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Requests that were given to it, ever.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

impl Endpoint {
    /// Parses; `field` is the message's path. `previous` is the same endpoint in the view before: its state is kept,
    /// and all of it where nothing has changed.
    pub(super) fn parse(
        wire: &wire::Endpoint,
        field: &str,
        key: u64,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, InvalidCluster> {
        let invalid = |name: &str, reason| InvalidCluster::Value { field: format!("{field}.{name}"), reason };
        if wire.uid.is_empty() {
            return Err(InvalidCluster::Missing { field: format!("{field}.uid") });
        }
        let address = wire.address.parse();
        let address =
            address.map_err(|_| invalid("address", format!("{:?} is not ip:port", wire.address)))?;
        let identity = (!wire.identity.is_empty()).then(|| wire.identity.parse::<SpiffeId>()).transpose();
        let identity = identity.map_err(|e| invalid("identity", e.to_string()))?;
        if wire.mtls && identity.is_none() {
            // Without an identity to expect, mTLS would accept anybody.
            return Err(invalid("identity", "mtls without an identity".to_owned()));
        }
        let party = Arc::new(Party::new(wire.facts.as_ref(), identity.as_ref()));
        let new = Self {
            uid: previous.map_or_else(|| wire.uid.as_str().into(), |p| p.uid.clone()),
            address,
            identity,
            mtls: wire.mtls,
            ready: wire.ready,
            locality: Locality::new(&wire.locality),
            weight: wire.weight.max(1),
            labels: wire.labels.clone(),
            party: previous.map(|p| &p.party).filter(|p| **p == party).cloned().unwrap_or(party),
            state: previous.map(|p| p.state.clone()).unwrap_or_default(),
            key,
        };
        Ok(previous.filter(|p| p.is_same(&new)).cloned().unwrap_or_else(|| Arc::new(new)))
    }

    /// Whether two descriptions of one endpoint say the same.
    fn is_same(&self, other: &Self) -> bool {
        (self.address, self.mtls, self.ready, self.weight, self.key)
            == (other.address, other.mtls, other.ready, other.weight, other.key)
            && self.identity == other.identity
            && self.locality == other.locality
            && self.labels == other.labels
            && self.party == other.party
    }
}

impl Locality {
    /// Parses `region/zone/subzone`.
    pub(crate) fn new(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(Box::from);
        let mut next = || parts.next().unwrap_or_default();
        Self { region: next(), zone: next(), subzone: next() }
    }
}
