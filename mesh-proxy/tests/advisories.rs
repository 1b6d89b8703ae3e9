//! What went wrong in other proxies, tried on this one over real sockets. Each test has the name of its row.

use std::net::SocketAddr;

use mesh_proto::model::Kind;
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::{MtlsMode, Protocol};

use crate::support::client;
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Pod, Spec, backend, default_route};
use crate::support::origin::Origin;
use crate::support::tls::{Authority, Client};

/// Writes, and reads until the other side ends; text of what came.
async fn talk(at: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(sent).await;
    read(&mut stream).await
}

async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut all = Vec::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), stream.read_to_end(&mut all)).await;
    assert!(ended.is_ok(), "the connection stays open: {:?}", String::from_utf8_lossy(&all));
    String::from_utf8_lossy(&all).into_owned()
}

/// A request over TLS, as `who`, who trusts as `identity` does; empty if it was not let in.
async fn over_mtls(at: SocketAddr, who: ClientIdentity<'_>, identity: &Identity, alpn: &[&[u8]]) -> String {
    let get = "GET / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n";
    ask(at, who, identity, alpn, get).await
}

async fn ask(
    at: SocketAddr,
    who: ClientIdentity<'_>,
    identity: &Identity,
    alpn: &[&[u8]],
    request: &str,
) -> String {
    let server = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
    let config = client_config(who, identity.roots_handle().clone(), Expect::Exactly(server), alpn);
    let name = "outbound_.9080_._.ratings.default.svc.cluster.local".try_into().unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let Ok(mut stream) = TlsConnector::from(config).connect(name, stream).await else { return String::new() };
    let _ = stream.write_all(request.as_bytes()).await;
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8_lossy(&all).into_owned()
}

async fn pair(app: &Origin, mtls: MtlsMode) -> Pair {
    Pair::start(app.address, Protocol::Http, mtls).await
}

async fn gateway(mesh: &Mesh, listener: &wire::Listener) -> Pod {
    mesh.pilot.publish(Kind::Listener, &listener.port.to_string(), listener);
    mesh.pod(Spec { gateway: true, ..Spec::new("edge", SocketAddr::from(([127, 0, 0, 1], 1))) }).await
}

fn host(domain: &str) -> wire::VirtualHost {
    wire::VirtualHost {
        domains: vec![domain.into()],
        table: Some(default_route("ratings", PORT)),
        https_redirect: false,
    }
}

/// A protocol's name says what is inside, never who it is: a STRICT port wants a certificate whatever is offered, and a
/// PERMISSIVE one passes TLS without the mesh's names on as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t2_no_alpn_takes_the_place_of_a_certificate() {
    let app = Origin::start("ratings").await;
    let mut pair = pair(&app, MtlsMode::MtlsStrict).await;
    let identity = pair.mesh.ca.identity("default", "reviews");
    let at = pair.ratings.inbound();
    let names: [&[&[u8]]; 6] =
        [&[], &[b"h2"], &[b"http/1.1"], &[b"istio-peer-exchange"], &[b"ISTIO"], &[b"istio-http/1.1"]];
    for alpn in names {
        let nobody = over_mtls(at, ClientIdentity::None, &identity, alpn).await;
        assert_eq!(nobody, "", "{alpn:?}");
    }
    assert!(app.seen.lock().is_empty());
    let us = ClientIdentity::Mesh(&identity);
    for alpn in names {
        let told = over_mtls(at, us, &identity, alpn).await;
        assert!(
            told.is_empty() || told.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"),
            "{told}"
        );
    }
    assert!(over_mtls(at, us, &identity, names[5]).await.starts_with("HTTP/1.1 200"));
    app.seen.lock().clear();
    pair = Pair::start(app.address, Protocol::Auto, MtlsMode::MtlsPermissive).await;
    for alpn in &names[..5] {
        // The application, which speaks no TLS, gets the client's own bytes, and nobody's name.
        let stream = TcpStream::connect(pair.ratings.inbound()).await.unwrap();
        let config = client_config(us, identity.roots_handle().clone(), Expect::OneOf(vec![]), alpn);
        let name = "ratings.default".try_into().unwrap();
        let opening = TlsConnector::from(config).connect(name, stream);
        let opened = tokio::time::timeout(std::time::Duration::from_millis(100), opening).await;
        assert!(!matches!(opened, Ok(Ok(_))), "{alpn:?}");
    }
    let seen = app.seen.lock();
    assert!(seen.starts_with(&[0x16, 3]) && !String::from_utf8_lossy(&seen).contains("spiffe"));
}

