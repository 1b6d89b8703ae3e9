//! What is under way is decided again, also where it is on its way: waits for an answer about it, for its upstream, or for its
//! client's window.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use mesh_proto::model::Kind;
use mesh_proto::runtime::testing::TestIssuer;
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::gateway::{edge, from_secret, listener, secret, server, settings};
use crate::lasting::{begun, lasting};
use crate::revision::{Place, Places, Stream, path, status};
use crate::support::authorizer::{ByHttp, asking, publish};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Spec, host};
use crate::support::origin::Origin;
use crate::support::tls::{Authority, Client};

const SSE: &str = "GET /sse HTTP/1.1\r\nhost: ratings\r\n\r\n";
/// Longer than anything that is awaited takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes settings of the server's sidecar, and waits for their acknowledgement.
async fn acknowledged(places: &Places, config: &wire::SelfConfig) {
    let before = Instant::now();
    let pilot = &places.pair.mesh.pilot;
    pilot.publish_self("ratings", config);
    eventually("acknowledged", || async { pilot.acked("ratings").is_some_and(|at| at > before) }).await;
}

fn strict(app: SocketAddr) -> wire::SelfConfig {
    Mesh::self_config(&Spec { mtls: MtlsMode::MtlsStrict, ..Spec::new("ratings", app) })
}

fn with(token: &str, more: &str) -> String {
    SSE.replacen("\r\n\r\n", &format!("\r\n{more}authorization: Bearer {token}\r\n\r\n"), 1)
}

fn rule(issuer: &TestIssuer) -> wire::JwtRule {
    wire::JwtRule {
        issuer: issuer.name().into(),
        jwks: issuer.jwks().into_bytes().into(),
        ..Default::default()
    }
}

/// Reads to the end, which has to come.
async fn ends(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let end = async { while stream.read_buf(&mut all).await.is_ok_and(|n| n > 0) {} };
    tokio::time::timeout(PATIENCE, end).await.expect("it ends");
    all
}

