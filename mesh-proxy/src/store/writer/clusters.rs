//! Clusters and their endpoints: two resources that make one view.
//!
//! In: decoded `cluster/X` and `endpoints/X`. Out: the view in the cell of X, and which of the two is to blame when there
//! is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::model::HostPort;
use mesh_proto::wire::mesh::v1 as wire;

use crate::cluster::{ClusterCell, ClusterHandle, ClusterView, Here, InvalidCluster};
use crate::store::Registry;

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
        self.cluster == Answer::Absent || answered(self.cluster) && answered(self.endpoints)
    }
}

/// All clusters that some route names.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    slots: BTreeMap<HostPort, Slot>,
    workers: usize,
    /// The cells of all slots, for readers.
    registry: Registry,
    /// Where this proxy is.
    here: Here,
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
    pub(super) fn new(workers: usize, registry: Registry) -> Self {
        Self { slots: BTreeMap::new(), workers, registry, here: Here::default() }
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
            self.registry.write().insert(name.clone(), cell.clone());
            Slot { cell, cluster: Answer::Unknown, endpoints: Answer::Unknown, kept: Vec::new() }
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
            self.registry.write().remove(name);
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

    fn build(&mut self, name: &HostPort, change: &Change) -> Refused {
        let (workers, here) = (self.workers, self.here.clone());
        let slot = self.slot(name);
        let previous = slot.cell.load_full();
        let none = wire::Endpoints::default();
        let build = |cluster: &wire::Cluster, endpoints: Option<&wire::Endpoints>| {
            ClusterView::build(cluster, endpoints.unwrap_or(&none), previous.as_deref(), &here, workers)
        };
        let mut refused = Refused::default();
        let old_endpoints = change.held_endpoints.as_ref();
        let new_endpoints = change.endpoints.as_ref();
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
        if let Some(view) = view {
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
