//! First bytes and what they are; bytes stay in the socket.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

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

/// H13: a client that begins and stalls is neither waited for as long as a silent one, nor looked at all the time.
#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_costs_little_and_not_for_long() {
    let (mut client, server) = pair().await;
    client.write_all(b"GE").await.unwrap();
    let began = Instant::now();
    let polls = Cell::new(0);
    let mut detecting = pin!(detect(&server, Duration::from_secs(3600)));
    let seen = poll_fn(|cx| {
        polls.set(polls.get() + 1);
        detecting.as_mut().poll(cx)
    });
    assert_eq!(seen.await.unwrap(), First::Other);
    assert!(began.elapsed() <= Duration::from_secs(11), "{:?}", began.elapsed());
    assert!(polls.get() < 50, "{}", polls.get());
}

#[tokio::test]
async fn a_client_that_ends_in_the_middle_is_not_waited_for() {
    let (mut client, server) = pair().await;
    client.write_all(b"GE").await.unwrap();
    client.shutdown().await.unwrap();
    let began = Instant::now();
    assert_eq!(detect(&server, Duration::from_secs(3600)).await.unwrap(), First::Other);
    assert!(began.elapsed() < Duration::from_secs(5));
}
