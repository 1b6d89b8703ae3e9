//! The HTTP/1 client and the pool: a raw client in front of the proxy, a scripted upstream behind it.

use super::*;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn through(
    script: Vec<Vec<(&'static str, &'static [u8])>>,
) -> (SocketAddr, Rc<RefCell<Vec<Vec<u8>>>>, Pool) {
    let (upstream, got) = scripted(script).await;
    let (service, pool) = forwarder(upstream);
    (serve(service, settings(), &Drain::new()).await, got, pool)
}

fn text(got: &Rc<RefCell<Vec<Vec<u8>>>>, index: usize) -> String {
    String::from_utf8_lossy(&got.borrow()[index]).into_owned()
}

#[test]
fn forwards_as_written_and_reuses_the_connection() {
    run(async {
        let (address, got, pool) = through(vec![vec![
            (
                "\r\n\r\n",
                b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nServer: x\r\nx-lower: y\r\nETag: z\r\n\r\nok",
            ),
            ("\r\n\r\n", OK),
        ]])
        .await;
        let sent =
            b"GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: u\r\nx-lower: y\r\nWeIRD: z\r\nAccept: */*\r\n\r\n";
        let (answer, closed) = talk(address, sent).await;
        assert!(!closed);
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\nServer: x\r\nx-lower: y\r\nETag: z\r\nContent-Length: 2\r\n\r\nok"
        );
        assert_eq!(pool.idle(), 1);
        assert_eq!(talk(address, GET).await.0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(got.borrow().len(), 1, "one upstream connection");
        assert_eq!(
            text(&got, 0),
            [std::str::from_utf8(sent).unwrap(), "GET /a HTTP/1.1\r\nHost: a\r\n\r\n"].concat()
        );
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    run(async {
        let (address, got, pool) = through(vec![vec![
            ("0\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nok\r\n"),
            ("", b"3\r\nabc\r\n0\r\nX-T: 1\r\nContent-Length: 7\r\n\r\n"),
        ]])
        .await;
        let sent = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nX-R: 2\r\nAuthorization: x\r\n\r\n";
        let (answer, _) = talk(address, sent).await;
        assert_eq!(
            answer,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"
        );
        assert_eq!(
            text(&got, 0),
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\nx-r: 2\r\n\r\n"
        );
        assert_eq!(pool.idle(), 1);
    });
}

#[test]
fn an_http_1_0_upstream_ends_its_answer_by_closing() {
    run(async {
        let (address, _, pool) =
            through(vec![vec![("\r\n\r\n", b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello"), ("", b"CLOSE")]]).await;
        let (answer, closed) = talk(address, GET).await;
        assert!(!closed);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "{answer:?}"
        );
        assert!(answer.ends_with("0\r\n\r\n") && answer.contains("hello"), "{answer:?}");
        assert_eq!(pool.idle(), 0);
    });
}

/// F11: 100 twice, 103, then the final answer.
#[test]
fn interim_answers_are_forwarded() {
    run(async {
        let (address, got, _) = through(vec![vec![
            ("\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
            ("abc", OK),
        ]])
        .await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            .await
            .unwrap();
        let mut interim = vec![0; 50 + 37];
        tcp.read_exact(&mut interim).await.unwrap();
        let interim = String::from_utf8(interim).unwrap();
        assert!(interim.starts_with(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(2)), "{interim:?}");
        assert!(interim.contains("HTTP/1.1 103 Early Hints\r\nLink: x"), "{interim:?}");
        assert!(!text(&got, 0).contains("abc"), "the body is not sent before the client sends it");
        tcp.write_all(b"abc").await.unwrap();
        let (answer, closed) = read_all(&mut tcp).await;
        assert!(answer.ends_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") && !closed, "{answer:?}");
    });
}

#[test]
fn bad_answers_are_not_forwarded() {
    run(async {
        let bad: [&'static [u8]; 11] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nX : a\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\nok",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        ];
        for answer in bad {
            let (address, _, pool) = through(vec![vec![("\r\n\r\n", answer)]]).await;
            let (got, _) = talk(address, GET).await;
            assert!(got.starts_with("HTTP/1.1 502 "), "{:?}: {got:?}", String::from_utf8_lossy(answer));
            assert_eq!(pool.idle(), 0);
        }
    });
}

#[test]
fn bodiless_answers_leave_the_connection_usable() {
    run(async {
        let (address, got, _) = through(vec![vec![
            ("\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
            ("\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
            ("\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
            ("\r\n\r\n", OK),
        ]])
        .await;
        let sent = [GET, GET, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", GET].concat();
        let (answer, _) = talk(address, &sent).await;
        assert_eq!(
            answer,
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        );
        assert_eq!(got.borrow().len(), 1);
    });
}

#[test]
fn what_comes_unasked_is_never_an_answer() {
    run(async {
        // More than its length: the rest is dropped with the connection.
        let (address, got, pool) = through(vec![
            vec![("\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")],
            vec![("\r\n\r\n", OK)],
        ])
        .await;
        for _ in 0..2 {
            let (answer, _) = talk(address, GET).await;
            assert!(answer.ends_with("\r\n\r\nok"), "{answer:?}");
        }
        assert_eq!((got.borrow().len(), pool.idle()), (2, 1));
    });
}

#[test]
fn a_connection_that_the_upstream_closed_is_not_used() {
    run(async {
        let (upstream, got) =
            scripted(vec![vec![("\r\n\r\n", OK), ("", b"CLOSE")], vec![("\r\n\r\n", OK)]]).await;
        let (pool, target) = (Pool::new(), target(upstream, Protocol::Http1));
        let get = || Request::get("/").header("host", "a").body(Body::empty()).unwrap();
        assert_eq!(pool.send(&target, get()).await.unwrap().status(), 200);
        // Shorter than the sweeper's interval: the check before use is what finds out.
        tokio::time::timeout(Duration::from_millis(50), std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(pool.idle(), 1);
        assert_eq!(pool.send(&target, get()).await.unwrap().status(), 200);
        assert_eq!(got.borrow().len(), 2);
    });
}

/// F7: what the client sends behind its upgrade request reaches the upstream only after 101; after any other answer it is a
/// request of its own.
#[test]
fn upgrades_become_tunnels_only_after_101() {
    run(async {
        const ASK: &[u8] =
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
        let (address, got, pool) = through(vec![vec![
            (
                "\r\n\r\n",
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
            ),
            ("ping", b"pong"),
        ]])
        .await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(&[ASK, b"ping"].concat()).await.unwrap();
        let (answer, _) = read_all(&mut tcp).await;
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhellopong"
        );
        assert!(text(&got, 0).ends_with("\r\n\r\nping"));
        assert_eq!(pool.idle(), 0);

        for status in ["200 OK", "400 Bad Request", "426 Upgrade Required"] {
            let first: &'static [u8] =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes().leak();
            let (upstream, got) = scripted(vec![vec![("\r\n\r\n", first), ("\r\n\r\n", OK)]]).await;
            let (service, _pool) = forwarder(upstream);
            let address = serve(service.clone(), settings(), &Drain::new()).await;
            let (answer, _) = talk(address, &[ASK, hidden].concat()).await;
            assert!(answer.ends_with("ok"), "{answer:?}");
            let uris: Vec<String> = service.seen.borrow().iter().map(|s| s.uri.clone()).collect();
            assert_eq!(uris, ["/ws", "/hidden"], "the hidden request went through the service");
            assert!(text(&got, 0).contains("GET /hidden HTTP/1.1\r\n"));
        }
    });
}

#[test]
fn errors_say_whether_the_request_can_be_sent_again() {
    use crate::pool::SendErrorKind;
    run(async {
        let request = || Request::builder().uri("/").header("host", "a").body(Body::full("abc")).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = Pool::new().send(&target(free, Protocol::Http1), request()).await.unwrap_err();
        assert!(matches!(error.kind, SendErrorKind::ConnectFailed(_)) && error.kind.is_safe_to_repeat());
        assert_eq!(error.request.unwrap().body().known_len(), Some(3));

        let (closing, _) = scripted(vec![vec![("abc", b"CLOSE")]]).await;
        let error = Pool::new().send(&target(closing, Protocol::Http1), request()).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::ClosedBeforeResponse { first_use: true, bytes_written: true });
        assert!(!error.kind.is_safe_to_repeat());
        assert_eq!(error.request.unwrap().body().known_len(), Some(3));

        let (cut, _) = scripted(vec![vec![("abc", b"HTTP/1.1 200 OK\r\nX"), ("", b"CLOSE")]]).await;
        let error = Pool::new().send(&target(cut, Protocol::Http1), request()).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Reset);
    });
}

/// An answer that is cut must not look complete.
#[test]
fn a_cut_answer_is_cut_for_the_client_too() {
    run(async {
        let (address, _, _) = through(vec![vec![
            ("\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
            ("", b"CLOSE"),
        ]])
        .await;
        let (answer, closed) = talk(address, GET).await;
        assert!(closed && !answer.contains("0\r\n\r\n"), "{answer:?}");
    });
}

/// Limits of a connection, and the field that goes with its first request.
#[test]
fn max_requests_and_greeting() {
    run(async {
        let (upstream, got) =
            scripted(vec![vec![("\r\n\r\n", OK), ("\r\n\r\n", OK)], vec![("\r\n\r\n", OK)]]).await;
        let pool = Pool::new();
        let mut target = target(upstream, Protocol::Http1);
        target.max_requests = Some(2);
        target.greeting =
            Some((http::HeaderName::from_static("x-peer"), http::HeaderValue::from_static("me")));
        for _ in 0..3 {
            let request = Request::builder().uri("/").header("host", "a").body(Body::empty()).unwrap();
            assert_eq!(pool.send(&target, request).await.unwrap().status(), 200);
        }
        assert_eq!(got.borrow().len(), 2);
        assert_eq!(text(&got, 0).matches("x-peer: me").count(), 1);
    });
}
