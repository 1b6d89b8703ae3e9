//! A pilot that follows the authority, and what comes of it: a root that takes another one's place under open connections,
//! an identity that is refused.

use std::os::unix::fs::PermissionsExt as _;

use mesh_proto::runtime::certificates::{CaConfig, authority_id, obtain, pilot_id};
use mesh_proto::runtime::grpc::channel;
use mesh_proto::runtime::identity::{Identity, Roots};
use mesh_proto::runtime::operator::HEADER;
use mesh_proto::runtime::tls::{
    ClientAuth, ClientIdentity, Expect, client_config, server_config, server_name,
};
use mesh_proto::wire::mesh::v1::authority_client::AuthorityClient;
use mesh_proto::wire::mesh::v1::{BundleReport, BundleState};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::admin::commands::{self, Door};
use crate::keeper::Request;
use crate::rotation::{Phase, Step};

fn settings(dir: &Path, address: SocketAddr, id: &SpiffeId) -> CaConfig {
    let name = id.service_account();
    let file = dir.join(format!("{name}.token"));
    std::fs::write(&file, token_of(id, Duration::from_secs(3600))).unwrap();
    CaConfig {
        address: address.to_string(),
        roots: dir.join("root.pem"),
        token: Some(file),
        identity: id.clone(),
        authority: authority_id(id.trust_domain()),
        state_dir: dir.join(format!("{name}.state")),
        ttl: None,
    }
}

/// The reports of a pilot, and what it hears.
type Following = (mpsc::Sender<BundleReport>, Streaming<BundleState>);

async fn follow(identity: &Identity, address: SocketAddr) -> Result<Following, Status> {
    let expect = Expect::Exactly(authority_id(identity.id().trust_domain()));
    let tls =
        client_config(ClientIdentity::Mesh(identity), identity.roots_handle().clone(), expect, &[b"h2"]);
    let mut client = AuthorityClient::new(channel(&address.to_string(), tls).unwrap());
    let (reports, outgoing) = mpsc::channel(4);
    let states = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok((reports, states))
}

/// What a proxy makes of what its pilot hears.
fn trust(identity: &Identity, state: &BundleState) {
    let bundle = &state.bundles[0];
    let domain = identity.id().trust_domain();
    let der = |der: &[u8]| CertificateDer::from(der.to_vec());
    let roots =
        Roots::none().with_domain(domain, bundle.roots.iter().map(|root| der(root)).collect()).unwrap();
    let tainted = bundle.tainted.iter().map(|id| id.parse().unwrap()).collect();
    let roots = roots.with_signing(domain, Some(der(&bundle.signing)));
    identity.swap_roots(roots.with_tainted(domain, tainted));
}

async fn call(from: &Identity, to: &Identity) -> std::io::Result<()> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let expect = Expect::Exactly(to.id().clone());
    let client = client_config(ClientIdentity::Mesh(from), from.roots_handle().clone(), expect, &[]);
    let server = server_config(to, ClientAuth::Required, &[]);
    let (mut server, mut client) = tokio::try_join!(
        TlsAcceptor::from(server).accept(far),
        TlsConnector::from(client).connect(server_name("b:1"), near)
    )?;
    client.write_all(b"x").await?;
    client.flush().await?;
    assert_eq!(server.read_u8().await?, b'x');
    Ok(())
}

fn rotate(step: Step) -> Request {
    Request::Rotate { step, force: false, automatic: false }
}

#[tokio::test]
async fn only_a_pilot_hears_whom_to_trust() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let pilot = pilot_id(id("a").trust_domain());
    let (pilot, _rotation) = obtain(settings(dir.path(), running.address, &pilot)).await;
    let (other, _other) = obtain(settings(dir.path(), running.address, &id("mesh-pilot"))).await;
    let refused = follow(&other, running.address).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let (_reports, mut states) = follow(&pilot, running.address).await.unwrap();
    let first = states.message().await.unwrap().unwrap();
    assert_eq!((first.sequence, first.bundles.len()), (1, 1));
    assert_eq!(first.bundles[0].roots, std::slice::from_ref(&first.bundles[0].signing));
    // At the end of the authority its streams end.
    tokio::time::timeout(Duration::from_secs(4), running.stop()).await.unwrap();
}

/// A pilot that follows.
struct Pilot {
    reports: mpsc::Sender<BundleReport>,
    states: Streaming<BundleState>,
}

impl Pilot {
    async fn hear(&mut self) -> BundleState {
        let state = tokio::time::timeout(Duration::from_secs(5), self.states.message()).await.unwrap();
        state.unwrap().unwrap()
    }

    /// Of two proxies, `behind` have not got `state`; until that is known.
    async fn say(&self, keeper: &Keeper, state: &BundleState, behind: u32) {
        let report = BundleReport {
            pilot: "mesh-pilot".to_owned(),
            sequence: state.sequence,
            proxies: 2,
            behind,
            waiting: vec!["default/a-0".to_owned()],
            ended: false,
        };
        self.reports.send(report).await.unwrap();
        let mut seen = false;
        while !seen {
            let now = keeper.status().await.unwrap();
            seen = now.pilots.iter().any(|p| p.behind == behind && p.sequence == state.sequence);
            tokio::task::yield_now().await;
        }
    }

