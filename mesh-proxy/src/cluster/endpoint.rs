//! One endpoint, and what is counted about it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_proto::model::identity::SpiffeId;

use crate::telemetry::Party;

/// An endpoint as the pilot describes it.
#[derive(Debug)]
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
    active: AtomicU64,
    total: AtomicU64,
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

/// A choice. The endpoint counts as busy until this is dropped: keep it until the answer's body has ended.
#[derive(Debug)]
pub struct Picked {
    endpoint: Arc<Endpoint>,
}

impl Picked {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.state.active.fetch_add(1, Ordering::Relaxed);
        endpoint.state.total.fetch_add(1, Ordering::Relaxed);
        Self { endpoint }
    }

    /// Who was chosen.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.state.active.fetch_sub(1, Ordering::Relaxed);
    }
}
