//! Who takes the next request: one algorithm per file, pure over the members of a group.
//!
//! In: the members of a cluster or subset (all of them, in the order of their keys), who of them may get traffic, a
//! [`Choice`] and random numbers. Out: a member, another one than those already tried if there is one. What must outlive a
//! push is carried over from the balancer before it: cursors, and tables whose members have not changed.

mod least_request;
mod live;
mod maglev;
mod random;
mod ready;
mod ring_hash;
mod round_robin;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rand::Rng;

use crate::cluster::{Endpoint, LoadBalancer, Member, Moment};
pub(crate) use live::Live;
use maglev::Maglev;
use ready::Ready;
use ring_hash::RingHash;
use round_robin::{Cursors, RoundRobin};

/// What one choice depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) hash: Option<u64>,
    pub(crate) tried: &'a [Arc<Endpoint>],
    pub(crate) worker: usize,
    pub(crate) now: Moment,
}

/// Who may get traffic.
type Usable<'a> = &'a dyn Fn(&Member) -> bool;

/// Members, each with whether it may get traffic.
fn with(members: &[Arc<Member>], usable: Usable<'_>) -> Vec<(Arc<Member>, bool)> {
    members.iter().map(|member| (member.clone(), usable(member))).collect()
}

impl Choice<'_> {
    /// States are kept over pushes, so that an endpoint is known again in another view.
    fn was_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.iter().any(|tried| Arc::ptr_eq(&tried.state, &endpoint.state))
    }
}

/// Members with the algorithm that chooses among them.
#[derive(Debug)]
pub(crate) struct Balancer {
    ready: Ready,
    cursors: Cursors,
    algorithm: Algorithm,
}

#[derive(Debug)]
enum Algorithm {
    RoundRobin(RoundRobin),
    LeastRequest,
    Random,
    RingHash(RingHash),
    Maglev(Maglev),
    /// The caller dials the original destination.
    Passthrough,
}

impl Balancer {
    /// `members` are sorted by key. `workers`: how many threads choose.
    fn new(
        load_balancer: &LoadBalancer,
        members: &[Arc<Member>],
        usable: Usable<'_>,
        previous: Option<&Self>,
        workers: usize,
    ) -> Self {
        let ready = Ready::new(members.iter().filter(|m| usable(m)).cloned().collect());
        let before = previous.map(|p| &p.algorithm);
        let algorithm = match load_balancer {
            LoadBalancer::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(&ready)),
            LoadBalancer::LeastRequest => Algorithm::LeastRequest,
            LoadBalancer::Random => Algorithm::Random,
            LoadBalancer::RingHash { minimum_ring_size, .. } => {
                let before = before.and_then(|b| if let Algorithm::RingHash(b) = b { Some(b) } else { None });
                Algorithm::RingHash(RingHash::new(members, usable, *minimum_ring_size, before))
            }
            LoadBalancer::Maglev { table_size, .. } => {
                let before = before.and_then(|b| if let Algorithm::Maglev(b) = b { Some(b) } else { None });
                Algorithm::Maglev(Maglev::new(members, usable, *table_size, before))
            }
            LoadBalancer::Passthrough => Algorithm::Passthrough,
        };
        Self { ready, cursors: Cursors::new(previous.map(|p| &p.cursors), workers), algorithm }
    }

    /// How many may get traffic.
    fn len(&self) -> usize {
        self.ready.len()
    }

    /// Whether somebody may get traffic who was not tried.
    fn has_other(&self, choice: &Choice<'_>) -> bool {
        self.ready.iter().any(|member| !choice.was_tried(member))
    }

    /// A member that may get traffic. `None`: there is none, or nothing is balanced here.
    fn choose<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<&Arc<Member>> {
        match (&self.algorithm, choice.hash) {
            _ if self.ready.len() == 0 => None,
            (Algorithm::Passthrough, _) => None,
            (Algorithm::RoundRobin(turns), _) => turns.choose(&self.ready, &self.cursors, choice, rng),
            (Algorithm::LeastRequest, _) => least_request::choose(&self.ready, choice, rng),
            (Algorithm::RingHash(ring), Some(hash)) => ring.choose(hash, &self.unless_all(choice)),
            (Algorithm::Maglev(table), Some(hash)) => table.choose(hash, &self.unless_all(choice)),
            // Without a key there is nothing to be consistent with.
            (Algorithm::Random | Algorithm::RingHash(_) | Algorithm::Maglev(_), _) => {
                random::choose(&self.ready, choice, rng)
            }
        }
    }

    /// Forgets what was tried when there is nobody else.
    fn unless_all<'a>(&self, choice: &Choice<'a>) -> Choice<'a> {
        let other = choice.tried.is_empty() || self.has_other(choice);
        if other { *choice } else { Choice { tried: &[], ..*choice } }
    }
}
