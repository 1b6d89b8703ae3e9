//! Who is ejected after how many failures, for how long, and what a push or another worker changes about it: nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;
use wire::load_balancer::Kind;

use crate::cluster::tests::{cluster, endpoint};
use crate::cluster::{ClusterCell, ClusterView, Here, Moment, NoEndpoint, PickContext, Picked, Seen};

const RANDOM: Kind = Kind::Random(wire::Empty {});

fn outlier() -> wire::OutlierDetection {
    wire::OutlierDetection { consecutive_5xx: 3, max_ejection_percent: 100, ..Default::default() }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("v1-{i}")).collect()
}

fn view(
    kind: Kind,
    outlier: wire::OutlierDetection,
    count: usize,
    before: Option<&ClusterView>,
) -> ClusterView {
    let mut cluster = cluster(kind);
    cluster.subsets.clear();
    cluster.policy.as_mut().unwrap().outlier_detection = Some(outlier);
    let endpoints = names(count).iter().map(|name| endpoint(name, true)).collect();
    ClusterView::build(&cluster, &wire::Endpoints { endpoints }, before, &Here::default(), 4).unwrap()
}

fn cell(outlier: wire::OutlierDetection, count: usize) -> ClusterCell {
    let view = view(RANDOM, outlier, count, None);
    let cell = ClusterCell::absent(view.name().clone());
    cell.publish(Some(Arc::new(view)));
    cell
}

fn context() -> PickContext<'static> {
    PickContext { now: Moment::now(), ..Default::default() }
}

fn pick(cell: &ClusterCell, rng: &mut SmallRng) -> Result<Picked, NoEndpoint> {
    cell.pick(None, &context(), rng)
}

/// A choice of this endpoint, if it gets any.
fn picked(cell: &ClusterCell, name: &str) -> Option<Picked> {
    let mut rng = SmallRng::seed_from_u64(1);
    (0..200).filter_map(|_| pick(cell, &mut rng).ok()).find(|picked| &*picked.endpoint().uid == name)
}

fn tell(cell: &ClusterCell, name: &str, seen: &[Seen]) {
    for seen in seen {
        picked(cell, name).unwrap_or_else(|| panic!("{name} is out")).saw(
            *seen,
            Instant::now(),
            Instant::now(),
        );
    }
}

fn is_out(cell: &ClusterCell, name: &str) -> bool {
    picked(cell, name).is_none()
}

use Seen::{Connected, Failed, Status, TimedOut};

#[tokio::test(start_paused = true)]
async fn exactly_as_many_failures_in_a_row_as_the_policy_says() {
    let cell = cell(outlier(), 3);
    tell(&cell, "v1-0", &[Status(500), Failed, Status(200), TimedOut, Status(503)]);
    assert!(!is_out(&cell, "v1-0"));
    tell(&cell, "v1-0", &[Status(599)]);
    assert!(is_out(&cell, "v1-0") && !is_out(&cell, "v1-1"));
    // What is no server's error counts for nothing.
    tell(&cell, "v1-1", &[Status(404), Status(404), Status(404), Status(429), Connected]);
    assert!(!is_out(&cell, "v1-1"));
}

#[tokio::test(start_paused = true)]
async fn gateway_errors_count_apart() {
    let gateway = wire::OutlierDetection { consecutive_5xx: 0, consecutive_gateway: 2, ..outlier() };
    let one = cell(gateway, 2);
    tell(&one, "v1-0", &[Status(500), Status(500), Status(500), Status(502), Status(500), Status(503)]);
    assert!(!is_out(&one, "v1-0"), "500 is none, and interrupts the row");
    tell(&one, "v1-0", &[Status(504)]);
    assert!(is_out(&one, "v1-0"));
    // The pair that differs in that field only.
    let other = cell(wire::OutlierDetection { consecutive_gateway: 0, consecutive_5xx: 0, ..outlier() }, 2);
    tell(&other, "v1-0", &[Status(504); 9]);
    assert!(!is_out(&other, "v1-0"));
}

#[tokio::test(start_paused = true)]
async fn failures_of_our_own_count_apart_where_they_are_split() {
    let split = wire::OutlierDetection {
        split_local_origin: true,
        consecutive_local_origin: 2,
        consecutive_5xx: 3,
        ..outlier()
    };
    let one = cell(split, 2);
    tell(&one, "v1-0", &[Status(500), Status(500), Failed, Status(200), TimedOut]);
    assert!(!is_out(&one, "v1-0"));
    tell(&one, "v1-0", &[Failed]);
    assert!(is_out(&one, "v1-0"));
    let together = cell(outlier(), 2);
    tell(&together, "v1-0", &[Failed, TimedOut]);
    assert!(!is_out(&together, "v1-0"), "2 are enough only where they count apart");
    tell(&together, "v1-0", &[Status(500)]);
    assert!(is_out(&together, "v1-0"));
}

/// 30 s, then 60 s, looked at every 10 s; after a while of good behaviour 30 s again.
#[tokio::test(start_paused = true)]
async fn each_ejection_lasts_longer_than_the_one_before() {
    let cell = cell(outlier(), 2);
    // Between two looks.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for lasts in [30, 60, 90] {
        tell(&cell, "v1-0", &[Failed; 3]);
        tokio::time::sleep(Duration::from_secs(lasts - 1)).await;
        assert!(is_out(&cell, "v1-0"), "{lasts}");
        // Envoy looks every interval: at most one of them later.
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(!is_out(&cell, "v1-0"), "{lasts}");
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!is_out(&cell, "v1-0"));
    tell(&cell, "v1-0", &[Failed; 3]);
    tokio::time::sleep(Duration::from_secs(41)).await;
    assert!(!is_out(&cell, "v1-0"), "the ejections of before are forgotten");
    // Counting began anew when it came back.
    tell(&cell, "v1-0", &[Failed; 2]);
    assert!(!is_out(&cell, "v1-0"));
}

