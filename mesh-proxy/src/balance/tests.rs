//! Shares, spread, and who moves when somebody dies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;
use mesh_proto::wire::mesh::v1::load_balancer::Kind;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::cluster::tests::{cluster, endpoint};
use crate::cluster::{ClusterCell, ClusterView, Ending, Endpoint, Here, Moment, PickContext};

const NONE: wire::Empty = wire::Empty {};

fn key() -> Option<wire::HashKey> {
    Some(wire::HashKey { kind: Some(wire::hash_key::Kind::SourceIp(NONE)) })
}

fn ring(minimum_ring_size: u64) -> Kind {
    Kind::RingHash(wire::RingHash { key: key(), minimum_ring_size })
}

fn maglev() -> Kind {
    Kind::Maglev(wire::Maglev { key: key(), table_size: 0 })
}

/// Endpoints `v1-0`, `v1-1`, ... with these weights; weight 0: not ready.
fn endpoints(weights: &[u32]) -> wire::Endpoints {
    let one = |(i, weight): (usize, &u32)| wire::Endpoint {
        address: format!("10.0.0.{i}:80"),
        weight: *weight,
        ..endpoint(&format!("v1-{i}"), *weight > 0)
    };
    wire::Endpoints { endpoints: weights.iter().enumerate().map(one).collect() }
}

fn view(kind: Kind, weights: &[u32], before: Option<&ClusterView>, workers: usize) -> ClusterView {
    ClusterView::build(&cluster(kind), &endpoints(weights), before, &Here::default(), workers).unwrap()
}

fn counts(view: &ClusterView, picks: u64, mut ctx: impl FnMut(u64) -> PickContext<'static>) -> Vec<u64> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut counts = BTreeMap::new();
    for endpoint in view.endpoints() {
        counts.insert(endpoint.uid.to_string(), 0);
    }
    for i in 0..picks {
        let picked = view.pick(None, &ctx(i), &mut rng).unwrap();
        *counts.get_mut(&*picked.endpoint().uid).unwrap() += 1;
    }
    counts.into_values().collect()
}

