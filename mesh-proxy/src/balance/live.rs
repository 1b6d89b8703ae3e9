//! Which priority level and which share of it a request goes to: Envoy's priority load with an overprovisioning factor of
//! 1.4, and its panic mode.
//!
//! In: levels of members, who of them may get traffic now. Out: a member. Made anew at a push, an ejection and a
//! readmission; the algorithms' own state is carried over.

use std::sync::Arc;

use rand::{Rng, RngExt};
use xxhash_rust::xxh64::xxh64;

use super::{Balancer, Choice};
use crate::cluster::{Level, Member, Policy};

/// A level that is healthy by more than 1 / 1.4 gets all of its traffic.
const OVERPROVISIONING: u64 = 140;

/// Who may get traffic now.
#[derive(Debug)]
pub(crate) struct Live {
    levels: Vec<Ranked>,
    /// Up to which per cent of all traffic each level gets; all 0 when there is nobody.
    upto: Vec<u64>,
}

#[derive(Debug)]
struct Ranked {
    /// With the sum of the weights up to and including each.
    shares: Vec<(u64, Balancer)>,
}

/// What is known of a level's health.
#[derive(Debug, Clone, Copy)]
struct Health {
    usable: u64,
    all: u64,
}

impl Live {
    pub(crate) fn new(
        levels: &[Level],
        members: &[Arc<Member>],
        policy: &Policy,
        previous: Option<&Self>,
        workers: usize,
    ) -> Self {
        let fit = |index: &usize| members[*index].ready && !members[*index].is_ejected();
        let health: Vec<Health> = levels
            .iter()
            .map(|level| {
                let all = || level.shares.iter().flat_map(|share| &share.members);
                Health { usable: all().filter(|i| fit(i)).count() as u64, all: all().count() as u64 }
            })
            .collect();
        let panic = panic(&health, policy.outlier.map_or(0, |outlier| outlier.min_health_percent));
        let level = |(at, level): (usize, &Level)| {
            let before = previous.and_then(|p| p.levels.get(at));
            let usable = |member: &Member| member.ready && (panic[at] || !member.is_ejected());
            let mut sum = 0;
            let share = |(at, share): (usize, &crate::cluster::Share)| {
                let before = before.and_then(|b| b.shares.get(at)).map(|(_, balancer)| balancer);
                let of: Vec<_> = share.members.iter().map(|index| members[*index].clone()).collect();
                let balancer = Balancer::new(&policy.load_balancer, &of, &usable, before, workers);
                sum += effective(share.weight, balancer.len() as u64, of.len() as u64);
                (sum, balancer)
            };
            Ranked { shares: level.shares.iter().enumerate().map(share).collect() }
        };
        let levels: Vec<_> = levels.iter().enumerate().map(level).collect();
        let upto = if panic.iter().all(|panic| *panic) { by_size(&levels) } else { loads(&health) };
        Self { levels, upto }
    }

    /// A member that may get traffic. `None`: there is none, or nothing is balanced here.
    pub(crate) fn choose<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<&Arc<Member>> {
        let [only] = self.levels.as_slice() else { return self.choose_level(choice, rng) };
        only.choose(choice, rng)
    }

    fn choose_level<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<&Arc<Member>> {
        if self.upto.last() == Some(&0) {
            return None;
        }
        let at = draw(choice, rng, 100, b'p');
        let first = self.upto.partition_point(|upto| *upto <= at);
        // A retry leaves the level when everybody there was tried.
        let others = (0..self.levels.len()).filter(|level| *level != first);
        let mut order = std::iter::once(first).chain(others).map(|level| &self.levels[level]);
        let first = &self.levels[first];
        let level = if choice.tried.is_empty() { None } else { order.find(|level| level.has_other(choice)) };
        level.unwrap_or(first).choose(choice, rng)
    }
}

impl Ranked {
    fn choose<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<&Arc<Member>> {
        let [(_, only)] = self.shares.as_slice() else { return self.choose_share(choice, rng) };
        only.choose(choice, rng)
    }

    fn choose_share<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<&Arc<Member>> {
        let total = self.shares.last().map(|(sum, _)| *sum).filter(|total| *total > 0)?;
        let at = draw(choice, rng, total, b's');
        let first = self.shares.partition_point(|(sum, _)| *sum <= at);
        let (_, first) = self.shares.get(first)?;
        let other = |balancer: &&Balancer| balancer.has_other(choice);
        let elsewhere = || self.shares.iter().map(|(_, balancer)| balancer).find(other);
        let leave = !choice.tried.is_empty() && !other(&first);
        let balancer = if leave { elsewhere().unwrap_or(first) } else { first };
        balancer.choose(choice, rng)
    }

