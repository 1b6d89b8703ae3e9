//! Instances that fail in one way or another, behind whole proxies: who is asked instead, and what the client sees.

use std::time::Duration;

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::Protocol;

use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pod, ServiceSpec, Spec, backend, default_route, host, policy, route};
use crate::support::origin::Origin;

/// Nothing listens there.
const NOBODY: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// A client pod whose service `ratings` is what the test says.
struct Story {
    mesh: Mesh,
    reviews: Pod,
}

impl Story {
    async fn start(workers: usize) -> Self {
        let mesh = Mesh::start().await;
        let mut spec = Spec::new("reviews", NOBODY.into());
        spec.workers = workers;
        let reviews = mesh.pod(spec).await;
        Self { mesh, reviews }
    }

    /// All at once as far as a proxy can tell: what is named comes before what names it.
    fn publish(&self, policy: wire::Policy, endpoints: Vec<wire::Endpoint>, routes: wire::RouteTable) {
        let spec =
            ServiceSpec { name: "ratings", port: PORT, vip: 2, protocol: Protocol::Http, pods: vec![] };
        let name = Some(wire::HostPort { host: host("ratings"), port: PORT.into() });
        let cluster = wire::Cluster {
            name: name.clone(),
            policy: Some(policy),
            protocol: Protocol::Http.into(),
            ..Default::default()
        };
        let destination = wire::Destination {
            name,
            http: Some(routes),
            protocol: Protocol::Http.into(),
            ..Default::default()
        };
        self.endpoints(endpoints);
        let name = format!("{}:{PORT}", host("ratings"));
        self.mesh.pilot.publish(Kind::Cluster, &name, &cluster);
        self.mesh.pilot.publish(Kind::Destination, &name, &destination);
        self.mesh.announce(&spec);
    }

    fn endpoints(&self, endpoints: Vec<wire::Endpoint>) {
        let name = format!("{}:{PORT}", host("ratings"));
        self.mesh.pilot.publish(Kind::Endpoints, &name, &wire::Endpoints { endpoints });
    }

    async fn get(&self) -> Answer {
        client::proxied(self.reviews.proxy(), "http://ratings/").await.unwrap()
    }

    async fn post(&self) -> Answer {
        let request = "POST http://ratings/ HTTP/1.1\r\nhost: ratings\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        client::send(self.reviews.proxy(), request).await.unwrap()
    }

    /// Waits until the service is known and answers.
    async fn answers(&self) {
        eventually("an answer", || async { self.get().await.status == 200 }).await;
    }

    async fn metrics(&self) -> String {
        client::get(self.reviews.metrics(), "metrics", "/stats/prometheus").await.unwrap().body
    }
}

/// An endpoint without a sidecar.
fn plain(origin: &Origin) -> wire::Endpoint {
    wire::Endpoint {
        uid: origin.address.to_string(),
        address: origin.address.to_string(),
        ready: true,
        weight: 1,
        ..Default::default()
    }
}

fn outlier(consecutive_5xx: u32) -> wire::OutlierDetection {
    wire::OutlierDetection { consecutive_5xx, max_ejection_percent: 100, ..Default::default() }
}

fn retrying(on: &[&str], per_try: Option<Duration>) -> wire::RouteTable {
    route(wire::RouteAction {
        backends: vec![backend("ratings", PORT)],
        timeout: None,
        retry: Some(wire::RetryPolicy {
            attempts: 2,
            retry_on: on.iter().map(ToString::to_string).collect(),
            backoff: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
            per_try_timeout: per_try.map(|d| d.try_into().unwrap()),
            ..Default::default()
        }),
    })
}

/// The application is gone, its sidecar is not: the sidecar says that nothing was reached, and another instance is asked,
/// whatever the method; the client sees nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_gone_behind_its_sidecar() {
    let app = Origin::start("ratings").await;
    let story = Story::start(1).await;
    let alive = story.mesh.pod(Spec::new("ratings", app.address)).await;
    let mut spec = Spec::new("ratings-gone", NOBODY.into());
    spec.account = "ratings";
    let gone = story.mesh.pod(spec).await;
    story.publish(policy(), vec![alive.endpoint(), gone.endpoint()], default_route("ratings", PORT));
    story.answers().await;
    let before = app.count();
    for _ in 0..20 {
        let answer = story.post().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(app.count(), before + 20, "each was executed once");
    // Without another instance the client is told what happened, and not in our own words.
    story.publish(policy(), vec![gone.endpoint()], default_route("ratings", PORT));
    let told = "remote_connection_failure|application";
    eventually("only the one that is gone is left", || async { story.get().await.body.contains(told) }).await;
    let told = story.get().await;
    assert_eq!(told.status, 503, "{told:?}");
    assert!(told.header("x-mesh-unreached").is_none(), "{told:?}");
}

