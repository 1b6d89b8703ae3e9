//! Requests whose bodies are held while somebody is asked about them (AuthorizationPolicy CUSTOM with a body): clients that
//! wait to be told to go on, and trailers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::grpc::{self, echo};
use crate::support::authorizer::{ByHttp, asking, cluster_of, publish, publish_as};
use crate::support::mesh::{Mesh, PORT, Pair, Pod, Spec, default_route, every_host};
use crate::support::{client, eventually};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// An application that tells each client with a body to go on, waited for or not, and shows what reached it.
async fn app(seen: Arc<Mutex<String>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, seen.clone()));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, seen: Arc<Mutex<String>>) {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let mut text = String::new();
    let mut told = false;
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|l| l.lines().next()?.parse().ok());
            let whole = match length {
                Some(length) => body.len() >= length,
                None if head.contains("transfer-encoding") => {
                    body.ends_with("\r\n\r\n") && body.contains("0\r\n")
                }
                None => true,
            };
            let waits = head.starts_with("post") && !std::mem::replace(&mut told, true);
            if waits && stream.write_all(CONTINUE.as_bytes()).await.is_err() {
                return;
            }
            if whole {
                seen.lock().push_str(&text);
                let _ = stream.write_all(OK).await;
                (text, told) = (String::new(), false);
            }
        }
        let mut more = Vec::new();
        if stream.read_buf(&mut more).await.unwrap_or(0) == 0 {
            return;
        }
        text.push_str(&String::from_utf8_lossy(&more));
    }
}

/// `ratings` and a gateway before it; both show a provider up to 1000 bytes of a body.
struct Places {
    pair: Pair,
    gateway: Pod,
    authz: ByHttp,
    app: SocketAddr,
    protocol: Protocol,
}

fn external() -> wire::ExternalAuthorization {
    let http = wire::HttpAuthorization { to_upstream_on_allow: vec!["x-by".into()], ..Default::default() };
    let body = wire::CheckedBody { max_bytes: 1000, ..Default::default() };
    wire::ExternalAuthorization { body: Some(body), ..asking(By::Http(http)) }
}

impl Places {
    async fn start(app: SocketAddr, protocol: Protocol) -> Self {
        let authz = ByHttp::start().await;
        authz.says(200, "", "");
        let pair = Pair::start(app, protocol, MtlsMode::MtlsPermissive).await;
        publish(&pair.mesh, authz.address, None);
        let listener = every_host(default_route("ratings", PORT));
        pair.mesh.pilot.publish(Kind::Listener, "80", &listener);
        let spec = || Spec { gateway: true, ..Spec::new("edge", app) };
        let gateway = pair.mesh.pod(spec()).await;
        let edge = SocketAddr::new(gateway.ip, 8080);
        eventually("the gateway listens", || async move { TcpStream::connect(edge).await.is_ok() }).await;
        let places = Self { pair, gateway, authz, app, protocol };
        for name in ["ratings", "edge"] {
            places.publish(name, external()).await;
        }
        places
    }

    /// Gives a proxy somebody to ask, and waits until it has acknowledged that.
    async fn publish(&self, name: &str, external: wire::ExternalAuthorization) {
        let (protocol, gateway) = (self.protocol, name == "edge");
        let mut config = Mesh::self_config(&Spec { protocol, gateway, ..Spec::new("ratings", self.app) });
        if gateway {
            config = Mesh::self_config(&Spec { gateway, ..Spec::new("edge", self.app) });
        }
        config.external_authorization = Some(external);
        let (pilot, before) = (&self.pair.mesh.pilot, std::time::Instant::now());
        pilot.publish_self(name, &config);
        let acked = || async { pilot.acked(name).is_some_and(|at| at > before) };
        eventually("the policy is acknowledged", acked).await;
    }

    /// With an application of HTTP/1, when each of them reaches it.
    async fn http1(app: SocketAddr) -> Self {
        let places = Self::start(app, Protocol::Http).await;
        for at in places.all() {
            let warm = async || client::get(at, "ratings", "/").await.is_ok_and(|a| a.status == 200);
            eventually("the application is reached", warm).await;
        }
        places
    }

    /// Through both sidecars, at the server's, and at the gateway.
    fn all(&self) -> [SocketAddr; 3] {
        [self.pair.vip(), self.pair.ratings.inbound(), SocketAddr::new(self.gateway.ip, 8080)]
    }
}

/// What comes until the other side closes, in bounded time.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut all)).await.expect("an end").unwrap();
    String::from_utf8(all).unwrap()
}

