//! Gateways that speak TLS: certificates from Secrets and files, clients with certificates, names, redirects, passing on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_proto::model::Kind;
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::tls_server::Action;
use wire::{ClientCertificates, Protocol};

use crate::revision::{LIMIT, timely};
use crate::support::client;
use crate::support::eventually;
use crate::support::mesh::{PORT, Pair as Pods, Pod, Spec, backend, default_route};
use crate::support::origin::Origin;
use crate::support::tls::{Authority, Client, Pair};

pub(crate) fn from_secret(name: &str) -> wire::KeyPair {
    wire::KeyPair { source: Some(wire::key_pair::Source::Secret(name.into())) }
}

pub(crate) fn settings(
    pair: wire::KeyPair,
    clients: ClientCertificates,
    ca: Option<wire::CaCertificates>,
) -> wire::TlsSettings {
    wire::TlsSettings { key_pairs: vec![pair], clients: clients.into(), ca, ..Default::default() }
}

/// A server of some names; each of `hosts` is routed to `ratings`.
pub(crate) fn server(names: &[&str], hosts: &[&str], settings: wire::TlsSettings) -> wire::TlsServer {
    let table = || Some(default_route("ratings", PORT));
    let host = |host: &&str| wire::VirtualHost {
        domains: vec![(*host).to_owned()],
        table: table(),
        https_redirect: false,
    };
    wire::TlsServer {
        hosts: names.iter().map(|name| (*name).to_owned()).collect(),
        origin: None,
        action: Some(Action::Terminate(wire::TlsTermination {
            settings: Some(settings),
            virtual_hosts: hosts.iter().map(host).collect(),
            tcp: vec![],
        })),
    }
}

pub(crate) fn listener(servers: Vec<wire::TlsServer>) -> wire::Listener {
    wire::Listener { port: 443, protocol: Protocol::Tls.into(), tls_servers: servers, ..Default::default() }
}

pub(crate) fn secret(pair: &Pair, ca: &str) -> wire::Secret {
    wire::Secret {
        certificate_chain: pair.chain.clone().into(),
        private_key: pair.key.clone().into(),
        ca_certificates: ca.to_owned().into(),
        ..Default::default()
    }
}

pub(crate) struct Edge {
    pub(crate) pods: Pods,
    pub(crate) gateway: Pod,
    pub(crate) at: SocketAddr,
}

