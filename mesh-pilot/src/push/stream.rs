//! One proxy's stream as a state machine: what it wants, what it was told, what it has acknowledged.
//!
//! In: its requests, and which names became dirty. Out: the next response, if one may be sent now. No IO, no clock.

mod due;
mod entry;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mesh_proto::model::{Kind, ResourceName};
use mesh_proto::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mesh_proto::wire::google::rpc::Status;

use self::due::Due;
#[cfg(test)]
pub use self::due::{BUDGET, MAX_RESOURCE};
use self::entry::{Answer, Entry, Told, order, reasons};
use super::cache::{Cache, Encoded};
use crate::snapshot::{Pod, Snapshot, Viewer};

/// More names than that on one stream are refused: no proxy needs them, and each costs memory.
pub const MAX_NAMES: usize = 50_000;

/// On whose behalf resources are resolved.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The workload, from the index.
    pub pod: Arc<Pod>,
    /// What variants may depend on.
    pub viewer: Viewer,
}

/// A response to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// To be answered with.
    pub nonce: String,
    /// Additions and changes, what is named before what names it.
    pub resources: Vec<Arc<Encoded>>,
    /// Names that do not exist (any more).
    pub removed: Vec<String>,
    /// There is more to say already: it was too much for one response.
    pub more: bool,
}

/// What an acknowledgement said.
#[derive(Debug, Default)]
pub struct Answered {
    /// It answered the outstanding response.
    pub matched: bool,
    /// The names refused, and why.
    pub rejected: Vec<(ResourceName, Arc<str>)>,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    subject: Subject,
    explicit: HashSet<ResourceName>,
    implicit: HashSet<ResourceName>,
    entries: HashMap<ResourceName, Entry>,
    /// What the proxy said that it holds and nothing wants yet.
    held: HashMap<ResourceName, Arc<str>>,
    dirty: BTreeSet<Due>,
    /// The last response said that more follows.
    more: bool,
    /// Everything is to be looked at again (configuration or viewer changed).
    stale: bool,
    started: bool,
    /// Names that are none: answered as absent.
    invalid: Vec<String>,
    unanswered: Option<(String, Vec<ResourceName>)>,
    nonces: u64,
    /// Names that came into or out of the stream's interest since the hub asked.
    interest: Vec<(ResourceName, bool)>,
}

