//! Clusters and their endpoints: two resources that make one view.
//!
//! In: decoded `cluster/X` and `endpoints/X`, and what DNS has for names among the endpoints. Out: the view in the cell of X, and which of the two is to blame when there
//! is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::model::HostPort;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::sync::watch;

use super::names::{self, Expanded, Resolved};
use crate::cluster::{ClusterCell, ClusterHandle, ClusterView, Here, InvalidCluster};
use crate::dns::{Answer as Resolution, Names};
use crate::store::Store;

/// What the pilot has said about a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    Unknown,
    /// It does not exist.
    Absent,
    /// Something that was refused, and there was none before.
    Refused,
    /// It is held.
    Present,
}

/// What is known about a cluster.
#[derive(Debug)]
pub(super) struct Slot {
    pub cell: ClusterHandle,
    pub cluster: Answer,
    pub endpoints: Answer,
    /// Subsets that the newest version has not any more, but routes in force may name.
    kept: Vec<wire::Subset>,
    /// Of endpoints that have no address.
    names: Names,
    /// Some name is not answered yet.
    open: bool,
}

impl Slot {
    /// Whether routes that name it may be published. `first`: there are no older ones that could serve meanwhile, so
    /// that a refused part must not hold up all the rest.
    fn is_settled(&self, first: bool) -> bool {
        let answered = |answer| match answer {
            Answer::Unknown => false,
            Answer::Refused => first,
            Answer::Absent | Answer::Present => true,
        };
        self.cluster == Answer::Absent || answered(self.cluster) && answered(self.endpoints) && !self.open
    }
}

/// All clusters that some route names.
#[derive(Debug)]
pub(super) struct Clusters {
    slots: BTreeMap<HostPort, Slot>,
    store: Arc<Store>,
    /// Where this proxy is.
    here: Here,
    /// What DNS has.
    resolved: Resolved,
    /// The names that DNS is asked for.
    wanted: watch::Sender<Names>,
}

/// What has come about one cluster in one response, and what was there before.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub cluster: Option<wire::Cluster>,
    pub endpoints: Option<wire::Endpoints>,
    pub held_cluster: Option<wire::Cluster>,
    pub held_endpoints: Option<wire::Endpoints>,
}

/// Which parts of a change were refused.
#[derive(Debug, Default)]
pub(super) struct Refused {
    pub cluster: Option<InvalidCluster>,
    pub endpoints: Option<InvalidCluster>,
}