#[tokio::test(start_paused = true)]
async fn not_more_than_the_allowed_share() {
    let cell = cell(wire::OutlierDetection { max_ejection_percent: 50, ..outlier() }, 3);
    tell(&cell, "v1-0", &[Failed; 3]);
    tell(&cell, "v1-1", &[Failed; 3]);
    assert!(is_out(&cell, "v1-0") && !is_out(&cell, "v1-1"), "2 of 3 are more than 50 %");
    let told = crate::cluster::metrics::render(&[Arc::new(cell)]);
    for line in [
        "envoy_cluster_outlier_detection_ejections_active{cluster_name=\"outbound|80||reviews\"} 1",
        "envoy_cluster_outlier_detection_ejections_overflow{cluster_name=\"outbound|80||reviews\"} 1",
        "envoy_cluster_outlier_detection_ejections_enforced_consecutive_5xx{cluster_name=\"outbound|80||reviews\"} 1",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
    // Envoy's default of 10 % ejects nobody of three.
    let few = self::cell(wire::OutlierDetection { max_ejection_percent: 10, ..outlier() }, 3);
    tell(&few, "v1-0", &[Failed; 9]);
    assert!(!is_out(&few, "v1-0"));
}

#[tokio::test(start_paused = true)]
async fn when_all_are_out_nobody_is_asked_unless_panic_is_wanted() {
    let mut rng = SmallRng::seed_from_u64(1);
    for (min_health_percent, panics) in [(0, false), (30, true)] {
        let cell = cell(wire::OutlierDetection { min_health_percent, ..outlier() }, 2);
        for name in names(2) {
            tell(&cell, &name, &[Failed; 3]);
        }
        assert_eq!(pick(&cell, &mut rng).is_ok(), panics, "{min_health_percent}");
        if !panics {
            let error = pick(&cell, &mut rng).unwrap_err();
            assert!(matches!(error, NoEndpoint::AllEjected { ejected: 2, .. }), "{error}");
        }
    }
}

/// A push every few choices, by four workers: it is ejected once, and stays out. (How many failures are under way when that
/// happens is up to the scheduler; that the fifth one ejects is tested above.)
#[test]
fn four_workers_and_pushes_change_nothing() {
    for round in 0..20 {
        let cell = cell(wire::OutlierDetection { consecutive_5xx: 5, ..outlier() }, 3);
        let (seen, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (cell, seen, done) = (&cell, &seen, &done);
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    scope.spawn(move || {
                        let mut rng = SmallRng::seed_from_u64(round * 4 + worker);
                        for _ in 0..300 {
                            let picked = pick(cell, &mut rng).unwrap();
                            let bad = &*picked.endpoint().uid == "v1-1";
                            seen.fetch_add(usize::from(bad), Ordering::SeqCst);
                            picked.saw(Status(if bad { 500 } else { 200 }), Instant::now(), Instant::now());
                        }
                    })
                })
                .collect();
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let before = cell.load_full().unwrap();
                    let count = 3 + before.endpoints().len() % 2;
                    let outlier = wire::OutlierDetection { consecutive_5xx: 5, ..outlier() };
                    cell.publish(Some(Arc::new(view(RANDOM, outlier, count, Some(&before)))));
                    std::thread::yield_now();
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(is_out(&cell, "v1-1"));
        let view = cell.load_full().unwrap();
        let told = view.whole.watch.as_ref().unwrap().detector.told();
        assert_eq!(told.ejections(super::Reason::ServerErrors), 1);
        assert!(seen.into_inner() >= 5);
    }
}

/// On the ring and in the table only the keys of the one that is out move, and they come back with it.
#[tokio::test(start_paused = true)]
async fn only_the_keys_of_the_ejected_one_move() {
    let key = Some(wire::HashKey { kind: Some(wire::hash_key::Kind::SourceIp(wire::Empty {})) });
    let ring = Kind::RingHash(wire::RingHash { key: key.clone(), minimum_ring_size: 1024 });
    let maglev = Kind::Maglev(wire::Maglev { key, table_size: 0 });
    for kind in [ring, maglev] {
        let first = view(kind, outlier(), 4, None);
        let cell = ClusterCell::absent(first.name().clone());
        cell.publish(Some(Arc::new(first)));
        let mut rng = SmallRng::seed_from_u64(1);
        let mut owners = || -> Vec<String> {
            let hash = |key: u64| xxhash_rust::xxh64::xxh64(&key.to_le_bytes(), 0);
            let owner = |key| {
                let context = PickContext { hash: Some(hash(key)), now: Moment::now(), ..Default::default() };
                cell.pick(None, &context, &mut rng).unwrap().endpoint().uid.to_string()
            };
            (0..500).map(owner).collect()
        };
        let before = owners();
        let view = cell.load_full().unwrap();
        let mut choices = SmallRng::seed_from_u64(2);
        let victim = loop {
            let picked = view.pick(None, &context(), &mut choices).unwrap();
            if &*picked.endpoint().uid == "v1-2" {
                break picked;
            }
        };
        for _ in 0..3 {
            victim.saw(Failed, Instant::now(), Instant::now());
        }
        let during = owners();
        for (before, during) in before.iter().zip(&during) {
            assert!(during != "v1-2" && (before == "v1-2" || before == during), "{before} {during}");
        }
        tokio::time::sleep(Duration::from_secs(41)).await;
        assert_eq!(owners(), before);
    }
}
