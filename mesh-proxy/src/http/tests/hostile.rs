//! Peers that end, flood or stall where they should not: rows H7-H10 of the advisories.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};

use super::raw_http2::{
    DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, block, frame,
};
use super::*;
use crate::http::body::{BodyError, Source};
use crate::http::h2::piece::Piece;
use crate::http::h2::send::Sending;
use crate::pool::SendErrorKind;

/// RFC 9113 §6.5.2.
const MAX_CONCURRENT_STREAMS: u16 = 3;
const REFUSED_STREAM: u32 = 7;

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn goaway(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), 0_u32.to_be_bytes()].concat())
}

/// Whether a request's head is in what a client has sent.
fn asked(mut bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(PREFACE) else { return false };
    bytes = rest;
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(rest) = rest.get(length..) else { return false };
        if head[3] == HEADERS {
            return true;
        }
        bytes = rest;
    }
    false
}

/// An HTTP/2 upstream byte by byte: each connection says the bytes of its turn to the first request, the last turn for ever on.
/// How many connections there were, and how many are still open.
async fn upstream(turns: Vec<Vec<u8>>) -> (SocketAddr, Rc<Cell<usize>>, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (made, open) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let told = (made.clone(), open.clone());
    tokio::task::spawn_local(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let said = turns[made.get().min(turns.len() - 1)].clone();
            made.set(made.get() + 1);
            open.set(open.get() + 1);
            let open = open.clone();
            tokio::task::spawn_local(async move {
                let mut got = Vec::new();
                tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                while !asked(&got) {
                    assert!(tcp.read_buf(&mut got).await.unwrap() > 0, "closed before it asked");
                }
                let _ = tcp.write_all(&said).await;
                while tcp.read_buf(&mut got).await.is_ok_and(|n| n > 0) {}
                open.set(open.get() - 1);
            });
        }
    });
    (address, told.0, told.1)
}

fn ok() -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":status", "200")]))
}

fn request() -> Request<Body> {
    Request::get("/").header("host", "a").body(Body::empty()).unwrap()
}

/// H7: an upstream that goes away and resets what it has not looked at, or goes away and takes no more streams: the request is given
/// back as one that can go elsewhere, the next one gets a connection of its own, and no stream stays counted.
#[test]
fn h7_upstreams_that_go_away() {
    run(async {
        let refused = frame(RST_STREAM, 0, 1, &REFUSED_STREAM.to_be_bytes());
        let away: [(&str, Vec<u8>); 4] = [
            ("reset after GOAWAY", [goaway(0), refused.clone()].concat()),
            ("reset before GOAWAY", [refused.clone(), goaway(0)].concat()),
            ("GOAWAY and no more streams", [goaway(0), setting(MAX_CONCURRENT_STREAMS, 0)].concat()),
            ("reset twice", [goaway(1), refused.clone(), refused].concat()),
        ];
        for (what, said) in away {
            let (address, made, open) = upstream(vec![said, ok()]).await;
            let (pool, target) = (Pool::new(), target(address, Protocol::Http2));
            let error = pool.send(&target, request()).await.expect_err(what);
            assert!(error.kind.is_safe_to_repeat(), "{what}: {:?}", error.kind);
            let again = error.request.expect(what);
            assert_eq!(pool.send(&target, *again).await.expect(what).status(), 200, "{what}");
            assert_eq!(made.get(), 2, "{what}");
            while open.get() > 1 {
                tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>())
                    .await
                    .unwrap_err();
            }
            assert_eq!(pool.shared(), 1, "{what}: the one that went away is not kept");
        }
    });
}

/// H7: after its answer an upstream takes no more streams, without going away: others are asked on another connection.
#[test]
fn h7_an_upstream_that_takes_no_more_streams() {
    run(async {
        let full = [ok(), setting(MAX_CONCURRENT_STREAMS, 0)].concat();
        let (address, made, _) = upstream(vec![full, ok()]).await;
        let (pool, target) = (Pool::new(), target(address, Protocol::Http2));
        assert_eq!(pool.send(&target, request()).await.unwrap().status(), 200);
        // Whether it was heard by now or not.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.send(&target, request()).await.unwrap().status(), 200);
        assert_eq!(made.get(), 2);
    });
}

