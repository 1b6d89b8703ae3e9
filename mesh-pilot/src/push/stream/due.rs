//! What goes into the next response: the names that are due, what is new about them, and where one response ends.
//!
//! In: the stream's dirty names. Out: resources and removals of at most about [`BUDGET`] bytes. What is left stays due, so
//! that no object, however large it makes others, keeps a proxy from what else there is.

use std::sync::Arc;

use mesh_proto::discovery::MAX_MESSAGE;
use mesh_proto::model::{Kind, ResourceName};

use super::Stream;
use super::entry::{Answer, Told, order};
use crate::push::cache::{Cache, Encoded};
use crate::snapshot::Snapshot;

/// A response ends with the resource that reaches so many bytes.
pub const BUDGET: usize = 8 << 20;
/// A larger resource is not sent: with all else of one response, it must stay below what proxies take.
pub const MAX_RESOURCE: usize = MAX_MESSAGE / 2;
/// What a name costs beside its own length: its version and type, and the fields' heads.
const OVERHEAD: usize = 128;

/// A name that is to be looked at, in the order of [`Kind::ALL`]: clusters in force change before the routes that may need
/// the change, routes come before the clusters that only they name (nobody keeps a cluster that nothing names).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due(usize, ResourceName);

impl Due {
    pub(super) fn name(&self) -> &ResourceName {
        &self.1
    }
}

impl From<ResourceName> for Due {
    fn from(name: ResourceName) -> Self {
        Self(order(name.kind), name)
    }
}

impl Stream {
    /// Resolves what is dirty, and what that implies, and so on, until there is enough for one response.
    pub(super) fn resolve_dirty(
        &mut self,
        snapshot: &Snapshot,
        cache: &mut Cache,
    ) -> (Vec<Arc<Encoded>>, Vec<ResourceName>) {
        let (mut resources, mut removed, mut later) = (Vec::new(), Vec::new(), Vec::new());
        let mut size = 0;
        while size < BUDGET
            && let Some(Due(_, name)) = self.dirty.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            let newest = cache.resolve(snapshot, &self.subject, &name);
            let told = newest.as_ref().map_or(Told::Absent, |encoded| Told::Version(encoded.version.clone()));
            let known = entry.told == told;
            if !known && newest.is_none() && is_named(name.kind) && matches!(entry.told, Told::Version(_)) {
                later.push(name);
                continue;
            }
            entry.current.clone_from(&newest);
            if known {
                // Held since before this stream (never pending), or nothing new about it.
                if entry.answer == Answer::Pending {
                    entry.answer = Answer::Acked;
                }
                if entry.answer == Answer::Acked {
                    entry.applied.clone_from(&newest);
                }
            } else {
                entry.told = told;
                entry.answer = Answer::Pending;
                match &newest {
                    Some(encoded) if encoded.bytes.len() > MAX_RESOURCE => {
                        entry.answer = Answer::Rejected(too_large(encoded));
                        continue;
                    }
                    Some(encoded) => {
                        size += encoded.bytes.len();
                        resources.push(encoded.clone());
                    }
                    None => removed.push(name.clone()),
                }
                size += name.name().len() + OVERHEAD;
            }
            self.want_dependents(newest.as_deref());
        }
        if self.dirty.is_empty() {
            self.say_absent(&later);
            removed.append(&mut later);
        }
        // Routes in force may name them until all that is new was told.
        self.dirty.extend(later.into_iter().map(Due::from));
        removed.sort();
        (resources, removed)
    }

    fn say_absent(&mut self, names: &[ResourceName]) {
        for name in names {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.current = None;
                entry.told = Told::Absent;
                entry.answer = Answer::Pending;
            }
        }
    }

    fn want_dependents(&mut self, newest: Option<&Encoded>) {
        for cluster in newest.iter().flat_map(|encoded| encoded.dependents.iter()) {
            let name = cluster.to_string();
            for kind in [Kind::Endpoints, Kind::Cluster] {
                let name = ResourceName::new(kind, &name);
                if !self.entries.contains_key(&name) {
                    self.want(&name);
                }
            }
        }
    }
}

/// Whether routes name resources of that kind.
fn is_named(kind: Kind) -> bool {
    matches!(kind, Kind::Endpoints | Kind::Cluster)
}

fn too_large(encoded: &Encoded) -> Arc<str> {
    let (size, limit) = (encoded.bytes.len() >> 20, MAX_RESOURCE >> 20);
    let why = format!(
        "it would have {size} MiB, and none may have more than {limit}: not sent, what was sent before stays in force; too \
         many or too long rules lead here: write fewer, or fewer hosts"
    );
    Arc::from(why)
}
