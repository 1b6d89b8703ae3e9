//! Every protocol through two sidecars, and messages that must not pass.

use super::support::{BASE, Mesh, body, raw};

#[test]
fn all_protocols_and_strictness() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let http = mesh.one(&["http://web/a?b=c", "-H", "X-Mixed-Case: yes"]);
    assert_eq!((&http["status"], &http["protocol"]), (&200.into(), &"HTTP/1.1".into()), "{http}");
    let seen = body(&http);
    assert_eq!(
        (&seen["path"], &seen["query"], &seen["protocol"]),
        (&"/a".into(), &"b=c".into(), &"HTTP/1.1".into())
    );
    assert_eq!(seen["peer"], "spiffe://cluster.local/ns/default/sa/client");
    assert!(seen["headers"]["x-request-id"].is_string(), "{seen}");
    let h2c = mesh.one(&["h2c://web:80/"]);
    assert_eq!(
        (&h2c["status"], &h2c["protocol"], &body(&h2c)["protocol"]),
        (&200.into(), &"HTTP/2".into(), &"HTTP/2".into())
    );
    let grpc = mesh.one(&["grpc://web:7070", "-d", "hi"]);
    assert_eq!(
        (&grpc["status"], &grpc["headers"]["grpc-status"], &body(&grpc)["message"]),
        (&200.into(), &"0".into(), &"hi".into())
    );
    let ws = mesh.one(&["ws://web:80/chat", "-d", "over a socket"]);
    assert_eq!((&ws["status"], &ws["body"]), (&101.into(), &"over a socket".into()));
    let tcp = mesh.one(&["tcp://web:9000", "-d", "bytes"]);
    assert_eq!(tcp["body"], "bytes");
    let headless = mesh.one(&["http://web-headless:8080/"]);
    assert_eq!(headless["status"], 200, "{headless}");
    let large = mesh.one(&["http://web/bytes/20000000"]);
    assert_eq!(large["body"].as_str().map(str::len), Some(20_000_000));
    assert_eq!(mesh.one(&["http://web/status/418"])["status"], 418);
    assert_eq!(mesh.one(&["http://web/", "-X", "HEAD"])["status"], 200);
    strictness(&mesh);
}

/// Rows F1-F4, F12, F13 of the advisories: 400, a closed connection, and no application sees anything.
fn strictness(mesh: &Mesh) {
    let inbound = (mesh.pod_ip("web"), 8080).into();
    let outbound = mesh.address("client", "http_proxy");
    let bad: [(&str, &[u8]); 12] = [
        ("F1 both lengths", b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("F2 two codings", b"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("F2 unknown coding", b"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("F3 1.0 with coding", b"POST / HTTP/1.0\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("F4 signed size", b"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n"),
        ("F4 huge size", b"POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\n"),
        ("F12 bare LF", b"GET / HTTP/1.1\nHost: web\n\n"),
        ("F12 obs-fold", b"GET / HTTP/1.1\r\nHost: web\r\nA: b\r\n c\r\n\r\n"),
        ("F12 space before colon", b"GET / HTTP/1.1\r\nHost: web\r\nA : b\r\n\r\n"),
        ("F13 control byte", b"GET / HTTP/1.1\r\nHost: web\r\nA: b\x01c\r\n\r\n"),
        ("two hosts", b"GET / HTTP/1.1\r\nHost: web\r\nHost: api\r\n\r\n"),
        ("fragment", b"GET /#x HTTP/1.1\r\nHost: web\r\n\r\n"),
    ];
    for (what, bytes) in bad {
        for address in [inbound, outbound] {
            let answer = raw(address, bytes);
            assert!(
                answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
                "{what} at {address}: {answer:?}"
            );
            assert!(!answer.contains("instance"), "{what} at {address} reached an application: {answer:?}");
        }
    }
    let smuggled = raw(inbound, b"POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nGET /b HTTP/1.1\r\nHost: web\r\n\r\n");
    assert!(
        smuggled.starts_with("HTTP/1.1 400") && smuggled.matches("HTTP/1.1").count() == 1,
        "{smuggled:?}"
    );
}
