//! PeerAuthentication, identities, and decisions that are revised while connections live.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_proto::model::Kind;
use mesh_proto::runtime::identity::{Identity, Leaf};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1::{MtlsMode, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::revision::{LIMIT, timely};
use crate::support::client::{self, Connection};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Spec, endpoints};
use crate::support::origin::Origin;

const MODES: [MtlsMode; 3] = [MtlsMode::MtlsStrict, MtlsMode::MtlsPermissive, MtlsMode::MtlsDisable];
const HTTP: &str = "GET / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n";

/// Opens mTLS to `at` as `identity`, as a sidecar would.
async fn handshake(
    at: SocketAddr,
    identity: &Identity,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let server = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
    let config = client_config(
        ClientIdentity::Mesh(identity),
        identity.roots_handle().clone(),
        Expect::Exactly(server),
        &[alpn],
    );
    let name = "outbound_.9080_._.ratings.default.svc.cluster.local".try_into().unwrap();
    let mut stream = TlsConnector::from(config).connect(name, TcpStream::connect(at).await?).await?;
    stream.write_all(HTTP.as_bytes()).await?;
    Ok(stream)
}

/// What comes back, up to the end.
async fn answer(stream: std::io::Result<TlsStream<TcpStream>>) -> String {
    let Ok(mut stream) = stream else { return String::new() };
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_and_mtls_under_each_mode() {
    for mode in MODES {
        let app = Origin::start("ratings").await;
        let pair = Pair::start(app.address, Protocol::Http, mode).await;
        let plain = client::send(pair.ratings.inbound(), HTTP).await;
        let identity = pair.mesh.ca.identity("default", "reviews");
        let mesh = answer(handshake(pair.ratings.inbound(), &identity, b"istio-http/1.1").await).await;
        let served = (plain.is_ok_and(|a| a.status == 200), mesh.starts_with("HTTP/1.1 200"));
        let expected = match mode {
            MtlsMode::MtlsStrict => (false, true),
            MtlsMode::MtlsPermissive => (true, true),
            MtlsMode::MtlsDisable => (true, false),
        };
        assert_eq!(served, expected, "{mode:?}");
        assert_eq!(app.count(), usize::from(served.0) + usize::from(served.1));
    }
}

/// Every first byte that there is, to a STRICT port of every protocol: nothing of it reaches the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plaintext_byte_passes_strict() {
    for protocol in [Protocol::Auto, Protocol::Http, Protocol::Grpc, Protocol::Tls, Protocol::Tcp] {
        let app = Origin::start("ratings").await;
        let pair = Pair::start(app.address, protocol, MtlsMode::MtlsStrict).await;
        let messages: [&[u8]; 4] = [
            HTTP.as_bytes(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x00\x01other",
            b"\x16\x03\x01\x00\x05hello",
        ];
        for bytes in messages {
            let mut stream = TcpStream::connect(pair.ratings.inbound()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            // At most a TLS alert comes back.
            assert!(!all.starts_with(b"HTTP"), "{protocol:?}: {:?}", String::from_utf8_lossy(&all));
        }
        assert!(app.seen.lock().is_empty(), "{protocol:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_valid_certificates_of_the_mesh_are_let_in() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let ca = &pair.mesh.ca;
    let at = pair.ratings.inbound();
    let roots = ca.roots_handle();
    let mut params = ca.leaf_params("spiffe://cluster.local/ns/default/sa/reviews", Duration::ZERO);
    params.not_after = time::OffsetDateTime::now_utc() - Duration::from_secs(30);
    let (chain, key) = ca.sign(params);
    let expired = Leaf::from_der(chain, key).unwrap();
    let foreign = TestCa::of("other.example").leaf("default", "reviews");
    let impostor = TestCa::of("cluster.local").leaf("default", "reviews");
    for (what, leaf) in [("expired", expired), ("foreign", foreign), ("impostor", impostor)] {
        let identity = Identity::new(leaf, roots.clone());
        let got = answer(handshake(at, &identity, b"istio-http/1.1").await).await;
        assert!(got.is_empty(), "{what}: {got}");
    }
    let good = answer(handshake(at, &ca.identity("default", "reviews"), b"istio-http/1.1").await).await;
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    assert_eq!(app.count(), 1);
}

/// Design §8: a valid certificate of another account behind the endpoint's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_identity_behind_an_address_is_refused_with_both_names() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let mut other = Spec::new("impostor", app.address);
    other.account = "impostor";
    let impostor = pair.mesh.pod(other).await;
    let mut all = endpoints(&[&pair.ratings]);
    all.endpoints[0].address = impostor.inbound().to_string();
    let name = format!("ratings.default.svc.cluster.local:{PORT}");
    pair.mesh.pilot.publish(Kind::Endpoints, &name, &all);
    let answer = client::get(pair.vip(), "ratings", "/").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    for name in
        ["spiffe://cluster.local/ns/default/sa/impostor", "spiffe://cluster.local/ns/default/sa/ratings"]
    {
        assert!(answer.body.contains(name), "{answer:?}");
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_plaintext_connection_ends_when_the_policy_turns_strict() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let mut plain = Connection::open(pair.ratings.inbound()).await;
    assert_eq!(plain.get("ratings", "/").await.unwrap().status, 200);
    let mut mesh = Connection::open(pair.vip()).await;
    assert_eq!(mesh.get("ratings", "/").await.unwrap().status, 200);

    pair.authenticate(Protocol::Http, MtlsMode::MtlsStrict);
    let mut byte = [0];
    let end = tokio::time::timeout(LIMIT, plain.0.read(&mut byte)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "closed, not answered");
    assert_eq!(mesh.get("ratings", "/").await.unwrap().status, 200, "mTLS goes on");
    assert!(client::send(pair.ratings.inbound(), HTTP).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_connection_ends_when_its_root_is_not_trusted_any_more() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let identity = pair.mesh.ca.identity("default", "reviews");
    let server = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
    let config = client_config(
        ClientIdentity::Mesh(&identity),
        identity.roots_handle().clone(),
        Expect::Exactly(server),
        &[b"istio-http/1.1"],
    );
    let trust = |root: &TestCa| {
        let bundle = mesh_proto::wire::mesh::v1::TrustBundle {
            trust_domain: "cluster.local".into(),
            roots: vec![root.root_der().to_vec().into()],
            ..Default::default()
        };
        let now = Instant::now();
        pair.mesh.pilot.publish(Kind::TrustBundle, "cluster.local", &bundle);
        now
    };
    let other = TestCa::of("cluster.local");
    timely("a connection whose root is not trusted any more", async || {
        let tcp = TcpStream::connect(pair.ratings.inbound()).await.unwrap();
        let name = "a.b".try_into().unwrap();
        let mut stream = TlsConnector::from(Arc::clone(&config)).connect(name, tcp).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: ratings\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains("host: ratings") {
            assert!(stream.read_buf(&mut all).await.unwrap() > 0);
        }
        let since = trust(&other);
        let end = async { while stream.read_buf(&mut all).await.unwrap_or(0) > 0 {} };
        tokio::time::timeout(LIMIT, end).await.expect("the connection ends");
        let took = since.elapsed();
        let at = trust(&pair.mesh.ca);
        let acked = || async { pair.mesh.pilot.acked("ratings").is_some_and(|acked| acked > at) };
        eventually("the root is back", acked).await;
        took
    })
    .await;
}

/// Says that nobody of `accounts` is to be believed. When: earlier than any proxy has acknowledged it.
fn taint(pair: &Pair, accounts: &[&str]) -> Instant {
    let name = |account: &&str| format!("spiffe://cluster.local/ns/default/sa/{account}");
    let bundle = mesh_proto::wire::mesh::v1::TrustBundle {
        trust_domain: "cluster.local".into(),
        roots: vec![pair.mesh.ca.root_der().to_vec().into()],
        tainted: accounts.iter().map(name).collect(),
        ..Default::default()
    };
    let now = Instant::now();
    pair.mesh.pilot.publish(Kind::TrustBundle, "cluster.local", &bundle);
    now
}

async fn forgiven(pair: &Pair, pod: &str) {
    let at = taint(pair, &[]);
    let acked = || async { pair.mesh.pilot.acked(pod).is_some_and(|acked| acked > at) };
    eventually("nobody is tainted", acked).await;
}

/// Requests that have reached it.
fn requests(app: &Origin) -> usize {
    String::from_utf8_lossy(&app.seen.lock()).matches("GET /").count()
}

async fn ends(stream: &mut TlsStream<TcpStream>) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    assert!(!String::from_utf8_lossy(&all).contains("200"), "{}", String::from_utf8_lossy(&all));
}

/// T11: who is revoked by name is thrown out whatever it is doing, and nobody else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tainted_client_loses_every_connection_and_gets_no_other() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let (at, ca) = (pair.ratings.inbound(), &pair.mesh.ca);
    let (stolen, honest) = (ca.identity("default", "stolen"), ca.identity("default", "honest"));
    timely("a tainted client's request", async || {
        let before = requests(&app);
        app.hang(2);
        let mut in_flight = handshake(at, &stolen, b"istio-http/1.1").await.unwrap();
        let mut others = handshake(at, &honest, b"istio-http/1.1").await.unwrap();
        eventually("both requests are under way", || async { requests(&app) == before + 2 }).await;
        let since = taint(&pair, &["stolen"]);
        tokio::time::timeout(LIMIT, ends(&mut in_flight)).await.expect("thrown out");
        let took = since.elapsed();
        assert!(answer(handshake(at, &stolen, b"istio-http/1.1").await).await.is_empty());
        // The other one's request goes on.
        let mut byte = [0];
        let waits = tokio::time::timeout(Duration::from_millis(200), others.read(&mut byte)).await;
        assert!(waits.is_err(), "{waits:?}");
        assert!(answer(handshake(at, &honest, b"istio-http/1.1").await).await.starts_with("HTTP/1.1 200"));
        forgiven(&pair, "ratings").await;
        took
    })
    .await;
}

/// The same for a server: its clients' sidecars let go of it, without its help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_to_a_tainted_server_any_more() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    timely("a request to a tainted server", async || {
        let before = requests(&app);
        app.hang(1);
        let mut waiting = Connection::open(pair.vip()).await;
        let request = "GET / HTTP/1.1\r\nhost: ratings\r\n\r\n";
        waiting.0.write_all(request.as_bytes()).await.unwrap();
        eventually("the request is under way", || async { requests(&app) == before + 1 }).await;
        let since = taint(&pair, &["ratings"]);
        let ended = tokio::time::timeout(LIMIT, waiting.answer()).await.expect("let go of");
        let took = since.elapsed();
        assert!(ended.as_ref().map_or(true, |answer| answer.status == 503), "{ended:?}");
        let refused = client::get(pair.vip(), "ratings", "/").await.unwrap();
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.body.contains("is tainted"), "{refused:?}");
        assert_eq!(requests(&app), before + 1);
        forgiven(&pair, "reviews").await;
        took
    })
    .await;
}