/// H7: the end of the connection in the middle of an answer is the end of that answer, not a whole one.
#[test]
fn h7_an_upstream_that_goes_away_in_an_answer() {
    run(async {
        let head = frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "200")]));
        let cut = [head, frame(DATA, 0, 1, b"some"), goaway(0)].concat();
        let (address, _, _) = upstream(vec![cut]).await;
        let (pool, target) = (Pool::new(), target(address, Protocol::Http2));
        match pool.send(&target, request()).await {
            Ok(answer) => {
                let mut body = answer.into_body();
                let mut failed = false;
                while let Some(frame) = body.frame().await {
                    failed = frame.is_err();
                }
                assert!(failed, "it looks complete");
            }
            Err(error) => assert!(!matches!(error.kind, SendErrorKind::RefusedStream), "it was answered"),
        }
    });
}

/// H8: a client that leaves while its upstream goes on sending: the upstream is stopped, and what it had sent is kept by nobody.
#[test]
fn h8_a_client_leaves_what_is_still_being_sent() {
    run(async {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (service, pool) = forwarder(listener.local_addr().unwrap());
            let endless = tokio::task::spawn_local(async move {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut got = Vec::new();
                while !got.ends_with(b"\r\n\r\n") {
                    tcp.read_buf(&mut got).await.unwrap();
                }
                tcp.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
                let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
                while tcp.write_all(&chunk).await.is_ok() {}
            });
            let address = serve_as(protocol, service.clone(), settings(), &Drain::new()).await;
            let mut tcp = TcpStream::connect(address).await.unwrap();
            let ask = match protocol {
                Protocol::Http1 => b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
                Protocol::Http2 => {
                    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&GET));
                    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &head].concat()
                }
            };
            tcp.write_all(&ask).await.unwrap();
            let mut some = vec![0; 4096];
            tcp.read_exact(&mut some).await.unwrap();
            drop(tcp);
            endless.await.unwrap();
            while service.outcomes.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(service.outcomes.borrow()[0].end, crate::http::End::ClientGone, "{protocol:?}");
            assert_eq!(pool.idle(), 0, "{protocol:?}");
        }
    });
}

/// A body of single bytes, each by itself, that counts what was taken of it.
struct Single {
    left: usize,
    taken: Rc<Cell<usize>>,
}

impl Source for Single {
    fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
        self.left = left;
        self.taken.set(self.taken.get() + 1);
        Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"x")))))
    }

    fn known_len(&self) -> Option<u64> {
        None
    }

    fn is_end(&self) -> bool {
        self.left == 0
    }
}

/// H10: content that comes byte by byte for a peer that reads nothing, though it has opened its window wide: what is taken of it is
/// bounded by how many frames it is, not by its bytes alone. When the peer reads, it arrives whole.
#[test]
fn h10_single_bytes_for_a_peer_that_does_not_read() {
    run(async {
        const TOLD: usize = 100_000;
        const WINDOW: u32 = 1 << 30;
        let (near, far) = tokio::io::duplex(1024);
        let mut builder = ::h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).data_frame_budget(1 << 30);
        let opening =
            ::h2::server::Builder::new().max_send_buffer_size(256 << 10).handshake::<_, Piece>(near);
        let (server, client) = tokio::join!(opening, builder.handshake::<_, Bytes>(far));
        let (mut server, (mut sender, client)) = (server.unwrap(), client.unwrap());
        let (answer, _) = sender.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
        let mut client = Box::pin(client);
        let (_, mut respond) = tokio::select! {
            _ = &mut client => panic!("the client ended"),
            accepted = server.accept() => accepted.unwrap().unwrap(),
        };
        let stream = respond.send_response(Response::new(()), false).unwrap();
        let taken = Rc::new(Cell::new(0));
        let body = Body::from_source(Box::new(Single { left: TOLD, taken: taken.clone() }));
        let mut sending = Sending::new(stream, body);
        let sent = tokio::task::spawn_local(async move {
            let done = poll_fn(|cx| sending.poll(cx)).await;
            done.map_err(|error| format!("{error:?}"))
        });
        tokio::task::spawn_local(async move { while server.accept().await.is_some() {} });
        // As long as anything moves. (What is encoded already is bytes in one buffer, and costs no more than that.)
        let mut before = usize::MAX;
        while before != taken.get() {
            before = taken.get();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        assert!((1..3000).contains(&before), "{before} frames were made while nothing was read");
        tokio::task::spawn_local(client);
        let mut body = answer.await.unwrap().into_body();
        let mut all = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            all += data.len();
        }
        assert_eq!((all, taken.get()), (TOLD, TOLD));
        sent.await.unwrap().unwrap();
    });
}
