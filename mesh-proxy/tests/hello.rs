//! What is never spoken: handshakes as raw bytes, to a STRICT port of a sidecar and to gateways' servers. No library would
//! write most of them. What a scanner (`mesh-cli/tests/scan.rs`) looks for, where there is no scanner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::{ClientCertificates, MtlsMode, Protocol};

use crate::gateway::{edge, from_secret, listener, secret, server, settings};
use crate::support::mesh::Pair as Pods;
use crate::support::origin::Origin;
use crate::support::tls::{Authority, Client};

/// TLS 1.2 with its best suites, as any client of today offers them.
const GOOD: &[u16] = &[0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8];
/// What each of them may be asked to speak alone, and must not.
const WEAK: [(&str, &[u16]); 11] = [
    ("NULL", &[0x0001, 0x0002, 0x003b, 0xc006, 0xc010]),
    ("export", &[0x0003, 0x0006, 0x0008, 0x0062, 0x0064]),
    ("anonymous", &[0x0018, 0x001b, 0x0034, 0x003a, 0xc018, 0xc019, 0x00a6, 0x00a7]),
    ("RC4", &[0x0004, 0x0005, 0xc007, 0xc011]),
    ("DES and 3DES", &[0x0009, 0x000a, 0x0016, 0xc008, 0xc012]),
    ("RSA key exchange", &[0x002f, 0x0035, 0x003c, 0x003d, 0x009c, 0x009d]),
    ("static ECDH", &[0xc004, 0xc005, 0xc00e, 0xc00f, 0xc02d, 0xc031]),
    ("finite field DHE", &[0x0033, 0x0039, 0x0067, 0x006b, 0x009e, 0x009f]),
    ("ECDHE with CBC", &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023, 0xc024, 0xc027, 0xc028]),
    ("PSK and SRP", &[0x008c, 0x008d, 0x00a8, 0x00a9, 0xc01d, 0xc020]),
    ("Camellia, SEED, ARIA, IDEA", &[0x0007, 0x0041, 0x0084, 0x0096, 0xc072, 0xc05c]),
];

/// What comes back.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A ServerHello: version, suite and compression method.
    Hello(u16, u16, u8),
    /// A fatal alert.
    Alert(u8),
    /// The end.
    Closed,
}

/// Alerts of RFC 8446 §6.
const HANDSHAKE_FAILURE: Answer = Answer::Alert(40);
const PROTOCOL_VERSION: Answer = Answer::Alert(70);

async fn ask(at: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    let read = async { while all.len() < 128 && stream.read_buf(&mut all).await.unwrap_or(0) > 0 {} };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("it answers or closes");
    let two = |at: usize| u16::from_be_bytes([all[at], all[at + 1]]);
    match all.first() {
        // Record, handshake header, version, 32 random bytes, session id.
        Some(22) if all[5] == 2 => {
            let after = 44 + usize::from(all[43]);
            Answer::Hello(two(9), two(after), all[after + 2])
        }
        Some(21) => {
            assert_eq!(all[5], 2, "fatal: {all:?}");
            Answer::Alert(all[6])
        }
        None => Answer::Closed,
        Some(_) => panic!("{all:?}"),
    }
}

fn counted(bytes: &[u8], width: usize) -> Vec<u8> {
    let length = (bytes.len() as u32).to_be_bytes();
    [&length[4 - width..], bytes].concat()
}

fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &counted(body, 2)].concat()
}

/// A ClientHello in one record.
fn hello(version: u16, suites: &[u16], compression: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let name = counted(&[&[0][..], &counted(b"a.example", 2)].concat(), 2);
    let mut extensions = [
        extension(0, &name),
        // Groups: X25519, P-256, P-384, P-521, ffdhe2048.
        extension(10, &counted(&[0, 29, 0, 23, 0, 24, 0, 25, 1, 0], 2)),
        extension(11, &[1, 0]),
        // Signatures: ECDSA, RSA-PSS and RSA with SHA-256, and with SHA-1.
        extension(13, &counted(&[4, 3, 8, 4, 4, 1, 2, 3, 2, 1], 2)),
        extension(16, &counted(&[counted(b"istio-http/1.1", 1), counted(b"http/1.1", 1)].concat(), 2)),
        // Renegotiation, extended master secret, tickets.
        extension(0xff01, &[0]),
        extension(23, &[]),
        extension(35, &[]),
    ]
    .concat();
    extensions.extend(more.concat());
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &counted(&[], 1),
        &counted(&suites, 2),
        &counted(compression, 1),
        &counted(&extensions, 2),
    ]
    .concat();
    let message = [&[1][..], &counted(&body, 3)].concat();
    [&[22, 3, 1][..], &counted(&message, 2)].concat()
}

