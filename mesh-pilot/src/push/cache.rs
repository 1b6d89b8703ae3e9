//! Encoded resources: each variant is compiled and encoded once, whoever asks, and equal variants are one `Bytes`.
//!
//! In: what to resolve, for whom. Out: a shared [`Encoded`]. Bounded: what no stream holds any more goes with the next
//! configuration change.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use mesh_proto::model::{HostPort, ResourceName, resource};

use super::resources::{Compiler, Message, Stamp, Variant};
use super::stream::Subject;
use crate::snapshot::Snapshot;

/// A resource as it travels.
#[derive(Debug)]
pub struct Encoded {
    /// Its name.
    pub name: ResourceName,
    /// The hash of its bytes.
    pub version: Arc<str>,
    /// The message.
    pub bytes: Bytes,
    /// The clusters that it implies.
    pub dependents: Arc<[HostPort]>,
    /// The revisions of the objects that it holds.
    pub holds: Arc<[u64]>,
}

/// What was resolved, and from what.
struct Slot {
    stamp: Stamp,
    /// Keeps the stamp's part at its address.
    _part: Option<Arc<dyn Send + Sync>>,
    encoded: Option<Arc<Encoded>>,
}

/// The cache.
pub struct Cache {
    compiler: Box<dyn Compiler>,
    slots: HashMap<(ResourceName, Variant), Slot>,
    bytes: HashMap<(ResourceName, Arc<str>), Weak<Encoded>>,
    fixed: HashMap<ResourceName, Arc<Encoded>>,
    encodes: u64,
}

impl Cache {
    /// An empty cache in front of a compiler.
    pub fn new(compiler: Box<dyn Compiler>) -> Self {
        Self { compiler, slots: HashMap::new(), bytes: HashMap::new(), fixed: HashMap::new(), encodes: 0 }
    }

    /// How often anything was encoded.
    pub fn encodes(&self) -> u64 {
        self.encodes
    }

    /// The names that a viewer gets without asking: those that exist for it.
    pub fn implicit(&mut self, snapshot: &Snapshot, subject: &Subject) -> Vec<ResourceName> {
        let mut names = self.compiler.implicit(snapshot, subject);
        names.retain(|name| self.resolve(snapshot, subject, name).is_some());
        names.extend(self.fixed.keys().cloned());
        names
    }

    /// A resource that does not come from the snapshot (trust bundles). Whether it changed.
    pub fn fix(&mut self, name: ResourceName, bytes: Vec<u8>) -> bool {
        let encoded = self.encode(&name, Message { bytes, ..Message::default() });
        let version = encoded.version.clone();
        self.fixed.insert(name, encoded).is_none_or(|old| old.version != version)
    }

    /// Takes away what does not come from the snapshot and `keep` does not keep. Whether there was any.
    pub fn unfix(&mut self, keep: impl Fn(&ResourceName) -> bool) -> bool {
        let before = self.fixed.len();
        self.fixed.retain(|name, _| keep(name));
        self.fixed.len() != before
    }

    /// What does not come from the snapshot.
    pub fn fixed(&self) -> impl Iterator<Item = &Arc<Encoded>> {
        self.fixed.values()
    }

    /// The resource as `subject` may see it, or `None` if it does not exist for it.
    pub fn resolve(
        &mut self,
        snapshot: &Snapshot,
        subject: &Subject,
        name: &ResourceName,
    ) -> Option<Arc<Encoded>> {
        if let Some(fixed) = self.fixed.get(name) {
            return Some(fixed.clone());
        }
        let (stamp, part) = Stamp::of(snapshot, subject, name);
        let key = (name.clone(), Variant::of(subject, name.kind));
        if let Some(slot) = self.slots.get(&key)
            && slot.stamp == stamp
        {
            return slot.encoded.clone();
        }
        let message = self.compiler.compile(snapshot, subject, name);
        let encoded = message.map(|message| self.encode(name, message));
        self.slots.insert(key, Slot { stamp, _part: part, encoded: encoded.clone() });
        encoded
    }

    /// Drops what nobody holds: called after a configuration change, when the old variants are out of use.
    pub fn sweep(&mut self) {
        self.slots.retain(|_, slot| slot.encoded.as_ref().is_some_and(|e| Arc::strong_count(e) > 1));
        self.bytes.retain(|_, encoded| encoded.strong_count() > 0);
    }

    fn encode(&mut self, name: &ResourceName, message: Message) -> Arc<Encoded> {
        self.encodes += 1;
        if self.bytes.len() > 2 * self.slots.len() + 1024 {
            self.bytes.retain(|_, encoded| encoded.strong_count() > 0);
        }
        let version: Arc<str> = Arc::from(resource::version(&message.bytes));
        let key = (name.clone(), version.clone());
        let before = self.bytes.get(&key).and_then(Weak::upgrade);
        // Equal bytes of another variant, or of before: one value, unless it stands for other objects.
        if let Some(before) = before.as_ref()
            && *before.holds == message.holds[..]
        {
            return before.clone();
        }
        let encoded = Arc::new(Encoded {
            name: name.clone(),
            version,
            bytes: before.map_or_else(|| Bytes::from(message.bytes), |before| before.bytes.clone()),
            dependents: message.dependents.into(),
            holds: message.holds.into(),
        });
        self.bytes.insert(key, Arc::downgrade(&encoded));
        encoded
    }
}
