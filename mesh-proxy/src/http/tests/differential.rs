//! Nothing that we accept is read differently by others: generated and mutated messages go to our server and to hyper's, and
//! heads to httparse too. Others may accept more; where we accept, they must have seen the same. Fixed seed, bounded time.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngSeed, TestRunner};

use super::*;
use crate::http::h1::head::{self, Asked};
use crate::http::h1::scan::Scan;

/// What one reader made of one message.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    method: String,
    path: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// Fields that say something about the connection: ours are gone by the time that the service sees the request.
fn end_to_end(fields: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    const NOT: [&str; 6] = ["connection", "transfer-encoding", "keep-alive", "te", "upgrade", "x-hop"];
    let mut all: Vec<_> = fields
        .iter()
        .filter(|(name, _)| !NOT.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    all.sort();
    all
}

async fn ours(bytes: &[u8]) -> (Vec<Message>, usize) {
    let service = Recorder::new(Answer::After("ok"));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let drain = Drain::new();
    serve_connection(
        Io::Memory(server),
        Bytes::new(),
        Protocol::Http1,
        &settings(),
        service.clone(),
        drain.watch(),
    )
    .await;
    let seen = service.seen.borrow();
    let messages = seen.iter().take_while(|seen| !seen.failed).map(|seen| Message {
        method: seen.method.clone(),
        // RFC 9112 §3.2.4: `OPTIONS http://a` asks for `*`; hyper says `/`.
        path: if seen.method == "OPTIONS" { seen.uri.replace('*', "/") } else { seen.uri.clone() },
        fields: end_to_end(&seen.headers),
        body: seen.body.clone(),
    });
    (messages.collect(), service.refused.borrow().len())
}

async fn hypers(bytes: &[u8]) -> Vec<Message> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let messages = Rc::new(RefCell::new(Vec::new()));
    let told = messages.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let told = told.clone();
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let path = parts.uri.path_and_query().map_or(parts.uri.to_string(), ToString::to_string);
                let path = if parts.method == "OPTIONS" { path.replace('*', "/") } else { path };
                let mut fields = parts.headers;
                if let (false, Some(named)) = (fields.contains_key("host"), parts.uri.authority()) {
                    // HTTP/1.0 in absolute form: the authority is the host.
                    fields.insert("host", named.as_str().parse().unwrap());
                }
                told.borrow_mut().push(Message {
                    method: parts.method.to_string(),
                    path,
                    fields: end_to_end(&fields),
                    body: body.to_bytes().to_vec(),
                });
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(server), service);
    let _ = tokio::time::timeout(Duration::from_secs(5), connection).await;
    messages.take()
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![200 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\r\n"), 1 => Just("\r\n ")]
}

fn field() -> impl Strategy<Value = String> {
    let name = select(vec![
        "X",
        "x-y",
        "Accept",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Expect",
        "X Y",
        "X\u{b}",
        "",
        "Cookie",
        "Upgrade",
        "TE",
        "Keep-Alive",
        "x_y",
    ]);
    let colon =
        prop_oneof![60 => Just(": "), 3 => Just(":"), 1 => Just(" : "), 1 => Just(":\t"), 1 => Just("")];
    let value = select(vec![
        "",
        "a",
        "a b",
        " a ",
        "a, b",
        "close",
        "keep-alive",
        "chunked",
        "chunked, chunked",
        "identity",
        "0",
        "3",
        "5",
        "+3",
        "3, 3",
        "100-continue",
        "upgrade",
        "x-hop",
        "\"q\"",
        "\u{e9}",
        "a\u{0}b",
        "trailers",
        "a\rb",
    ]);
    (name, colon, value, line_end())
        .prop_map(|(name, colon, value, end)| format!("{name}{colon}{value}{end}"))
}

fn framed_body() -> impl Strategy<Value = (String, String)> {
    let chunk = select(vec![
        "3\r\nabc\r\n",
        "2;x=y\r\nab\r\n",
        "03\r\nabc\r\n",
        "A\r\n0123456789\r\n",
        "+3\r\nabc\r\n",
        "3\nabc\r\n",
        "3\r\nabcd\r\n",
        "3 \r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "3;\n\r\nabc\r\n",
        "\r\n",
    ]);
    let last =
        select(vec!["0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "00\r\n\r\n", "0\r\n", "0\n\n", "0;x\r\n\r\n", ""]);
    let good = prop_oneof![4 => Just("3\r\nabc\r\n".to_owned()), 1 => chunk.prop_map(str::to_owned)];
    prop_oneof![
        3 => Just((String::new(), String::new())),
        3 => (0_usize..40, 0_usize..3).prop_map(|(told, more)| {
            let body = "GET / HTTP/1.1\r\nHost: a\r\n\r\nabcdefghijklmnopqrstuvwxyz";
            (format!("Content-Length: {told}\r\n"), body[..(told + more / 2).min(body.len())].to_owned())
        }),
        3 => (vec(good, 0..4), last).prop_map(|(chunks, last)| {
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunks.concat() + last)
        }),
    ]
}

fn message() -> impl Strategy<Value = String> {
    let method = prop_oneof![8 => select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]), 1 => select(vec!["get", "X-Y", "", "G(T"])];
    let target = prop_oneof![
        8 => select(vec!["/", "/a?b=c", "//x", "/%00;p"]),
        2 => select(vec!["/a#b", "*", "http://a/x", "http://a", "http://b/", "a", "/a b", "/\u{e9}", "?", "/{}\\|^"]),
    ];
    let version = prop_oneof![12 => Just("HTTP/1.1"), 3 => Just("HTTP/1.0"), 1 => select(vec!["HTTP/1.2", "http/1.1", "HTTP/2.0", "HTTP/1.1 ", ""])];
    let host = prop_oneof![12 => Just("Host: a\r\n"), 1 => select(vec!["", "Host: b\r\n", "Host: a\r\nHost: a\r\n", "Host: a@b\r\n"])];
    let start = (method, target, version, line_end(), host);
    (start, vec(field(), 0..2), framed_body(), line_end()).prop_map(
        |((method, target, version, end, host), fields, (framing, body), last)| {
            format!("{method} {target} {version}{end}{host}{}{framing}{last}{body}", fields.concat())
        },
    )
}