/// Who only claims that nothing was reached is not believed: an application behind a sidecar, or a server outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_can_say_that_nothing_was_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let answer = b"HTTP/1.1 503 x\r\nx-mesh-unreached: 1\r\nx-mesh-denied-by: x\r\n\
                               content-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        }
    });
    let story = Story::start(1).await;
    let behind = story.mesh.pod(Spec::new("ratings", address)).await;
    let outside = wire::Endpoint {
        uid: "outside".into(),
        address: address.to_string(),
        ready: true,
        ..Default::default()
    };
    for (endpoint, meshed) in [(behind.endpoint(), true), (outside, false)] {
        story.publish(policy(), vec![endpoint], default_route("ratings", PORT));
        eventually("its own answer", || async {
            let before = asked.load(std::sync::atomic::Ordering::SeqCst);
            let answer = story.post().await;
            let once = asked.load(std::sync::atomic::Ordering::SeqCst) == before + 1;
            assert!(answer.header("x-mesh-unreached").is_none(), "{answer:?}");
            // A sidecar's own denials say so; an application's answer cannot.
            assert!(!meshed || answer.header("x-mesh-denied-by").is_none(), "{answer:?}");
            answer.status == 503 && once
        })
        .await;
    }
}

/// Five failures in a row, from whichever worker, and no sixth; a push of endpoints changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outlier_detection_with_four_workers() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    let story = Story::start(4).await;
    let detecting = |limit| wire::Policy { outlier_detection: Some(outlier(limit)), ..policy() };
    let endpoints = || vec![plain(&good), plain(&bad)];
    bad.answer_with(&[500; 1000]);
    story.publish(detecting(5), endpoints(), retrying(&["5xx"], None));
    story.answers().await;
    for round in 0..60_u32 {
        let answer = story.get().await;
        assert_eq!((answer.status, answer.body.starts_with("good")), (200, true), "{answer:?}");
        if round.is_multiple_of(10) {
            let mut changed = endpoints();
            changed[0].labels.insert("round".into(), round.to_string());
            story.endpoints(changed);
        }
    }
    assert_eq!(bad.count(), 5);
    let metrics = story.metrics().await;
    let cluster = format!("cluster_name=\"outbound|{PORT}||{}\"", host("ratings"));
    for (name, value) in [
        ("envoy_cluster_outlier_detection_ejections_active", 1),
        ("envoy_cluster_outlier_detection_ejections_enforced_consecutive_5xx", 1),
    ] {
        assert!(metrics.contains(&format!("{name}{{{cluster}}} {value}\n")), "{name}: {metrics}");
    }
    let told = client::get(story.reviews.admin(), "localhost", "/clusters").await.unwrap().body;
    assert!(told.contains(&format!("\"ejected\": [\n        \"{}\"", bad.address)), "{told}");

    // The pair that differs in that field only: it is asked again.
    story.publish(policy(), endpoints(), retrying(&["5xx"], None));
    eventually("it is asked again", || async {
        story.get().await;
        bad.count() > 5
    })
    .await;
}

/// What hangs is left after the time for one attempt, and another one is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_hangs() {
    let (good, bad) = (Origin::start("good").await, Origin::start("bad").await);
    let story = Story::start(1).await;
    let policy = wire::Policy { outlier_detection: Some(outlier(2)), ..policy() };
    let per_try = Some(Duration::from_millis(200));
    story.publish(policy, vec![plain(&good), plain(&bad)], retrying(&["5xx"], per_try));
    story.answers().await;
    bad.hang(1000);
    for _ in 0..8 {
        let answer = story.get().await;
        assert!(answer.status == 200 && answer.body.starts_with("good"), "{answer:?}");
    }
    let metrics = story.metrics().await;
    assert!(metrics.contains("outlier_detection_ejections_enforced_consecutive_5xx{"), "{metrics}");
}

