//! The members that may get traffic, and drawing from them by weight.

use std::sync::Arc;

use rand::{Rng, RngExt};

use super::Choice;
use crate::cluster::Member;

/// Ready members, in the order of their keys.
#[derive(Debug)]
pub(super) struct Ready {
    members: Vec<Arc<Member>>,
    /// Sums of the weights up to and including each; empty when all weigh the same.
    sums: Vec<u64>,
}

impl Ready {
    pub(super) fn new(members: Vec<Arc<Member>>) -> Self {
        let uniform = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let mut sum = 0;
        let sums = members.iter().map(|member| {
            sum += u64::from(member.weight);
            sum
        });
        let sums = if uniform { Vec::new() } else { sums.collect() };
        Self { members, sums }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Arc<Member>> {
        self.members.get(index)
    }

    pub(super) fn is_uniform(&self) -> bool {
        self.sums.is_empty()
    }

    /// The position of the first member whose key is above `key`, in rotation; `hint` is where it probably is.
    /// `None`: there are no members. The flag says that the end was passed.
    pub(super) fn after(&self, key: u64, hint: usize) -> Option<(usize, bool)> {
        let expected = self.members.get(hint).is_some_and(|member| member.key == key);
        let next = if expected { hint + 1 } else { self.members.partition_point(|member| member.key <= key) };
        match next {
            next if next < self.members.len() => Some((next, false)),
            _ if self.members.is_empty() => None,
            _ => Some((0, true)),
        }
    }

    /// One at random, by weight.
    pub(super) fn draw<R: Rng>(&self, rng: &mut R) -> Option<&Arc<Member>> {
        match (self.members.as_slice(), self.sums.last()) {
            ([], _) => None,
            ([sole], _) => Some(sole),
            (members, None) => members.get(rng.random_range(0..members.len())),
            (members, Some(total)) => {
                let at = rng.random_range(0..*total);
                members.get(self.sums.partition_point(|sum| *sum <= at))
            }
        }
    }

    /// One at random, by weight, of those not yet tried; of all when there are no others.
    pub(super) fn draw_other<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<&Arc<Member>> {
        if choice.tried.is_empty() {
            return self.draw(rng);
        }
        let others = || self.members.iter().filter(|member| !choice.was_tried(member));
        let total: u64 = others().map(|member| u64::from(member.weight)).sum();
        if total == 0 {
            return self.draw(rng);
        }
        let mut at = rng.random_range(0..total);
        others().find(|member| {
            let weight = u64::from(member.weight);
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        })
    }
}