/// Certificates that live for seconds are replaced under load, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_loses_nothing() {
    let app = Origin::start("ratings").await;
    let mesh = crate::support::Mesh::start().await;
    *mesh.authority.life.lock() = Duration::from_secs(4);
    let ratings = mesh.pod(Spec::new("ratings", app.address)).await;
    let reviews = mesh.pod(Spec::new("reviews", app.address)).await;
    mesh.service(&Pair::service(Protocol::Http, &ratings));
    let vip = reviews.vip(2, PORT);
    eventually("the listener opens", || async move { TcpStream::connect(vip).await.is_ok() }).await;
    let mut connection = Connection::open(vip).await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        assert_eq!(connection.get("ratings", "/").await.unwrap().status, 200);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let certs = client::get(reviews.admin(), &reviews.admin().to_string(), "/certs").await.unwrap().body;
    let certs: serde_json::Value = serde_json::from_str(&certs).unwrap();
    assert!(certs["renewals"].as_u64().unwrap() >= 1, "{certs}");
}

/// Design §3.3: an mTLS connection lives at most until the earlier certificate expires, whatever goes on in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_an_end_ends_with_its_certificate() {
    let app = Origin::start("ratings").await;
    app.hang(1);
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let ca = &pair.mesh.ca;
    let mut params = ca.leaf_params("spiffe://cluster.local/ns/default/sa/reviews", Duration::ZERO);
    params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(4);
    let (chain, key) = ca.sign(params);
    let identity = Identity::new(Leaf::from_der(chain, key).unwrap(), ca.roots_handle());
    let stream = handshake(pair.ratings.inbound(), &identity, b"istio-http/1.1").await;
    assert!(stream.is_ok(), "{stream:?}");
    let end = tokio::time::timeout(Duration::from_secs(30), answer(stream)).await;
    assert_eq!(end.expect("the connection ends"), "");
    assert!(!app.seen.lock().is_empty(), "the request had reached the application");
}

