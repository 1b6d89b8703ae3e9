//! Requests end to end through two sidecars.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::{MtlsMode, Protocol};

use crate::support::client::{self, Connection};
use crate::support::eventually;
use crate::support::mesh::{PORT, Pair, ServiceSpec, Spec, backend, endpoints, route};
use crate::support::origin::Origin;

async fn pair(app: &Origin) -> Pair {
    Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_through_two_sidecars() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let request = "GET /0?x=1 HTTP/1.1\r\nhost: ratings:9080\r\nx-forwarded-client-cert: By=me\r\n\
                   x-mesh-peer: me\r\nconnection: close\r\n\r\n";
    let answer = client::send(pair.vip(), request).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("ratings\nGET /0?x=1 HTTP/1.1"), "{answer:?}");
    assert!(answer.body.contains("By=spiffe://cluster.local/ns/default/sa/ratings;Hash="), "{answer:?}");
    assert!(answer.body.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer:?}");
    assert!(answer.body.contains("x-request-id: "), "{answer:?}");
    assert!(!answer.body.contains("x-mesh-peer") && !answer.body.contains("By=me"), "{answer:?}");
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert!(answer.header("x-envoy-upstream-service-time").is_some());

    // The HTTP proxy port: absolute-form, short and full names, with and without port.
    for url in [
        "http://ratings:9080/1",
        "http://ratings/1",
        "http://ratings.default/1",
        "http://ratings.default.svc.cluster.local:9080/1",
    ] {
        let answer = client::proxied(pair.reviews.proxy(), url).await.unwrap();
        assert_eq!(answer.status, 200, "{url}: {answer:?}");
        assert!(answer.body.starts_with("ratings\nGET /1 HTTP/1.1"), "{answer:?}");
    }
    assert!(pair.mesh.pilot.rejected().is_empty(), "{:?}", pair.mesh.pilot.rejected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_on_both_legs_and_all_requests_are_counted() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let mut connection = Connection::open(pair.vip()).await;
    for _ in 0..20 {
        assert_eq!(connection.get("ratings", "/").await.unwrap().status, 200);
    }
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
    for (pod, reporter, policy) in
        [(&pair.reviews, "source", "unknown"), (&pair.ratings, "destination", "mutual_tls")]
    {
        let told = async || {
            let metrics = client::get(pod.metrics(), "metrics", "/stats/prometheus").await.unwrap().body;
            metrics.lines().find(|l| l.starts_with("istio_requests_total{")).map(str::to_owned)
        };
        // The last one is counted when its client has it already.
        let all = || async { told().await.is_some_and(|line| line.ends_with(" 20")) };
        eventually("all are counted", all).await;
        let line = told().await.unwrap();
        for label in [
            format!("reporter=\"{reporter}\""),
            format!("connection_security_policy=\"{policy}\""),
            "source_workload=\"reviews\"".to_owned(),
            "source_principal=\"spiffe://cluster.local/ns/default/sa/reviews\"".to_owned(),
            "destination_workload=\"ratings\"".to_owned(),
            "destination_service_name=\"ratings\"".to_owned(),
            "response_code=\"200\"".to_owned(),
        ] {
            assert!(line.contains(&label), "{label} in {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_is_refused_in_words() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let unknown = client::proxied(pair.reviews.proxy(), "http://nowhere.example/").await.unwrap();
    assert_eq!(unknown.status, 502, "{unknown:?}");
    assert!(unknown.body.contains("nowhere.example"), "{unknown:?}");
    let empty = ServiceSpec { name: "empty", port: 80, vip: 3, protocol: Protocol::Http, pods: vec![] };
    pair.mesh.service(&empty);
    let proxy = pair.reviews.proxy();
    eventually("the empty service is known", || async move {
        let answer = client::proxied(proxy, "http://empty/").await.unwrap();
        answer.status == 503 && answer.body.contains("no_healthy_upstream")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_the_pilot_says_nothing_about_is_a_discovery_timeout() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let cold = ServiceSpec { name: "cold", port: 80, vip: 3, protocol: Protocol::Http, pods: vec![] };
    pair.mesh.pilot.mute("cold.default.svc.cluster.local:80");
    pair.mesh.announce(&cold);
    let proxy = pair.reviews.proxy();
    eventually("the name is known and its contents are not", || async move {
        let answer = client::proxied(proxy, "http://cold/").await.unwrap();
        answer.status == 503 && answer.body.contains("discovery_timeout")
    })
    .await;
    // A warm name still works.
    assert_eq!(client::proxied(proxy, "http://ratings/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_tried_elsewhere() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let mut all = endpoints(&[&pair.ratings]);
    for n in 0..2 {
        let mut dead = pair.ratings.endpoint();
        dead.uid = format!("dead-{n}");
        dead.address = format!("127.0.0.1:{}", 1 + n);
        all.endpoints.push(dead);
    }
    let name = format!("ratings.default.svc.cluster.local:{PORT}");
    pair.mesh.pilot.publish(mesh_proto::model::Kind::Endpoints, &name, &all);
    for n in 0..30 {
        let request = format!(
            "POST /{n} HTTP/1.1\r\nhost: ratings\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello"
        );
        let answer = client::send(pair.vip(), &request).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(app.count(), 30);
}

fn retrying(on: &[&str], attempts: u32) -> wire::RouteAction {
    wire::RouteAction {
        backends: vec![backend("ratings", PORT)],
        timeout: None,
        retry: Some(wire::RetryPolicy {
            attempts,
            retry_on: on.iter().map(ToString::to_string).collect(),
            backoff: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
            ..Default::default()
        }),
    }
}

async fn routed(app: &Origin, action: wire::RouteAction) -> Pair {
    let pair = pair(app).await;
    pair.route(Protocol::Http, route(action));
    // The demand comes after the publication: the first answer is by these routes.
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_are_retried_only_where_the_route_says_so() {
    let app = Origin::start("ratings").await;
    let post = "POST / HTTP/1.1\r\nhost: ratings\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
    let retried = routed(&app, retrying(&["5xx"], 2)).await;
    app.answer_with(&[500, 503]);
    let answer = client::send(retried.vip(), post).await.unwrap();
    assert_eq!((answer.status, app.count()), (200, 3), "{answer:?}");
    assert!(answer.body.contains("x-envoy-attempt-count: 3"), "{answer:?}");
    app.answer_with(&[500, 500, 500]);
    assert_eq!(client::send(retried.vip(), post).await.unwrap().status, 500);
    assert_eq!(app.count(), 6);
    drop(retried);

    let plain = pair(&app).await;
    app.answer_with(&[500]);
    assert_eq!(client::send(plain.vip(), post).await.unwrap().status, 500);
    assert_eq!(app.count(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_of_the_route_and_of_one_attempt() {
    let app = Origin::start("ratings").await;
    let mut action = retrying(&[], 0);
    action.timeout = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    let late = routed(&app, action).await;
    app.hang(1);
    let started = Instant::now();
    let answer = client::get(late.vip(), "ratings", "/").await.unwrap();
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!(answer.body.contains("response_timeout"), "{answer:?}");
    assert!(started.elapsed() >= Duration::from_millis(300));

    let mut action = retrying(&["5xx"], 1);
    let policy = action.retry.as_mut().unwrap();
    policy.per_try_timeout = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    late.route(Protocol::Http, route(action));
    let vip = late.vip();
    eventually("the new route is in force", || {
        let app = app.clone();
        async move {
            app.hang(1);
            let answer = client::get(vip, "ratings", "/").await.unwrap();
            answer.status == 200
        }
    })
    .await;
}

/// An application that speaks another protocol after its 101: it greets and echoes.
pub async fn upgrades() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi ";
                stream.write_all(switch.as_bytes()).await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// RFC 6455's handshake, then bytes both ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_connection_is_a_tunnel() {
    let app = upgrades().await;
    let pair = Pair::start(app, Protocol::Http, MtlsMode::MtlsStrict).await;
    let mut connection = Connection::open(pair.vip()).await;
    let upgrade = "GET /ws HTTP/1.1\r\nhost: ratings\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    connection.0.write_all(upgrade.as_bytes()).await.unwrap();
    let answer = connection.answer().await.unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
    let mut got = answer.body.into_bytes();
    connection.0.write_all(b"there").await.unwrap();
    while got.len() < 8 {
        assert!(connection.0.read_buf(&mut got).await.unwrap() > 0);
    }
    assert_eq!(got, b"hi there");
    connection.0.shutdown().await.unwrap();
    assert_eq!(connection.0.read_buf(&mut got).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_routes_requests_and_passes_bytes() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let mut connection = Connection::open(pair.reviews.proxy()).await;
    let connect = "CONNECT ratings:9080 HTTP/1.1\r\nhost: ratings:9080\r\n\r\n";
    connection.0.write_all(connect.as_bytes()).await.unwrap();
    assert_eq!(connection.answer().await.unwrap().status, 200);
    let answer = connection.get("ratings", "/in").await.unwrap();
    assert!(answer.body.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer:?}");

    let bad = client::send(pair.reviews.proxy(), "CONNECT ratings HTTP/1.1\r\nhost: ratings\r\n\r\n").await;
    assert_eq!(bad.unwrap().status, 400);

    // What would come back to this proxy, in every spelling, would go round for ever.
    let own = pair.reviews.ip;
    for target in [format!("{own}:15001"), format!("[::ffff:{own}]:15001"), format!("[::ffff:{own}]:15000")] {
        let answer = client::proxied(pair.reviews.proxy(), &format!("http://{target}/")).await.unwrap();
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
        let connect = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n");
        let answer = client::send(pair.reviews.proxy(), &connect).await.unwrap();
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_message_is_refused_and_never_reaches_an_application() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let smuggled = "POST / HTTP/1.1\r\nhost: ratings\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for at in [pair.vip(), pair.ratings.inbound()] {
        assert_eq!(client::send(at, smuggled).await.unwrap().status, 400);
    }
    assert!(app.seen.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_routes_by_host() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let listener = wire::Listener {
        port: 80,
        protocol: Protocol::Http.into(),
        virtual_hosts: vec![wire::VirtualHost {
            domains: vec!["shop.example".into(), "*.shop.example".into()],
            table: Some(route(retrying(&["connect-failure"], 2))),
            https_redirect: false,
        }],
        ..Default::default()
    };
    pair.mesh.pilot.publish(mesh_proto::model::Kind::Listener, "80", &listener);
    let mut spec = Spec::new("gateway", "127.0.0.1:1".parse().unwrap());
    spec.gateway = true;
    let gateway = pair.mesh.pod(spec).await;
    let at = std::net::SocketAddr::new(gateway.ip, 8080);
    eventually("the port opens", || async move { tokio::net::TcpStream::connect(at).await.is_ok() }).await;
    for host in ["shop.example", "a.b.shop.example", "shop.example:80"] {
        let answer = client::get(at, host, "/x").await.unwrap();
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert!(answer.body.contains("URI=spiffe://cluster.local/ns/default/sa/gateway"), "{answer:?}");
        assert!(answer.body.contains("x-forwarded-for: 127.0.0.1"), "{answer:?}");
    }
    // What an outsider says about itself and the mesh goes no further.
    let spoofed = "GET / HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\nx-forwarded-client-cert: spoof\r\n\
                   x-envoy-original-path: /spoof\r\nx-envoy-internal: spoof\r\nx-mesh-peer: spoof\r\n\
                   x-forwarded-proto: spoof\r\nx-forwarded-for: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\n\r\n";
    let answer = client::send(at, spoofed).await.unwrap();
    assert!(answer.status == 200 && !answer.body.contains("spoof"), "{answer:?}");
    assert!(answer.body.contains("x-forwarded-for: 6.6.6.6,7.7.7.7,127.0.0.1"), "{answer:?}");
    let other = client::get(at, "other.example", "/").await.unwrap();
    assert_eq!(other.status, 404, "{other:?}");
}

/// P6: whoever is no verified peer says nothing in a proxy's name, to a sidecar neither; and an application says nothing in the
/// mesh's name, to a peer's sidecar neither. What applications hand on from proxies (Istio's `x-envoy-*`) is their own to tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_only_proxies_say_what_proxies_say() {
    const FIELDS: [&str; 12] = [
        "x-mesh-unreached",
        "x-mesh-denied-by",
        "x-mesh-peer",
        "x-mesh-foo",
        "x-forwarded-client-cert",
        "x-envoy-peer-metadata",
        "x-envoy-peer-metadata-id",
        "x-envoy-original-path",
        "X-Envoy-Internal",
        "x-envoy-external-address",
        "x-envoy-attempt-count",
        "x-envoy-original-dst-host",
    ];
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let spoofs: String = FIELDS.iter().map(|name| format!("{name}: spoof\r\n{name}: again\r\n")).collect();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: ratings:9080\r\n{spoofs}x-forwarded-for: 6.6.6.6\r\nx-forwarded-proto: https\r\n\
         x-mine: kept\r\nconnection: close\r\n\r\n"
    );
    let plain = client::send(pair.ratings.inbound(), &request).await.unwrap();
    assert!(plain.status == 200 && !plain.body.contains("spoof"), "{plain:?}");
    let through = client::send(pair.vip(), &request).await.unwrap();
    for name in FIELDS.map(str::to_lowercase) {
        assert!(!plain.body.to_lowercase().contains(&name), "{name}: {plain:?}");
        let said = format!("{name}: spoof");
        let own =
            name.starts_with("x-envoy-") && !name.starts_with("x-envoy-peer") && !name.ends_with("count");
        assert_eq!(through.body.to_lowercase().contains(&said), own, "{said}: {through:?}");
    }
    for answer in [plain, through] {
        assert_eq!(answer.status, 200, "{answer:?}");
        for kept in ["x-forwarded-for: 6.6.6.6", "x-forwarded-proto: https", "x-mine: kept"] {
            assert!(answer.body.contains(kept), "{kept}: {answer:?}");
        }
        assert!(!answer.body.contains("x-mesh-"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_with_the_catalogue() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app).await;
    let vip = pair.vip();
    let mut connection = Connection::open(vip).await;
    assert_eq!(connection.get("ratings", "/").await.unwrap().status, 200);
    pair.mesh.withdraw("ratings");
    eventually("the listener closes", || async move { tokio::net::TcpStream::connect(vip).await.is_err() })
        .await;
    let gone = client::proxied(pair.reviews.proxy(), "http://ratings/").await.unwrap();
    assert_eq!(gone.status, 502, "{gone:?}");
    pair.mesh.announce(&Pair::service(Protocol::Http, &pair.ratings));
    eventually("the listener opens", || async move { tokio::net::TcpStream::connect(vip).await.is_ok() })
        .await;
    assert_eq!(client::get(vip, "ratings", "/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_share_the_ports_and_their_counts_add_up() {
    let app = Origin::start("ratings").await;
    let mesh = crate::support::Mesh::start().await;
    let ratings = mesh.pod(Spec { workers: 4, ..Spec::new("ratings", app.address) }).await;
    let reviews = mesh.pod(Spec { workers: 4, ..Spec::new("reviews", app.address) }).await;
    mesh.service(&Pair::service(Protocol::Http, &ratings));
    let vip = reviews.vip(2, PORT);
    eventually("the listener opens", || async move { tokio::net::TcpStream::connect(vip).await.is_ok() })
        .await;
    for _ in 0..40 {
        assert_eq!(client::get(vip, "ratings", "/").await.unwrap().status, 200);
    }
    let metrics = client::get(reviews.metrics(), "metrics", "/stats/prometheus").await.unwrap().body;
    let line = metrics.lines().find(|l| l.starts_with("istio_requests_total{")).unwrap().to_owned();
    assert!(line.ends_with(" 40"), "{line}");
}
