//! Exchanges of HTTP/1 that last when a policy changes: answers without an end, requests without an end, questions without
//! an answer, WebSockets; at sidecars and gateways. The mechanism is that of `revision`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_proto::runtime::testing::TestIssuer;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::revision::{PLACES, Place, Places, Stream, everything, path, status, timely};
use crate::support::authorizer::{ByHttp, asking, publish};
use crate::support::eventually;
use crate::support::mesh::{Mesh, Spec};

const ALPN: &[u8] = b"istio-http/1.1";

/// An application that does nothing shortly: `/sse` answers without an end, `/upload` answers at once and reads on, `/slow`
/// reads and never answers, `/ws` is a tunnel that greets; anything else is answered, and the connection kept.
pub async fn lasting() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(one(stream));
        }
    });
    address
}

async fn one(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        match head.split(' ').nth(1).unwrap_or_default() {
            "/sse" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"5\r\nevent\r\n").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            "/slow" => while stream.read_buf(&mut Vec::with_capacity(1024)).await? > 0 {},
            "/ws" => {
                let switch =
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
                stream.write_all(switch.as_bytes()).await?;
                loop {
                    stream.write_all(b"event").await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?,
        }
    }
}

/// Asks, and waits until the answer goes on.
pub async fn begun(places: &Places, place: Place, request: &str) -> Box<dyn Stream> {
    let mut stream = places.open(place, ALPN).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    while !all.ends_with(b"event") && !all.ends_with(b"event\r\n") {
        assert!(
            stream.read_buf(&mut all).await.unwrap() > 0,
            "{request}, {place:?}: {}",
            String::from_utf8_lossy(&all)
        );
    }
    stream
}

/// Reads to the end; what came last.
async fn end(stream: &mut Box<dyn Stream>) -> Vec<u8> {
    let (mut last, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        last = buffer[..n].to_vec();
    }
    last
}

const SSE: &str = "GET /sse HTTP/1.1\r\nhost: ratings\r\n\r\n";
const WEBSOCKET: &str =
    "GET /ws HTTP/1.1\r\nhost: ratings\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_an_end_are_cut() {
    let places = Places::start(lasting().await, Protocol::Http).await;
    for place in PLACES {
        for (what, rule) in [("all", everything()), ("its path", path("/sse"))] {
            timely(&format!("an answer without an end, denied is {what}, {place:?}"), async || {
                let mut stream = begun(&places, place, SSE).await;
                let (last, took) = places.measure(place, rule.clone(), end(&mut stream)).await;
                assert!(!last.ends_with(b"0\r\n\r\n"), "{place:?}: it must not look complete");
                took
            })
            .await;
        }
        timely(&format!("a WebSocket, {place:?}"), async || {
            let mut stream = begun(&places, place, WEBSOCKET).await;
            places.measure(place, path("/ws"), end(&mut stream)).await.1
        })
        .await;
        // What is not meant goes on.
        let mut spared = begun(&places, place, SSE).await;
        places.change(place, Some(path("/other").into())).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..20 {
            assert!(spared.read(&mut [0; 64]).await.unwrap() > 0, "{place:?}: it is allowed");
        }
        places.change(place, None).await;
    }
}