/// Once: what the application says behind us is not for the client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_waits_to_go_on_is_told_so_while_its_body_is_held() {
    let seen = Arc::<Mutex<String>>::default();
    let places = Places::http1(app(seen.clone()).await).await;
    let head = "POST / HTTP/1.1\r\nhost: ratings\r\nexpect: 100-continue\r\nconnection: close\r\n";
    seen.lock().clear();
    for at in places.all() {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("{head}content-length: 3\r\n\r\n").as_bytes()).await.unwrap();
        let mut interim = vec![0; CONTINUE.len()];
        let told = tokio::time::timeout(LIMIT, stream.read_exact(&mut interim)).await;
        assert!(told.is_ok_and(|read| read.is_ok()), "{at}: nobody says 100");
        assert_eq!(String::from_utf8_lossy(&interim), CONTINUE, "{at}");
        stream.write_all(b"abc").await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{at}: {answer}");
        assert!(places.authz.last().ends_with("\r\n\r\nabc"), "{}", places.authz.last());
        // The application need not be waited for.
        let reached = std::mem::take(&mut *seen.lock());
        assert!(!reached.to_lowercase().contains("expect") && reached.ends_with("abc"), "{at}: {reached}");
        // What is too long by its own word is not waited for either.
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(format!("{head}content-length: 1001\r\n\r\n").as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{at}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_is_told_too() {
    let places = Places::start(echo().await, Protocol::Http2).await;
    for at in places.all() {
        let mut streams = grpc::client(at).await;
        let warm = async || {
            let (response, mut send) =
                streams.clone().send_request(grpc::call("ratings:9080"), false).unwrap();
            send.send_data(Bytes::from_static(b"abc"), true).unwrap();
            response.await.is_ok_and(|r| r.status() == 200 && !r.headers().contains_key("grpc-status"))
        };
        eventually("the application is reached", warm).await;
        let request =
            Request::post("http://ratings:9080/").header("expect", "100-continue").body(()).unwrap();
        let (mut response, mut send) = streams.send_request(request, false).unwrap();
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        let interim = tokio::time::timeout(LIMIT, interim).await;
        let interim = interim.unwrap_or_else(|_| panic!("{at}: nobody says 100")).unwrap().unwrap();
        assert_eq!(interim.status(), StatusCode::CONTINUE, "{at}");
        send.send_data(Bytes::from_static(b"abc"), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{at}");
        assert_eq!(response.into_body().data().await.unwrap().unwrap(), "abc", "{at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_of_a_held_body_reach_the_application() {
    let seen = Arc::<Mutex<String>>::default();
    let places = Places::http1(app(seen.clone()).await).await;
    let head = "POST / HTTP/1.1\r\nhost: ratings\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    seen.lock().clear();
    // At once, and piece by piece.
    let bodies: [&[&str]; 3] = [
        &["3\r\nabc\r\n3\r\ndef\r\n0\r\nx-sum: 1\r\n\r\n"],
        &["3\r\nabc\r\n", "3\r\ndef\r\n", "0\r\nx-sum: 1\r\n\r\n"],
        &["3\r\nabc\r\n", "3\r\ndef\r\n0\r\nx-sum:", " 1\r\n\r\n"],
    ];
    for at in places.all() {
        for pieces in bodies {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            let answer = rest(&mut stream).await;
            assert!(answer.contains("HTTP/1.1 200"), "{at}: {answer}");
            assert!(places.authz.last().ends_with("\r\n\r\nabcdef"), "{}", places.authz.last());
            let reached = std::mem::take(&mut *seen.lock()).to_lowercase();
            let (_, body) = reached.split_once("\r\n\r\n").unwrap();
            assert!(body.contains("x-sum: 1\r\n") && body.contains("abc"), "{at} {pieces:?}: {reached}");
        }
    }
}

/// What an answer means is said by the settings that it was asked for by: where somebody else is to be asked by then, he is
/// asked, and of what the other one has said nothing counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_to_be_asked_by_now_is_asked() {
    let seen = Arc::<Mutex<String>>::default();
    let places = Places::http1(app(seen.clone()).await).await;
    let other = ByHttp::start().await;
    publish_as("other", &places.pair.mesh, other.address, None);
    let mut by_other = external();
    by_other.cluster = Some(cluster_of("other"));
    for (name, at) in [("ratings", places.all()[1]), ("edge", places.all()[2])] {
        // What the first one says, what the other one says, what comes of it. (The gateway is tried when nobody else asks.)
        for (first, second, status) in [(200, 403, 403), (403, 200, 200), (200, 200, 200)] {
            places.authz.says(first, "x-by: first\r\n", "");
            other.says(second, "", "");
            places.authz.hold(true);
            let before = places.authz.asked.lock().len();
            seen.lock().clear();
            let post =
                "POST / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc";
            let answer = tokio::spawn(client::send(at, post));
            eventually("it is asked", || async { places.authz.asked.lock().len() > before }).await;
            places.publish(name, by_other.clone()).await;
            places.authz.hold(false);
            let answer = answer.await.unwrap().unwrap();
            // Behind the application's own 100.
            let told =
                if answer.status == 100 { client::parse(answer.body.as_bytes()).unwrap() } else { answer };
            assert_eq!(told.status, status, "{name} {first} {second}");
            assert!(other.last().ends_with("\r\n\r\nabc"), "{}", other.last());
            let reached = std::mem::take(&mut *seen.lock());
            assert_eq!(!reached.is_empty(), status == 200, "{name} {first} {second}");
            assert!(!reached.contains("x-by") && (status != 200 || reached.ends_with("abc")), "{reached}");
            places.publish(name, external()).await;
        }
        // The rest is for the other place alone.
        places.publish(name, trouble_free()).await;
    }
}

/// Nothing is asked about.
fn trouble_free() -> wire::ExternalAuthorization {
    wire::ExternalAuthorization { policies: vec![], ..external() }
}
