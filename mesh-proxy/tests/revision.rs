//! Connections that are open when a policy changes: each kind, at sidecars and gateways, and how long it takes.
//!
//! What is asserted is what the mesh promises: within a second of the proxy's acknowledgement, which the pilot of this very
//! process has seen. A machine that does other things can make any one round late, so the best of a few counts, and none may
//! take more than five. The times are printed (`cargo test -p mesh-proxy --test integration revision -- --nocapture`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use mesh_proto::model::Kind;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::grpc::echo;
use crate::http::upgrades;
use crate::support::authorizer::{ByHttp, asking, publish};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Pod, Spec, backend, default_route};
use crate::support::origin::Origin;
use crate::tcp::server_first;

/// Longer than anything takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(20);
/// What is promised.
const PROMISED: Duration = Duration::from_secs(1);
/// What no round may take.
const LATEST: Duration = Duration::from_secs(5);
/// How many rounds there are at most until one keeps the promise.
const ROUNDS: usize = 5;
const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: ratings\r\n\r\n";

/// Runs rounds, each of which says how long after the acknowledgement something ended, until one was as early as promised.
pub async fn timely(what: &str, mut round: impl AsyncFnMut() -> Duration) {
    let mut all = Vec::new();
    while all.len() < ROUNDS {
        let took = round().await;
        println!("{what}: {took:?} after the acknowledgement");
        assert!(took <= LATEST, "{what}: {took:?} after the acknowledgement");
        all.push(took);
        if took <= PROMISED {
            return;
        }
    }
    panic!("{what}: in none of {ROUNDS} rounds within {PROMISED:?} of the acknowledgement: {all:?}");
}

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A pair, and a gateway before it.
pub struct Places {
    pub pair: Pair,
    gateway: Pod,
    protocol: Protocol,
    app: SocketAddr,
}

/// Where a client comes in, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Mtls,
    Plaintext,
    Gateway,
}

pub const PLACES: [Place; 3] = [Place::Mtls, Place::Plaintext, Place::Gateway];

impl Places {
    pub async fn start(app: SocketAddr, protocol: Protocol) -> Self {
        let pair = Pair::start(app, protocol, MtlsMode::MtlsPermissive).await;
        let mut listener = wire::Listener { port: 80, protocol: protocol.into(), ..Default::default() };
        if protocol == Protocol::Tcp {
            listener.tcp = vec![wire::TcpRule {
                backends: vec![backend("ratings", PORT)],
                origin: None,
                mesh_tls: false,
            }];
        } else {
            listener.virtual_hosts = vec![wire::VirtualHost {
                domains: vec!["*".into()],
                table: Some(default_route("ratings", PORT)),
                https_redirect: false,
            }];
        }
        pair.mesh.pilot.publish(Kind::Listener, "80", &listener);
        let gateway = pair.mesh.pod(Spec { gateway: true, ..Spec::new("edge", app) }).await;
        let at = SocketAddr::new(gateway.ip, 8080);
        eventually("the gateway listens", || async move { TcpStream::connect(at).await.is_ok() }).await;
        Self { pair, gateway, protocol, app }
    }

    pub async fn open(&self, place: Place, alpn: &[u8]) -> Box<dyn Stream> {
        match place {
            Place::Plaintext => Box::new(TcpStream::connect(self.pair.ratings.inbound()).await.unwrap()),
            Place::Gateway => {
                Box::new(TcpStream::connect(SocketAddr::new(self.gateway.ip, 8080)).await.unwrap())
            }
            Place::Mtls => {
                let identity = self.pair.mesh.ca.identity("default", "reviews");
                let server = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
                let (who, roots) = (ClientIdentity::Mesh(&identity), identity.roots_handle().clone());
                let config = client_config(who, roots, Expect::Exactly(server), &[alpn]);
                let tcp = TcpStream::connect(self.pair.ratings.inbound()).await.unwrap();
                let name = "outbound_.9080_._.ratings.default.svc.cluster.local".try_into().unwrap();
                Box::new(TlsConnector::from(config).connect(name, tcp).await.unwrap())
            }
        }
    }