/// A gateway in front of `ratings` with a listener on 443.
pub(crate) async fn edge(app: &Origin, listener: &wire::Listener, secrets: &[(&str, wire::Secret)]) -> Edge {
    let pods = Pods::start(app.address, Protocol::Http, wire::MtlsMode::MtlsStrict).await;
    for (name, secret) in secrets {
        pods.mesh.pilot.publish(Kind::Secret, name, secret);
    }
    pods.mesh.pilot.publish(Kind::Listener, "443", listener);
    let mut spec = Spec::new("gateway", "127.0.0.1:1".parse().unwrap());
    spec.gateway = true;
    let gateway = pods.mesh.pod(spec).await;
    let at = SocketAddr::new(gateway.ip, 8443);
    Edge { pods, gateway, at }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_choose_certificates_and_routes() {
    let app = Origin::start("ratings").await;
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let none = ClientCertificates::None;
    let listener = listener(vec![
        server(
            &["a.example", "*.w.example"],
            &["a.example", "x.w.example"],
            settings(from_secret("ns/a"), none, None),
        ),
        server(&["b.example"], &["b.example"], settings(from_secret("ns/b"), none, None)),
    ]);
    let secrets = [
        ("ns/a", secret(&one.leaf(&["a.example", "*.w.example"]), "")),
        ("ns/b", secret(&two.leaf(&["b.example"]), "")),
    ];
    let edge = edge(&app, &listener, &secrets).await;
    let (first, second) = (Client::new(&one), Client::new(&two));
    let answer = first.get(edge.at, "a.example", "a.example").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("x-forwarded-proto: https"), "{answer:?}");
    // What an outsider says of itself goes no further, and the mesh behind has the gateway's identity.
    assert!(!answer.body.contains("spoof") && answer.body.contains("sa/gateway"), "{answer:?}");
    assert_eq!(first.get(edge.at, "x.w.example", "x.w.example").await.unwrap().status, 200);
    assert_eq!(second.get(edge.at, "b.example", "b.example").await.unwrap().status, 200);
    // The other server's name on this server's connection; a name that no server routes; one that none has.
    let misdirected = first.get(edge.at, "a.example", "b.example").await.unwrap();
    assert_eq!(misdirected.status, 421, "{misdirected:?}");
    assert_eq!(first.get(edge.at, "a.example", "y.w.example").await.unwrap().status, 404);
    assert!(first.connect(edge.at, "c.example").await.is_err());
    assert!(first.connect(edge.at, "127.0.0.1").await.is_err(), "without SNI there is no server");
    assert!(client::get(edge.at, "a.example", "/").await.is_err(), "plaintext is not answered");
    // Both versions of HTTP.
    for (offer, agreed) in [(&b"h2"[..], "h2"), (&b"http/1.1"[..], "http/1.1")] {
        let stream = first.clone().offering(&[offer]).connect(edge.at, "a.example").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_versions_that_are_wanted() {
    let app = Origin::start("ratings").await;
    let authority = Authority::new("one");
    let mut newest = settings(from_secret("ns/a"), ClientCertificates::None, None);
    newest.parameters = Some(wire::TlsParameters { tls13: true, ..Default::default() });
    let listener = listener(vec![server(&["a.example"], &["a.example"], newest)]);
    let edge = edge(&app, &listener, &[("ns/a", secret(&authority.leaf(&["a.example"]), ""))]).await;
    let client = Client::new(&authority);
    assert!(client.clone().only(&rustls::version::TLS12).connect(edge.at, "a.example").await.is_err());
    assert!(client.only(&rustls::version::TLS13).connect(edge.at, "a.example").await.is_ok());
}

/// T11 at an edge of the mesh (ISTIO_MUTUAL): who is revoked by name is thrown out, and nobody else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tainted_workload_loses_its_connection() {
    let app = Origin::start("ratings").await;
    let own = wire::KeyPair { source: Some(wire::key_pair::Source::Mesh(wire::Empty {})) };
    let roots = wire::CaCertificates { source: Some(wire::ca_certificates::Source::Mesh(wire::Empty {})) };
    let mutual = settings(own, ClientCertificates::Required, Some(roots));
    let listener = listener(vec![server(&["a.example"], &["a.example"], mutual)]);
    let edge = edge(&app, &listener, &[]).await;
    let (ca, at) = (&edge.pods.mesh.ca, edge.at);
    let (stolen, honest) = (ca.identity("default", "stolen"), ca.identity("default", "honest"));
    let open = async |identity: &Identity| {
        let expect = Expect::Exactly("spiffe://cluster.local/ns/default/sa/gateway".parse().unwrap());
        let roots = identity.roots_handle().clone();
        let config = client_config(ClientIdentity::Mesh(identity), roots, expect, &[b"http/1.1"]);
        let stream = TcpStream::connect(at).await?;
        let name = "a.example".try_into().unwrap();
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await?;
        Ok::<_, std::io::Error>(stream)
    };
    let answered = async |who: &Identity| match open(who).await {
        Ok(mut stream) => stream.read(&mut [0]).await.is_ok_and(|n| n == 1),
        Err(_) => false,
    };
    eventually("the server is there", async || answered(&honest).await).await;
    let seen = || String::from_utf8_lossy(&app.seen.lock()).matches("GET /").count();
    let taint = |tainted: &[&Identity]| {
        let bundle = wire::TrustBundle {
            trust_domain: "cluster.local".into(),
            roots: vec![ca.root_der().to_vec().into()],
            tainted: tainted.iter().map(|who| who.id().to_string()).collect(),
            ..Default::default()
        };
        // Earlier than its acknowledgement.
        let now = Instant::now();
        edge.pods.mesh.pilot.publish(Kind::TrustBundle, "cluster.local", &bundle);
        now
    };
    timely("a tainted workload's request to a gateway", async || {
        let before = seen();
        app.hang(2);
        let (mut thief, mut other) = (open(&stolen).await.unwrap(), open(&honest).await.unwrap());
        eventually("both requests are under way", async || seen() >= before + 2).await;
        let since = taint(&[&stolen]);
        let mut all = Vec::new();
        let end = tokio::time::timeout(LIMIT, thief.read_to_end(&mut all)).await;
        assert!(end.is_ok() && all.is_empty(), "thrown out: {end:?} {}", String::from_utf8_lossy(&all));
        let took = since.elapsed();
        let mut byte = [0];
        let waits = tokio::time::timeout(Duration::from_millis(200), other.read(&mut byte)).await;
        assert!(waits.is_err(), "{waits:?}");
        taint(&[]);
        eventually("it is forgiven", async || answered(&stolen).await).await;
        took
    })
    .await;
}

/// Without a Secret its server is not served; it comes, changes and goes while the gateway runs, and never is on its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_come_change_and_go() {
    let app = Origin::start("ratings").await;
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let listener =
        listener(vec![server(&["*"], &["*"], settings(from_secret("ns/a"), ClientCertificates::None, None))]);
    let edge = edge(&app, &listener, &[]).await;
    let (pilot, at) = (edge.pods.mesh.pilot.clone(), edge.at);
    let (first, second) = (Client::new(&one), Client::new(&two));
    assert!(first.connect(at, "a.example").await.is_err());
    let told = |what: &'static str| {
        let pilot = pilot.clone();
        move || {
            let troubles = pilot.troubles();
            async move { troubles.iter().any(|t| t.contains(what)) || (what.is_empty() && troubles.is_empty()) }
        }
    };
    eventually("the missing Secret is told", told("there is no Secret ns/a")).await;
    let serves = |client: Client| {
        move || {
            let client = client.clone();
            async move { client.get(at, "a.example", "a.example").await.is_ok_and(|a| a.status == 200) }
        }
    };
    let leaf = one.leaf(&["a.example"]);
    pilot.publish(Kind::Secret, "ns/a", &secret(&leaf, ""));
    eventually("it is served", serves(first.clone())).await;
    eventually("nothing is wrong any more", told("")).await;
    // Garbage is refused by name, and the last good one stays.
    let other = one.leaf(&["a.example"]);
    let garbage = wire::Secret { private_key: other.key.into(), ..secret(&leaf, "") };
    pilot.publish(Kind::Secret, "ns/a", &garbage);
    let rejected =
        || async { pilot.rejected().iter().any(|r| r.contains("secret/ns/a") && r.contains("not that of")) };
    eventually("garbage is refused", rejected).await;
    assert!(pilot.rejected().iter().all(|r| !r.contains("PRIVATE KEY")));
    assert_eq!(first.get(at, "a.example", "a.example").await.unwrap().status, 200);
    // A connection outlives the change of its certificate.
    let mut kept = first.connect(at, "a.example").await.unwrap();
    pilot.publish(Kind::Secret, "ns/a", &secret(&two.leaf(&["a.example"]), ""));
    eventually("the new one is shown", serves(second)).await;
    kept.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    pilot.withdraw(Kind::Secret, "ns/a");
    let closed = || async { first.connect(at, "a.example").await.is_err() };
    eventually("it is not served any more", closed).await;
    // The writer of the state is not faster than what it writes: what is there at the end was there before.
    let state = edge.pods.mesh.state_of(&edge.gateway.name).join("xds");
    let mut gateway = edge.gateway;
    gateway.stop();
    gateway.ended().await;
    let files: Vec<_> =
        std::fs::read_dir(state).unwrap().map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect();
    assert!(files.len() > 2, "the other resources are there");
    assert!(files.iter().all(|f| !String::from_utf8_lossy(f).contains("PRIVATE KEY")));
}

