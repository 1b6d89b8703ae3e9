//! HTTP/2 on both sides, against the `h2` crate as the peer.

use std::future::poll_fn;

use http::header::HOST;

use super::*;
use crate::pool::SendErrorKind;

type Sender = ::h2::client::SendRequest<Bytes>;

async fn connect(address: SocketAddr) -> Sender {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (sender, connection) = ::h2::client::handshake(tcp).await.unwrap();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    sender.ready().await.unwrap()
}

fn get(uri: &str) -> Request<()> {
    Request::builder().uri(uri).body(()).unwrap()
}

async fn body_of(response: Response<::h2::RecvStream>) -> (Vec<u8>, Option<HeaderMap>) {
    let mut stream = response.into_body();
    let mut all = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (all, stream.trailers().await.unwrap())
}

async fn served(answer: Answer) -> (Rc<Recorder>, SocketAddr) {
    let service = Recorder::new(answer);
    let address = serve_as(Protocol::Http2, service.clone(), settings(), &Drain::new()).await;
    (service, address)
}

#[test]
fn a_request_looks_like_one_of_http_1() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let mut sender = connect(address).await;
        let mut request = get("http://a.test:80/x?y");
        request.headers_mut().append("cookie", "a=1".parse().unwrap());
        request.headers_mut().append("cookie", "b=2".parse().unwrap());
        request.headers_mut().append("x_forwarded_for", "spoof".parse().unwrap());
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", "1".parse().unwrap());
        trailers.insert("authorization", "2".parse().unwrap());
        body.send_trailers(trailers).unwrap();
        let response = answer.await.unwrap();
        assert_eq!(response.headers()["content-length"], "2");
        assert_eq!(body_of(response).await.0, b"ok");
        let seen = &service.seen.borrow()[0];
        assert_eq!((seen.uri.as_str(), &seen.body[..]), ("/x?y", &b"abc"[..]));
        assert_eq!(
            (&seen.headers[HOST], &seen.headers["cookie"]),
            (&"a.test:80".parse().unwrap(), &"a=1; b=2".parse().unwrap())
        );
        assert_eq!((seen.headers.len(), seen.trailers.len()), (2, 1));
    });
}

/// F9, P9: what HTTP/1 would read differently never reaches the service.
#[test]
fn ambiguous_requests_are_refused() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let bad = [
            ("http://a/", Some(("host", "b"))),
            ("http://u@a/", None),
            ("/", None),
            ("http://a/", Some(("host", "a, b"))),
            ("ftp://a/", None),
            ("http://a/\u{e9}", None),
        ];
        for (uri, field) in bad {
            let mut request = get(uri);
            if let Some((name, value)) = field {
                request.headers_mut().append(name, value.parse().unwrap());
            }
            let mut sender = connect(address).await;
            let Ok((answer, _)) = sender.send_request(request, true) else { continue };
            let refused = match answer.await {
                Ok(response) => response.status() == 400,
                Err(error) => error.is_reset(),
            };
            assert!(refused, "{uri} {field:?}");
        }
        // Content-Length and DATA differ.
        for sent in [&b"ab"[..], b"abcd"] {
            let mut request = get("http://a/");
            request.headers_mut().append("content-length", "3".parse().unwrap());
            let mut sender = connect(address).await;
            let (answer, mut body) = sender.send_request(request, false).unwrap();
            body.send_data(Bytes::from_static(sent), true).unwrap();
            assert!(answer.await.is_err(), "{sent:?}");
        }
        assert!(service.seen.borrow().iter().all(|seen| seen.failed));
    });
}

#[test]
fn streams_are_served_side_by_side_and_limited() {
    run(async {
        let (service, address) = served(Answer::After("ok")).await;
        let sender = connect(address).await;
        let mut answers = Vec::new();
        for _ in 0..100 {
            let mut sender = sender.clone().ready().await.unwrap();
            answers.push(sender.send_request(get("http://a/"), false).unwrap());
        }
        tokio::task::yield_now().await;
        for (_, body) in answers.iter_mut().rev() {
            body.send_data(Bytes::new(), true).unwrap();
        }
        for (answer, _) in answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        assert_eq!(service.seen.borrow().len(), 100);
        // Many headers: 431, not an unbounded map.
        let mut request = get("http://a/");
        for n in 0..120 {
            request.headers_mut().append("x", n.to_string().parse().unwrap());
        }
        let mut sender = sender.ready().await.unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 431);
    });
}

