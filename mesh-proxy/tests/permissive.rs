//! PERMISSIVE: mTLS of the mesh, the application's own TLS and plaintext told apart on one port, however their first bytes
//! come: in pieces, in several TLS records, slowly.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::mesh::v1::{MtlsMode, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::client;
use crate::support::mesh::Pair;
use crate::support::origin::Origin;
use crate::support::tls::{Authority, Client, serve};

const ORDERS: &[u8] = b"GET / HTTP/1.1\r\nhost: ratings\r\nconnection: close\r\n\r\n";

/// Sends a few bytes at a time, each in a segment of its own.
struct Dribble(TcpStream);

impl Dribble {
    async fn to(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }
}

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(7)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What comes back, up to the end of what the application tells of the request.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(ORDERS).await.unwrap();
    let mut all = Vec::new();
    // The heads of the answer and, in its body, of the request.
    while all.windows(4).filter(|four| four == b"\r\n\r\n").count() < 2 {
        if stream.read_buf(&mut all).await.unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// T1: the hello in several records, each in several segments: still the mesh's own, or still somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_pieces() {
    for protocol in [Protocol::Auto, Protocol::Http, Protocol::Tcp] {
        let app = Origin::start("ratings").await;
        let pair = Pair::start(app.address, protocol, MtlsMode::MtlsPermissive).await;
        let at = pair.ratings.inbound();
        let identity = pair.mesh.ca.identity("default", "reviews");
        let expect = Expect::Exactly("spiffe://cluster.local/ns/default/sa/ratings".parse().unwrap());
        let roots = identity.roots_handle().clone();
        let alpn: &[u8] = if protocol == Protocol::Tcp { b"istio" } else { b"istio-http/1.1" };
        let config = client_config(ClientIdentity::Mesh(&identity), roots, expect, &[alpn]);
        let mut config = rustls::ClientConfig::clone(&config);
        config.max_fragment_size = Some(64);
        let connector = TlsConnector::from(std::sync::Arc::new(config));
        let name = "outbound_.9080_._.ratings.default.svc.cluster.local".try_into().unwrap();
        let mesh = answer(connector.connect(name, Dribble::to(at).await).await.unwrap()).await;
        assert!(mesh.starts_with("HTTP/1.1 200"), "{protocol:?}: {mesh}");
        let plain = answer(Dribble::to(at).await).await;
        assert!(plain.starts_with("HTTP/1.1 200"), "{protocol:?}: {plain}");
        // Only where requests are seen do they say who was verified.
        assert_eq!(mesh.contains("sa/reviews"), protocol != Protocol::Tcp, "{protocol:?}: {mesh}");
        assert!(!plain.contains("sa/reviews"), "{protocol:?}: {plain}");
        assert_eq!(app.count(), 2);
    }
}

/// The application's own TLS is not ours to end, in pieces neither; on a port that says HTTP it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_of_the_applications_own() {
    let authority = Authority::new("app");
    let app = serve(&authority.leaf(&["a.example"]), None, &[b"http/1.1"]).await;
    for protocol in [Protocol::Auto, Protocol::Tcp, Protocol::Tls] {
        let pair = Pair::start(app, protocol, MtlsMode::MtlsPermissive).await;
        for alpn in [&[][..], &[&b"http/1.1"[..]]] {
            let mut config = Client::new(&authority).offering(alpn).config();
            config.max_fragment_size = Some(64);
            let connector = TlsConnector::from(std::sync::Arc::new(config));
            let stream = Dribble::to(pair.ratings.inbound()).await;
            let stream = connector.connect("a.example".try_into().unwrap(), stream).await.unwrap();
            let (_, tls) = stream.get_ref();
            assert_eq!(tls.alpn_protocol().is_some(), !alpn.is_empty());
            let mut stream = stream;
            stream.write_all(ORDERS).await.unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200", "{protocol:?}");
        }
    }
    let pair = Pair::start(app, Protocol::Http, MtlsMode::MtlsPermissive).await;
    assert!(Client::new(&authority).connect(pair.ratings.inbound(), "a.example").await.is_err());
}

/// H13: a hello that never becomes whole holds nobody up, is not waited for for ever and reaches nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_never_ends() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Auto, MtlsMode::MtlsPermissive).await;
    let at = pair.ratings.inbound();
    let config = Client::new(&Authority::new("x")).config();
    let mut hello = Vec::new();
    rustls::ClientConnection::new(config.into(), "a.example".try_into().unwrap())
        .unwrap()
        .write_tls(&mut hello)
        .unwrap();
    let mut stalled = Vec::new();
    for length in [2, 5, 50, hello.len() - 1] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&hello[..length]).await.unwrap();
        stalled.push(stream);
    }
    // Records that claim to be whole hellos of 64 KiB and more go on for ever.
    let mut endless = TcpStream::connect(at).await.unwrap();
    let record = [&[22, 3, 1, 0x40, 0][..], &[1, 0xff, 0xff, 0xff], &[0; 0x4000 - 4]].concat();
    let _ = endless.write_all(&record).await;
    let _ = endless.write_all(&record).await;
    assert_eq!(client::get(at, "ratings", "/").await.unwrap().status, 200, "others are served meanwhile");
    for mut stream in stalled {
        let mut all = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut all)).await;
        assert!(end.is_ok(), "a client that stalls is not waited for for ever");
        assert!(all.is_empty(), "{all:?}");
    }
    assert_eq!(app.count(), 1);
}