/// Up to two bytes changed, put in or taken out.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = select(b"\r\n \t:;,0aG+\x00\x7f\xe9-_".to_vec());
    let edits = prop_oneof![8 => vec((any::<u16>(), 0_u8..3, bytes.clone()), 0..1), 1 => vec((any::<u16>(), 0_u8..3, bytes), 1..3)];
    (text, edits).prop_map(|(text, edits)| {
        let mut bytes = text.into_bytes();
        for (at, what, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = usize::from(at) % bytes.len();
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        bytes
    })
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20_261_122),
        ..ProptestConfig::default()
    })
}

#[test]
fn hyper_reads_what_we_accept() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let accepted = std::cell::Cell::new(0);
    let refused = std::cell::Cell::new(0);
    let input = mutated(vec(message(), 1..4).prop_map(|messages| messages.concat()));
    let result = runner(8000).run(&input, |bytes| {
        let ((ours, bad), hypers) =
            LocalSet::new().block_on(&runtime, async { (ours(&bytes).await, hypers(&bytes).await) });
        accepted.set(accepted.get() + ours.len());
        refused.set(refused.get() + bad);
        for (index, message) in ours.iter().enumerate() {
            prop_assert_eq!(
                Some(message),
                hypers.get(index),
                "message {} of {:?}",
                index,
                String::from_utf8_lossy(&bytes)
            );
        }
        Ok(())
    });
    result.unwrap();
    // The generator must not degenerate to one side.
    assert!(
        accepted.get() > 3000 && refused.get() > 1000,
        "{} accepted, {} refused",
        accepted.get(),
        refused.get()
    );
}

/// Heads, word by word: the names and values that httparse sees are ours, and what it refuses we refuse.
#[test]
fn httparse_reads_the_heads_that_we_accept() {
    let result = runner(8000).run(&mutated(message()), |bytes| {
        let mut scan = Scan::default();
        let Ok(Some(length)) = scan.find(&bytes, 64 << 10, 101) else { return Ok(()) };
        let whole = Bytes::copy_from_slice(&bytes[..length]);
        let Ok(head) = head::parse_request(&whole, scan.ends(), HeaderMap::new()) else { return Ok(()) };
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut other = httparse::Request::new(&mut fields);
        let parsed = other.parse(&bytes);
        prop_assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(length)),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        prop_assert_eq!(other.method, Some(head.method.as_str()));
        let theirs = other.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec()));
        let mut kept = end_to_end(&head.headers);
        // HTTP/1.0 in absolute form: the authority is the host.
        kept.retain(|(name, _)| name != "host" || head.version == http::Version::HTTP_11);
        let mut theirs: Vec<_> = theirs.collect();
        theirs.sort();
        for field in &kept {
            prop_assert!(theirs.contains(field), "{:?} {:?}", field, theirs);
        }
        Ok(())
    });
    result.unwrap();
}

/// The same for answers.
#[test]
fn httparse_reads_the_answers_that_we_accept() {
    let version = prop_oneof![8 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => Just("HTTP/2")];
    let status =
        select(vec!["200", "204", "304", "100", "101", "404", "599", "600", "99", "2000", "abc", "+20"]);
    let reason = select(vec![" OK", "", " ", " a b", " \u{e9}", " a\u{0}"]);
    let answer = (version, status, reason, line_end(), vec(field(), 0..4), line_end()).prop_map(
        |(version, status, reason, end, fields, last)| {
            format!("{version} {status}{reason}{end}{}{last}", fields.concat())
        },
    );
    let result = runner(8000).run(&mutated(answer), |bytes| {
        let mut scan = Scan::default();
        let Ok(Some(length)) = scan.find(&bytes, 64 << 10, 101) else { return Ok(()) };
        let whole = Bytes::copy_from_slice(&bytes[..length]);
        let Ok(head) = head::parse_response(&whole, scan.ends(), HeaderMap::new(), Asked::default()) else {
            return Ok(());
        };
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut other = httparse::Response::new(&mut fields);
        let parsed = other.parse(&bytes);
        prop_assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(length)),
            "{:?}",
            String::from_utf8_lossy(&bytes)
        );
        prop_assert_eq!(other.code, Some(head.status.as_u16()));
        Ok(())
    });
    result.unwrap();
}