/// Alerts of kinds that nobody knows, at every moment of a handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t12_an_unknown_alert_harms_nobody() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app, MtlsMode::MtlsStrict).await;
    let at = pair.ratings.inbound();
    for (level, kind) in [(0, 0), (1, 255), (2, 255), (2, 200), (255, 255)] {
        let alert = [0x15, 3, 3, 0, 2, level, kind];
        talk(at, &alert).await;
        // Behind a hello, as the server's first flight comes back.
        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut hello = mesh_hello(&pair);
        hello.extend(alert);
        hello.extend(alert);
        stream.write_all(&hello).await.unwrap();
        stream.shutdown().await.unwrap();
        read(&mut stream).await;
    }
    assert_eq!(client::get(pair.vip(), "ratings", "/").await.unwrap().status, 200);
    assert_eq!(app.count(), 1);
}

/// The first bytes of a sidecar's connection.
fn mesh_hello(pair: &Pair) -> Vec<u8> {
    let identity = pair.mesh.ca.identity("default", "reviews");
    let roots = identity.roots_handle().clone();
    let config =
        client_config(ClientIdentity::Mesh(&identity), roots, Expect::OneOf(vec![]), &[b"istio-http/1.1"]);
    let mut connection =
        rustls::ClientConnection::new(config, "ratings.default".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A gateway that passes TLS on does so for the names of its servers; what the mesh calls its services inside is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t13_outsiders_name_no_internal_service() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Tcp, MtlsMode::MtlsStrict).await;
    let rule = wire::TcpRule { backends: vec![backend("ratings", PORT)], ..Default::default() };
    let passed = wire::TlsServer {
        hosts: vec!["open.example".into()],
        origin: None,
        action: Some(wire::tls_server::Action::Forward(rule)),
    };
    let listener = wire::Listener {
        port: 443,
        protocol: Protocol::Tls.into(),
        tls_servers: vec![passed],
        ..Default::default()
    };
    let edge = gateway(&pair.mesh, &listener).await;
    let at = SocketAddr::new(edge.ip, 8443);
    let authority = Authority::new("one");
    // The hello comes through to an application that speaks no TLS.
    eventually("the open name is passed on", || async {
        let _ = tokio::time::timeout(
            std::time::Duration::from_millis(200),
            Client::new(&authority).connect(at, "open.example"),
        )
        .await;
        !app.seen.lock().is_empty()
    })
    .await;
    app.seen.lock().clear();
    let before = app.connections.load(std::sync::atomic::Ordering::SeqCst);
    for name in [
        "outbound_.9080_._.ratings.default.svc.cluster.local",
        "ratings.default.svc.cluster.local",
        "ratings.default",
        "ratings",
        "x.open.example",
        "open.example.evil",
    ] {
        assert!(Client::new(&authority).connect(at, name).await.is_err(), "{name}");
    }
    assert_eq!(app.connections.load(std::sync::atomic::Ordering::SeqCst), before);
}