/// Whether more of it comes.
async fn goes_on(stream: &mut Box<dyn Stream>) -> bool {
    let mut buffer = [0; 4096];
    for _ in 0..5 {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("more, or an end");
        if !read.is_ok_and(|n| n > 0) {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_that_waits_for_who_is_asked_ends_with_strict() {
    let authorizer = ByHttp::start().await;
    authorizer.says(200, "", "");
    let app = lasting().await;
    let places = Places::start(app, Protocol::Http).await;
    publish(&places.pair.mesh, authorizer.address, None);
    let custom = || asking(By::Http(wire::HttpAuthorization::default()));
    places.change(Place::Plaintext, Some(custom().into())).await;
    authorizer.hold(true);
    let mut plain = places.open(Place::Plaintext, b"").await;
    plain.write_all(SSE.as_bytes()).await.unwrap();
    eventually("asked", || async { !authorizer.asked.lock().is_empty() }).await;
    let config = wire::SelfConfig { external_authorization: Some(custom()), ..strict(app) };
    acknowledged(&places, &config).await;
    eventually("plaintext is refused", || async {
        let mut fresh = places.open(Place::Plaintext, b"").await;
        let _ = fresh.write_all(SSE.as_bytes()).await;
        !fresh.read(&mut [0; 64]).await.is_ok_and(|n| n > 0)
    })
    .await;
    authorizer.hold(false);
    let got = ends(&mut plain).await;
    let got = String::from_utf8_lossy(&got);
    assert!(!got.contains("200 OK") && !got.contains("event"), "{got}");
}

/// An application that takes no connection until it is told to; then what it is sent.
async fn late() -> (SocketAddr, oneshot::Sender<()>, Arc<Mutex<Vec<String>>>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (go, wait) = oneshot::channel::<()>();
    let taken = Arc::<Mutex<Vec<String>>>::default();
    let told = taken.clone();
    let mut fill = Vec::new();
    for _ in 0..2 {
        fill.push(TcpStream::connect(address).await.unwrap());
    }
    tokio::spawn(async move {
        let _ = wait.await;
        drop(fill);
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let mut all = Vec::new();
                while stream.read_buf(&mut all).await.is_ok_and(|n| n > 0) {
                    told.lock().push(String::from_utf8_lossy(&all).into_owned());
                }
            });
        }
    });
    (address, go, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_forbidden_while_it_waits_for_its_upstream_is_never_sent() {
    let (app, go, taken) = late().await;
    let places = Places::start(app, Protocol::Http).await;
    let mut stream = places.open(Place::Plaintext, b"").await;
    stream
        .write_all(b"POST /secret HTTP/1.1\r\nhost: ratings\r\ncontent-length: 3\r\n\r\npay")
        .await
        .unwrap();
    let mut other = places.open(Place::Plaintext, b"").await;
    other.write_all(b"POST /open HTTP/1.1\r\nhost: ratings\r\ncontent-length: 3\r\n\r\npay").await.unwrap();
    // Both are on their way: a request that comes later is looked at after them.
    tokio::time::sleep(Duration::from_millis(300)).await;
    places.change(Place::Plaintext, Some(path("/secret").into())).await;
    go.send(()).unwrap();
    let status = tokio::time::timeout(PATIENCE, status(&mut stream)).await.expect("an answer");
    assert_eq!(status, Some(403));
    eventually("what is not forbidden comes", || async {
        taken.lock().iter().any(|got| got.contains("/open"))
    })
    .await;
    assert!(!taken.lock().iter().any(|got| got.contains("/secret")), "{:?}", taken.lock());
}

/// An application that answers with a megabyte at once.
async fn big() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    let _ = send.send_data(Bytes::from(vec![b'x'; 1_000_000]), true);
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_takes_nothing_is_cut_too() {
    let app = big().await;
    let places = Places::start(app, Protocol::Http).await;
    let stream = places.open(Place::Plaintext, b"").await;
    let mut builder = h2::client::Builder::new();
    let (send, connection) = builder.initial_window_size(1000).handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut send = send.ready().await.unwrap();
    let request = Request::get("http://ratings/big").body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap().len(), 1000);
    acknowledged(&places, &strict(app)).await;
    // No window is given back.
    let next = tokio::time::timeout(PATIENCE, body.data()).await.expect("it is reset");
    assert!(next.is_none_or(|next| next.is_err()), "bytes in plaintext");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_ends_nothing_though_the_rule_came_later() {
    let places = Places::start(lasting().await, Protocol::Http).await;
    let issuer = TestIssuer::new("https://a", "ES256");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    // Good for a few seconds more: what is too old by less than a minute is taken.
    let token = issuer.sign(json!({ "sub": "ann", "exp": now - 54 }));
    let mut stream = begun(&places, Place::Plaintext, &with(&token, "")).await;
    places.change(Place::Plaintext, Some(vec![rule(&issuer)].into())).await;
    eventually("a new request with it is refused", || async {
        let mut fresh = places.open(Place::Plaintext, b"").await;
        fresh.write_all(with(&token, "").as_bytes()).await.unwrap();
        status(&mut fresh).await == Some(401)
    })
    .await;
    // Something that has to do with it, and something that has not.
    let other = TestIssuer::new("https://b", "ES256");
    places.change(Place::Plaintext, Some(vec![rule(&issuer), rule(&other)].into())).await;
    places.pair.mesh.pilot.publish(Kind::Catalogue, "other", &wire::Catalogue::default());
    assert!(goes_on(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_asked_about_need_not_be_again_for_other_settings() {
    let authorizer = ByHttp::start().await;
    authorizer.says(200, "", "");
    let places = Places::start(lasting().await, Protocol::Http).await;
    publish(&places.pair.mesh, authorizer.address, None);
    let custom = || asking(By::Http(wire::HttpAuthorization::default()));
    places.change(Place::Plaintext, Some(custom().into())).await;
    let mut stream = begun(&places, Place::Plaintext, SSE).await;
    let timeout = Some(prost_types::Duration { seconds: 11, nanos: 0 });
    let longer = wire::ExternalAuthorization { timeout, ..custom() };
    places.change(Place::Plaintext, Some(longer.into())).await;
    // Longer than what was not asked about is given.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(goes_on(&mut stream).await);
    let somebody_else = wire::ExternalAuthorization { provider: "another".into(), ..custom() };
    places.change(Place::Plaintext, Some(somebody_else.into())).await;
    ends(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_we_may_set_counts_for_nothing_though_the_rule_came_later() {
    let app = lasting().await;
    let places = Places::start(app, Protocol::Http).await;
    let issuer = TestIssuer::new("https://a", "ES256");
    let claim = |claim: &str| wire::ClaimToHeader { header: format!("x-{claim}"), claim: claim.into() };
    let admin = wire::AuthorizationMatch {
        attribute: "request.headers[x-role]".into(),
        values: vec!["admin".into()],
        not_values: vec![],
    };
    let policy = wire::AuthorizationPolicy {
        action: wire::AuthorizationAction::AuthorizationAllow.into(),
        rules: vec![wire::AuthorizationRule { when: vec![admin], ..Default::default() }],
        ..Default::default()
    };
    let mut config = Mesh::self_config(&Spec::new("ratings", app));
    let token = |role: &str| issuer.sign(json!({ "sub": "ann", "role": role, "team": "a" }));
    let spoofed = with(&token("guest"), "x-role: admin\r\n");
    // One began before there was any rule, one when there was a rule that knew nothing of the field.
    let mut before = begun(&places, Place::Plaintext, &spoofed).await;
    config.jwt_rules = vec![wire::JwtRule { output_claims: vec![claim("team")], ..rule(&issuer) }];
    acknowledged(&places, &config).await;
    let mut between = begun(&places, Place::Plaintext, &spoofed).await;
    let mut right = begun(&places, Place::Plaintext, &with(&token("admin"), "")).await;
    config.jwt_rules =
        vec![wire::JwtRule { output_claims: vec![claim("team"), claim("role")], ..rule(&issuer) }];
    config.authorization = vec![policy];
    acknowledged(&places, &config).await;
    ends(&mut before).await;
    ends(&mut between).await;
    assert!(goes_on(&mut right).await, "whose token says it would be let in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateways_client_has_under_way_ends_with_its_certificate() {
    let origin = Origin::start("ratings").await;
    let authority = Authority::new("one");
    let (good, bad) = (authority.numbered("good", 7), authority.numbered("bad", 8));
    let ca =
        Some(wire::CaCertificates { source: Some(wire::ca_certificates::Source::Secret("ns/a".into())) });
    let of = settings(from_secret("ns/a"), wire::ClientCertificates::Required, ca);
    let before = secret(&authority.leaf(&["a.example"]), &authority.root());
    let edge = edge(&origin, &listener(vec![server(&["*"], &["*"], of)]), &[("ns/a", before.clone())]).await;
    let app = lasting().await.to_string();
    let outside =
        wire::Endpoint { uid: app.clone(), address: app, ready: true, weight: 1, ..Default::default() };
    let name = format!("{}:{PORT}", host("ratings"));
    let endpoints = wire::Endpoints { endpoints: vec![outside] };
    edge.pods.mesh.pilot.publish(Kind::Endpoints, &name, &endpoints);
    let sse = SSE.replace("ratings", "a.example");
    let begin = async |by| {
        let mut stream = Client::new(&authority).showing(by).connect(edge.at, "a.example").await.unwrap();
        stream.write_all(sse.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        let began = async {
            while !all.ends_with(b"event\r\n") && stream.read_buf(&mut all).await.is_ok_and(|n| n > 0) {}
        };
        tokio::time::timeout(PATIENCE, began).await.expect("an answer");
        (String::from_utf8_lossy(&all).contains("event"), stream)
    };
    let begun = async |by| {
        for _ in 0..100 {
            if let (true, stream) = begin(by).await {
                return stream;
            }
        }
        panic!("the new endpoint never answers");
    };
    let (stays, mut goes) = (begun(&good).await, begun(&bad).await);
    let crl = authority.revoking(&[8], Duration::from_secs(3600));
    let revoking = wire::Secret { crl: crl.into(), ..before };
    edge.pods.mesh.pilot.publish(Kind::Secret, "ns/a", &revoking);
    ends(&mut goes).await;
    let mut stays: Box<dyn Stream> = Box::new(stays);
    assert!(goes_on(&mut stays).await, "whose certificate is as good as before");
}