    fn has_other(&self, choice: &Choice<'_>) -> bool {
        self.shares.iter().any(|(_, balancer)| balancer.has_other(choice))
    }
}

/// A number below `total`: at random, or always the same for one key.
fn draw<R: Rng>(choice: &Choice<'_>, rng: &mut R, total: u64, purpose: u8) -> u64 {
    match choice.hash {
        // Another hash than the one that finds the member.
        Some(hash) => xxh64(&hash.to_le_bytes(), u64::from(purpose)) % total,
        None => rng.random_range(0..total),
    }
}

/// A share loses as much as it is short of healthy members.
fn effective(weight: u32, usable: u64, all: u64) -> u64 {
    if all == 0 {
        return 0;
    }
    let available = (usable * OVERPROVISIONING).min(all * 100);
    u64::from(weight) * 1000 * available / (all * 100)
}

/// How healthy a level is, in per cent, as far as it matters.
fn percent(health: Health) -> u64 {
    (health.usable * OVERPROVISIONING).checked_div(health.all).unwrap_or(0).min(100)
}

/// Where too few are healthy, all that are ready get traffic; never as long as the levels together can carry it.
fn panic(levels: &[Health], min_health: u32) -> Vec<bool> {
    let enough = levels.iter().map(|level| percent(*level)).sum::<u64>() >= 100;
    let panics = |level: &Health| !enough && level.usable * 100 < u64::from(min_health) * level.all;
    levels.iter().map(panics).collect()
}

/// From the top down, each level gets what it can carry; all the same parts more where that is less than everything.
fn loads(levels: &[Health]) -> Vec<u64> {
    let total: u64 = levels.iter().map(|level| percent(*level)).sum();
    if total == 0 {
        return vec![0; levels.len()];
    }
    let mut upto = 0;
    let mut loads: Vec<u64> = levels
        .iter()
        .map(|level| {
            let load = percent(*level) * 100 / total.min(100);
            upto = (upto + load).min(100);
            upto
        })
        .collect();
    // What rounding left over goes to the last one that has something.
    if let Some(last) = levels.iter().rposition(|level| level.usable > 0) {
        loads[last..].fill(100);
    }
    loads
}

/// When every level is in panic: by how many there are.
fn by_size(levels: &[Ranked]) -> Vec<u64> {
    let of = |level: &Ranked| level.shares.iter().map(|(_, balancer)| balancer.len() as u64).sum::<u64>();
    let total: u64 = levels.iter().map(of).sum();
    if total == 0 {
        return vec![0; levels.len()];
    }
    let mut sum = 0;
    levels
        .iter()
        .map(|level| {
            sum += of(level);
            sum * 100 / total
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(levels: &[(u64, u64)]) -> Vec<Health> {
        levels.iter().map(|(usable, all)| Health { usable: *usable, all: *all }).collect()
    }

    /// The table of Envoy's documentation of priority levels.
    #[test]
    fn loads_spill_over_from_the_top() {
        for (levels, expected) in [
            (&[(10, 10), (10, 10)], [100, 100]),
            (&[(72, 100), (72, 100)], [100, 100]),
            (&[(71, 100), (71, 100)], [99, 100]),
            (&[(50, 100), (60, 100)], [70, 100]),
            (&[(25, 100), (100, 100)], [35, 100]),
            (&[(0, 100), (100, 100)], [0, 100]),
            (&[(25, 100), (25, 100)], [50, 100]),
            (&[(0, 100), (0, 100)], [0, 0]),
            (&[(5, 100), (0, 100)], [100, 100]),
        ] {
            assert_eq!(loads(&health(levels)), expected, "{levels:?}");
        }
    }

    #[test]
    fn panic_only_when_asked_for_and_all_together_are_short() {
        assert_eq!(panic(&health(&[(1, 10)]), 0), [false]);
        assert_eq!(panic(&health(&[(1, 10)]), 20), [true]);
        assert_eq!(panic(&health(&[(0, 10)]), 1), [true]);
        assert_eq!(panic(&health(&[(3, 10)]), 20), [false]);
        // Together they carry everything.
        assert_eq!(panic(&health(&[(1, 10), (10, 10)]), 50), [false, false]);
    }
}