    /// The last word of a pilot: both directions end when it was heard.
    async fn end(mut self) {
        let report = BundleReport { pilot: "mesh-pilot".to_owned(), ended: true, ..BundleReport::default() };
        self.reports.send(report).await.unwrap();
        drop(self.reports);
        while self.states.message().await.unwrap().is_some() {}
    }
}

/// Waits for another leaf than the one with this number.
async fn renewed(identity: &Identity, serial: &str) {
    let mut changes = identity.changed();
    let renewal = async {
        while identity.leaf().serial == serial {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(40), renewal).await.expect("a renewal before its time");
}

/// The whole way, with every certificate in use: at each step each of two workloads reaches the other, whoever has renewed.
#[tokio::test]
async fn a_root_takes_another_ones_place_under_connections() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let keeper = &running.keeper;
    let pilot_id = pilot_id(id("a").trust_domain());
    let (pilot, _rotation) = obtain(settings(dir.path(), running.address, &pilot_id)).await;
    let (a, _a) = obtain(settings(dir.path(), running.address, &id("a"))).await;
    let (b, _b) = obtain(settings(dir.path(), running.address, &id("b"))).await;
    let (reports, states) = follow(&pilot, running.address).await.unwrap();
    let mut pilot = Pilot { reports, states };
    pilot.hear().await;
    let old = a.leaf();
    keeper.command(&rotate(Step::Prepare)).await.unwrap();
    keeper.command(&rotate(Step::Publish)).await.unwrap();
    let published = pilot.hear().await;
    assert_eq!(published.bundles[0].roots.len(), 2);
    // One of them has heard.
    trust(&a, &published);
    call(&a, &b).await.unwrap();
    pilot.say(keeper, &published, 1).await;
    let refused = keeper.command(&rotate(Step::Activate)).await.unwrap_err().to_string();
    assert!(refused.contains("1 of 2 proxies have not got it: default/a-0"), "{refused}");
    trust(&b, &published);
    pilot.say(keeper, &published, 0).await;
    keeper.command(&rotate(Step::Activate)).await.unwrap();
    let activated = pilot.hear().await;
    assert_ne!(activated.bundles[0].signing, published.bundles[0].signing);
    // A newcomer has a certificate of the new root, and reaches those with old ones.
    let (c, _c) = obtain(settings(dir.path(), running.address, &id("c"))).await;
    for (from, to) in [(&a, &b), (&b, &a), (&c, &a), (&a, &c)] {
        call(from, to).await.unwrap();
    }
    // Who hears that another root signs renews before its time.
    trust(&a, &activated);
    renewed(&a, &old.serial).await;
    for (from, to) in [(&a, &b), (&b, &a)] {
        call(from, to).await.unwrap();
    }
    pilot.say(keeper, &activated, 0).await;
    let refused = keeper.command(&rotate(Step::Retire)).await.unwrap_err().to_string();
    assert!(refused.contains("certificates of the old root are valid for up to 3"), "{refused}");
    by_force(keeper, &mut pilot, &a, &b).await;
    let told = std::fs::read_to_string(dir.path().join("root.pem")).unwrap();
    assert_eq!(told.matches("BEGIN").count(), 1);
    pilot.end().await;
    let status = keeper.status().await.unwrap();
    assert!(status.pilots.len() == 1 && status.pilots[0].ended, "{status:?}");
    assert_eq!(status.waiting.as_deref(), Some("no pilot has said how its proxies stand"));
    running.stop().await;
}

/// The old root is retired while `b` has a certificate of it: it is refused, and renews at once.
async fn by_force(keeper: &Keeper, pilot: &mut Pilot, a: &Identity, b: &Identity) {
    let forced = Request::Rotate { step: Step::Retire, force: true, automatic: false };
    let status = keeper.command(&forced).await.unwrap();
    assert_eq!((status.roots.len(), status.rotation), (1, None));
    let retired = pilot.hear().await;
    let old = b.leaf();
    trust(a, &retired);
    assert!(call(b, a).await.is_err());
    trust(b, &retired);
    renewed(b, &old.serial).await;
    call(b, a).await.unwrap();
}