#[test]
fn drain_lets_streams_finish() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let drain = Drain::new();
        let address = serve_as(Protocol::Http2, service, settings(), &drain).await;
        let tcp = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = ::h2::client::handshake(tcp).await.unwrap();
        let ended = tokio::task::spawn_local(connection);
        let mut sender = sender.ready().await.unwrap();
        let (answer, mut body) = sender.send_request(get("http://a/"), false).unwrap();
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        drain.begin();
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        body.send_data(Bytes::from_static(b"late"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        drop(sender);
        ended.await.unwrap().unwrap();
    });
}

/// An HTTP/2 upstream that echoes: content back, one trailer, `x-got` = what it saw.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let mut connection = ::h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::task::spawn_local(async move {
                        let (parts, mut body) = request.into_parts();
                        if parts.uri.path() == "/refuse" {
                            respond.send_reset(::h2::Reason::REFUSED_STREAM);
                            return;
                        }
                        let got = format!(
                            "{} {} {:?}",
                            parts.method,
                            parts.uri,
                            parts.headers.get("content-length")
                        );
                        let response = Response::builder().header("x-got", got).body(()).unwrap();
                        let mut send = respond.send_response(response, false).unwrap();
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).unwrap();
                            let mut data = data;
                            while !data.is_empty() {
                                send.reserve_capacity(data.len());
                                let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else {
                                    return;
                                };
                                let _ = send.send_data(data.split_to(room.min(data.len())), false);
                            }
                        }
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "7".parse().unwrap());
                        let _ = send.send_trailers(trailers);
                    });
                }
            });
        }
    });
    address
}

fn to_h2(upstream: SocketAddr) -> (Rc<Recorder>, Pool) {
    let pool = Pool::new();
    (Recorder::new(Answer::Forward(Rc::new((pool.clone(), target(upstream, Protocol::Http2))))), pool)
}

#[test]
fn http_1_to_http_2_and_its_trailers() {
    run(async {
        let (service, pool) = to_h2(echo().await);
        let address = serve(service, settings(), &Drain::new()).await;
        let (answer, closed) =
            talk(address, b"POST /p?q HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello").await;
        assert!(!closed);
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\nx-got: POST http://a.test/p?q Some(\"5\")\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\ngrpc-status: 7\r\n\r\n"
        );
        assert_eq!(pool.shared(), 1);
    });
}

/// gRPC's shape: both sides stream at once, then trailers; what went through is recorded.
#[test]
fn http_2_streams_both_ways_with_trailers() {
    run(async {
        let (service, pool) = to_h2(echo().await);
        let address = serve_as(Protocol::Http2, service.clone(), settings(), &Drain::new()).await;
        let mut sender = connect(address).await;
        let (answer, mut body) = sender.send_request(get("http://a/s"), false).unwrap();
        body.send_data(Bytes::from_static(b"one"), false).unwrap();
        let mut stream = answer.await.unwrap().into_body();
        for text in [&b"one"[..], b"two", b"three"] {
            let data = stream.data().await.unwrap().unwrap();
            stream.flow_control().release_capacity(data.len()).unwrap();
            assert_eq!(data, text);
            if text != b"three" {
                let next = if text == b"one" { "two" } else { "three" };
                body.send_data(Bytes::from(next), false).unwrap();
            }
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert!(stream.data().await.is_none());
        assert_eq!(stream.trailers().await.unwrap().unwrap()["grpc-status"], "7");
        tokio::task::yield_now().await;
        let outcome = service.outcomes.borrow()[0].clone();
        assert_eq!((outcome.bytes_received, outcome.bytes_sent, outcome.grpc_status), (11, 11, Some(7)));
        assert_eq!(pool.shared(), 1);
    });
}

/// H11: a client that reads nothing stops the upstream within the windows, and a large body arrives whole.
#[test]
fn back_pressure_and_large_bodies() {
    run(async {
        let (service, _pool) = to_h2(echo().await);
        let address = serve_as(Protocol::Http2, service, settings(), &Drain::new()).await;
        let mut sender = connect(address).await;
        let (answer, mut body) = sender.send_request(get("http://a/s"), false).unwrap();
        let (taken, told) = (Rc::new(std::cell::Cell::new(0_usize)), 8 << 20);
        let counted = taken.clone();
        tokio::task::spawn_local(async move {
            while counted.get() < told {
                body.reserve_capacity(16 << 10);
                let Some(Ok(room)) = poll_fn(|cx| body.poll_capacity(cx)).await else { return };
                let n = room.min(told - counted.get());
                body.send_data(Bytes::from(vec![b'x'; n]), false).unwrap();
                counted.set(counted.get() + n);
            }
            body.send_data(Bytes::new(), true).unwrap();
        });
        let response = answer.await.unwrap();
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await.unwrap_err();
        let held = taken.get();
        assert!(held < 4 << 20, "{held} bytes were taken while nothing was read");
        let (all, _) = body_of(response).await;
        assert_eq!(all.len(), told);
    });
}

#[test]
fn refused_streams_give_the_request_back() {
    run(async {
        let upstream = target(echo().await, Protocol::Http2);
        let pool = Pool::new();
        let request = Request::post("/refuse").header("host", "a").body(Body::full("abc")).unwrap();
        let error = pool.send(&upstream, request).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::RefusedStream);
        let request = error.request.unwrap();
        assert_eq!((request.uri().path(), request.body().known_len()), ("/refuse", Some(3)));
        assert_eq!(request.headers()[HOST], "a");
    });
}