/// One connection, one that waits; the third is answered with UO at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_answer_503_uo() {
    let app = Origin::start("ratings").await;
    let story = Story::start(1).await;
    let limits =
        wire::Limits { max_connections: Some(1), max_pending_requests: Some(1), ..Default::default() };
    let limited = wire::Policy { limits: Some(limits), ..policy() };
    story.publish(limited, vec![plain(&app)], default_route("ratings", PORT));
    story.answers().await;
    app.hang(1);
    let proxy = story.reviews.proxy();
    let ask = || tokio::spawn(async move { client::proxied(proxy, "http://ratings/").await });
    let cluster = format!("cluster_name=\"outbound|{PORT}||{}\"", host("ratings"));
    let counts = |name: &str| {
        let line = format!("envoy_cluster_upstream_{name}{{{cluster}}} 1\n");
        let story = &story;
        async move { story.metrics().await.contains(&line) }
    };
    let first = ask();
    eventually("one is served", || counts("rq_active")).await;
    let second = ask();
    eventually("one waits", || counts("rq_pending_active")).await;
    let third = story.get().await;
    assert_eq!(third.status, 503, "{third:?}");
    assert_eq!(third.header("x-envoy-overloaded"), Some("true"), "{third:?}");
    assert!(third.body.contains("overflow") && third.body.contains("http1MaxPendingRequests"), "{third:?}");
    let metrics = story.metrics().await;
    assert!(metrics.contains("response_flags=\"UO\""), "{metrics}");
    assert!(metrics.contains(&format!("envoy_cluster_upstream_rq_pending_overflow{{{cluster}}} 1\n")));
    // The one that waited is served as soon as the other one gives up.
    first.abort();
    assert_eq!(second.await.unwrap().unwrap().status, 200);

    // The pair that differs in that field only.
    story.publish(policy(), vec![plain(&app)], default_route("ratings", PORT));
    eventually("nothing is limited", || async {
        !story.metrics().await.contains("envoy_cluster_upstream_cx_active")
    })
    .await;
    let heads = || app.seen.lock().windows(6).filter(|bytes| *bytes == b"GET / ").count();
    let before = heads();
    app.hang(2);
    let held = [ask(), ask()];
    eventually("two hang", || async { heads() == before + 2 }).await;
    assert_eq!(story.get().await.status, 200);
    held.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The client's place decides, also when it changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nearest_instance_first() {
    let (east, west) = (Origin::start("east").await, Origin::start("west").await);
    let story = Story::start(1).await;
    let at = |origin: &Origin, place: &str| wire::Endpoint { locality: place.into(), ..plain(origin) };
    let local = wire::Policy {
        outlier_detection: Some(outlier(1)),
        locality: Some(wire::LocalityPolicy::default()),
        ..policy()
    };
    let stand = |place: &str| {
        let spec = Spec::new("reviews", NOBODY.into());
        let own = wire::SelfConfig { locality: place.into(), ..Mesh::self_config(&spec) };
        story.mesh.pilot.publish_self("reviews", &own);
    };
    let all_from = |name: &'static str| {
        let story = &story;
        async move {
            for _ in 0..6 {
                let answer = story.get().await;
                if answer.status != 200 || !answer.body.starts_with(name) {
                    return false;
                }
            }
            true
        }
    };
    stand("r/east");
    let endpoints = vec![at(&east, "r/east"), at(&west, "r/west")];
    story.publish(local, endpoints.clone(), retrying(&["5xx"], None));
    eventually("all from east", || all_from("east")).await;
    stand("r/west");
    eventually("all from west", || all_from("west")).await;
    // The near one fails: the far one takes over, and nobody sees it.
    west.answer_with(&[503; 1000]);
    assert!(all_from("east").await);
    // The pair that differs in that field only.
    west.answer_with(&[]);
    story.publish(policy(), endpoints, retrying(&["5xx"], None));
    eventually("both are asked", || async {
        let before = (east.count(), west.count());
        for _ in 0..6 {
            story.get().await;
        }
        east.count() > before.0 && west.count() > before.1
    })
    .await;
}