/// What could be absent, in front of policies that look at it, tokens, and a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p11_odd_targets_are_answered() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app, MtlsMode::MtlsPermissive).await;
    let mut config = Mesh::self_config(&Spec::new("ratings", app.address));
    config.access_log = true;
    let matches = |attribute: &str, value: &str| wire::AuthorizationMatch {
        attribute: attribute.into(),
        values: vec![value.into()],
        not_values: vec![],
    };
    let when = [("request.host", "secret.com"), ("request.path", "/admin*"), ("request.headers[x-a]", "b")];
    config.authorization = when
        .iter()
        .map(|(attribute, value)| wire::AuthorizationPolicy {
            origin: Some(wire::Origin {
                name: "odd".into(),
                namespace: "default".into(),
                ..Default::default()
            }),
            action: wire::AuthorizationAction::AuthorizationDeny.into(),
            rules: vec![wire::AuthorizationRule {
                when: vec![matches(attribute, value)],
                ..Default::default()
            }],
            ports: vec![],
        })
        .collect();
    config.jwt_rules = vec![wire::JwtRule { issuer: "https://issuer".into(), ..Default::default() }];
    pair.mesh.pilot.publish_self("ratings", &config);
    let inbound = pair.ratings.inbound();
    eventually("the policies are in force", || async move {
        client::get(inbound, "ratings", "/admin").await.is_ok_and(|answer| answer.status == 403)
    })
    .await;
    for (sent, status) in [
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET /admin HTTP/1.0\r\n\r\n", 403),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("GET http://a? HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("GET /? HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("GET /?access_token=x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 401),
        ("GET ? HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 400),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("CONNECT :443 HTTP/1.1\r\nHost: :443\r\n\r\n", 400),
    ] {
        let told = talk(inbound, sent.as_bytes()).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{sent:?}: {told:?}");
    }
    // A tunnel to the application is what the application makes of it; to a host that is denied there is none.
    let denied = talk(
        inbound,
        b"CONNECT secret.com:443 HTTP/1.1\r\nHost: secret.com:443\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(denied.starts_with("HTTP/1.1 403 "), "{denied:?}");
    assert_eq!(client::get(pair.vip(), "ratings", "/").await.unwrap().status, 200);
}

/// Only what a certificate proves is told, and what a verified peer tells stands before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j14_who_is_asking_is_not_what_the_client_says() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app, MtlsMode::MtlsPermissive).await;
    let request = |more: &str| {
        format!(
            "GET / HTTP/1.1\r\nhost: ratings\r\nx-forwarded-client-cert: By=spoof;URI=spiffe://cluster.local/ns/default/sa/admin\r\n{more}connection: close\r\n\r\n"
        )
    };
    let aliases = "X_Forwarded_Client_Cert: URI=spoof\r\nx-mesh-peer: spoof\r\nx-envoy-peer-metadata: spoof\r\n\
                   x-envoy-peer-metadata-id: spoof\r\nConnection: x-forwarded-client-cert\r\n";
    let plain = client::send(pair.ratings.inbound(), &request(aliases)).await.unwrap();
    assert!(plain.status == 200 && !plain.body.contains("spoof"), "{plain:?}");
    assert!(!plain.body.to_lowercase().contains("forwarded-client-cert"), "{plain:?}");
    let behind = client::send(pair.vip(), &request(aliases)).await.unwrap();
    assert!(behind.status == 200 && !behind.body.contains("spoof"), "{behind:?}");
    assert_eq!(behind.body.matches("URI=").count(), 1, "{behind:?}");
    assert!(behind.body.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{behind:?}");
    // A peer that was verified (as a gateway is) may say whom it has verified. Who it is itself comes last.
    let identity = pair.mesh.ca.identity("default", "reviews");
    let told = ask(
        pair.ratings.inbound(),
        ClientIdentity::Mesh(&identity),
        &identity,
        &[b"istio-http/1.1"],
        &request(""),
    )
    .await;
    let line =
        told.lines().find(|line| line.starts_with("x-forwarded-client-cert: ")).expect("a line").to_owned();
    let (said, verified) = line.split_once(",By=").unwrap_or_else(|| panic!("{line}"));
    assert!(
        said.ends_with("sa/admin") && verified.ends_with("URI=spiffe://cluster.local/ns/default/sa/reviews")
    );
}

/// Nobody speaks the PROXY protocol to us: its lines name no client and are no requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_proxy_line_is_not_believed() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app, MtlsMode::MtlsPermissive).await;
    let listener = wire::Listener {
        port: 80,
        protocol: Protocol::Http.into(),
        virtual_hosts: vec![host("*")],
        ..Default::default()
    };
    let edge = gateway(&pair.mesh, &listener).await;
    let at = SocketAddr::new(edge.ip, 8080);
    eventually("the gateway serves", || async move {
        client::get(at, "a", "/").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let before = app.count();
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let v2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x06\x06\x06\x06\x01\x01\x01\x01\0\x50\0\x50";
    for line in [
        &b"PROXY TCP4 6.6.6.6 1.1.1.1 80 80\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP6 ::1 ::1 99999 0\r\n",
        v2,
    ] {
        for at in [at, pair.ratings.inbound()] {
            let told = talk(at, &[line, get.as_bytes()].concat()).await;
            assert!(told.starts_with("HTTP/1.1 400 "), "{:?}: {told:?}", String::from_utf8_lossy(line));
        }
    }
    assert_eq!(app.count(), before);
}

/// What clients choose names nothing that is counted: hosts, paths, methods, fields and names in hellos make no series.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_what_clients_say_makes_no_series() {
    let app = Origin::start("ratings").await;
    let pair = pair(&app, MtlsMode::MtlsPermissive).await;
    let (inbound, outbound) = (pair.ratings.inbound(), pair.reviews.proxy());
    let request = |i: usize, host: &str| {
        let method = if i.is_multiple_of(2) { "GET".to_owned() } else { format!("M{i}") };
        format!(
            "{method} /p{i}?q={i} HTTP/1.1\r\nhost: {host}\r\nuser-agent: a{i}\r\nx-{i}: {i}\r\nconnection: close\r\n\r\n"
        )
    };
    let authority = Authority::new("one");
    let round = async |from: usize, to: usize| {
        for i in from..to {
            let host = format!("h{i}.example");
            talk(inbound, request(i, &host).as_bytes()).await;
            talk(outbound, request(i, &host).replace("/p", &format!("http://{host}/p")).as_bytes()).await;
            let _ = Client::new(&authority).connect(inbound, &host).await;
        }
    };
    let series = async |at: SocketAddr| {
        let text = client::get(at, "metrics", "/stats/prometheus").await.unwrap().body;
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let all = async || (series(pair.ratings.metrics()).await, series(pair.reviews.metrics()).await);
    round(0, 10).await;
    let before = all().await;
    round(10, 110).await;
    assert_eq!(all().await, before);
}