/// A policy that cannot be enforced lets nothing in, and says so where that can be said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in_by_no_policy_is_told_which() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let mut config = Mesh::self_config(&Spec::new("ratings", app.address));
    config.deny_all = Some(mesh_proto::wire::mesh::v1::Origin {
        kind: "AuthorizationPolicy".into(),
        namespace: "default".into(),
        name: "nobody".into(),
        ..Default::default()
    });
    pair.mesh.pilot.publish_self("ratings", &config);
    let vip = pair.vip();
    eventually("the policy is in force", || async move {
        let answer = client::get(vip, "ratings", "/probe").await;
        answer.is_ok_and(|a| a.status == 403 && a.body.contains("AuthorizationPolicy default/nobody"))
    })
    .await;
    let plain = client::send(pair.ratings.inbound(), HTTP).await.unwrap();
    assert_eq!(plain.status, 403, "{plain:?}");
    assert!(app.lines().iter().all(|line| line == "GET /probe HTTP/1.1"), "{:?}", app.lines());
}

/// The application's own TLS on an undeclared port is not ours to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_tls_passes_a_permissive_port_untouched() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Auto, MtlsMode::MtlsPermissive).await;
    let identity = pair.mesh.ca.identity("default", "reviews");
    let expect = Expect::Exactly(identity.id().clone());
    let config = client_config(ClientIdentity::None, identity.roots_handle().clone(), expect, &[b"http/1.1"]);
    let mut client = rustls::ClientConnection::new(config, "a.example".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(pair.ratings.inbound()).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    eventually("the hello reaches the application", || {
        let (app, hello) = (app.clone(), hello.clone());
        async move { *app.seen.lock() == hello }
    })
    .await;
}

