//! Bytes: server-first protocols, half-close, and who waits for what.

use std::net::SocketAddr;

use mesh_proto::wire::mesh::v1::{MtlsMode, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::mesh::Pair;

/// Says hello first, then echoes until the client's end, then says goodbye.
pub async fn server_first() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"hello\n").await.unwrap();
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"goodbye\n").await;
            });
        }
    });
    address
}

async fn talk(at: SocketAddr) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello\n");
    stream.write_all(b"GET me / anything\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "GET me / anything\ngoodbye\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_speak_first() {
    let app = server_first().await;
    // None of them waits for the end of a detection, which is hours away.
    for mode in [MtlsMode::MtlsStrict, MtlsMode::MtlsPermissive] {
        let pair = Pair::start(app, Protocol::Tcp, mode).await;
        talk(pair.vip()).await;
        if mode == MtlsMode::MtlsPermissive {
            talk(pair.ratings.inbound()).await;
        }
    }
    let pair = Pair::start(app, Protocol::Tcp, MtlsMode::MtlsDisable).await;
    talk(pair.ratings.inbound()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_to_a_tcp_port_is_a_tunnel() {
    let pair = Pair::start(server_first().await, Protocol::Tcp, MtlsMode::MtlsStrict).await;
    let mut stream = TcpStream::connect(pair.reviews.proxy()).await.unwrap();
    stream.write_all(b"CONNECT ratings:9080 HTTP/1.1\r\nhost: ratings:9080\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    while !all.ends_with(b"hello\n") {
        assert!(stream.read_buf(&mut all).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&all));
    }
    assert!(all.starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"x").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "xgoodbye\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_connections_are_counted() {
    let pair = Pair::start(server_first().await, Protocol::Tcp, MtlsMode::MtlsStrict).await;
    talk(pair.vip()).await;
    let at = pair.ratings.metrics();
    crate::support::eventually("the connection is counted", || async move {
        let text = crate::support::client::get(at, "metrics", "/stats/prometheus").await.unwrap().body;
        text.lines().any(|l| l.starts_with("istio_tcp_connections_closed_total") && !l.ends_with(" 0"))
            && text.lines().any(|l| l.starts_with("istio_tcp_received_bytes_total") && l.ends_with(" 18"))
    })
    .await;
}