/// T11: revoked by name. No certificate, not by token either; no handshake; kept over a restart.
#[tokio::test]
async fn who_is_tainted_gets_nothing_and_reaches_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let (a, _a) = obtain(settings(dir.path(), running.address, &id("a"))).await;
    let (b, _b) = obtain(settings(dir.path(), running.address, &id("b"))).await;
    call(&a, &b).await.unwrap();
    let taint = Request::Taint { identity: id("a").to_string(), reason: "stolen".to_owned() };
    let status = running.keeper.command(&taint).await.unwrap();
    assert_eq!(
        (status.tainted[0].identity.as_str(), status.tainted[0].reason.as_str()),
        (id("a").as_str(), "stolen")
    );
    trust(&b, &running.keeper.told().borrow().wire());
    for error in [call(&a, &b).await.unwrap_err(), call(&b, &a).await.unwrap_err()] {
        assert!(!error.to_string().is_empty());
    }
    running.stop().await;
    let running = Running::start(dir.path(), 3600).await;
    let by_token = settings(dir.path(), running.address, &id("a"));
    let refused = mesh_proto::runtime::certificates::obtain_once(&by_token).await.unwrap_err().to_string();
    assert!(refused.contains("PermissionDenied") && refused.contains("tainted"), "{refused}");
    let untaint = Request::Untaint { identity: id("a").to_string() };
    running.keeper.command(&untaint).await.unwrap();
    assert!(mesh_proto::runtime::certificates::obtain_once(&by_token).await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn one_identity_may_not_ask_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let rate = crate::limit::Rate::new(0.1, 2.0).unwrap();
    let running = Running::start_with(dir.path(), 3600, rate).await;
    let (one, other) =
        (settings(dir.path(), running.address, &id("a")), settings(dir.path(), running.address, &id("b")));
    let ask = async |settings: &CaConfig| mesh_proto::runtime::certificates::obtain_once(settings).await;
    assert!(ask(&one).await.is_ok() && ask(&one).await.is_ok());
    let refused = ask(&one).await.unwrap_err().to_string();
    assert!(refused.contains("ResourceExhausted") && refused.contains("try again in 10 s"), "{refused}");
    assert!(ask(&other).await.is_ok(), "nobody else pays for it");
    running.stop().await;
}

/// C3, C6: the operator's door. Only its owner opens it; commands need POST, a header and a local host; nothing signs there.
#[tokio::test]
async fn the_operators_door() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 3600).await;
    let path = dir.path().join("ca.sock");
    std::fs::write(&path, "what a dead process left").unwrap();
    let door = Door::socket(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (drain, watch) = drain::channel();
    let serving = tokio::spawn(commands::serve(door, running.keeper.clone(), watch));
    let ask = async |head: &str, body: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let text = format!("{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let post = "POST /ca/command HTTP/1.1\r\nHost: localhost";
    let command = format!("{post}\r\n{HEADER}: 1");
    let prepare = r#"{"rotate":{"step":"prepare"}}"#;
    for (head, body, status) in [
        ("GET /ca/status HTTP/1.1\r\nHost: localhost", "", "200"),
        ("GET /ca/status HTTP/1.1\r\nHost: 127.0.0.1:15000", "", "200"),
        ("GET /ca/status HTTP/1.1\r\nHost: evil.test", "", "403"),
        ("GET /ca/command HTTP/1.1\r\nHost: localhost", "", "405"),
        (post, prepare, "403"),
        (&command.replace("localhost", "evil.test"), prepare, "403"),
        (&format!("{command}\r\nOrigin: http://localhost:15000"), prepare, "403"),
        (&command, "{}", "400"),
        (&command, r#"{"rotate":{"step":"explode"}}"#, "400"),
        (&command, r#"{"sign":{"identity":"spiffe://cluster.local/ns/a/sa/b"}}"#, "400"),
        (&command, r#"{"taint":{"identity":"nobody"}}"#, "400"),
        (&command, r#"{"rotate":{"step":"publish"}}"#, "409"),
        (&command, &"x".repeat(20_000), "400"),
        (&format!("POST /sign HTTP/1.1\r\nHost: localhost\r\n{HEADER}: 1"), "", "404"),
        (&command, prepare, "200"),
    ] {
        let answer = ask(head, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head} {body}: {answer}");
        assert!(!answer.contains("PRIVATE"), "{answer}");
    }
    assert_eq!(running.keeper.status().await.unwrap().rotation.unwrap().phase, Phase::Prepared);
    let state = dir.path().join("ca/state.json");
    assert_eq!(std::fs::metadata(state).unwrap().permissions().mode() & 0o777, 0o600);
    drain.start();
    serving.await.unwrap();
    assert!(!path.exists());
    running.stop().await;
    // Everybody's address is no place for commands.
    let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
    assert!(Door::loopback(everywhere).is_err());
    let here = TcpListener::bind("127.0.0.1:0").await.unwrap();
    assert!(Door::loopback(here).is_ok());
}

/// A root with little of its life left gets a successor by itself.
#[tokio::test]
async fn a_root_that_ends_soon_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::start(dir.path(), 60).await;
    running.keeper.look().await.unwrap();
    assert_eq!(running.keeper.status().await.unwrap().rotation, None, "most of its life is left");
    running.stop().await;
    // The same with a root of a minute: 90 % of its life are "soon".
    let (key, root) =
        crate::authority::material::self_signed(&"cluster.local".parse().unwrap(), Duration::from_secs(50))
            .unwrap();
    crate::authority::store::replace(&dir.path().join("ca"), &root, &key).unwrap();
    std::fs::remove_file(dir.path().join("ca/state.json")).unwrap();
    let running = Running::start(dir.path(), 10).await;
    running.keeper.look().await.unwrap();
    let status = running.keeper.status().await.unwrap();
    let rotation = status.rotation.unwrap();
    assert!(rotation.automatic && rotation.phase == Phase::Published, "{rotation:?}");
    assert_eq!(status.roots.len(), 2);
    running.stop().await;
}
