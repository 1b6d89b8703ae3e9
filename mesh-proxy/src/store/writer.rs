//! The one writer of the store: takes responses, publishes what is complete, forgets what nothing names.
//!
//! In: resources and removals, from the stream or the disk, in any order. Out: cells swapped, and the resources that are
//! refused, by name. Spec: `mesh_proto::discovery`, rules 4 to 7; make before break is design §3.1.

mod clusters;
mod incoming;
mod names;
mod routes;
mod take;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::runtime::identity::RootsHandle;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::sync::watch;
use tokio::time::Instant;

pub use incoming::{Held, Incoming, Refusal};

use self::clusters::Clusters;
use self::routes::Routes;
use self::trust::Trust;
use super::{Phase, Store};
use crate::destination::{Catalogue, Namespace};
use crate::dns::{Answer, Names};

/// A name that nobody has used for that long is forgotten; the next use asks again.
pub const IDLE: Duration = Duration::from_secs(3600);

/// Where resources come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// What this instance had in force before it was restarted.
    Disk,
    /// The pilot.
    Stream,
    /// The pilot, and more of what it has to say follows.
    Part,
}

/// What one response changed that readers must be told about.
#[derive(Debug, Default)]
struct Round {
    rejected: Vec<wire::Rejected>,
    /// A look-up may have another answer.
    lookups: bool,
    /// A namespace's names.
    names: bool,
    /// The set of names that routes imply.
    implied: bool,
    /// The workload's labels or namespace: matches on the source are decided anew.
    source: bool,
    /// Where the workload is: which endpoints come first is decided anew.
    place: bool,
}

/// The writing half of a [`Store`].
#[derive(Debug)]
pub struct Writer {
    store: Arc<Store>,
    trust: Trust,
    subscribed: BTreeSet<ResourceName>,
    clusters: Clusters,
    routes: BTreeMap<ResourceName, Routes>,
    /// Routes that wait for what they name.
    waiting: BTreeSet<ResourceName>,
    /// Clusters that still have subsets which their newest version has not.
    retiring: BTreeSet<HostPort>,
    namespaces: BTreeMap<String, Namespace>,
    /// Since when a name was seen unused.
    idle: HashMap<ResourceName, Instant>,
    /// Changed since the disk was told.
    dirty: BTreeSet<ResourceName>,
}

impl Writer {
    /// The writer of `store`. `roots`: who is trusted, which trust bundles replace.
    #[must_use]
    pub fn new(store: Arc<Store>, roots: RootsHandle) -> Self {
        let clusters = Clusters::new(store.clone());
        Self {
            store,
            trust: Trust::new(roots),
            subscribed: BTreeSet::new(),
            clusters,
            routes: BTreeMap::new(),
            waiting: BTreeSet::new(),
            retiring: BTreeSet::new(),
            namespaces: BTreeMap::new(),
            idle: HashMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// The store that this writes.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A name is wanted from now on. False when it was already.
    pub fn subscribe(&mut self, name: ResourceName) -> bool {
        self.subscribed.insert(name)
    }

    /// All names wanted.
    pub fn subscribed(&self) -> impl Iterator<Item = &ResourceName> {
        self.subscribed.iter()
    }

    /// Every resource held with its version, as `initial_resource_versions` wants them.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<String, String> {
        let held = self.store.held.read();
        held.iter().map(|(name, held)| (name.to_string(), held.version.to_string())).collect()
    }

    /// What this instance had in force before it was restarted. The names used then are wanted again.
    pub fn load(&mut self, resources: Vec<Incoming>) {
        if resources.is_empty() {
            return;
        }
        let names = |kind| resources.iter().map(|r| &r.name).filter(move |name| name.kind == kind);
        // As many as there are: the limit held when they were written.
        let destinations = names(Kind::Destination).filter_map(|name| name.name().parse().ok());
        self.store.destinations.make_all(destinations.collect());
        let workloads = names(Kind::Workload).filter_map(|name| name.name().parse().ok());
        self.store.workloads.make_all(workloads.collect());
        self.subscribed.extend(names(Kind::Destination).chain(names(Kind::Workload)).cloned());
        for refused in self.apply(Origin::Disk, resources, &[]) {
            let (resource, reason) = (&refused.resource, &refused.reason);
            tracing::warn!(%resource, %reason, "kept on disk, but this build refuses it");
        }
        // What no longer has a use (its route was not kept) is forgotten there too; the rest is there already.
        let held = self.store.held.read();
        self.dirty.retain(|name| !held.contains_key(name));
    }

    /// Applies a response: additions, then removals. Gives the resources that are refused; everything else is in force.
    pub fn apply(
        &mut self,
        origin: Origin,
        mut resources: Vec<Incoming>,
        removed: &[ResourceName],
    ) -> Vec<wire::Rejected> {
        let mut round = Round::default();
        resources.sort_by_key(|r| order(r.name.kind));
        let at = |kind| resources.partition_point(|r| order(r.name.kind) < order(kind));
        let (clusters, rest) = (at(Kind::Endpoints), at(Kind::Destination));
        let rest = resources.split_off(rest);
        let parts = resources.split_off(clusters);
        for resource in resources {
            self.take(&mut round, origin, resource);
        }
        if round.source {
            self.parse_routes_again();
        }
        if round.place {
            self.build_clusters_again();
        }
        self.take_clusters(&mut round, parts);
        for resource in rest {
            self.take(&mut round, origin, resource);
        }
        self.publish(&mut round);
        for name in removed {
            self.remove(&mut round, name);
        }
        self.publish(&mut round);
        self.retire();
        if round.implied {
            self.forget_unnamed();
        }
        self.tell(origin, &round);
        round.rejected
    }

    /// The names of endpoints that have no address.
    #[must_use]
    pub fn names(&self) -> watch::Receiver<Names> {
        self.clusters.wanted()
    }

    /// What DNS has for one of them.
    pub fn resolved(&mut self, answer: Answer) {
        for name in self.clusters.resolve(answer) {
            self.build_again(&name);
        }
        let mut round = Round::default();
        self.publish(&mut round);
        self.retire();
        // Nothing of it is the pilot's answer.
        self.tell(Origin::Part, &round);
    }

    /// Names changed since the last call, with what is held now (`None`: nothing), for the disk.
    pub fn take_changes(&mut self) -> Vec<(ResourceName, Option<Held>)> {
        let held = self.store.held.read();
        std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|name| (name.clone(), held.get(&name).cloned()))
            .collect()
    }

