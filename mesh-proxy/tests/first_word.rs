//! Ports that take plaintext beside mTLS, or say nothing of their protocol: whoever waits for the server hears it, and whoever
//! speaks late is still taken for what it is. The detection timeout is an hour here: nothing below waits for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1::{self as wire, MtlsMode, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::eventually;
use crate::support::mesh::{Mesh, Pair, Spec};
use crate::support::origin::Origin;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n";
/// Longer than an application is left alone; what must never happen has not happened by then, on a busy machine too.
const A_WHILE: Duration = Duration::from_millis(700);

/// An application that says `greeting` to whoever comes, then echoes. How many came.
async fn greeting(greeting: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                stream.write_all(greeting).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    (at, count)
}

async fn mtls(pair: &Pair, tcp: TcpStream, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let identity = pair.mesh.ca.identity("default", "reviews");
    let server = "spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap();
    let (who, roots) = (ClientIdentity::Mesh(&identity), identity.roots_handle().clone());
    let config = client_config(who, roots, Expect::Exactly(server), &[alpn]);
    let name = "outbound_.9080_._.ratings.default.svc.cluster.local".try_into().unwrap();
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

async fn connect(pair: &Pair) -> TcpStream {
    TcpStream::connect(pair.ratings.inbound()).await.unwrap()
}

async fn reached(count: &AtomicUsize, n: usize) {
    eventually("the application is reached", || async { count.load(Ordering::SeqCst) >= n }).await;
}

/// Gives the pod another configuration, and waits until it has it.
async fn change(
    pair: &Pair,
    app: SocketAddr,
    spec: (Protocol, MtlsMode),
    rules: Vec<wire::AuthorizationPolicy>,
) {
    let spec = Spec { protocol: spec.0, mtls: spec.1, ..Spec::new("ratings", app) };
    configure(pair, &wire::SelfConfig { authorization: rules, ..Mesh::self_config(&spec) }).await;
}

async fn configure(pair: &Pair, config: &wire::SelfConfig) {
    let (pilot, before) = (&pair.mesh.pilot, Instant::now());
    pilot.publish_self("ratings", config);
    eventually("acknowledged", || async { pilot.acked("ratings").is_some_and(|at| at > before) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_hears_a_server_that_speaks_first() {
    for protocol in [Protocol::Auto, Protocol::Tcp] {
        for mode in [MtlsMode::MtlsPermissive, MtlsMode::MtlsDisable] {
            let (app, count) = greeting(b"220 ready\r\n").await;
            let pair = Pair::start(app, protocol, mode).await;
            let mut client = connect(&pair).await;
            let mut said = [0; 11];
            client.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"220 ready\r\n", "{protocol:?} {mode:?}");
            // Whatever it looks like: it is bytes by now.
            client.write_all(GET).await.unwrap();
            let mut echoed = vec![0; GET.len()];
            client.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed[..], GET, "{protocol:?} {mode:?}");
            // To a port that says TCP the client's sidecar has opened one of its own.
            let one = protocol == Protocol::Tcp || count.load(Ordering::SeqCst) == 1;
            assert!(one, "{mode:?}: the connection that there was is used");
        }
    }
}

/// Connections that the application saw too early: requests get theirs, bytes go on with the one that there is, mTLS is mTLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_speaks_late_is_what_it_is() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Auto, MtlsMode::MtlsPermissive).await;
    let mut client = connect(&pair).await;
    reached(&app.connections, 1).await;
    client.write_all(GET).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    // What only a proxy adds to requests.
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-request-id: "), "{answer}");

    let before = app.connections.load(Ordering::SeqCst);
    let late = connect(&pair).await;
    reached(&app.connections, before + 1).await;
    let mut client = mtls(&pair, late, b"istio-http/1.1").await;
    client.write_all(GET).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer}");

    let (app, count) = greeting(b"").await;
    let pair = Pair::start(app, Protocol::Auto, MtlsMode::MtlsPermissive).await;
    // Whoever speaks in the very moment in which the connection comes about gets one of its own.
    eventually("the connection that there was is used", || async {
        let before = count.load(Ordering::SeqCst);
        let mut client = connect(&pair).await;
        reached(&count, before + 1).await;
        client.write_all(b"\x01bytes").await.unwrap();
        let mut echoed = [0; 6];
        client.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"\x01bytes");
        count.load(Ordering::SeqCst) == before + 1
    })
    .await;
}

