//! Copy-on-write maps of handles: a look-up takes no lock, a new name copies the map.
//!
//! In: names that readers ask for. Out: the cell of each, the same one for as long as it is in use.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::cell::Cell;

/// A map from names to cells.
#[derive(Debug)]
pub(super) struct Handles<K, T> {
    map: ArcSwap<HashMap<K, Arc<Cell<T>>>>,
    writing: Mutex<()>,
}

impl<K, T> Default for Handles<K, T> {
    fn default() -> Self {
        Self { map: ArcSwap::from_pointee(HashMap::new()), writing: Mutex::new(()) }
    }
}

impl<K: Clone + Eq + Hash, T> Handles<K, T> {
    pub(super) fn find(&self, key: &K) -> Option<Arc<Cell<T>>> {
        self.map.load().get(key).cloned()
    }

    /// The handle, made when there is none; true when it is new. `None` when the map is full.
    pub(super) fn find_or_make(&self, key: &K, limit: usize) -> Option<(Arc<Cell<T>>, bool)> {
        if let Some(cell) = self.find(key) {
            return Some((cell, false));
        }
        let _writing = self.writing.lock();
        let map = self.map.load();
        if let Some(cell) = map.get(key) {
            return Some((cell.clone(), false));
        }
        if map.len() >= limit {
            return None;
        }
        let cell = Arc::new(Cell::default());
        let mut next = HashMap::clone(&map);
        next.insert(key.clone(), cell.clone());
        self.map.store(Arc::new(next));
        Some((cell, true))
    }

    /// Makes a handle for each, with one copy of the map.
    pub(super) fn make_all(&self, keys: Vec<K>) {
        let _writing = self.writing.lock();
        let mut next = HashMap::clone(&self.map.load());
        for key in keys {
            next.entry(key).or_default();
        }
        self.map.store(Arc::new(next));
    }

    /// Forgets one.
    pub(super) fn remove(&self, key: &K) {
        let _writing = self.writing.lock();
        let mut next = HashMap::clone(&self.map.load());
        next.remove(key);
        self.map.store(Arc::new(next));
    }

    /// Everything, as of now.
    pub(super) fn all(&self) -> Arc<HashMap<K, Arc<Cell<T>>>> {
        self.map.load_full()
    }
}