    /// Whether [`Self::take_changes`] has something.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Forgets names that nobody used for [`IDLE`]. Gives them, to be unsubscribed.
    pub fn forget_idle(&mut self, now: Instant) -> Vec<ResourceName> {
        let mut gone = Vec::new();
        for (name, cell) in self.store.destinations.all().iter() {
            // One is the map's. More: somebody holds it.
            let used = cell.take_used() || Arc::strong_count(cell) > 1;
            self.note_use(ResourceName::new(Kind::Destination, &name.to_string()), used, now, &mut gone);
        }
        for (ip, cell) in self.store.workloads.all().iter() {
            let used = cell.take_used() || Arc::strong_count(cell) > 1;
            self.note_use(ResourceName::new(Kind::Workload, &ip.to_string()), used, now, &mut gone);
        }
        let mut round = Round::default();
        for name in &gone {
            self.subscribed.remove(name);
            self.idle.remove(name);
            self.remove(&mut round, name);
            self.store.forget(name);
        }
        if !gone.is_empty() {
            self.forget_unnamed();
            self.store.bump();
        }
        gone
    }

    fn note_use(&mut self, name: ResourceName, used: bool, now: Instant, gone: &mut Vec<ResourceName>) {
        if used {
            self.idle.remove(&name);
        } else if now.duration_since(*self.idle.entry(name.clone()).or_insert(now)) >= IDLE {
            gone.push(name);
        }
    }

    /// Both sides forget what no route names any more, without a message (rule 4).
    fn forget_unnamed(&mut self) {
        let own = self.store.self_config();
        let asked = own.as_ref().and_then(|own| own.external.as_ref()?.cluster());
        let wanted = self.routes.values().flat_map(Routes::clusters).chain(asked).collect();
        for name in self.clusters.retain(&wanted) {
            for kind in [Kind::Endpoints, Kind::Cluster] {
                self.drop_held(&ResourceName::new(kind, &name.to_string()));
            }
        }
    }

    /// Tells readers what changed.
    fn tell(&self, origin: Origin, round: &Round) {
        let place = &self.store.place;
        if round.names {
            let index = Catalogue::build(&place.namespace, &place.cluster_domain, self.namespaces.values());
            self.store.catalogue.store(Arc::new(index));
        }
        if round.names || round.lookups {
            self.store.bump();
        }
        let held = self.store.held.read();
        let has = |kind| held.keys().any(|name| name.kind == kind);
        let missing = self.waiting.iter().filter_map(|name| self.routes.get(name));
        let missing: usize = missing.map(|routes| routes.missing(&self.clusters)).sum();
        let own = self.store.self_config();
        let asked = own.as_ref().and_then(|own| own.external.as_ref()?.cluster().cloned());
        let missing = missing + self.clusters.unsettled(&asked.into_iter().collect(), true);
        self.store.readiness.send_if_modified(|readiness| {
            let before = readiness.clone();
            readiness.self_config = has(Kind::SelfConfig);
            readiness.trust_bundle = has(Kind::TrustBundle);
            readiness.answered |= match origin {
                Origin::Stream => true,
                Origin::Part => false,
                Origin::Disk => !held.is_empty(),
            };
            readiness.missing = if place.gateway { missing } else { 0 };
            *readiness != before
        });
    }

    fn hold(&mut self, resource: Incoming) {
        let Incoming { name, version, body } = resource;
        self.store.refused.write().remove(&name);
        // A slice would keep the whole response in memory.
        let body = bytes::Bytes::copy_from_slice(&body);
        self.store.held.write().insert(name.clone(), Held { version, body });
        // What is secret is never on disk.
        if name.kind != Kind::Secret {
            self.dirty.insert(name);
        }
    }

    fn drop_held(&mut self, name: &ResourceName) {
        self.store.refused.write().remove(name);
        if self.store.held.write().remove(name).is_some() && name.kind != Kind::Secret {
            self.dirty.insert(name.clone());
        }
    }

    fn refuse(&self, round: &mut Round, resource: &Incoming, refusal: &Refusal) {
        let rejected = wire::Rejected {
            resource: resource.name.to_string(),
            version: resource.version.to_string(),
            reason: refusal.to_string(),
        };
        let reason: Arc<str> = Arc::from(rejected.reason.as_str());
        if !self.store.held.read().contains_key(&resource.name) {
            let phase = Phase::Rejected(reason);
            match resource.name.kind {
                Kind::Destination => self.store.clear_destination(&resource.name, phase),
                Kind::Workload => self.store.clear_workload(&resource.name, phase),
                _ => {}
            }
        }
        // Slots were made for what it names.
        round.implied = true;
        self.store.refused.write().insert(resource.name.clone(), rejected.clone());
        round.rejected.push(rejected);
    }
}

/// The place of a kind in [`Kind::ALL`]: what is named comes before what names it.
fn order(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).unwrap_or(Kind::ALL.len())
}
