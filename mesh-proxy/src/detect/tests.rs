//! First bytes and what they are; bytes stay in the socket.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{First, classify, detect, detect_until};
use crate::drain::Drain;

#[test]
fn first_bytes() {
    let cases: [(&[u8], Option<First>); 17] = [
        (b"", None),
        (b"\x16", None),
        (b"\x16\x03\x01", Some(First::Tls)),
        (b"\x16\x02", Some(First::Other)),
        (b"P", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Some(First::Http2)),
        (b"POST /", Some(First::Http1)),
        (b"GET", None),
        (b"GET ", None),
        (b"GET /a HTTP/1.1", Some(First::Http1)),
        (b"OPTIONS *", Some(First::Http1)),
        (b"CONNECT a:1", Some(First::Http1)),
        (b"M-SEARCH * ", Some(First::Http1)),
        (b"HELO\r\n", Some(First::Other)),
        (b"\0\0", Some(First::Other)),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Some(First::Other)),
    ];
    for (bytes, expected) in cases {
        assert_eq!(classify(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn takes_no_byte_and_waits_for_the_rest() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"GE").await.unwrap();
    let seen = tokio::join!(detect(&server, Duration::from_secs(5)), async {
        tokio::task::yield_now().await;
        client.write_all(b"T / HTTP/1.1\r\n\r\n").await.unwrap();
    });
    assert_eq!(seen.0.unwrap(), First::Http1);
    let mut all = [0; 18];
    server.read_exact(&mut all).await.unwrap();
    assert_eq!(&all, b"GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn silence_and_an_end_are_told_apart() {
    let (client, server) = pair().await;
    assert_eq!(detect(&server, Duration::from_millis(5)).await.unwrap(), First::Silent);
    drop(client);
    assert_eq!(detect(&server, Duration::from_secs(5)).await.unwrap(), First::Closed);
}

/// A connection that was accepted just before a drain has its request on the way: it is waited for, but not for long.
#[tokio::test]
async fn a_drain_waits_for_what_is_on_its_way() {
    const LONG: Duration = Duration::from_secs(3600);
    let drain = Drain::new();
    let (closer, watch) = drain.watch().for_connection();
    drain.begin();
    let (mut client, server) = pair().await;
    let (seen, ()) = tokio::join!(detect_until(&server, LONG, &watch, LONG), async {
        tokio::task::yield_now().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    });
    assert_eq!(seen.unwrap(), Some(First::Http1));
    let (_client, silent) = pair().await;
    assert_eq!(detect_until(&silent, LONG, &watch, Duration::ZERO).await.unwrap(), None);
    // One that is not allowed any more is not waited for.
    closer.revoke();
    assert_eq!(detect_until(&silent, LONG, &watch, LONG).await.unwrap(), None);
}