/// A new connection at 64 streams, and one connection for those who come while it is opened.
#[test]
fn connections_are_shared_up_to_64_streams() {
    run(async {
        let upstream = target(echo().await, Protocol::Http2);
        let pool = Pool::new();
        let mut open = Vec::new();
        let first = (0..65).map(|_| {
            let request = Request::get("/").header("host", "a").body(Body::empty()).unwrap();
            pool.send(&upstream, request)
        });
        for answer in futures_util::future::join_all(first).await {
            open.push(answer.unwrap());
        }
        assert_eq!(pool.shared(), 2);
        drop(open);
        let request = Request::get("/").header("host", "a").body(Body::empty()).unwrap();
        pool.send(&upstream, request).await.unwrap();
        assert_eq!(pool.shared(), 2);
    });
}

#[test]
fn a_reset_stream_ends_the_upstreams_work() {
    run(async {
        let (upstream, got) = scripted(vec![vec![("\r\n\r\n", b"")]]).await;
        let (service, pool) = forwarder(upstream);
        let address = serve_as(Protocol::Http2, service, settings(), &Drain::new()).await;
        let mut sender = connect(address).await;
        let (answer, mut body) = sender.send_request(get("http://a/"), true).unwrap();
        while got.borrow().first().is_none_or(Vec::is_empty) {
            tokio::task::yield_now().await;
        }
        body.send_reset(::h2::Reason::CANCEL);
        assert!(answer.await.is_err());
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(pool.idle(), 0);
    });
}

/// A client that drops its connection in the middle of answers: each exchange is told how it ended.
#[test]
fn a_lost_connection_is_recorded() {
    run(async {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let (upstream, _) =
                scripted(vec![vec![("\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")]])
                    .await;
            let (service, _pool) = forwarder(upstream);
            let address = serve_as(protocol, service.clone(), settings(), &Drain::new()).await;
            if protocol == Protocol::Http1 {
                let mut tcp = TcpStream::connect(address).await.unwrap();
                tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                let mut some = [0; 20];
                tcp.read_exact(&mut some).await.unwrap();
            } else {
                let tcp = TcpStream::connect(address).await.unwrap();
                let (mut sender, connection) = ::h2::client::handshake(tcp).await.unwrap();
                let driver = tokio::task::spawn_local(connection);
                let (answer, _) = sender.send_request(get("http://a/"), true).unwrap();
                let mut body = answer.await.unwrap().into_body();
                assert_eq!(body.data().await.unwrap().unwrap(), "some");
                driver.abort();
            }
            tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
            let outcomes = service.outcomes.borrow();
            assert_eq!(outcomes.len(), 1, "{protocol:?}");
            assert_eq!((&outcomes[0].end, outcomes[0].bytes_sent), (&crate::http::End::ClientGone, 4));
        }
    });
}