fn spread(counts: &[u64]) -> u64 {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn round_robin_goes_round() {
    for workers in [1, 4] {
        let view = view(Kind::RoundRobin(NONE), &[1; 7], None, workers);
        let ctx = |i: u64| PickContext { worker: i as usize % workers, ..Default::default() };
        let counts = counts(&view, 1001, ctx);
        assert!(spread(&counts) <= workers as u64, "{workers}: {counts:?}");
    }
}

#[test]
fn round_robin_starts_at_random() {
    let first = |_| counts(&view(Kind::RoundRobin(NONE), &[1; 50], None, 1), 1, |_| PickContext::default());
    let starts: std::collections::BTreeSet<_> = (0..20).map(first).collect();
    assert!(starts.len() > 5, "{}", starts.len());
}

#[test]
fn round_robin_follows_weights() {
    let view = view(Kind::RoundRobin(NONE), &[1, 2, 3, 10], None, 1);
    let counts = counts(&view, 16 * 50, |_| PickContext::default());
    for (count, weight) in counts.iter().zip([1, 2, 3, 10]) {
        assert!(count.abs_diff(weight * 50) <= 2, "{counts:?}");
    }
}

/// Whoever stays gets exactly its turns, whatever comes and goes between.
#[test]
fn round_robin_is_undisturbed_by_pushes() {
    let mut rng = SmallRng::seed_from_u64(3);
    let mut current = view(Kind::RoundRobin(NONE), &[1; 6], None, 1);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for i in 0_u32..5000 {
        if i.is_multiple_of(3) {
            let flip = u32::from(i.is_multiple_of(2));
            current = view(Kind::RoundRobin(NONE), &[1, 1, 1, 1, flip, 1 - flip], Some(&current), 1);
        }
        let picked = current.pick(None, &PickContext::default(), &mut rng).unwrap();
        *counts.entry(picked.endpoint().uid.to_string()).or_default() += 1;
    }
    let steady: Vec<u64> = (0..4).map(|i| counts[&format!("v1-{i}")]).collect();
    assert!(spread(&steady) <= 1, "{counts:?}");
}

#[test]
fn random_follows_weights() {
    let view = view(Kind::Random(NONE), &[1, 2, 3, 0, 4], None, 1);
    let counts = counts(&view, 10_000, |_| PickContext::default());
    for (count, weight) in counts.iter().zip([1, 2, 3, 0, 4]) {
        assert!(count.abs_diff(weight * 1000) < 150, "{counts:?}");
    }
}

#[test]
fn least_request_follows_weights_at_rest_and_avoids_the_busy() {
    let view = view(Kind::LeastRequest(NONE), &[1, 3], None, 1);
    let shares = counts(&view, 8000, |_| PickContext::default());
    assert!(shares[0].abs_diff(2000) < 200, "{shares:?}");
    let even = self::view(Kind::LeastRequest(NONE), &[1, 1], None, 1);
    let mut rng = SmallRng::seed_from_u64(1);
    let held = even.pick(None, &PickContext::default(), &mut rng).unwrap();
    // Two of two are always compared: the busy one gets nothing.
    for _ in 0..50 {
        let other = even.pick(None, &PickContext::default(), &mut rng).unwrap();
        assert_ne!(other.endpoint().uid, held.endpoint().uid);
    }
}

#[test]
fn least_request_evens_out_what_is_held() {
    let view = view(Kind::LeastRequest(NONE), &[1; 10], None, 1);
    let mut rng = SmallRng::seed_from_u64(1);
    let held: Vec<_> =
        (0..1000).map(|_| view.pick(None, &PickContext::default(), &mut rng).unwrap()).collect();
    let active: Vec<u64> = view.endpoints().iter().map(|e| e.state.active()).collect();
    assert!(spread(&active) < 8, "{active:?}");
    drop(held);
    assert!(view.endpoints().iter().all(|e| e.state.active() == 0));
}

/// The slow one of three gets less within a few answers, and its share again when it is well.
#[test]
fn least_request_gives_less_to_the_slow() {
    let view = view(Kind::LeastRequest(NONE), &[1; 3], None, 1);
    let mut rng = SmallRng::seed_from_u64(1);
    let mut now = Moment::default();
    let mut share = |slow: u64| {
        let mut slow_ones = 0;
        for _ in 0..2000 {
            now = now.after(Duration::from_millis(5));
            let picked = view.pick(None, &PickContext { now, ..Default::default() }, &mut rng).unwrap();
            let endpoint = picked.endpoint();
            let is_slow = &*endpoint.uid == "v1-1";
            slow_ones += u32::from(is_slow);
            let took = Duration::from_millis(if is_slow { slow } else { 10 });
            endpoint.state.latency.record(now, took, Ending::Answer);
        }
        slow_ones / 20
    };
    assert!((28..=38).contains(&share(10)), "at rest all are alike");
    assert!((28..=38).contains(&share(12)), "noise changes nothing");
    let slow = share(500);
    assert!((1..=6).contains(&slow), "{slow} %");
    // It was tried now and then, so that it is known soon.
    assert!(share(10) > 20);
}

/// Where each of `keys` hashes goes.
fn owners(view: &ClusterView, keys: u64) -> Vec<String> {
    let mut rng = SmallRng::seed_from_u64(1);
    let hash = |i: u64| Some(xxhash_rust::xxh64::xxh64(&i.to_le_bytes(), 0));
    let ctx = |i| PickContext { hash: hash(i), ..Default::default() };
    (0..keys).map(|i| view.pick(None, &ctx(i), &mut rng).unwrap().endpoint().uid.to_string()).collect()
}

#[test]
fn consistent_hashing_spreads_keys() {
    for (kind, tolerance) in [(ring(1024), 200), (maglev(), 120)] {
        let view = view(kind, &[1, 1, 1, 1, 1], None, 1);
        let owners = owners(&view, 5000);
        for i in 0..5 {
            let share = owners.iter().filter(|o| **o == format!("v1-{i}")).count();
            assert!(share.abs_diff(1000) < tolerance, "{i}: {share}");
        }
    }
}

#[test]
fn consistent_hashing_follows_weights() {
    for kind in [ring(1024), maglev()] {
        let owners = owners(&view(kind, &[1, 3], None, 1), 8000);
        let light = owners.iter().filter(|o| *o == "v1-0").count();
        assert!(light.abs_diff(2000) < 300, "{light}");
    }
}

#[test]
fn keys_of_one_that_died_spread_over_all_others() {
    for kind in [ring(1024), maglev()] {
        let before = owners(&view(kind.clone(), &[1; 5], None, 1), 5000);
        let after = owners(&view(kind, &[1, 1, 0, 1, 1], None, 1), 5000);
        for i in [0, 1, 3, 4] {
            let heirs = before.iter().zip(&after).filter(|(b, a)| *b == "v1-2" && **a == format!("v1-{i}"));
            assert!(heirs.count() > 150, "v1-{i}");
        }
    }
}

#[test]
fn the_users_ring_of_four_sends_one_client_to_one_instance() {
    let view = view(ring(4), &[1, 1], None, 1);
    let owners = owners(&view, 100);
    assert!(owners.contains(&"v1-0".to_owned()) && owners.contains(&"v1-1".to_owned()));
    assert_eq!(owners, self::owners(&view, 100));
}

#[test]
fn without_a_key_consistent_hashing_is_random() {
    let view = view(ring(1024), &[1; 4], None, 1);
    let counts = counts(&view, 4000, |_| PickContext::default());
    assert!(counts.iter().all(|c| c.abs_diff(1000) < 150), "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Dead, or gone for good: on the ring, no other key moves.
    #[test]
    fn only_dead_keys_move(n in 2_usize..9, dead in 0_usize..9, minimum in 1_u64..600) {
        let dead = dead % n;
        let name = format!("v1-{dead}");
        let mut weights = vec![1; n];
        let alive = view(ring(minimum), &weights, None, 1);
        let table = view(maglev(), &weights, None, 1);
        weights[dead] = 0;
        let unready = view(ring(minimum), &weights, Some(&alive), 1);
        let mut gone = endpoints(&vec![1; n]);
        gone.endpoints.remove(dead);
        let gone = ClusterView::build(&cluster(ring(minimum)), &gone, Some(&alive), &Here::default(), 1).unwrap();
        let table_unready = view(maglev(), &weights, Some(&table), 1);
        for (before, after) in [(&alive, &unready), (&alive, &gone), (&table, &table_unready)] {
            for (before, after) in owners(before, 300).iter().zip(owners(after, 300)) {
                prop_assert_ne!(&after, &name);
                prop_assert!(*before == name || *before == after);
            }
        }
    }

    /// With any algorithm a retry goes to somebody else, as long as there is one; then to anybody.
    #[test]
    fn tried_ones_are_avoided(n in 1_usize..6, unready in 0_usize..6, hash: Option<u64>, which in 0_usize..5) {
        let kind = [ring(64), maglev(), Kind::RoundRobin(NONE), Kind::Random(NONE), Kind::LeastRequest(NONE)];
        let mut weights = vec![1; n];
        if n > 1 {
            weights[unready % n] = 0;
        }
        let view = view(kind[which].clone(), &weights, None, 1);
        let ready = weights.iter().filter(|w| **w > 0).count();
        let mut rng = SmallRng::seed_from_u64(5);
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        for _ in 0..ready {
            let ctx = PickContext { hash, tried: &tried, ..Default::default() };
            let picked = view.pick(None, &ctx, &mut rng).unwrap().endpoint().clone();
            prop_assert!(picked.ready && tried.iter().all(|t| t.uid != picked.uid));
            tried.push(picked);
        }
        let ctx = PickContext { hash, tried: &tried, ..Default::default() };
        prop_assert!(view.pick(None, &ctx, &mut rng).is_ok());
    }
}

/// A table after a removal is Maglev's: beside the keys of the one that went, few move.
#[test]
fn maglev_moves_little_on_removal() {
    let before = view(maglev(), &[1; 10], None, 1);
    let after = view(maglev(), &[1; 9], Some(&before), 1);
    let (before, after) = (owners(&before, 5000), owners(&after, 5000));
    let moved = before.iter().zip(&after).filter(|(b, a)| **b != "v1-9" && b != a).count();
    assert!(moved < 250, "{moved}");
}

/// Four workers, and a push every few hundred choices: nobody is lost, states are kept, turns are fair.
#[test]
fn four_workers_under_pushes() {
    const PICKS: u64 = 20_000;
    let first = view(Kind::RoundRobin(NONE), &[1; 6], None, 4);
    let states: Vec<_> = first.endpoints().iter().map(|e| (e.uid.clone(), e.state.clone())).collect();
    let cell = ClusterCell::absent(first.name().clone());
    cell.publish(Some(Arc::new(first)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let cell = &cell;
                scope.spawn(move || {
                    let mut rng = SmallRng::seed_from_u64(worker as u64);
                    for _ in 0..PICKS {
                        let ctx = PickContext { worker, ..Default::default() };
                        drop(cell.pick(None, &ctx, &mut rng).unwrap());
                    }
                })
            })
            .collect();
        let (cell, done) = (&cell, &done);
        scope.spawn(move || {
            // Endpoint 5 flips, labels and weights of the others are pushed again.
            for flip in (0..2).cycle() {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let before = cell.load_full().unwrap();
                cell.publish(Some(Arc::new(view(
                    Kind::RoundRobin(NONE),
                    &[1, 1, 1, 1, 1, flip],
                    Some(&before),
                    4,
                ))));
                std::thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let last = cell.load_full().unwrap();
    let total = |uid: &str| states.iter().find(|(u, _)| &**u == uid).unwrap().1.total();
    let steady: Vec<u64> = (0..5).map(|i| total(&format!("v1-{i}"))).collect();
    assert!(spread(&steady) <= 4, "{steady:?}");
    assert_eq!(states.iter().map(|(_, s)| s.total()).sum::<u64>(), 4 * PICKS);
    for endpoint in last.endpoints() {
        let (_, state) = states.iter().find(|(uid, _)| *uid == endpoint.uid).unwrap();
        assert!(Arc::ptr_eq(state, &endpoint.state));
        assert_eq!(state.active(), 0);
    }
}