impl Stream {
    /// A stream that has asked for nothing yet.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            explicit: HashSet::new(),
            implicit: HashSet::new(),
            entries: HashMap::new(),
            held: HashMap::new(),
            dirty: BTreeSet::new(),
            more: false,
            stale: true,
            started: false,
            invalid: Vec::new(),
            unanswered: None,
            nonces: 0,
            interest: Vec::new(),
        }
    }

    /// On whose behalf.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The workload changed (labels, say): everything may be another variant now. Whether anything is.
    pub fn set_subject(&mut self, subject: Subject) -> bool {
        let (viewer, pod) = (self.subject.viewer != subject.viewer, self.subject.pod != subject.pod);
        self.subject = subject;
        if viewer {
            self.stale = true;
        } else if pod {
            self.mark(&ResourceName::new(Kind::SelfConfig, "self"));
        }
        viewer || pod
    }

    /// Something about that name changed.
    pub fn mark(&mut self, name: &ResourceName) {
        if self.entries.contains_key(name) {
            self.dirty.insert(name.clone().into());
        }
    }

    /// Configuration changed.
    pub fn mark_all(&mut self) {
        self.stale = true;
    }

    /// Whether something waits to be looked at or sent.
    pub fn is_dirty(&self) -> bool {
        self.stale || !self.dirty.is_empty() || !self.invalid.is_empty()
    }

    /// Whether a response is unanswered.
    pub fn is_waiting(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Takes a request of the proxy. `Err` = it wants more names than anybody may.
    pub fn request(&mut self, request: &DeltaDiscoveryRequest) -> Result<Answered, TooManyNames> {
        if !self.started {
            self.started = true;
            for (name, version) in &request.initial_resource_versions {
                if let Ok(name) = name.parse() {
                    self.held.insert(name, Arc::from(version.as_str()));
                }
            }
        }
        let answered = self.take_answer(&request.response_nonce, request.error_detail.as_ref());
        for text in &request.resource_names_unsubscribe {
            if let Ok(name) = text.parse() {
                self.explicit.remove(&name);
            }
        }
        for text in &request.resource_names_subscribe {
            match text.parse::<ResourceName>() {
                Ok(name) => {
                    self.want(&name);
                    self.explicit.insert(name);
                }
                Err(_) => self.invalid.push(text.chars().take(300).collect()),
            }
        }
        if answered.matched || !request.resource_names_unsubscribe.is_empty() {
            self.prune();
        }
        if self.entries.len() > MAX_NAMES || self.held.len() > MAX_NAMES || self.invalid.len() > MAX_NAMES {
            return Err(TooManyNames);
        }
        Ok(answered)
    }

    /// The next response, if there is something to say and everything before it was answered.
    pub fn next(&mut self, snapshot: &Snapshot, cache: &mut Cache) -> Option<Outgoing> {
        if !self.started || !snapshot.loaded || self.unanswered.is_some() || !self.is_dirty() {
            return None;
        }
        if self.stale {
            self.stale = false;
            self.refresh_implicit(snapshot, cache);
            self.dirty.extend(self.entries.keys().cloned().map(Due::from));
        }
        let (mut resources, mut removed) = self.resolve_dirty(snapshot, cache);
        self.prune();
        let more = !self.dirty.is_empty();
        if !more {
            // Before that, something that is still to be looked at may imply it.
            removed.extend(self.forget_held());
        }
        let mut names: Vec<_> = resources.iter().map(|encoded| encoded.name.clone()).collect();
        names.extend(removed.iter().cloned());
        let mut removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
        removed.append(&mut self.invalid);
        // Who was told that more follows waits for the end, though nothing is left to say.
        if resources.is_empty() && removed.is_empty() && !self.more {
            return None;
        }
        self.more = more;
        resources.sort_by(|a, b| (order(a.name.kind), &a.name).cmp(&(order(b.name.kind), &b.name)));
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        self.unanswered = Some((nonce.clone(), names));
        Some(Outgoing { nonce, resources, removed, more })
    }

    /// Names that came into (`true`) or out of the stream's interest since the last call.
    pub fn take_interest(&mut self) -> Vec<(ResourceName, bool)> {
        std::mem::take(&mut self.interest)
    }

    /// All names of interest.
    pub fn names(&self) -> impl Iterator<Item = &ResourceName> {
        self.entries.keys()
    }

    /// How many names are not known to be in force in their newest version; all that is to be looked at again is one.
    pub fn pending(&self) -> usize {
        let unanswered = self.entries.values().filter(|entry| entry.answer == Answer::Pending).count();
        let dirty = self.dirty.iter().filter(|due| self.is_settled(due.name())).count();
        unanswered + dirty + usize::from(self.stale)
    }

    fn is_settled(&self, name: &ResourceName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.answer != Answer::Pending)
    }

    /// The names that the proxy refuses at their present version, and why.
    pub fn rejected(&self) -> impl Iterator<Item = (&ResourceName, &Arc<str>)> {
        self.entries.iter().filter_map(|(name, entry)| match &entry.answer {
            Answer::Rejected(reason) => Some((name, reason)),
            Answer::Pending | Answer::Acked => None,
        })
    }

    /// Whether the proxy has acknowledged just this version.
    pub fn has_acked(&self, encoded: &Encoded) -> bool {
        self.entries.get(&encoded.name).is_some_and(|entry| {
            let told = matches!(&entry.told, Told::Version(version) if *version == encoded.version);
            told && entry.answer == Answer::Acked
        })
    }

    /// For each name: the newest resource for this viewer, and whether the proxy has acknowledged just that.
    pub fn standing<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        cache: &'a mut Cache,
    ) -> impl Iterator<Item = (Arc<Encoded>, bool)> + 'a {
        self.entries.iter().filter_map(|(name, entry)| {
            let newest = cache.resolve(snapshot, &self.subject, name)?;
            let told = matches!(&entry.told, Told::Version(version) if *version == newest.version);
            Some((newest, told && entry.answer == Answer::Acked))
        })
    }

    fn want(&mut self, name: &ResourceName) {
        if !self.entries.contains_key(name) {
            let told = self.held.remove(name).map_or(Told::Nothing, Told::Version);
            self.entries.insert(name.clone(), Entry::new(told));
            self.interest.push((name.clone(), true));
        }
        self.dirty.insert(name.clone().into());
    }

    fn refresh_implicit(&mut self, snapshot: &Snapshot, cache: &mut Cache) {
        let mut names: HashSet<_> = cache.implicit(snapshot, &self.subject).into_iter().collect();
        names.insert(ResourceName::new(Kind::SelfConfig, "self"));
        for name in &names {
            self.want(name);
        }
        // A namespace or a listener that went away is told so; then it is forgotten.
        let gone = self.implicit.difference(&names).cloned().collect::<Vec<_>>();
        self.dirty.extend(gone.iter().cloned().map(Due::from));
        self.implicit = names;
        self.implicit.extend(gone);
    }

    /// Forgets what nothing implies any more. The proxy does the same, so nothing is said.
    fn prune(&mut self) {
        let mut wanted: HashSet<ResourceName> = self.explicit.union(&self.implicit).cloned().collect();
        // Dependents imply nothing themselves, so one step is the closure.
        let roots = wanted.iter().filter_map(|name| self.entries.get(name));
        let clusters: BTreeSet<_> = roots.flat_map(Entry::dependents).cloned().collect();
        for cluster in clusters {
            let name = cluster.to_string();
            wanted.extend([Kind::Endpoints, Kind::Cluster].map(|kind| ResourceName::new(kind, &name)));
        }
        let interest = &mut self.interest;
        self.entries.retain(|name, _| {
            let keep = wanted.contains(name);
            if !keep {
                interest.push((name.clone(), false));
            }
            keep
        });
    }

    /// What the proxy held before this stream and must not have any more: only kinds that come without being asked
    /// for; of the others the proxy forgets by itself what nothing implies.
    fn forget_held(&mut self) -> Vec<ResourceName> {
        let unasked = |kind| {
            matches!(
                kind,
                Kind::Catalogue | Kind::TrustBundle | Kind::Secret | Kind::Listener | Kind::SelfConfig
            )
        };
        let mut names: Vec<_> =
            self.held.drain().map(|(name, _)| name).filter(|name| unasked(name.kind)).collect();
        names.sort();
        names
    }

    fn take_answer(&mut self, nonce: &str, error: Option<&Status>) -> Answered {
        let Some((_, names)) = self.unanswered.take_if(|(sent, _)| sent == nonce) else {
            return Answered::default();
        };
        let reasons = error.map(|error| reasons(error, &names)).unwrap_or_default();
        let mut rejected = Vec::new();
        for name in names {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            if let Some(reason) = reasons.get(&name) {
                entry.answer = Answer::Rejected(reason.clone());
                rejected.push((name, reason.clone()));
            } else {
                entry.answer = Answer::Acked;
                entry.applied.clone_from(&entry.current);
                // An implicit name that is gone has now been told so.
                if entry.told == Told::Absent
                    && self.implicit.contains(&name)
                    && name.kind != Kind::SelfConfig
                {
                    self.implicit.remove(&name);
                }
            }
        }
        Answered { matched: true, rejected }
    }
}

/// A stream asked for more than [`MAX_NAMES`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_NAMES} resource names on one stream")]
pub struct TooManyNames;
