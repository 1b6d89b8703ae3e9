//! Who serves a destination: its endpoints, subsets and policy, as one immutable view in a cell that is swapped.
//!
//! In: `wire::Cluster` and `wire::Endpoints`. Out: [`ClusterView::pick`]. What is counted about an endpoint lives in its
//! [`EndpointState`], which is kept by uid over every push (design §3.3); so do limits and ejections.

mod clock;
mod dump;
mod endpoint;
mod group;
mod hash;
mod latency;
pub mod limits;
mod locality;
mod member;
pub mod metrics;
mod outlier;
mod policy;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use mesh_proto::model::host_port::HostPort;
use mesh_proto::model::protocol::Protocol;
use mesh_proto::wire::mesh::v1 as wire;
use xxhash_rust::xxh64::xxh64;

pub use clock::Moment;
pub use endpoint::{Endpoint, EndpointState, Locality};
use group::{Group, Parts};
pub use hash::{HashKey, Hashed};
pub use latency::Ending;
pub use limits::{Limits, Permit, Resource};
pub use locality::Here;
pub(crate) use locality::{Level, Share};
pub use member::{Member, Picked, Seen};
pub use policy::{ConnectionSettings, Keepalive, LoadBalancer, Policy, UpstreamTls};

use crate::balance::Choice;
use crate::telemetry::Service;
use crate::tls::originate::Origination;

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
        self.view.store(view.clone());
        if let Some(view) = view {
            view.settle();
        }
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
    /// The time.
    pub now: Moment,
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
    /// Outlier detection has taken out all that are ready (503 UH `no_healthy_upstream`).
    #[error("outlier detection has ejected all {ejected} ready endpoints of {cluster}")]
    AllEjected {
        /// The cluster.
        cluster: HostPort,
        /// How many.
        ejected: usize,
    },
    /// DNS has no address for any of the endpoints (503 UH).
    #[error("{cluster} has no endpoints: DNS has no address for {why}")]
    Unresolved {
        /// The cluster.
        cluster: HostPort,
        /// The name, and what DNS says.
        why: Box<str>,
    },
    /// `loadBalancer.simple: PASSTHROUGH`: the caller has to dial the original destination instead.
    #[error("{0} is forwarded to its original destination, not balanced")]
    Passthrough(HostPort),
    /// A ServiceEntry with `resolution: NONE`, and no address was dialled that could be gone to.
    #[error(
        "{0} is where the application dials it (resolution NONE), and it dialled this proxy: set resolution DNS"
    )]
    NotDialled(HostPort),
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
    kind: wire::EntryKind,
    /// Requests go to the address that the application dialled.
    dialled: bool,
    /// Why names among the endpoints have no address.
    unresolved: Option<Box<str>>,
    origin: Option<wire::Origin>,
    /// Sorted by key.
    endpoints: Vec<Arc<Endpoint>>,
    whole: Group,
    subsets: HashMap<Box<str>, Group>,
}

impl ClusterView {
    /// Parses. States and cursors are taken over from `previous`; `workers` is how many threads will pick. Limits and
    /// ejections count for it from [`ClusterCell::publish`] on.
    ///
    /// # Errors
    /// Names the field that has no meaning.
    pub fn build(
        cluster: &wire::Cluster,
        endpoints: &wire::Endpoints,
        previous: Option<&Self>,
        here: &Here,
        workers: usize,
    ) -> Result<Self, InvalidCluster> {
        let invalid = |field: &str, reason: String| InvalidCluster::Value { field: field.to_owned(), reason };
        let name = cluster.name.as_ref();
        let name = name.ok_or_else(|| InvalidCluster::Missing { field: "name".to_owned() })?;
        let name = HostPort::try_from(name).map_err(|e| invalid("name", e.to_string()))?;
        let protocol = Protocol::try_from(cluster.protocol);
        let addresses = wire::Addresses::try_from(cluster.addresses);
        let addresses = addresses.map_err(|e| invalid("addresses", format!("{} is unknown", e.0)))?;
        let endpoints = parse_endpoints(endpoints, previous)?;
        let group = |policy, field: &str, labels, subset: &str, before| {
            let istio = format!("outbound|{}|{subset}|{}", name.port(), name.host());
            let parts = Parts { endpoints: &endpoints, here, workers, name: &istio };
            Group::new(policy, field, labels, &parts, before)
        };
        let everybody = BTreeMap::new();
        let whole = group(cluster.policy.as_ref(), "policy", &everybody, "", previous.map(|p| &p.whole))?;
        let mut subsets = HashMap::with_capacity(cluster.subsets.len());
        for (index, subset) in cluster.subsets.iter().enumerate() {
            let before = previous.and_then(|p| p.subsets.get(subset.name.as_str()));
            // An older pilot's subset without a policy has that of the whole.
            let policy = subset.policy.as_ref().or(cluster.policy.as_ref());
            let field = format!("subsets[{index}].policy");
            let group = group(policy, &field, &subset.labels, &subset.name, before)?;
            if subsets.insert(Box::from(subset.name.as_str()), group).is_some() {
                return Err(invalid(&format!("subsets[{index}].name"), format!("{:?} again", subset.name)));
            }
        }
        let service = Arc::new(cluster.service.as_ref().map(Service::new).unwrap_or_default());
        Ok(Self {
            service: previous.map(|p| &p.service).filter(|s| **s == service).cloned().unwrap_or(service),
            protocol: protocol
                .map_err(|_| invalid("protocol", format!("{} is unknown", cluster.protocol)))?,
            kind: cluster.kind(),
            dialled: addresses == wire::Addresses::Dialled,
            unresolved: None,
            origin: cluster.origin.clone(),
            name,
            endpoints,
            whole,
            subsets,
        })
    }

