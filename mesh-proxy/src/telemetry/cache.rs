//! A worker's shortcut from label facts to counters: by the identity of the facts' `Arc`s, never by their text.
//!
//! A small table, four places for each hash. It keeps the facts alive, so that an address isn't used again for others.

use std::sync::Arc;

use super::{Party, Route, Service};

const SETS: usize = 64;
const WAYS: usize = 4;

/// From facts to `Arc<S>`.
#[derive(Debug)]
pub(super) struct Cache<S> {
    places: Vec<Option<Entry<S>>>,
    /// Which place of a set is given up next.
    next: usize,
}

#[derive(Debug)]
struct Entry<S> {
    source: Arc<Party>,
    destination: Arc<Party>,
    service: Arc<Service>,
    /// [`super::labels::Class::pack`]
    class: u64,
    shard: Arc<S>,
}

impl<S> Entry<S> {
    fn is(&self, route: &Route<'_>, class: u64) -> bool {
        self.class == class
            && Arc::ptr_eq(&self.destination, route.destination)
            && Arc::ptr_eq(&self.source, route.source)
            && Arc::ptr_eq(&self.service, route.service)
    }
}

impl<S> Cache<S> {
    pub(super) fn new() -> Self {
        Self { places: (0..SETS * WAYS).map(|_| None).collect(), next: 0 }
    }

    /// The counters of these facts; `find` gives them when they are not known yet.
    pub(super) fn get(&mut self, route: &Route<'_>, class: u64, find: impl FnOnce() -> Arc<S>) -> &S {
        let first = set(route, class) * WAYS;
        let places = &self.places[first..first + WAYS];
        let known =
            places.iter().position(|place| place.as_ref().is_some_and(|entry| entry.is(route, class)));
        let at = known.unwrap_or_else(|| {
            let free = places.iter().position(Option::is_none);
            free.unwrap_or_else(|| {
                self.next = (self.next + 1) % WAYS;
                self.next
            })
        });
        let place = &mut self.places[first + at];
        if known.is_none() {
            *place = None;
        }
        let entry = place.get_or_insert_with(|| Entry {
            source: route.source.clone(),
            destination: route.destination.clone(),
            service: route.service.clone(),
            class,
            shard: find(),
        });
        &entry.shard
    }
}

/// Mixes addresses and class (Fibonacci hashing).
fn set(route: &Route<'_>, class: u64) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let parts = [
        Arc::as_ptr(route.source) as u64,
        Arc::as_ptr(route.destination) as u64,
        Arc::as_ptr(route.service) as u64,
        class,
    ];
    let mixed =
        parts.into_iter().fold(0_u64, |mixed, part| (mixed.rotate_left(23) ^ part).wrapping_mul(GOLDEN));
    (mixed >> 40) as usize % SETS
}