/// To wait makes nobody a client of bytes, whose requests nobody looks at: neither beyond the detection timeout, nor where the
/// application says what servers of HTTP say unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_takes_nobody_past_what_is_taken_away() {
    let origin = Origin::start("ratings").await;
    let http2: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    for (app, count) in [(origin.address, origin.connections.clone()), greeting(http2).await] {
        let pair = Pair::start(app, Protocol::Auto, MtlsMode::MtlsPermissive).await;
        let mut config = Mesh::self_config(&Spec { protocol: Protocol::Auto, ..Spec::new("ratings", app) });
        config.protocol_detection_timeout = prost_types::Duration::try_from(Duration::from_millis(150)).ok();
        configure(&pair, &config).await;
        let mut client = connect(&pair).await;
        reached(&count, 1).await;
        let heard = tokio::time::timeout(A_WHILE, client.peek(&mut [0])).await;
        assert!(heard.is_err(), "nothing is said to whoever has asked for nothing: {heard:?}");
        let spoof =
            "GET / HTTP/1.1\r\nhost: ratings\r\nx-forwarded-client-cert: spoof\r\nconnection: close\r\n\r\n";
        client.write_all(spoof.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 ") && !answer.contains("spoof"), "{answer}");
    }
}

/// A hello that comes byte by byte, to a server that would speak first: nobody overrules it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_has_begun_is_waited_for() {
    let (app, count) = greeting(b"220 ready\r\n").await;
    let pair = Pair::start(app, Protocol::Auto, MtlsMode::MtlsPermissive).await;
    let mut client = connect(&pair).await;
    client.write_all(b"\x16").await.unwrap();
    let mut said = [0; 1];
    let heard = tokio::time::timeout(A_WHILE, client.peek(&mut said)).await;
    assert!(
        heard.is_err() && count.load(Ordering::SeqCst) == 0,
        "nothing is said, and nobody reached: {heard:?}"
    );
    // The same client in one go.
    let mut client = mtls(&pair, connect(&pair).await, b"istio").await;
    let mut said = [0; 11];
    client.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"220 ready\r\n");
}

/// Silence opens nothing that policy keeps shut, not even for the application to see; and under STRICT nobody but mTLS hears
/// a byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_no_way_in() {
    let (app, count) = greeting(b"220 ready\r\n").await;
    let pair = Pair::start(app, Protocol::Auto, MtlsMode::MtlsStrict).await;
    let silent = async || {
        let mut client = connect(&pair).await;
        let mut said = [0; 1];
        tokio::time::timeout(A_WHILE, client.read(&mut said)).await
    };
    assert!(silent().await.is_err() && count.load(Ordering::SeqCst) == 0, "STRICT");
    for action in
        [wire::AuthorizationAction::AuthorizationDeny, wire::AuthorizationAction::AuthorizationAllow]
    {
        let deny = action == wire::AuthorizationAction::AuthorizationDeny;
        // Nobody is allowed; everybody is denied.
        let rules = if deny { vec![wire::AuthorizationRule::default()] } else { vec![] };
        let policy = wire::AuthorizationPolicy { action: action.into(), rules, ..Default::default() };
        for protocol in [Protocol::Auto, Protocol::Tcp] {
            change(&pair, app, (protocol, MtlsMode::MtlsPermissive), vec![policy.clone()]).await;
            assert!(silent().await.is_err() && count.load(Ordering::SeqCst) == 0, "{action:?} {protocol:?}");
        }
    }
    // On a port that says HTTP the client speaks first.
    change(&pair, app, (Protocol::Http, MtlsMode::MtlsPermissive), vec![]).await;
    assert!(silent().await.is_err() && count.load(Ordering::SeqCst) == 0, "HTTP");
    // What all of that kept shut is open without it.
    change(&pair, app, (Protocol::Auto, MtlsMode::MtlsPermissive), vec![]).await;
    assert_eq!(connect(&pair).await.read(&mut [0]).await.unwrap(), 1);
}

/// A policy that comes while the application makes up its mind counts before its first byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_that_is_forbidden_meanwhile_is_not_heard() {
    for mode in [MtlsMode::MtlsPermissive, MtlsMode::MtlsStrict] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        let pair = Pair::start(app, Protocol::Auto, MtlsMode::MtlsPermissive).await;
        let mut client = connect(&pair).await;
        let (mut server, _) = listener.accept().await.unwrap();
        let deny = wire::AuthorizationPolicy {
            rules: vec![wire::AuthorizationRule::default()],
            ..wire::AuthorizationPolicy::default()
        };
        let rules = if mode == MtlsMode::MtlsPermissive { vec![deny] } else { vec![] };
        change(&pair, app, (Protocol::Auto, mode), rules).await;
        server.write_all(b"220 ready\r\n").await.unwrap();
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said).await;
        assert_eq!(said, b"", "{mode:?}");
    }
}