    /// Gives the place a policy (none: takes it away), and says when its proxy has acknowledged that.
    pub async fn change(&self, place: Place, policy: Option<Policy>) -> Instant {
        let (name, gateway) = if place == Place::Gateway { ("edge", true) } else { ("ratings", false) };
        let spec = Spec {
            protocol: self.protocol,
            mtls: MtlsMode::MtlsPermissive,
            gateway,
            ..Spec::new(name, self.app)
        };
        let mut config = Mesh::self_config(&spec);
        match policy {
            None => {}
            Some(Policy::Deny(rule)) => {
                config.authorization =
                    vec![wire::AuthorizationPolicy { rules: vec![rule], ..Default::default() }];
            }
            Some(Policy::Tokens(rules)) => config.jwt_rules = rules,
            Some(Policy::Custom(external)) => config.external_authorization = Some(*external),
        }
        let (pilot, before) = (&self.pair.mesh.pilot, Instant::now());
        pilot.publish_self(name, &config);
        let acked = || pilot.acked(name).filter(|at| *at > before);
        eventually("acknowledged", || async { acked().is_some() }).await;
        acked().unwrap()
    }

    /// The same while `ends` waits for what comes of it, and how long that took from the acknowledgement on.
    pub async fn measure<T>(
        &self,
        place: Place,
        policy: impl Into<Policy>,
        ends: impl Future<Output = T>,
    ) -> (T, Duration) {
        let ends = async {
            let ended = tokio::time::timeout(LIMIT, ends).await;
            (ended.unwrap_or_else(|_| panic!("{place:?}: not within {LIMIT:?}")), Instant::now())
        };
        let (acked, (out, ended)) = tokio::join!(self.change(place, Some(policy.into())), ends);
        self.change(place, None).await;
        (out, ended.saturating_duration_since(acked))
    }
}

/// What a place is given.
pub enum Policy {
    Deny(wire::AuthorizationRule),
    Custom(Box<wire::ExternalAuthorization>),
    Tokens(Vec<wire::JwtRule>),
}

impl From<wire::AuthorizationRule> for Policy {
    fn from(rule: wire::AuthorizationRule) -> Self {
        Self::Deny(rule)
    }
}

impl From<Vec<wire::JwtRule>> for Policy {
    fn from(rules: Vec<wire::JwtRule>) -> Self {
        Self::Tokens(rules)
    }
}

impl From<wire::ExternalAuthorization> for Policy {
    fn from(external: wire::ExternalAuthorization) -> Self {
        Self::Custom(Box::new(external))
    }
}

pub fn everything() -> wire::AuthorizationRule {
    wire::AuthorizationRule::default()
}

pub fn path(path: &str) -> wire::AuthorizationRule {
    let matches = wire::AuthorizationMatch {
        attribute: "request.path".into(),
        values: vec![path.into()],
        not_values: vec![],
    };
    wire::AuthorizationRule { when: vec![matches], ..Default::default() }
}

