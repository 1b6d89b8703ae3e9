//! How mTLS between sidecars is spoken, and who is who: MeshConfig's `meshMTLS` and trust domain aliases, in force at once
//! on both sides; whom DestinationRules and ServiceEntries take for the right server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::{Kind, SpiffeId};
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1 as wire;
use rustls::NamedGroup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::{MtlsMode, Protocol};

use crate::support::client;
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Spec, host, policy};
use crate::support::origin::Origin;

const ORDERS: &str = "GET / HTTP/1.1\r\nhost: ratings\r\n\r\n";

/// Tells a pod how the mesh speaks TLS, and the names of its trust domain.
fn tell(pair: &Pair, pod: &str, tls: Option<wire::TlsParameters>, domains: &[&str]) {
    let mut spec = Spec::new(pod, pair.ratings.inbound());
    spec.mtls = MtlsMode::MtlsStrict;
    let mut config = Mesh::self_config(&spec);
    config.mesh_tls = tls;
    config.trust_domains = domains.iter().map(|name| (*name).to_owned()).collect();
    pair.mesh.pilot.publish_self(pod, &config);
}

fn curves(names: &[&str]) -> wire::TlsParameters {
    let ecdh_curves = names.iter().map(|name| (*name).to_owned()).collect();
    wire::TlsParameters { tls12: true, tls13: true, ecdh_curves, ..Default::default() }
}