/// Also of one connection: what a request before this one was let in by counts for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_without_an_answer_are_denied_in_words() {
    let places = Places::start(lasting().await, Protocol::Http).await;
    for place in PLACES {
        let mut stream = places.open(place, ALPN).await;
        stream.write_all(b"GET /quick HTTP/1.1\r\nhost: ratings\r\n\r\n").await.unwrap();
        assert_eq!(status(&mut stream).await, Some(200), "{place:?}");
        timely(&format!("a question without an answer, {place:?}"), async || {
            stream.write_all(b"GET /slow HTTP/1.1\r\nhost: ratings\r\n\r\n").await.unwrap();
            let (answer, took) = places.measure(place, path("/slow"), status(&mut stream)).await;
            assert_eq!(answer, Some(403), "{place:?}");
            took
        })
        .await;
        // The connection is as good as before.
        stream.write_all(b"GET /quick HTTP/1.1\r\nhost: ratings\r\n\r\n").await.unwrap();
        assert_eq!(status(&mut stream).await, Some(200), "{place:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_an_end_are_denied() {
    let places = Places::start(lasting().await, Protocol::Http).await;
    for place in PLACES {
        timely(&format!("a request without an end, {place:?}"), async || {
            let mut stream = places.open(place, ALPN).await;
            let head =
                b"POST /slow HTTP/1.1\r\nhost: ratings\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
            stream.write_all(head).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let upload = tokio::spawn(async move {
                // Ends with an error: nobody takes it any more.
                while write.write_all(b"4\r\nmore\r\n").await.is_ok() {
                    let _ = write.flush().await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            let ends = async {
                let mut all = Vec::new();
                while !all.ends_with(b"denied") && read.read_buf(&mut all).await.is_ok_and(|n| n > 0) {}
                all
            };
            let (all, took) = places.measure(place, path("/slow"), ends).await;
            upload.await.unwrap();
            assert!(all.starts_with(b"HTTP/1.1 403 "), "{place:?}: {}", String::from_utf8_lossy(&all));
            took
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_is_cut_where_mtls_is_demanded() {
    let app = lasting().await;
    let places = Places::start(app, Protocol::Http).await;
    let (pilot, mtls) = (&places.pair.mesh.pilot, &mut begun(&places, Place::Mtls, SSE).await);
    let modes = async |mtls| {
        let before = Instant::now();
        pilot.publish_self("ratings", &Mesh::self_config(&Spec { mtls, ..Spec::new("ratings", app) }));
        eventually("acknowledged", || async { pilot.acked("ratings").is_some_and(|at| at > before) }).await;
        pilot.acked("ratings").unwrap()
    };
    for (what, request) in [("an answer", SSE), ("a WebSocket", WEBSOCKET)] {
        timely(&format!("{what} in plaintext where mTLS is demanded"), async || {
            let mut plain = begun(&places, Place::Plaintext, request).await;
            let ends = async {
                let ended = tokio::time::timeout(Duration::from_secs(20), end(&mut plain)).await;
                ended.expect("plaintext ends");
                Instant::now()
            };
            let (acked, ended) = tokio::join!(modes(MtlsMode::MtlsStrict), ends);
            modes(MtlsMode::MtlsPermissive).await;
            ended.saturating_duration_since(acked)
        })
        .await;
    }
    for _ in 0..20 {
        assert!(mtls.read(&mut [0; 64]).await.unwrap() > 0, "mTLS goes on");
    }
}

/// What nobody was asked about who is to be asked now (CUSTOM) ends a little later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_was_asked_about_are_cut() {
    let authz = ByHttp::start().await;
    authz.says(200, "", "");
    let places = Places::start(lasting().await, Protocol::Http).await;
    publish(&places.pair.mesh, authz.address, None);
    let custom = || asking(By::Http(wire::HttpAuthorization::default()));
    for place in PLACES {
        timely(&format!("an answer that nobody was asked about, {place:?}"), async || {
            let mut stream = begun(&places, place, SSE).await;
            places.measure(place, custom(), end(&mut stream)).await.1
        })
        .await;
        places.change(place, Some(custom().into())).await;
        let mut asked = begun(&places, place, SSE).await;
        let mut elsewhere = custom();
        elsewhere.policies[0].rules = vec![path("/other")];
        places.change(place, Some(elsewhere.into())).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        for _ in 0..40 {
            assert!(asked.read(&mut [0; 64]).await.unwrap() > 0, "{place:?}: nobody else is to be asked");
        }
        places.change(place, None).await;
    }
}

fn issued_by(issuer: &TestIssuer, name: &str) -> wire::JwtRule {
    wire::JwtRule { issuer: name.into(), jwks: issuer.jwks().into_bytes().into(), ..Default::default() }
}

/// What a request has shown is looked at again when issuers change, not when time passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_looked_at_again_when_issuers_change() {
    let places = Places::start(lasting().await, Protocol::Http).await;
    let (first, second) = (TestIssuer::new("https://a", "ES256"), TestIssuer::new("https://a", "EdDSA"));
    let token = first.sign(serde_json::json!({ "sub": "ann" }));
    let with = |request: &str| {
        request.replacen("\r\n\r\n", &format!("\r\nauthorization: Bearer {token}\r\n\r\n"), 1)
    };
    let both = vec![issued_by(&second, "https://a"), issued_by(&first, "https://a")];
    for place in PLACES {
        for request in [SSE, WEBSOCKET] {
            for (what, after) in [
                ("its key is gone", vec![issued_by(&second, "https://a")]),
                ("its issuer is gone", vec![issued_by(&first, "https://b")]),
                (
                    "it is for others",
                    vec![wire::JwtRule { audiences: vec!["them".into()], ..issued_by(&first, "https://a") }],
                ),
            ] {
                timely(&format!("a token: {what}, {place:?}"), async || {
                    places.change(place, Some(vec![issued_by(&first, "https://a")].into())).await;
                    let mut stream = begun(&places, place, &with(request)).await;
                    // Keys that come beside it, or that it is not asked for at all, change nothing.
                    places.change(place, Some(both.clone().into())).await;
                    places.change(place, None).await;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    for _ in 0..10 {
                        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0, "{place:?}: it is valid");
                    }
                    places.measure(place, after.clone(), end(&mut stream)).await.1
                })
                .await;
            }
            // Whoever looks for tokens from now on would refuse this one.
            timely(&format!("a token that nobody looked at, {place:?}"), async || {
                let mut stream = begun(&places, place, &with(request)).await;
                let other = vec![issued_by(&second, "https://a")];
                places.measure(place, other, end(&mut stream)).await.1
            })
            .await;
        }
    }
}
