//! Consistent hashing on a ketama ring, as Envoy's: points are XXH64 of `<address>_<i>`, a key belongs to the first
//! point at or after its hash.
//!
//! Two things differ from Envoy, both so that an endpoint that goes moves its own keys and no others: endpoints that
//! are not ready, or ejected, stay on the ring and are passed over, and each endpoint has `minimum_ring_size` points (Envoy: that
//! many divided by the number of endpoints, so that losing one gives all others more points).

use std::net::SocketAddr;
use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

use super::{Choice, Usable, with};
use crate::cluster::Member;

/// Memory has an end: the most points of a ring (12 bytes each).
const MAX_POINTS: u64 = 1 << 20;

/// Members on their ring.
#[derive(Debug)]
pub(super) struct RingHash {
    /// Each with whether it may get traffic.
    members: Vec<(Arc<Member>, bool)>,
    ring: Arc<Ring>,
}

/// Depends only on addresses, weights and size.
#[derive(Debug)]
struct Ring {
    of: Vec<(SocketAddr, u64)>,
    hashes: Vec<u64>,
    /// Index of the member that owns each point.
    owners: Vec<u32>,
}

impl RingHash {
    pub(super) fn new(
        members: &[Arc<Member>],
        usable: Usable<'_>,
        minimum: u64,
        previous: Option<&Self>,
    ) -> Self {
        let of = shares(members, minimum);
        let ring = match previous {
            Some(previous) if previous.ring.of == of => previous.ring.clone(),
            _ => Arc::new(Ring::new(of)),
        };
        Self { members: with(members, usable), ring }
    }

    /// The first ready and untried member from `hash` on. The caller has made sure that there is one, or none ready.
    pub(super) fn choose(&self, hash: u64, choice: &Choice<'_>) -> Option<&Arc<Member>> {
        let from = self.ring.hashes.partition_point(|point| *point < hash);
        let (before, after) = self.ring.owners.split_at(from);
        let owners = after.iter().chain(before).map(|owner| &self.members[*owner as usize]);
        let mut members = owners.into_iter();
        members.find(|(member, usable)| *usable && !choice.was_tried(member)).map(|(member, _)| member)
    }
}

/// How many points each member gets: the heaviest as many as the ring must have at least, up to a limit that steps
/// with powers of two so that it seldom changes.
fn shares(members: &[Arc<Member>], minimum: u64) -> Vec<(SocketAddr, u64)> {
    let heaviest = members.iter().map(|m| u64::from(m.weight)).max().unwrap_or(1);
    let limit = MAX_POINTS / (members.len() as u64).next_power_of_two();
    let points = minimum.clamp(1, limit.max(1));
    members.iter().map(|m| (m.address, (points * u64::from(m.weight)).div_ceil(heaviest))).collect()
}

impl Ring {
    fn new(of: Vec<(SocketAddr, u64)>) -> Self {
        let mut points = Vec::with_capacity(of.iter().map(|(_, points)| *points as usize).sum());
        let mut name = String::new();
        for (owner, (address, count)) in (0_u32..).zip(&of) {
            use std::fmt::Write;
            for index in 0..*count {
                name.clear();
                // Writing to a String does not fail.
                let _ = write!(name, "{address}_{index}");
                points.push((xxh64(name.as_bytes(), 0), owner));
            }
        }
        points.sort_unstable();
        let (hashes, owners) = points.into_iter().unzip();
        Self { of, hashes, owners }
    }
}