async fn open(
    at: SocketAddr,
    identity: &Identity,
    change: impl FnOnce(rustls::ClientConfig) -> rustls::ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let expect = Expect::Exactly("spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap());
    let roots = identity.roots_handle().clone();
    let config = client_config(ClientIdentity::Mesh(identity), roots, expect, &[b"istio-http/1.1"]);
    let connector = TlsConnector::from(Arc::new(change(rustls::ClientConfig::clone(&config))));
    connector.connect("ratings.example".try_into().unwrap(), TcpStream::connect(at).await?).await
}

async fn answered(stream: &mut TlsStream<TcpStream>) -> bool {
    if stream.write_all(ORDERS.as_bytes()).await.is_err() {
        return false;
    }
    let mut all = Vec::new();
    while !String::from_utf8_lossy(&all).contains("host: ratings") {
        if stream.read_buf(&mut all).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    all.starts_with(b"HTTP/1.1 200")
}

/// `meshMTLS`: the server's side and the client's, without a restart; post-quantum key exchange unless it says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_it_is_spoken_changes_under_way() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let (at, identity) = (pair.ratings.inbound(), pair.mesh.ca.identity("default", "reviews"));
    let group = async || {
        let mut stream = open(at, &identity, |config| config).await.ok()?;
        answered(&mut stream)
            .await
            .then(|| stream.get_ref().1.negotiated_key_exchange_group().unwrap().name())
    };
    assert_eq!(group().await, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(client::get(pair.vip(), "ratings", "/").await.unwrap().status, 200);

    let old = |config: rustls::ClientConfig| {
        let with = rustls::ClientConfig::builder_with_provider(config.crypto_provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap();
        // Nobody's certificate is asked about here: versions come first.
        with.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    let too_old = async || {
        let refused = open(at, &identity, old).await.unwrap_err().to_string();
        refused.contains("ProtocolVersion")
    };
    assert!(!too_old().await, "TLS 1.2 is spoken");
    tell(&pair, "ratings", Some(wire::TlsParameters { tls13: true, ..Default::default() }), &[]);
    eventually("TLS 1.3 is the lowest", || async { too_old().await }).await;
    tell(&pair, "ratings", Some(curves(&["P-256"])), &[]);
    eventually("P-256 alone", || async { group().await == Some(NamedGroup::secp256r1) }).await;

    // The client's side: nothing in common, then something.
    tell(&pair, "reviews", Some(curves(&["P-384"])), &[]);
    let vip = pair.vip();
    let status = || async move { client::get(vip, "ratings", "/").await.map_or(0, |answer| answer.status) };
    eventually("there is no group in common", || async { status().await == 503 }).await;
    tell(&pair, "reviews", Some(curves(&["P-384", "P-256"])), &[]);
    eventually("there is one again", || async { status().await == 200 }).await;

    // What this build does not have is refused by name, and what was in force stays.
    tell(&pair, "ratings", Some(curves(&["P-224"])), &[]);
    let pilot = &pair.mesh.pilot;
    let refused = || async { pilot.rejected().iter().any(|r| r.contains("mesh_tls") && r.contains("P-224")) };
    eventually("the pilot is told", refused).await;
    assert_eq!(group().await, Some(NamedGroup::secp256r1));
}

/// `trustDomainAliases`: peers of an alias are let in and taken for the right server as long as it is one, and not longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aliases_of_the_trust_domain() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let at = pair.ratings.inbound();
    let old: SpiffeId = "spiffe://old.example/ns/default/sa/reviews".parse().unwrap();
    let leaf = pair.mesh.ca.leaf_for(&old, Duration::from_secs(3600));
    let identity = Identity::new(leaf, pair.mesh.ca.roots_handle());
    let let_in = async || match open(at, &identity, |config| config).await {
        Ok(mut stream) => answered(&mut stream).await.then_some(stream),
        Err(_) => None,
    };
    assert!(let_in().await.is_none(), "our root signed it, and nobody said that the domain is ours");
    tell(&pair, "ratings", None, &["cluster.local", "old.example"]);
    eventually("the alias is let in", || async { let_in().await.is_some() }).await;
    let mut kept = let_in().await.unwrap();

    // As the server: the endpoint is known by the other name, and shows its own.
    let mut endpoint = pair.ratings.endpoint();
    endpoint.identity = "spiffe://old.example/ns/default/sa/ratings".into();
    let all = wire::Endpoints { endpoints: vec![endpoint] };
    pair.mesh.pilot.publish(Kind::Endpoints, &format!("{}:{PORT}", host("ratings")), &all);
    let vip = pair.vip();
    let status = || async move { client::get(vip, "ratings", "/").await.map_or(0, |answer| answer.status) };
    eventually("another name is another identity", || async { status().await == 503 }).await;
    tell(&pair, "reviews", None, &["cluster.local", "old.example"]);
    eventually("it is the same one", || async { status().await == 200 }).await;

    // The migration is over: live connections end, too.
    tell(&pair, "ratings", None, &["cluster.local"]);
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), kept.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection ends");
    eventually("nobody of the alias is let in", || async { let_in().await.is_none() }).await;
}

/// `subjectAltNames` of a DestinationRule (or ServiceEntry) for TLS of the mesh: they alone count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_take_the_place_of_the_endpoints_identity() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let vip = pair.vip();
    let named = |tls: wire::UpstreamTls, names: &[&str]| {
        let subject_alt_names = names.iter().map(|n| format!("spiffe://cluster.local/ns/default/sa/{n}"));
        let client_tls =
            wire::ClientTls { subject_alt_names: subject_alt_names.collect(), ..Default::default() };
        let policy = wire::Policy { tls: tls.into(), client_tls: Some(client_tls), ..policy() };
        let cluster = wire::Cluster {
            name: Some(wire::HostPort { host: host("ratings"), port: PORT.into() }),
            policy: Some(policy),
            ..Default::default()
        };
        pair.mesh.pilot.publish(Kind::Cluster, &format!("{}:{PORT}", host("ratings")), &cluster);
    };
    for tls in [wire::UpstreamTls::Auto, wire::UpstreamTls::IstioMutual] {
        named(tls, &["somebody", "else"]);
        let refused = || async move {
            let answer = client::get(vip, "ratings", "/").await.unwrap();
            let names = ["sa/ratings", "sa/somebody or spiffe://cluster.local/ns/default/sa/else"];
            answer.status == 503 && names.iter().all(|name| answer.body.contains(name))
        };
        eventually("the endpoint's identity is not one of them", refused).await;
        named(tls, &["somebody", "ratings"]);
        let served = || async move { client::get(vip, "ratings", "/").await.is_ok_and(|a| a.status == 200) };
        eventually("it is", served).await;
    }
}