/// MUTUAL, certificates in files: who has no certificate of the CA is not let in; the application reads who it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t10_clients_show_certificates_and_files_come_late() {
    let app = Origin::start("ratings").await;
    let (authority, stranger) = (Authority::new("one"), Authority::new("stranger"));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let files = wire::FileKeyPair { certificate_chain: path("tls.crt"), private_key: path("tls.key") };
    let pair = wire::KeyPair { source: Some(wire::key_pair::Source::Files(files)) };
    let ca = wire::CaCertificates { source: Some(wire::ca_certificates::Source::File(path("ca.crt"))) };
    let listener =
        listener(vec![server(&["*"], &["*"], settings(pair, ClientCertificates::Required, Some(ca)))]);
    let edge = edge(&app, &listener, &[]).await;
    let (pilot, at) = (edge.pods.mesh.pilot.clone(), edge.at);
    let missing =
        || async { pilot.troubles().iter().any(|t| t.contains("tls.crt") && t.contains("not served")) };
    eventually("the missing file is told", missing).await;
    authority.leaf(&["a.example"]).write(dir.path());
    // Row T10: a server that does not know yet whom to trust takes nobody for a client, rather than everybody.
    let nobody =
        || async { pilot.troubles().iter().any(|t| t.contains("ca.crt") && t.contains("not served")) };
    eventually("the missing CA is told", nobody).await;
    let showing = Client::new(&authority).showing(&authority.leaf(&["client.example"]));
    for client in [Client::new(&authority), showing] {
        assert!(client.get(at, "a.example", "a.example").await.is_err());
    }
    std::fs::write(dir.path().join("ca.crt"), authority.root()).unwrap();
    let good = Client::new(&authority).showing(&authority.leaf(&["client.example"]));
    let serves = || async { good.get(at, "a.example", "a.example").await.is_ok_and(|a| a.status == 200) };
    eventually("the files are there", serves).await;
    let answer = good.get(at, "a.example", "a.example").await.unwrap();
    let told = answer.body.lines().find(|l| l.starts_with("x-forwarded-client-cert")).unwrap().to_owned();
    for part in ["Hash=", ";Subject=\"", ";DNS=client.example", ";URI=urn:outside", ",By=spiffe://"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("spoof"), "{told}");
    // TLS 1.3 tells a client after its handshake: the request is what fails.
    let without = Client::new(&authority).get(at, "a.example", "a.example").await;
    assert!(without.is_err(), "{without:?}");
    let strange = Client::new(&authority).showing(&stranger.leaf(&["client.example"]));
    assert!(strange.get(at, "a.example", "a.example").await.is_err());
    let before = app.count();
    // Garbage changes nothing but what is told.
    std::fs::write(dir.path().join("tls.key"), "garbage").unwrap();
    let garbage = || async {
        pilot
            .troubles()
            .iter()
            .any(|t| t.contains("no private key in PEM") && t.contains("last good one stays"))
    };
    eventually("garbage is told", garbage).await;
    assert_eq!(good.get(at, "a.example", "a.example").await.unwrap().status, 200);
    assert_eq!(app.count(), before + 1);
    // Another CA: who was let in before is not any more, on a connection that is open neither.
    let mut kept = good.connect(at, "a.example").await.unwrap();
    authority.leaf(&["a.example"]).write(dir.path());
    std::fs::write(dir.path().join("ca.crt"), stranger.root()).unwrap();
    let let_in = || async { strange.get(at, "a.example", "a.example").await.is_ok_and(|a| a.status == 200) };
    eventually("the new CA is in force", let_in).await;
    let before = app.count();
    kept.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), kept.read_to_string(&mut answer)).await;
    // Closed before it was answered, or answered with a refusal.
    assert!(read.is_ok() && !answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(app.count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_sent_to_https() {
    let app = Origin::start("ratings").await;
    let host = |domain: &str, https_redirect| wire::VirtualHost {
        domains: vec![domain.to_owned()],
        table: Some(default_route("ratings", PORT)),
        https_redirect,
    };
    let plain = wire::Listener {
        port: 80,
        target_port: 8081,
        virtual_hosts: vec![host("a.example", true), host("b.example", false)],
        ..Default::default()
    };
    let edge = edge(&app, &listener(vec![]), &[]).await;
    edge.pods.mesh.pilot.publish(Kind::Listener, "80", &plain);
    // The Service's port is 80, what is bound is its target.
    let at = SocketAddr::new(edge.gateway.ip, 8081);
    eventually("the port opens", || async move { tokio::net::TcpStream::connect(at).await.is_ok() }).await;
    let answer = client::get(at, "a.example:80", "/x?y=1").await.unwrap();
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://a.example/x?y=1")));
    assert_eq!(client::get(at, "b.example", "/x").await.unwrap().status, 200);
    assert_eq!(app.count(), 1);
}

/// Passed on as it comes: the certificate is the application's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_passed_on_by_name() {
    let app = Origin::start("ratings").await;
    let authority = Authority::new("one");
    let rule = wire::TcpRule { backends: vec![backend("ratings", PORT)], ..Default::default() };
    let passed = wire::TlsServer {
        hosts: vec!["a.example".into()],
        origin: None,
        action: Some(Action::Forward(rule)),
    };
    // The application of this story speaks TLS by itself: another gateway does.
    let inner = listener(vec![server(
        &["a.example"],
        &["a.example"],
        settings(from_secret("ns/a"), ClientCertificates::None, None),
    )]);
    let inner = edge(&app, &inner, &[("ns/a", secret(&authority.leaf(&["a.example"]), ""))]).await;
    let pods = Pods::start(inner.at, Protocol::Tcp, wire::MtlsMode::MtlsStrict).await;
    pods.mesh.pilot.publish(Kind::Listener, "443", &listener(vec![passed]));
    let mut spec = Spec::new("outer", "127.0.0.1:1".parse().unwrap());
    spec.gateway = true;
    let outer = pods.mesh.pod(spec).await;
    let at = SocketAddr::new(outer.ip, 8443);
    let client = Client::new(&authority);
    let answers = || async { client.get(at, "a.example", "a.example").await.is_ok_and(|a| a.status == 200) };
    eventually("it is passed on", answers).await;
    assert!(client.connect(at, "b.example").await.is_err());
}
