//! Consistent hashing by Maglev's table (Eisenbud et al., NSDI 2016, §3.4), with weights as in Envoy.
//!
//! Endpoints that are not ready, or ejected, stay in the table; a key that falls on one is hashed again, so that only its keys move
//! and spread over all others. An endpoint that disappears rebuilds the table: beside its keys a few per cent move.

use std::net::SocketAddr;
use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

use super::{Choice, Usable, with};
use crate::cluster::Member;

/// How often a key is hashed again before the table is searched from there on.
const REHASHES: u64 = 16;

/// Members in their table.
#[derive(Debug)]
pub(super) struct Maglev {
    /// Each with whether it may get traffic.
    members: Vec<(Arc<Member>, bool)>,
    table: Arc<Table>,
}

/// Depends only on addresses, weights and size.
#[derive(Debug)]
struct Table {
    of: Vec<(SocketAddr, u32)>,
    slots: Vec<u32>,
}

impl Maglev {
    /// `size` is a prime.
    pub(super) fn new(
        members: &[Arc<Member>],
        usable: Usable<'_>,
        size: u64,
        previous: Option<&Self>,
    ) -> Self {
        let of: Vec<_> = members.iter().map(|m| (m.address, m.weight)).collect();
        let table = match previous {
            Some(previous) if previous.table.of == of && previous.table.slots.len() as u64 == size => {
                previous.table.clone()
            }
            _ => Arc::new(Table::new(of, size)),
        };
        Self { members: with(members, usable), table }
    }

    /// The member that `hash` belongs to, or another one if that is not ready or was tried. The caller has made sure
    /// that there is one, or none ready.
    pub(super) fn choose(&self, hash: u64, choice: &Choice<'_>) -> Option<&Arc<Member>> {
        let slots = &self.table.slots;
        if slots.is_empty() {
            return None;
        }
        let usable = |slot: &u32| {
            let (member, usable) = &self.members[*slot as usize];
            (*usable && !choice.was_tried(member)).then_some(member)
        };
        let mut hash = hash;
        let mut at = 0;
        for attempt in 0..REHASHES {
            at = (hash % slots.len() as u64) as usize;
            if let Some(member) = usable(&slots[at]) {
                return Some(member);
            }
            hash = xxh64(&hash.to_le_bytes(), attempt + 1);
        }
        let (before, after) = slots.split_at(at);
        after.iter().chain(before).find_map(usable)
    }
}

/// A member's own order of preference over the slots.
struct Preference {
    at: u64,
    skip: u64,
    weight: u64,
    /// It takes a slot in the round in which `round * weight` reaches this.
    due: u64,
}

impl Table {
    fn new(of: Vec<(SocketAddr, u32)>, size: u64) -> Self {
        const FREE: u32 = u32::MAX;
        let heaviest = of.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(1);
        let mut preferences: Vec<_> = of
            .iter()
            .map(|(address, weight)| {
                let name = address.to_string();
                Preference {
                    at: xxh64(name.as_bytes(), 0) % size,
                    skip: xxh64(name.as_bytes(), 1) % (size - 1) + 1,
                    weight: u64::from(*weight),
                    due: 0,
                }
            })
            .collect();
        let mut slots = if of.is_empty() { Vec::new() } else { vec![FREE; size as usize] };
        let mut free = slots.len();
        for round in 1.. {
            for (owner, preference) in (0_u32..).zip(&mut preferences) {
                if free == 0 || round * preference.weight < preference.due {
                    continue;
                }
                preference.due += heaviest;
                // `size` is prime: the walk comes by every slot.
                while slots[preference.at as usize] != FREE {
                    preference.at = (preference.at + preference.skip) % size;
                }
                slots[preference.at as usize] = owner;
                free -= 1;
            }
            if free == 0 {
                break;
            }
        }
        Self { of, slots }
    }
}
