//! Who serves a destination: its endpoints, subsets and policy, as one immutable view in a cell that is swapped.
//!
//! In: `wire::Cluster` and `wire::Endpoints`. Out: [`ClusterView::pick`]. What is counted about an endpoint lives in its
//! [`EndpointState`], which is kept by uid over every push (design §3.3).

mod endpoint;
mod group;
mod hash;
mod policy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use mesh_proto::model::host_port::HostPort;
use mesh_proto::model::protocol::Protocol;
use mesh_proto::wire::mesh::v1 as wire;

pub use endpoint::{Endpoint, EndpointState, Locality, Picked};
pub use hash::{HashKey, Hashed};
pub use policy::{LoadBalancer, Policy, UpstreamTls};

use crate::telemetry::Service;

/// A destination's cluster, shared by all routes that name it.
pub type ClusterHandle = Arc<ClusterCell>;

/// The cell that a cluster's views are published in. Empty: the pilot said that there is no such cluster, or has not
/// answered yet (the store knows which).
#[derive(Debug)]
pub struct ClusterCell {
    name: HostPort,
    view: ArcSwapOption<ClusterView>,
}

impl ClusterCell {
    /// A cell without a view.
    #[must_use]
    pub fn absent(name: HostPort) -> Self {
        Self { name, view: ArcSwapOption::empty() }
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &HostPort {
        &self.name
    }

    /// The view in force, cheap, for the time of one decision.
    pub fn load(&self) -> Guard<Option<Arc<ClusterView>>> {
        self.view.load()
    }

    /// The view in force, to keep.
    pub fn load_full(&self) -> Option<Arc<ClusterView>> {
        self.view.load_full()
    }

    /// Publishes a view, or that there is none. Only the store calls this.
    pub fn publish(&self, view: Option<Arc<ClusterView>>) {
        self.view.store(view);
    }

    /// [`ClusterView::pick`] on the view in force.
    ///
    /// # Errors
    /// When nobody can take the request.
    pub fn pick<R: rand::Rng>(
        &self,
        subset: Option<&str>,
        ctx: &PickContext<'_>,
        rng: &mut R,
    ) -> Result<Picked, NoEndpoint> {
        match &*self.view.load() {
            Some(view) => view.pick(subset, ctx, rng),
            None => Err(NoEndpoint::ClusterAbsent(self.name.clone())),
        }
    }
}

/// What one decision depends on beside the view.
#[derive(Debug, Clone, Copy, Default)]
pub struct PickContext<'a> {
    /// The hash of the request's key, see [`HashKey::evaluate`]. Without one, consistent hashing picks at random.
    pub hash: Option<u64>,
    /// Endpoints to avoid, as long as there is another one.
    pub tried: &'a [Arc<Endpoint>],
    /// Which worker asks.
    pub worker: usize,
}

/// Why nobody can take a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// There is no such cluster (Istio: 503 NC `cluster_not_found`).
    #[error("no cluster {0}")]
    ClusterAbsent(HostPort),
    /// No DestinationRule defines this subset (Istio: 503 NC `cluster_not_found`).
    #[error("{cluster} has no subset {subset:?}")]
    UnknownSubset {
        /// The cluster.
        cluster: HostPort,
        /// The name that a route uses.
        subset: String,
    },
    /// There are no endpoints at all (503 UH `no_healthy_upstream`).
    #[error("{0} has no endpoints")]
    Empty(HostPort),
    /// There are endpoints, none of them ready (503 UH `no_healthy_upstream`).
    #[error("none of the {known} endpoints of {cluster} is ready")]
    NoneReady {
        /// The cluster.
        cluster: HostPort,
        /// How many there are.
        known: usize,
    },
    /// `loadBalancer.simple: PASSTHROUGH`: the caller has to dial the original destination instead.
    #[error("{0} is forwarded to its original destination, not balanced")]
    Passthrough(HostPort),
}

/// Why a cluster or its endpoints are refused. `field` is the path in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCluster {
    /// A field that must be there is absent.
    #[error("{field}: missing")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// A value without meaning.
    #[error("{field}: {reason}")]
    Value {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A cluster as it is now. Immutable; a push makes another one that shares the endpoints' states.
#[derive(Debug)]
pub struct ClusterView {
    name: HostPort,
    service: Arc<Service>,
    protocol: Protocol,
    origin: Option<wire::Origin>,
    endpoints: Vec<Arc<Endpoint>>,
}

impl ClusterView {
    /// Parses. States and cursors are taken over from `previous`; `workers` is how many threads will pick.
    ///
    /// # Errors
    /// Names the field that has no meaning.
    pub fn build(
        cluster: &wire::Cluster,
        endpoints: &wire::Endpoints,
        previous: Option<&Self>,
        workers: usize,
    ) -> Result<Self, InvalidCluster> {
        let _ = (cluster, endpoints, previous, workers);
        unimplemented!("lands with the balancers")
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &HostPort {
        &self.name
    }

    /// For metric labels.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The protocol that its port declares.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The DestinationRule in force.
    #[must_use]
    pub fn origin(&self) -> Option<&wire::Origin> {
        self.origin.as_ref()
    }

    /// All endpoints, also those that are not ready.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The policy of the whole cluster or of a subset.
    ///
    /// # Errors
    /// When there is no such subset.
    pub fn policy(&self, subset: Option<&str>) -> Result<&Policy, NoEndpoint> {
        let _ = subset;
        unimplemented!("lands with the balancers")
    }

    /// Chooses an endpoint; it counts as busy until [`Picked`] is dropped.
    ///
    /// # Errors
    /// When nobody can take the request.
    pub fn pick<R: rand::Rng>(
        &self,
        subset: Option<&str>,
        ctx: &PickContext<'_>,
        rng: &mut R,
    ) -> Result<Picked, NoEndpoint> {
        let _ = (subset, ctx, rng);
        unimplemented!("lands with the balancers")
    }
}
