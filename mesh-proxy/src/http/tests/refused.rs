//! reliability-security.md §2b: requests that two servers could read differently are answered 400 and the connection is
//! closed; the service never sees them.

use super::*;

/// Each row: what it is, and the request. `\n` in the text is CR LF; `{LF}` and `{CR}` are bare.
const BAD: &[(&str, &str)] = &[
    ("F1 CL and TE", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n"),
    ("F1 TE and CL", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 3\n\n0\n\n"),
    ("F1 two CL", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 3\n\nabc"),
    ("F1 differing CL", "POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 4\n\nabcd"),
    ("F1 CL list", "POST / HTTP/1.1\nHost: a\nContent-Length: 3, 3\n\nabc"),
    ("F1 CL sign", "POST / HTTP/1.1\nHost: a\nContent-Length: +3\n\nabc"),
    ("F1 CL hex", "POST / HTTP/1.1\nHost: a\nContent-Length: 0x3\n\nabc"),
    ("F1 CL empty", "POST / HTTP/1.1\nHost: a\nContent-Length:\n\nabc"),
    ("F1 CL huge", "POST / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999\n\n"),
    ("F2 chunked, identity", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, identity\n\n0\n\n"),
    ("F2 identity", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: identity\n\n"),
    ("F2 gzip, chunked", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n0\n\n"),
    (
        "F2 two TE",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n",
    ),
    (
        "F2 two TE, other",
        "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: x\n\n0\n\n",
    ),
    ("F2 ,chunked", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: ,chunked\n\n0\n\n"),
    ("F2 xchunked", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked\n\n0\n\n"),
    ("F2 VT chunked", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \u{b}chunked\n\n0\n\n"),
    ("F2 TE quoted", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \"chunked\"\n\n0\n\n"),
    ("F2 TE space colon", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding : chunked\n\n0\n\n"),
    ("F2 TE empty", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding:\n\n0\n\n"),
    ("F3 1.0 and TE", "POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n"),
    ("F3 1.0, body without length", "POST / HTTP/1.0\nHost: a\n\nbody"),
    ("F3 1.0, kept alive", "PUT / HTTP/1.0\nHost: a\nConnection: keep-alive\n\n"),
    ("F12 bare LF after request line", "GET / HTTP/1.1{LF}Host: a\n\n"),
    ("F12 bare LF after field", "GET / HTTP/1.1\nHost: a{LF}X: y\n\n"),
    ("F12 bare LF end", "GET / HTTP/1.1\nHost: a\n{LF}"),
    ("F12 only LF", "GET / HTTP/1.1{LF}Host: a{LF}{LF}"),
    ("F12 bare CR in value", "GET / HTTP/1.1\nHost: a\nX: y{CR}z\n\n"),
    ("F12 bare CR in name", "GET / HTTP/1.1\nHost: a\nX{CR}Y: z\n\n"),
    ("F12 bare CR in target", "GET /{CR}a HTTP/1.1\nHost: a\n\n"),
    ("F12 CR CR LF", "GET / HTTP/1.1\nHost: a\nX: y{CR}\n\n"),
    ("F12 obs-fold", "GET / HTTP/1.1\nHost: a\nX: y\n z\n\n"),
    ("F12 obs-fold tab", "GET / HTTP/1.1\nHost: a\nX: y\n\tz\n\n"),
    ("F12 space before first field", "GET / HTTP/1.1\n Host: a\nHost: a\n\n"),
    ("F12 space before colon", "GET / HTTP/1.1\nHost : a\n\n"),
    ("F12 space in name", "GET / HTTP/1.1\nHost: a\nX Y: z\n\n"),
    ("F12 leading space", " GET / HTTP/1.1\nHost: a\n\n"),
    ("F12 two spaces", "GET  / HTTP/1.1\nHost: a\n\n"),
    ("F12 space in target", "GET /a b HTTP/1.1\nHost: a\n\n"),
    ("F12 trailing space", "GET / HTTP/1.1 \nHost: a\n\n"),
    ("F12 tab", "GET\t/\tHTTP/1.1\nHost: a\n\n"),
    ("F12 no version", "GET /\nHost: a\n\n"),
    ("F12 lower-case version", "GET / http/1.1\nHost: a\n\n"),
    ("F12 no colon", "GET / HTTP/1.1\nHost: a\nX\n\n"),
    ("F12 empty name", "GET / HTTP/1.1\nHost: a\n: x\n\n"),
    ("F12 three empty lines", "\n\n\nGET / HTTP/1.1\nHost: a\n\n"),
    ("F13 method", "G(T / HTTP/1.1\nHost: a\n\n"),
    ("F13 non-ASCII target", "GET /\u{e9} HTTP/1.1\nHost: a\n\n"),
    ("F13 non-ASCII name", "GET / HTTP/1.1\nHost: a\nX\u{e9}: y\n\n"),
    ("P3 fragment", "GET /a#b HTTP/1.1\nHost: a\n\n"),
    ("P3 fragment, absolute", "GET http://a/#b HTTP/1.1\nHost: a\n\n"),
    ("P9 no host", "GET / HTTP/1.1\nX: y\n\n"),
    ("P9 two hosts", "GET / HTTP/1.1\nHost: a\nHost: a\n\n"),
    ("P9 empty host", "GET / HTTP/1.1\nHost:\n\n"),
    ("P9 slash", "GET / HTTP/1.1\nHost: a/b\n\n"),
    ("P9 query", "GET / HTTP/1.1\nHost: a?b\n\n"),
    ("P9 user", "GET / HTTP/1.1\nHost: u@a\n\n"),
    ("P9 list", "GET / HTTP/1.1\nHost: a, b\n\n"),
    ("P9 Unicode", "GET / HTTP/1.1\nHost: \u{17f}ecret.com\n\n"),
    ("P9 port", "GET / HTTP/1.1\nHost: a:x\n\n"),
    ("P9 absolute form differs", "GET http://b/ HTTP/1.1\nHost: a\n\n"),
    ("P9 absolute form, port differs", "GET http://a:81/ HTTP/1.1\nHost: a\n\n"),
    ("P9 absolute form, user", "GET http://u@a/ HTTP/1.1\nHost: a\n\n"),
    ("P9 absolute form, no host", "GET http:/// HTTP/1.1\nHost: a\n\n"),
    ("P9 other scheme", "GET ftp://a/ HTTP/1.1\nHost: a\n\n"),
    ("asterisk with GET", "GET * HTTP/1.1\nHost: a\n\n"),
    ("CONNECT without port", "CONNECT a HTTP/1.1\nHost: a\n\n"),
    ("CONNECT with path", "CONNECT / HTTP/1.1\nHost: a\n\n"),
    ("CONNECT, other host", "CONNECT a:443 HTTP/1.1\nHost: b:443\n\n"),
    ("CONNECT with body", "CONNECT a:443 HTTP/1.1\nHost: a:443\nContent-Length: 1\n\nx"),
    ("dropped field with control byte", "GET / HTTP/1.1\nHost: a\nKeep-Alive: \u{1}\n\n"),
];

/// Chunked bodies: the service has seen the head, so these end the body with an error and close.
const BAD_CHUNKS: &[&str] = &[
    "+5\nhello\n0\n\n",
    "-1\nhello\n0\n\n",
    "0x5\nhello\n0\n\n",
    "5_0\nhello\n0\n\n",
    " 5\nhello\n0\n\n",
    "5 \nhello\n0\n\n",
    "5 ;a\nhello\n0\n\n",
    "\nhello\n0\n\n",
    ";a\nhello\n0\n\n",
    "g\nhello\n0\n\n",
    "ffffffffffffffff1\nhello\n0\n\n",
    "ffffffffffffffff\nhello\n0\n\n",
    "5{LF}hello\n0\n\n",
    "5{CR}hello\n0\n\n",
    "5;a{LF}b\nhello\n0\n\n",
    "5;a{CR}b\nhello\n0\n\n",
    "5;\u{1}\nhello\n0\n\n",
    "5\nhello{LF}0\n\n",
    "5\nhellox\n0\n\n",
    "5\nhello\n0\nX : y\n\n",
    "5\nhello\n0\nX: y{LF}\n",
    "5\nhello\n0\n y\n\n",
    "5\nhello\n0{LF}{LF}",
];

pub(super) fn bytes(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").replace("{LF}", "\n").replace("{CR}", "\r").into_bytes()
}

async fn is_refused(service: &Rc<Recorder>, address: SocketAddr, name: &str, sent: &[u8]) {
    let before = service.refused.borrow().len();
    // What follows must not be taken for a request of its own.
    let mut all = sent.to_vec();
    all.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let (got, closed) = talk(address, &all).await;
    assert!(got.starts_with("HTTP/1.1 400 ") && closed, "{name}: closed {closed}, got {got:?}");
    assert_eq!(got.matches("HTTP/1.1").count(), 1, "{name}: {got:?}");
    assert_eq!(service.seen.borrow().len(), 0, "{name}: the service was called");
    assert_eq!(service.refused.borrow().len(), before + 1, "{name}");
}

#[test]
fn ambiguous_requests_are_refused() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let address = serve(service.clone(), settings(), &Drain::new()).await;
        for (name, text) in BAD {
            is_refused(&service, address, name, &bytes(text)).await;
        }
    });
}

/// F13: every control byte, in a name, in a value and in the target.
#[test]
fn control_bytes_are_refused() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let address = serve(service.clone(), settings(), &Drain::new()).await;
        for byte in (0_u8..0x20).chain([0x7f]) {
            let with = |before: &str, after: &str| [before.as_bytes(), &[byte], after.as_bytes()].concat();
            is_refused(&service, address, "name", &with("GET / HTTP/1.1\r\nHost: a\r\nX", "Y: z\r\n\r\n"))
                .await;
            is_refused(&service, address, "target", &with("GET /", " HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            if byte != b'\t' {
                let value = with("GET / HTTP/1.1\r\nHost: a\r\nX: y", "z\r\n\r\n");
                is_refused(&service, address, "value", &value).await;
            }
        }
    });
}

/// F4. With a body in parts the service is called before its end is known; it sees an error, never the bytes behind.
#[test]
fn malformed_chunks_fail_the_body_and_close() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let address = serve(service.clone(), settings(), &Drain::new()).await;
        for text in BAD_CHUNKS {
            service.seen.borrow_mut().clear();
            let mut sent = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            sent.extend(bytes(text));
            sent.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            let (got, closed) = talk(address, &sent).await;
            assert!(got.starts_with("HTTP/1.1 400 ") && closed, "{text:?}: closed {closed}, got {got:?}");
            assert_eq!(got.matches("HTTP/1.1").count(), 1, "{text:?}: {got:?}");
            let seen = service.seen.borrow();
            assert!(seen.iter().all(|s| s.failed && s.uri == "/"), "{text:?}: {seen:?}");
        }
    });
}

#[test]
fn limits_of_a_head() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let address = serve(service.clone(), settings(), &Drain::new()).await;
        let many = "X: y\r\n".repeat(100);
        let (got, closed) =
            talk(address, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 431 ") && closed, "{got:?}");
        let long = "y".repeat(65 << 10);
        let (got, closed) =
            talk(address, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 431 ") && closed, "{got:?}");
        let fits = "y".repeat(60 << 10);
        let (got, _) =
            talk(address, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {fits}\r\n\r\n").as_bytes()).await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
        // H13: a head that never ends.
        let (got, closed) = talk(address, b"GET / HTTP/1.1\r\nHost: a\r\n").await;
        assert!(got.starts_with("HTTP/1.1 408 ") && closed, "{got:?}");
        assert_eq!(
            talk(address, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n").await.0.get(..13),
            Some("HTTP/1.1 505 ")
        );
    });
}

/// F17: bad requests are not collected.
#[test]
fn the_first_bad_request_is_the_last() {
    run(async {
        let service = Recorder::new(Answer::After("ok"));
        let address = serve(service.clone(), settings(), &Drain::new()).await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // Writing fails once the server has closed; nothing is ever read.
        for _ in 0..10_000 {
            if tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.is_err() {
                break;
            }
        }
        drop(tcp);
        tokio::task::yield_now().await;
        assert_eq!(service.refused.borrow().len(), 1);
        assert!(service.seen.borrow().is_empty());
    });
}