    /// The same, with the reason why names among its endpoints have no address.
    #[must_use]
    pub fn unresolved(self, why: Option<&str>) -> Self {
        Self { unresolved: why.map(Box::from), ..self }
    }

    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &HostPort {
        &self.name
    }

    /// Whether it is a host of a ServiceEntry.
    #[must_use]
    pub fn is_entry(&self) -> bool {
        self.kind == wire::EntryKind::EntryExternal
    }

    /// Whether requests go to the address that the application dialled: there are no endpoints.
    #[must_use]
    pub fn is_dialled(&self) -> bool {
        self.dialled
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

    /// The names of its subsets, in no order.
    pub fn subsets(&self) -> impl Iterator<Item = &str> {
        self.subsets.keys().map(|name| &**name)
    }

    /// The policy of the whole cluster or of a subset.
    ///
    /// # Errors
    /// When there is no such subset.
    pub fn policy(&self, subset: Option<&str>) -> Result<&Arc<Policy>, NoEndpoint> {
        Ok(&self.group(subset)?.policy)
    }

    /// The settings of TLS to servers outside of the mesh that it has.
    pub(crate) fn originations(&self) -> impl Iterator<Item = &Arc<Origination>> {
        [&self.whole].into_iter().chain(self.subsets.values()).filter_map(|group| match &group.policy.tls {
            UpstreamTls::Originate(settings) => Some(settings),
            _ => None,
        })
    }

    /// What is under way to the whole cluster or a subset, where its policy limits that.
    #[must_use]
    pub fn limits(&self, subset: Option<&str>) -> Option<&Arc<Limits>> {
        let group = self.group(subset).ok()?;
        group.policy.limits.is_some().then_some(&group.limits)
    }

    fn settle(&self) {
        self.whole.settle();
        self.subsets.values().for_each(Group::settle);
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
        let group = self.group(subset)?;
        let choice = Choice { hash: ctx.hash, tried: ctx.tried, worker: ctx.worker, now: ctx.now };
        match group.choose(&choice, rng) {
            Some(member) => Ok(Picked::new(member)),
            None => Err(self.nobody(group)),
        }
    }

    fn group(&self, subset: Option<&str>) -> Result<&Group, NoEndpoint> {
        let Some(subset) = subset else { return Ok(&self.whole) };
        self.subsets.get(subset).ok_or_else(|| NoEndpoint::UnknownSubset {
            cluster: self.name.clone(),
            subset: subset.to_owned(),
        })
    }

    /// Why a group has nobody to choose.
    fn nobody(&self, group: &Group) -> NoEndpoint {
        let cluster = self.name.clone();
        let members = group.members.all();
        let ejected = members.iter().filter(|member| member.ready && member.is_ejected()).count();
        match members.len() {
            _ if group.policy.load_balancer == LoadBalancer::Passthrough => NoEndpoint::Passthrough(cluster),
            0 => match &self.unresolved {
                Some(why) => NoEndpoint::Unresolved { cluster, why: why.clone() },
                None => NoEndpoint::Empty(cluster),
            },
            _ if ejected > 0 => NoEndpoint::AllEjected { cluster, ejected },
            known => NoEndpoint::NoneReady { cluster, known },
        }
    }
}

/// Parses the endpoints and sorts them by key: a hash of the uid, so that each has the same neighbours in every proxy
/// whatever comes and goes.
fn parse_endpoints(
    wire: &wire::Endpoints,
    previous: Option<&ClusterView>,
) -> Result<Vec<Arc<Endpoint>>, InvalidCluster> {
    let known = previous.map(|p| p.endpoints.as_slice()).unwrap_or_default();
    let known: HashMap<&str, &Arc<Endpoint>> = known.iter().map(|e| (&*e.uid, e)).collect();
    let mut by_key = BTreeMap::new();
    for (index, endpoint) in wire.endpoints.iter().enumerate() {
        let field = format!("endpoints[{index}]");
        let mut key = xxh64(endpoint.uid.as_bytes(), 0);
        // Two uids with one hash: the later one moves up.
        while let Some(other) = by_key.get(&key) {
            let other: &Arc<Endpoint> = other;
            if *other.uid == *endpoint.uid {
                let reason = format!("{:?} again", endpoint.uid);
                return Err(InvalidCluster::Value { field: format!("{field}.uid"), reason });
            }
            key = key.wrapping_add(1);
        }
        let previous = known.get(endpoint.uid.as_str()).copied();
        by_key.insert(key, Endpoint::parse(endpoint, &field, key, previous)?);
    }
    Ok(by_key.into_values().collect())
}