/// Design §3.2, 4: a pod that is dialled by its address gets it, with its own identity expected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_dialled_by_address_is_reached_with_mtls() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let mut workload = mesh_proto::wire::mesh::v1::Workload {
        address: pair.ratings.ip.to_string(),
        uid: "ratings".into(),
        identity: "spiffe://cluster.local/ns/default/sa/ratings".into(),
        ports: vec![mesh_proto::wire::mesh::v1::WorkloadPort {
            port: PORT.into(),
            protocol: Protocol::Http.into(),
            mtls: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    let ip = pair.ratings.ip.to_string();
    pair.mesh.pilot.publish(Kind::Workload, &ip, &workload);
    let url = format!("http://{ip}:{PORT}/");
    let answer = client::proxied(pair.reviews.proxy(), &url).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer:?}");

    // Another spelling of the address is no way around mTLS, and a pod's proxy is for that pod only.
    let mapped = format!("http://[::ffff:{ip}]:{PORT}/");
    let answer = client::proxied(pair.reviews.proxy(), &mapped).await.unwrap();
    assert!(answer.body.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer:?}");
    for port in [15000, 15001] {
        let url = format!("http://{ip}:{port}/");
        let answer = client::proxied(pair.reviews.proxy(), &url).await.unwrap();
        assert_eq!(answer.status, 403, "{answer:?}");
    }

    workload.identity = "spiffe://cluster.local/ns/default/sa/other".into();
    pair.mesh.pilot.publish(Kind::Workload, &ip, &workload);
    let proxy = pair.reviews.proxy();
    eventually("the other identity is expected", || {
        let url = url.clone();
        async move {
            let answer = client::proxied(proxy, &url).await.unwrap();
            answer.status == 503 && answer.body.contains("sa/other") && answer.body.contains("sa/ratings")
        }
    })
    .await;
}