impl Clusters {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let (slots, resolved) = (BTreeMap::new(), Resolved::default());
        let wanted = watch::channel(Names::new()).0;
        Self { slots, store, here: Here::default(), resolved, wanted }
    }

    /// The names of endpoints that have no address.
    pub(super) fn wanted(&self) -> watch::Receiver<Names> {
        self.wanted.subscribe()
    }

    /// What DNS has for a name. Gives the clusters that it concerns.
    pub(super) fn resolve(&mut self, answer: Resolution) -> Vec<HostPort> {
        let concerned = self.slots.iter().filter(|(_, slot)| slot.names.contains(&answer.name));
        let concerned: Vec<_> = concerned.map(|(name, _)| name.clone()).collect();
        if !concerned.is_empty() {
            self.resolved.insert(answer.name, answer.found);
        }
        concerned
    }

    /// What is wanted is what some slot has.
    fn want_names(&mut self) {
        let all: Names = self.slots.values().flat_map(|slot| slot.names.iter().cloned()).collect();
        self.resolved.retain(|name, _| all.contains(name));
        self.wanted.send_if_modified(|wanted| {
            let news = *wanted != all;
            *wanted = all;
            news
        });
    }

    /// Where this proxy is from now on. True when that is another place than before.
    pub(super) fn stand(&mut self, here: Here) -> bool {
        let moved = self.here != here;
        self.here = here;
        moved
    }

    /// Of all slots.
    pub(super) fn names(&self) -> Vec<HostPort> {
        self.slots.keys().cloned().collect()
    }

    /// The slot of a cluster, made when there is none.
    pub(super) fn slot(&mut self, name: &HostPort) -> &mut Slot {
        self.slots.entry(name.clone()).or_insert_with(|| {
            let cell = Arc::new(ClusterCell::absent(name.clone()));
            self.store.clusters.write().insert(name.clone(), cell.clone());
            let (cluster, endpoints) = (Answer::Unknown, Answer::Unknown);
            Slot { cell, cluster, endpoints, kept: Vec::new(), names: Names::new(), open: false }
        })
    }

    /// The handle that routes keep.
    pub(super) fn handle(&mut self, name: &HostPort) -> ClusterHandle {
        self.slot(name).cell.clone()
    }

    /// The cluster's handle, if some route names it.
    pub(super) fn find(&self, name: &HostPort) -> Option<&Slot> {
        self.slots.get(name)
    }

    /// Whether routes that name these may be published.
    pub(super) fn are_settled(&self, names: &BTreeSet<HostPort>, first: bool) -> bool {
        self.unsettled(names, first) == 0
    }

    /// How many of them are not there yet.
    pub(super) fn unsettled(&self, names: &BTreeSet<HostPort>, first: bool) -> usize {
        names.iter().filter(|n| !self.slots.get(n).is_some_and(|s| s.is_settled(first))).count()
    }

    /// Forgets what no route names. Gives the names forgotten.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<&HostPort>) -> Vec<HostPort> {
        let gone: Vec<_> = self.slots.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for name in &gone {
            self.slots.remove(name);
            self.store.clusters.write().remove(name);
        }
        if !gone.is_empty() {
            self.want_names();
        }
        gone
    }

    /// Builds the view out of what is new and what was there, publishes it, and says what of the new is refused.
    /// Subsets that the new version has not stay: routes in force may name them until newer ones are published.
    pub(super) fn change(&mut self, name: &HostPort, change: &mut Change) -> Refused {
        let slot = self.slot(name);
        if let Some(held) = &mut change.held_cluster {
            held.subsets.append(&mut slot.kept.clone());
        }
        let gone = add_missing(change.cluster.as_mut(), change.held_cluster.as_ref());
        let refused = self.build(name, change);
        if change.cluster.is_some() && refused.cluster.is_none() {
            self.slot(name).kept = gone;
        }
        refused
    }

    /// Whether subsets are kept that the newest version has not.
    pub(super) fn keeps(&self, name: &HostPort) -> bool {
        self.slots.get(name).is_some_and(|slot| !slot.kept.is_empty())
    }

    /// Takes the names of a cluster's endpoints.
    fn name(&mut self, name: &HostPort, endpoints: Option<&wire::Endpoints>) {
        let names = endpoints.map(names::names_of).unwrap_or_default();
        let slot = self.slot(name);
        if slot.names != names {
            slot.names = names;
            self.want_names();
        }
    }

    fn build(&mut self, name: &HostPort, change: &Change) -> Refused {
        let (store, here) = (self.store.clone(), self.here.clone());
        let workers = store.place.workers;
        let dialled = change.cluster.as_ref().or(change.held_cluster.as_ref());
        let first = dialled.is_some_and(|cluster| cluster.addresses() == wire::Addresses::First);
        self.name(name, change.endpoints.as_ref().or(change.held_endpoints.as_ref()));
        let expand = |endpoints: Option<&wire::Endpoints>| {
            endpoints.map(|endpoints| names::expand(endpoints, &self.resolved, first))
        };
        let (old, new) = (expand(change.held_endpoints.as_ref()), expand(change.endpoints.as_ref()));
        let slot = self.slot(name);
        let previous = slot.cell.load_full();
        let none = Expanded::default();
        let build = |cluster: &wire::Cluster, endpoints: Option<&Expanded>| {
            let Expanded { endpoints, why, .. } = endpoints.unwrap_or(&none);
            let view = ClusterView::build(cluster, endpoints, previous.as_deref(), &here, workers)?;
            Ok(view.unresolved(why.as_deref()))
        };
        let mut refused = Refused::default();
        let (old_endpoints, new_endpoints) = (old.as_ref(), new.as_ref());
        let newest = new_endpoints.or(old_endpoints);
        let mut view = None;
        if let Some(cluster) = &change.cluster {
            match build(cluster, newest) {
                Ok(built) => view = Some(built),
                // Alone it is good, so the endpoints are not.
                Err(error) if build(cluster, None).is_ok() => {
                    refused.endpoints = new_endpoints.map(|_| error);
                    view = build(cluster, old_endpoints).ok();
                }
                Err(error) => refused.cluster = Some(error),
            }
        }
        let fallback = change.held_cluster.as_ref().filter(|_| change.cluster.is_none() || view.is_none());
        if let Some(cluster) = fallback {
            match build(cluster, newest) {
                Ok(built) => view = Some(built),
                Err(error) => refused.endpoints = new_endpoints.map(|_| error),
            }
        }
        let settle = |answer: &mut Answer, new: bool, refused: bool| match (new, refused) {
            (true, false) => *answer = Answer::Present,
            (true, true) if *answer != Answer::Present => *answer = Answer::Refused,
            _ => {}
        };
        settle(&mut slot.cluster, change.cluster.is_some(), refused.cluster.is_some());
        settle(&mut slot.endpoints, change.endpoints.is_some(), refused.endpoints.is_some());
        slot.open = newest.is_some_and(|endpoints| endpoints.open);
        // What is there serves until the new names are known.
        if let Some(view) = view.filter(|_| !slot.open || previous.is_none()) {
            for settings in view.originations() {
                store.originations.adopt(settings, view.origin(), &store.secrets());
            }
            slot.cell.publish(Some(Arc::new(view)));
        }
        refused
    }
}

/// Adds to the new version the subsets that only the old one has, and gives them.
fn add_missing(new: Option<&mut wire::Cluster>, old: Option<&wire::Cluster>) -> Vec<wire::Subset> {
    let (Some(new), Some(old)) = (new, old) else { return Vec::new() };
    let gone = old.subsets.iter().filter(|subset| new.subsets.iter().all(|s| s.name != subset.name));
    let gone: Vec<_> = gone.cloned().collect();
    new.subsets.extend_from_slice(&gone);
    gone
}
