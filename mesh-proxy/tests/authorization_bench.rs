//! What authorization costs: CPU per request of a sidecar with 100 AuthorizationPolicies of 10 rules each, beside one with
//! none, in one run.
//!
//! `cargo bench -p mesh-proxy --bench authorization`. A client's sidecar sends the same requests over mTLS to two servers'
//! sidecars, in turn; counted is the time on a CPU of the worker thread of the server's sidecar. Rounds are interleaved, so that a
//! noisy machine is noisy for both. `AUTHORIZATION_ROUNDS` (12) and `AUTHORIZATION_SECONDS` (2) change the run.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]
#![allow(dead_code, unused_imports, reason = "what tests share has more than this needs")]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh_proto::wire::mesh::v1 as wire;
use mesh_proxy::authorization::{self, Guard, Policies, RequestFacts, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wire::{MtlsMode, Protocol};

use support::mesh::{Mesh, PORT, Pod, ServiceSpec, Spec};
use support::{client, eventually};

const POLICIES: usize = 100;
const RULES: usize = 10;
const CONNECTIONS: usize = 16;
const CLIENT: &str = "cluster.local/ns/default/sa/reviews";

fn main() {
    // `cargo test` runs benches too, to see that they build and start; there is nothing to measure then.
    if !std::env::args().any(|arg| arg == "--bench") {
        eprintln!("authorization: measures only under `cargo bench`");
        return;
    }
    decisions();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(requests());
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn matcher(attribute: &str, values: &[String]) -> wire::AuthorizationMatch {
    wire::AuthorizationMatch { attribute: attribute.into(), values: values.to_vec(), not_values: vec![] }
}

fn clause(matches: &[wire::AuthorizationMatch]) -> Vec<wire::AuthorizationClause> {
    vec![wire::AuthorizationClause { matches: matches.to_vec() }]
}

/// What a mesh that has grown may have: who may read what, what nobody may, tenants, hosts, addresses, a few suffixes.
fn policies() -> Vec<wire::AuthorizationPolicy> {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rule = |policy: usize, rule: usize| {
        let (paths, methods) = ("request.path", "request.method");
        let from = clause(&[matcher("source.namespace", &texts(&["default"]))]);
        let (from, to, when) = match (policy % 5, rule) {
            (0 | 1, _) => {
                let who = [format!("cluster.local/ns/default/sa/client-{policy}"), CLIENT.to_owned()];
                let who = matcher("source.principal", &who[..=rule % 2]);
                let path = format!("/api/p{policy}/r{rule}");
                let path = matcher(paths, &[path.clone(), format!("{path}/*")]);
                (clause(&[who]), clause(&[matcher(methods, &texts(&["GET"])), path]), vec![])
            }
            (2, _) => {
                let path = matcher(paths, &[format!("/admin/p{policy}/r{rule}*")]);
                (from, clause(&[path, matcher(methods, &texts(&["POST", "DELETE"]))]), vec![])
            }
            (3, _) => {
                let tenant = matcher("request.headers[x-tenant]", &[format!("tenant-{policy}-{rule}")]);
                (from, vec![], vec![tenant])
            }
            (_, 0) => (from, clause(&[matcher(paths, &[format!("*/secret-{policy}")])]), vec![]),
            (_, 1..5) => {
                let host = matcher("request.host", &[format!("h{rule}-{policy}.example.com")]);
                (from, clause(&[host]), vec![])
            }
            _ => {
                let address = matcher("source.ip", &[format!("203.0.{policy}.{rule}")]);
                (clause(&[address]), vec![], vec![])
            }
        };
        wire::AuthorizationRule { from, to, when }
    };
    let policy = |index: usize| wire::AuthorizationPolicy {
        origin: Some(wire::Origin {
            namespace: "default".into(),
            name: format!("policy-{index}"),
            ..Default::default()
        }),
        action: match index % 5 {
            0 | 1 => wire::AuthorizationAction::AuthorizationAllow.into(),
            _ => wire::AuthorizationAction::AuthorizationDeny.into(),
        },
        rules: (0..RULES).map(|index_of| rule(index, index_of)).collect(),
        ..Default::default()
    };
    (0..POLICIES).map(policy).collect()
}

/// Requests that are allowed.
fn paths() -> Vec<String> {
    let policies = (0..POLICIES).filter(|policy| policy % 5 < 2);
    policies.map(|policy| format!("/api/p{policy}/r{}/item?id=7", 2 * (policy % 5) + 1)).collect()
}

/// The decision alone.
fn decisions() {
    let wire = policies();
    let policies = Policies::parse(&wire).unwrap();
    let connection = authorization::Connection {
        peer: Some(format!("spiffe://{CLIENT}").parse().unwrap()),
        source: [127, 0, 0, 1].into(),
        destination: SocketAddr::from(([127, 0, 0, 1], PORT)),
        sni: "".into(),
        ended: authorization::Ended::default(),
    };
    let heads: Vec<_> = paths()
        .iter()
        .map(|path| {
            let fields =
                [("host", "ratings"), ("user-agent", "bench"), ("x-tenant", "acme"), ("accept", "*/*")];
            let request = http::Request::builder().uri(path.as_str());
            let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            request.body(()).unwrap().into_parts().0
        })
        .collect();
    let times = 200_000_u32;
    let started = Instant::now();
    for _ in 0..100 {
        std::hint::black_box(Guard::of_requests(&policies, &connection));
    }
    let made = started.elapsed() / 100;
    let guard = Guard::of_requests(&policies, &connection);
    let started = Instant::now();
    for head in heads.iter().cycle().take(times as usize) {
        let facts = RequestFacts::new(std::hint::black_box(head), connection.source, None);
        assert_eq!(guard.decide(&facts), Verdict::Allowed);
    }
    let decided = started.elapsed() / times;
    println!(
        "{POLICIES} policies with {RULES} rules: {} rules are left at a connection, indexed in {made:?}; a decision takes {decided:?}",
        guard.len()
    );
}

/// A server's sidecar, and the thread that serves.
struct Server {
    pod: Pod,
    worker: String,
}

/// The threads that serve.
fn workers() -> BTreeSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ids = tasks.map(|task| task.file_name().into_string().unwrap());
    let name =
        |id: &String| std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap_or_default();
    ids.filter(|id| name(id).starts_with("worker-")).collect()
}

/// Time on a CPU, in nanoseconds.
fn cpu(thread: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Answers everything with the same.
async fn application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                while stream.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
                    if buffer.ends_with(b"\r\n\r\n") {
                        buffer.clear();
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn server(
    mesh: &Mesh,
    name: &str,
    app: SocketAddr,
    authorization: Vec<wire::AuthorizationPolicy>,
) -> Server {
    let spec = || Spec { mtls: MtlsMode::MtlsStrict, ..Spec::new(name, app) };
    let before = workers();
    let pod = mesh.pod(spec()).await;
    let mut config = Mesh::self_config(&spec());
    config.authorization = authorization;
    mesh.pilot.publish_self(name, &config);
    let worker = workers().difference(&before).next().unwrap().clone();
    Server { pod, worker }
}

async fn requests() {
    let app = application().await;
    let mesh = Mesh::start().await;
    let none = server(&mesh, "open", app, vec![]).await;
    let many = server(&mesh, "guarded", app, policies()).await;
    let reviews = mesh.pod(Spec::new("reviews", SocketAddr::from(([127, 0, 0, 1], 1)))).await;
    let mut entries = Vec::new();
    for (vip, (name, server)) in (2..).zip([("open", &none), ("guarded", &many)]) {
        let pods = vec![&server.pod];
        mesh.service(&ServiceSpec { name, port: PORT, vip, protocol: Protocol::Http, pods });
        let at = reviews.vip(vip, PORT);
        eventually("the listener opens", || async move { TcpStream::connect(at).await.is_ok() }).await;
        entries.push(at);
    }
    let guarded = entries[1];
    eventually("the policies are in force", || async move {
        client::get(guarded, "guarded", "/").await.is_ok_and(|answer| answer.status == 403)
    })
    .await;
    let (rounds, seconds) = (number("AUTHORIZATION_ROUNDS", 12), number("AUTHORIZATION_SECONDS", 2));
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let without = measure(entries[0], "open", &none.worker, seconds).await;
        let with = measure(entries[1], "guarded", &many.worker, seconds).await;
        let again = measure(entries[0], "open", &none.worker, seconds).await;
        println!(
            "round {round:2}: none {without:5.2} us/request, {POLICIES} x {RULES} {with:5.2}, none again {again:5.2}"
        );
        ratios.push((with / ((without + again) / 2.0), again / without));
    }
    let spread = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        format!("{:.2} ({:.2}-{:.2})", all[all.len() / 2], all[0], all[all.len() - 1])
    };
    println!(
        "CPU of the server's sidecar per request, {POLICIES} policies x {RULES} rules / none: {}, goal <= 1.1; none / none: {}",
        spread(ratios.iter().map(|(ratio, _)| *ratio).collect()),
        spread(ratios.iter().map(|(_, same)| *same).collect()),
    );
}

/// Microseconds on a CPU per request.
async fn measure(at: SocketAddr, host: &'static str, worker: &str, seconds: u64) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let paths = Arc::new(paths());
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|first| {
            let (stop, count, paths) = (stop.clone(), count.clone(), paths.clone());
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(at).await.unwrap();
                let mut buffer = Vec::new();
                for path in paths.iter().cycle().skip(first) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let request = format!(
                        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\nx-tenant: acme\r\naccept-encoding: gzip\r\ncookie: session=0123456789abcdef\r\n\r\n"
                    );
                    stream.write_all(request.as_bytes()).await.unwrap();
                    buffer.clear();
                    while !buffer.ends_with(b"hello") {
                        assert!(stream.read_buf(&mut buffer).await.unwrap() > 0, "closed");
                    }
                    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (spent, done) = (cpu(worker), count.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (spent, done) = (cpu(worker) - spent, count.load(Ordering::Relaxed) - done);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    spent as f64 / 1000.0 / done as f64
}