/// SSL 2.0's own form, which says that it would speak `version`.
fn ssl2(version: u16) -> Vec<u8> {
    let suites: &[u8] = &[0, 0, 0x2f, 0, 0, 0x35, 7, 0, 0xc0];
    let lengths = [counted(suites, 2)[..2].to_vec(), vec![0, 0, 0, 16]].concat();
    let body = [&[1][..], &version.to_be_bytes(), &lengths, suites, &[7; 16]].concat();
    [&(0x8000 | body.len() as u16).to_be_bytes()[..], &body].concat()
}

/// The facts, at one port.
async fn nothing_weak(at: SocketAddr, what: &str) {
    let good = ask(at, &hello(0x0303, GOOD, &[0], &[])).await;
    assert!(matches!(good, Answer::Hello(0x0303, suite, 0) if GOOD.contains(&suite)), "{what}: {good:?}");
    for (version, name) in [(0x0300, "SSL 3.0"), (0x0301, "TLS 1.0"), (0x0302, "TLS 1.1")] {
        let old = ask(at, &hello(version, GOOD, &[0], &[])).await;
        assert_eq!(old, PROTOCOL_VERSION, "{what}: {name}");
    }
    // Said in the way of TLS 1.3, too: its list counts, not the field.
    let list = extension(43, &counted(&[3, 2, 3, 1, 3, 0], 1));
    assert_eq!(ask(at, &hello(0x0303, GOOD, &[0], &[list])).await, PROTOCOL_VERSION, "{what}: a list");
    for version in [0x0002, 0x0300, 0x0303] {
        let old = ask(at, &ssl2(version)).await;
        assert!(matches!(old, Answer::Closed | Answer::Alert(_)), "{what}: SSL 2.0's form: {old:?}");
    }
    for (name, suites) in WEAK {
        assert_eq!(ask(at, &hello(0x0303, suites, &[0], &[])).await, HANDSHAKE_FAILURE, "{what}: {name}");
    }
    // A client that offers everything gets one of the good ones, whatever it likes best.
    let all: Vec<u16> = WEAK.iter().flat_map(|(_, suites)| suites.to_vec()).chain(GOOD.to_vec()).collect();
    let chosen = ask(at, &hello(0x0303, &all, &[0], &[])).await;
    assert!(matches!(chosen, Answer::Hello(0x0303, suite, 0) if GOOD.contains(&suite)), "{what}: {chosen:?}");
    // Compression (CRIME): nothing but none, and who cannot do without is not served.
    let none = ask(at, &hello(0x0303, GOOD, &[1, 64, 0], &[])).await;
    assert!(matches!(none, Answer::Hello(_, _, 0)), "{what}: {none:?}");
    let only = ask(at, &hello(0x0303, GOOD, &[1], &[])).await;
    assert!(matches!(only, Answer::Closed | Answer::Alert(_)), "{what}: deflate only: {only:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_speaks_nothing_weak() {
    let app = Origin::start("ratings").await;
    let pods = Pods::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    nothing_weak(pods.ratings.inbound(), "sidecar").await;
    assert!(app.seen.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_speaks_nothing_weak() {
    let app = Origin::start("ratings").await;
    let authority = Authority::new("one");
    let ca = wire::CaCertificates { source: Some(wire::ca_certificates::Source::Secret("ns/a".into())) };
    for (clients, ca) in [(ClientCertificates::None, None), (ClientCertificates::Required, Some(ca))] {
        let of = listener(vec![server(&["*"], &["*"], settings(from_secret("ns/a"), clients, ca))]);
        let secrets = [("ns/a", secret(&authority.leaf(&["a.example"]), &authority.root()))];
        let edge = edge(&app, &of, &secrets).await;
        nothing_weak(edge.at, &format!("gateway, {clients:?}")).await;
        let client = Client::new(&authority).showing(&authority.leaf(&["client"]));
        let mut kinds = Vec::new();
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            kinds.extend(resuming(edge.at, client.clone().only(version).config()).await);
        }
        // Sessions only where no certificate could be outlived; early data nowhere.
        let resumed = kinds.contains(&HandshakeKind::Resumed);
        assert_eq!(resumed, clients == ClientCertificates::None, "{clients:?}: {kinds:?}");
    }
}

/// What becomes of the handshakes of a client that resumes where it can, one request in each.
async fn resuming(at: SocketAddr, mut config: rustls::ClientConfig) -> Vec<HandshakeKind> {
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let connector = TlsConnector::from(config.clone());
    let mut kinds = Vec::new();
    for _ in 0..3 {
        let stream = TcpStream::connect(at).await.unwrap();
        let mut stream = connector.connect("a.example".try_into().unwrap(), stream).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
    }
    let mut next = rustls::ClientConnection::new(config, "a.example".try_into().unwrap()).unwrap();
    assert!(next.early_data().is_none(), "no session allows early data");
    kinds
}
