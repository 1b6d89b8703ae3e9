//! ROUND_ROBIN: each worker goes round on its own, from a random start.
//!
//! A worker remembers the key of whom it chose last and takes the next key: it doesn't matter which members come and go
//! between, whoever stays gets exactly one turn per round. With weights, a member takes a share of its turns: it is due
//! in round `g` when `(weight * g + offset) mod max` is in the last `weight` values (the static stride of gRPC's
//! weighted round robin), which needs no state either. Over W workers the spread is at most W.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rand::Rng;

use super::{Choice, Ready};
use crate::cluster::Member;

/// Where each worker is; kept over pushes.
#[derive(Debug, Clone)]
pub(super) struct Cursors(Arc<[Cursor]>);

/// One worker's place. Written by that worker only; on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Cursor {
    key: AtomicU64,
    hint: AtomicUsize,
    round: AtomicU64,
}

impl Cursors {
    pub(super) fn new(previous: Option<&Self>, workers: usize) -> Self {
        let workers = workers.max(1);
        match previous {
            Some(previous) if previous.0.len() == workers => previous.clone(),
            _ => Self((0..workers).map(|_| Cursor::random()).collect()),
        }
    }
}

impl Cursor {
    fn random() -> Self {
        Self {
            key: AtomicU64::new(rand::random()),
            hint: AtomicUsize::new(0),
            round: AtomicU64::new(rand::random()),
        }
    }
}

/// What is known of the weights.
#[derive(Debug)]
pub(super) struct RoundRobin {
    /// The largest weight; `None` when all are the same.
    heaviest: Option<u64>,
}

impl RoundRobin {
    pub(super) fn new(ready: &Ready) -> Self {
        let heaviest = ready.iter().map(|member| u64::from(member.weight)).max();
        Self { heaviest: heaviest.filter(|_| !ready.is_uniform()) }
    }

    pub(super) fn choose<'a, R: Rng>(
        &self,
        ready: &'a Ready,
        cursors: &Cursors,
        choice: &Choice<'_>,
        rng: &mut R,
    ) -> Option<&'a Arc<Member>> {
        if self.heaviest.is_some() && !choice.tried.is_empty() {
            return ready.draw_other(choice, rng);
        }
        let cursor = &cursors.0[choice.worker % cursors.0.len()];
        let mut key = cursor.key.load(Ordering::Relaxed);
        let mut hint = cursor.hint.load(Ordering::Relaxed);
        let mut round = cursor.round.load(Ordering::Relaxed);
        // The heaviest is due in every round: one round and its end are enough.
        for left in (0..=ready.len()).rev() {
            let (next, passed_end) = ready.after(key, hint)?;
            let member = ready.get(next)?;
            (key, hint, round) = (member.key, next, round.wrapping_add(u64::from(passed_end)));
            if left == 0 || (self.is_due(member, round) && !choice.was_tried(member)) {
                cursor.key.store(key, Ordering::Relaxed);
                cursor.hint.store(hint, Ordering::Relaxed);
                cursor.round.store(round, Ordering::Relaxed);
                return Some(member);
            }
        }
        None
    }

    fn is_due(&self, member: &Member, round: u64) -> bool {
        let Some(heaviest) = self.heaviest else { return true };
        let weight = u64::from(member.weight);
        // Both factors are below 2^32. The key spreads the turns of equal weights over the rounds.
        let at = (weight * (round % heaviest) + member.key % heaviest) % heaviest;
        at >= heaviest - weight
    }
}
