//! Who comes first for whom, and what happens when they fail.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::*;
use crate::cluster::tests::{cluster, endpoint};
use crate::cluster::{ClusterCell, ClusterView, Moment, PickContext, Seen};

fn here(locality: &str, labels: &[(&str, &str)]) -> Here {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Here { locality: Locality::new(locality), labels: labels.collect() }
}

/// Endpoints named after their places, two in each.
fn cell(policy: Option<wire::LocalityPolicy>, here: &Here, places: &[&str]) -> ClusterCell {
    let mut cluster = cluster(wire::load_balancer::Kind::Random(wire::Empty {}));
    cluster.subsets.clear();
    let all = cluster.policy.as_mut().unwrap();
    all.locality = policy;
    all.outlier_detection =
        Some(wire::OutlierDetection { consecutive_5xx: 1, max_ejection_percent: 100, ..Default::default() });
    let mut endpoints = Vec::new();
    for (at, place) in places.iter().enumerate() {
        for twin in ["a", "b"] {
            let mut one = endpoint(&format!("{place} {twin}"), true);
            one.address = format!("10.0.{at}.{}:80", twin.as_bytes()[0]);
            one.locality = (*place).to_owned();
            one.labels = [("rack".to_owned(), place.to_uppercase())].into();
            endpoints.push(one);
        }
    }
    let view = ClusterView::build(&cluster, &wire::Endpoints { endpoints }, None, here, 1).unwrap();
    let cell = ClusterCell::absent(view.name().clone());
    cell.publish(Some(Arc::new(view)));
    cell
}

/// In per cent, by place.
fn shares(cell: &ClusterCell) -> BTreeMap<String, u32> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut counts = BTreeMap::new();
    for _ in 0..5000 {
        let context = PickContext { now: Moment::now(), ..Default::default() };
        let picked = cell.pick(None, &context, &mut rng).unwrap();
        let place = picked.endpoint().uid.split(' ').next().unwrap().to_owned();
        *counts.entry(place).or_default() += 1;
    }
    counts.values_mut().for_each(|count: &mut u32| *count = (*count + 25) / 50);
    counts
}

fn eject(cell: &ClusterCell, uid: &str) {
    let view = cell.load_full().unwrap();
    let mut rng = SmallRng::seed_from_u64(3);
    let context = PickContext { now: Moment::now(), ..Default::default() };
    // A retry may go to any level.
    let others: Vec<_> = view.endpoints().iter().filter(|e| &*e.uid != uid).cloned().collect();
    let context = PickContext { tried: &others, ..context };
    let picked = view.pick(None, &context, &mut rng).unwrap();
    assert_eq!(&*picked.endpoint().uid, uid);
    picked.saw(Seen::Failed, Instant::now(), Instant::now());
}

fn only(place: &str) -> BTreeMap<String, u32> {
    [(place.to_owned(), 100)].into()
}

const PLACES: &[&str] = &["r1/z1/s1", "r1/z1/s2", "r1/z2", "r2/z1", "r3/z1"];

#[tokio::test(start_paused = true)]
async fn the_nearest_first_and_the_next_when_it_fails() {
    let cell = cell(Some(wire::LocalityPolicy::default()), &here("r1/z1/s1", &[]), PLACES);
    assert_eq!(shares(&cell), only("r1/z1/s1"));
    // One of two: 70 % is what it can carry.
    eject(&cell, "r1/z1/s1 a");
    let half = shares(&cell);
    assert!((67..=73).contains(&half["r1/z1/s1"]) && (27..=33).contains(&half["r1/z1/s2"]), "{half:?}");
    eject(&cell, "r1/z1/s1 b");
    assert_eq!(shares(&cell), only("r1/z1/s2"));
    for uid in ["r1/z1/s2 a", "r1/z1/s2 b"] {
        eject(&cell, uid);
    }
    assert_eq!(shares(&cell), only("r1/z2"));
    for uid in ["r1/z2 a", "r1/z2 b"] {
        eject(&cell, uid);
    }
    let far = shares(&cell);
    assert!((47..=53).contains(&far["r2/z1"]) && (47..=53).contains(&far["r3/z1"]), "{far:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_policy_or_a_place_all_are_alike() {
    for (policy, place) in [(None, "r1/z1/s1"), (Some(wire::LocalityPolicy::default()), "")] {
        let cell = cell(policy, &here(place, &[]), PLACES);
        assert!(shares(&cell).values().all(|share| (17..=23).contains(share)), "{:?}", shares(&cell));
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_named_comes_before_the_others() {
    let failover = vec![wire::LocalityFailover { from: "r1".into(), to: "r3".into() }];
    let policy = wire::LocalityPolicy { failover, ..Default::default() };
    let cell = cell(Some(policy), &here("r1/z1", &[]), &["r1/z1", "r2/z1", "r3/z1"]);
    for uid in ["r1/z1 a", "r1/z1 b"] {
        eject(&cell, uid);
    }
    assert_eq!(shares(&cell), only("r3/z1"));
}

#[tokio::test(start_paused = true)]
async fn labels_in_their_order() {
    let policy = |labels: &[&str]| wire::LocalityPolicy {
        failover_priority: labels.iter().map(|label| (*label).to_owned()).collect(),
        ..Default::default()
    };
    let mine = here("r9/z9", &[("rack", "R2/Z1")]);
    assert_eq!(shares(&cell(Some(policy(&["rack"])), &mine, PLACES)), only("r2/z1"));
    assert_eq!(shares(&cell(Some(policy(&["rack=R3/Z1"])), &mine, PLACES)), only("r3/z1"));
    // Those of places are known without labels.
    let there = here("r1/z2", &[]);
    assert_eq!(shares(&cell(Some(policy(&[REGION, ZONE])), &there, PLACES)), only("r1/z2"));
    // The second counts only where the first is the same.
    let second = shares(&cell(Some(policy(&[REGION, "rack=R3/Z1"])), &there, PLACES));
    assert!(second.keys().all(|place| place.starts_with("r1")), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn shares_for_a_place() {
    let shares_of = |from: &str, to: &[(&str, u32)]| wire::LocalityShares {
        from: from.into(),
        to: to.iter().map(|(place, share)| ((*place).to_owned(), *share)).collect(),
    };
    let distribute =
        vec![shares_of("r2/*", &[("r3", 100)]), shares_of("r1/z1/*", &[("r1/z1/*", 80), ("r1/z2/*", 20)])];
    let policy = wire::LocalityPolicy { distribute, ..Default::default() };
    let cell = |place: &str| cell(Some(policy.clone()), &here(place, &[]), PLACES);
    let near = cell("r1/z1/s1");
    let told = shares(&near);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!((37..=43).contains(&told["r1/z1/s1"]) && (37..=43).contains(&told["r1/z1/s2"]), "{told:?}");
    assert!((17..=23).contains(&told["r1/z2"]), "{told:?}");
    assert_eq!(shares(&cell("r2/z7")), only("r3/z1"));
    assert_eq!(shares(&cell("r4/z1")).len(), 5, "no rule: all alike");
    // A share without anybody goes to the other.
    for uid in ["r1/z2 a", "r1/z2 b"] {
        eject(&near, uid);
    }
    assert_eq!(shares(&near).len(), 2);
}