/// One answer, by its status.
pub async fn status(stream: &mut Box<dyn Stream>) -> Option<u16> {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                return head.split(' ').nth(1)?.parse().ok();
            }
        }
        if stream.read_buf(&mut all).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_wait_for_requests_end() {
    let app = Origin::start("ratings").await;
    let places = Places::start(app.address, Protocol::Http).await;
    for place in PLACES {
        timely(&format!("an idle HTTP/1.1 connection that nothing may pass, {place:?}"), async || {
            let mut stream = places.open(place, b"istio-http/1.1").await;
            stream.write_all(GET).await.unwrap();
            assert_eq!(status(&mut stream).await, Some(200), "{place:?}");
            let ends = async { drop(stream.read_to_end(&mut Vec::new()).await) };
            places.measure(place, everything(), ends).await.1
        })
        .await;
        timely(&format!("the next request of a kept connection, {place:?}"), async || {
            let mut stream = places.open(place, b"istio-http/1.1").await;
            let denied = async {
                loop {
                    stream.write_all(GET).await.unwrap();
                    match status(&mut stream).await {
                        Some(200) => tokio::time::sleep(Duration::from_millis(1)).await,
                        other => return other,
                    }
                }
            };
            let (answer, took) = places.measure(place, path("/a"), denied).await;
            assert_eq!(answer, Some(403), "{place:?}");
            took
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_end() {
    let places = Places::start(server_first().await, Protocol::Tcp).await;
    for place in PLACES {
        timely(&format!("a connection of bytes, {place:?}"), async || {
            let mut stream = places.open(place, b"istio").await;
            let mut hello = [0; 6];
            stream.read_exact(&mut hello).await.unwrap();
            let ends = async { drop(stream.read_to_end(&mut Vec::new()).await) };
            places.measure(place, everything(), ends).await.1
        })
        .await;
    }
}

async fn streams(stream: Box<dyn Stream>) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

/// A stream is cut when its own request is not allowed any more; another one of its connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_decided_again_one_by_one() {
    let places = Places::start(echo().await, Protocol::Grpc).await;
    for place in PLACES {
        timely(&format!("an open stream of HTTP/2, {place:?}"), async || {
            let mut client = streams(places.open(place, b"istio-h2").await).await;
            let mut open = Vec::new();
            for path in ["/denied", "/allowed"] {
                let request =
                    Request::post(format!("http://ratings{path}")).header("te", "trailers").body(()).unwrap();
                let (response, mut send) = client.send_request(request, false).unwrap();
                send.send_data(Bytes::from_static(b"one"), false).unwrap();
                let response = response.await.unwrap();
                assert_eq!(response.status(), 200, "{place:?}");
                let mut body = response.into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "one");
                open.push((send, body));
            }
            let [(_held, denied), (send, allowed)] = &mut open[..] else { panic!("two") };
            let ends = denied.data();
            let (end, took) = places.measure(place, path("/denied"), ends).await;
            assert!(matches!(end, Some(Err(_))), "{place:?}: {end:?}");
            send.send_data(Bytes::from_static(b"two"), false).unwrap();
            assert_eq!(allowed.data().await.unwrap().unwrap(), "two", "{place:?}: nobody else's stream");
            took
        })
        .await;
    }
}

const UPGRADE: &[u8] =
    b"GET /ws HTTP/1.1\r\nhost: ratings\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

/// Whoever has somebody to ask from now on has asked nobody about what is open: it ends, as bytes do. What is asked about
/// afterwards goes on, and so does what no rule selects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_was_asked_about_ends() {
    let authz = ByHttp::start().await;
    authz.says(200, "", "");
    let places = Places::start(upgrades().await, Protocol::Http).await;
    publish(&places.pair.mesh, authz.address, None);
    let http = || asking(By::Http(wire::HttpAuthorization::default()));
    let upgraded = async |place| {
        let mut stream = places.open(place, b"istio-http/1.1").await;
        stream.write_all(UPGRADE).await.unwrap();
        let mut all = Vec::new();
        while !all.ends_with(b"hi ") {
            assert!(stream.read_buf(&mut all).await.unwrap() > 0, "{place:?}");
        }
        assert!(all.starts_with(b"HTTP/1.1 101 "), "{place:?}: {}", String::from_utf8_lossy(&all));
        stream
    };
    for place in PLACES {
        timely(&format!("an upgraded stream that nobody was asked about, {place:?}"), async || {
            let mut stream = upgraded(place).await;
            let ends = async { drop(stream.read_to_end(&mut Vec::new()).await) };
            places.measure(place, http(), ends).await.1
        })
        .await;
        // Another one that was asked about, and one that was not to be.
        places.change(place, Some(http().into())).await;
        let before = authz.asked.lock().len();
        let mut asked = upgraded(place).await;
        assert_eq!(authz.asked.lock().len(), before + 1, "{place:?}");
        let mut elsewhere = http();
        elsewhere.policies[0].rules = vec![path("/other")];
        places.change(place, None).await;
        let mut spared = upgraded(place).await;
        places.change(place, Some(elsewhere.into())).await;
        for stream in [&mut asked, &mut spared] {
            stream.write_all(b"there").await.unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"there", "{place:?}");
        }
        places.change(place, None).await;
    }
}

/// The same for a stream of HTTP/2; a request that has just begun may end by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_nobody_was_asked_about_end() {
    let authz = ByHttp::start().await;
    authz.says(200, "", "");
    let places = Places::start(echo().await, Protocol::Grpc).await;
    publish(&places.pair.mesh, authz.address, None);
    for place in PLACES {
        let what = format!("an open stream of HTTP/2 that nobody was asked about, {place:?}");
        timely(&what, async || {
            let mut client = streams(places.open(place, b"istio-h2").await).await;
            let request = || Request::post("http://ratings/a").header("te", "trailers").body(()).unwrap();
            let (response, mut send) = client.send_request(request(), false).unwrap();
            send.send_data(Bytes::from_static(b"one"), false).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "one");
            let custom = asking(By::Http(wire::HttpAuthorization::default()));
            let (end, took) = places.measure(place, custom, body.data()).await;
            assert!(matches!(end, Some(Err(_))), "{place:?}: {end:?}");
            // The next one is asked about, on the same connection.
            let (response, _) = client.send_request(request(), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200, "{place:?}");
            took
        })
        .await;
    }
}
