//! Connections of the application that carry bytes.
//!
//! In: a goal. Out: a connection to an endpoint (mTLS where it has it, ALPN `istio`), joined with the client's. Declared TCP
//! ports come here at once, before the client has said anything: server-first protocols are safe.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use smallvec::SmallVec;

use super::attempt::seen;
use super::direct;
use super::forward::{cluster_name, view_of};
use super::goal::Goal;
use crate::cluster::{Endpoint, HashKey, Moment, PickContext, Picked, Seen};
use crate::drain::Closer;
use crate::exchange::Ends;
use crate::io::Io;
use crate::pool::{SendErrorKind, Target};
use crate::respond::{Failure, Verdict};
use crate::route::{Backend, TcpRule};
use crate::store::DestinationCell;
use crate::tcp::{self, Copy, End};
use crate::telemetry::{Flags, LogEntry, Party, Route, Service};
use crate::tls::MeshAlpn;
use crate::worker::Worker;
use crate::worker::targets::Way;

/// How many endpoints are tried for one connection.
const TRIES: usize = 3;
/// Longer than any connection lives.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A connection to an endpoint.
pub struct Upstream {
    io: Io,
    about: About,
}

/// Where to connect, to which endpoint of the cluster (none: where the application dialled), and what is told.
type Chosen = (Rc<Target>, Option<Arc<Endpoint>>, About);

/// Who wants a connection, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its address, for hashing.
    pub source: IpAddr,
    /// What it dialled, where that is known.
    pub dialled: Option<SocketAddr>,
    /// The name that its own TLS asks for.
    pub sni: Option<&'a str>,
}

impl Client<'_> {
    /// Of whom only the address is known.
    #[must_use]
    pub fn at(source: IpAddr) -> Self {
        Self { source, dialled: None, sni: None }
    }
}

/// What is told about a connection.
struct About {
    /// Counts at the endpoint while the connection lives.
    picked: Option<Picked>,
    /// How long it may be silent.
    idle: Duration,
    /// How long it may live.
    max: Option<Duration>,
    destination: Arc<Party>,
    service: Arc<Service>,
    cluster: String,
    address: SocketAddr,
    mtls: bool,
}

/// Connects to an endpoint of `goal` for `client`. A connection that fails has carried nothing: another
/// endpoint is tried.
///
/// # Errors
/// Why there is no connection.
pub async fn connect(worker: &Rc<Worker>, goal: &Goal, client: &Client<'_>) -> Result<Upstream, Failure> {
    let targets = &worker.targets;
    let (target, destination, service) = match goal {
        Goal::Destination(_, cell) => return balanced(worker, cell, client).await,
        Goal::Workload(address, workload, name) => {
            let target = direct::workload(targets, *address, workload, name.as_ref(), MeshAlpn::Tcp, None)?;
            let service = workload.ports.get(&address.port()).and_then(|p| p.services.first());
            let service = service.map_or_else(passthrough, |s| Arc::new(Service::new(s)));
            let party = Party::new(Some(&workload.facts), workload.identity.as_ref());
            (target, Arc::new(party), service)
        }
        Goal::Own(port) => {
            (direct::application(targets, *port, MeshAlpn::Tcp), Party::unknown(), passthrough())
        }
        Goal::Address(address) => {
            (direct::outside(targets, *address, MeshAlpn::Tcp), Party::unknown(), passthrough())
        }
    };
    let (address, mtls) = (target.address, target.mesh);
    let cluster = "PassthroughCluster".to_owned();
    let about =
        About { picked: None, idle: tcp::IDLE, max: None, destination, service, cluster, address, mtls };
    match worker.pool.connect_raw(&target).await {
        Ok(io) => Ok(Upstream { io, about }),
        Err(error) => Err(Failure::Send { kind: error.kind, retried: false }),
    }
}

fn passthrough() -> Arc<Service> {
    Arc::new(Service::named("PassthroughCluster"))
}

async fn balanced(
    worker: &Rc<Worker>,
    cell: &Arc<DestinationCell>,
    client: &Client<'_>,
) -> Result<Upstream, Failure> {
    let destination = cell.load_full().ok_or(Failure::NotReady)?;
    let rule = destination
        .rule_for_bytes(client.sni)
        .ok_or_else(|| Failure::NoTcpRoute(destination.name.clone()))?;
    routed(worker, rule, client).await
}

/// Connects to an endpoint of a rule.
///
/// # Errors
/// Why there is no connection.
pub async fn routed(worker: &Rc<Worker>, rule: &TcpRule, client: &Client<'_>) -> Result<Upstream, Failure> {
    let backend = worker.random(|rng| rule.backends.choose(rng)).ok_or(Failure::NoBackend)?;
    let mut tried: SmallVec<[Arc<Endpoint>; TRIES]> = SmallVec::new();
    loop {
        let (target, endpoint, about) = pick(worker, (backend, rule.mesh_tls), client, &tried)?;
        let sent = tokio::time::Instant::now();
        let connected = worker.pool.connect_raw(&target).await;
        let saw = match &connected {
            Ok(_) => Some(Seen::Connected),
            Err(error) => seen(&error.kind),
        };
        if let (Some(picked), Some(saw)) = (&about.picked, saw) {
            picked.saw(saw, sent, tokio::time::Instant::now());
        }
        match connected {
            Ok(io) => return Ok(Upstream { io, about }),
            Err(error) if matches!(error.kind, SendErrorKind::Overflow(_)) => {
                return Err(Failure::Send { kind: error.kind, retried: false });
            }
            Err(error) if tried.len() + 1 == TRIES => {
                return Err(Failure::Send { kind: error.kind, retried: true });
            }
            Err(error) => {
                // The address that was dialled is the only one.
                let Some(endpoint) = endpoint else {
                    return Err(Failure::Send { kind: error.kind, retried: false });
                };
                tracing::debug!(%error, endpoint = %endpoint.address, "trying another endpoint");
                tried.push(endpoint);
            }
        }
    }
}

/// `as_it_is`: the bytes are mTLS of the mesh already.
fn pick(
    worker: &Worker,
    (backend, as_it_is): (&Backend, bool),
    client: &Client<'_>,
    tried: &[Arc<Endpoint>],
) -> Result<Chosen, Failure> {
    let view = view_of(backend)?;
    let subset = backend.subset.as_deref();
    let hash = match view.policy(subset)?.hash_key() {
        // The only key that bytes have.
        Some(key @ HashKey::SourceIp) => {
            let (head, ()) = http::Request::new(()).into_parts();
            worker.random(|rng| key.evaluate(&head, client.source, rng)).hash
        }
        Some(_) | None => None,
    };
    let policy = view.policy(subset)?;
    let (idle, max) = (policy.tcp_idle_timeout, policy.connections.max_duration);
    let about = |target: &Target, picked: Option<Picked>, destination| About {
        picked,
        // 0 is none: as long as anything can last here.
        idle: if idle.is_zero() { FOREVER } else { idle },
        max,
        destination,
        service: view.service().clone(),
        cluster: cluster_name(&view, subset),
        address: target.address,
        mtls: target.mesh,
    };
    if view.is_dialled() {
        let to = direct::Dialled { address: client.dialled, host: client.sni };
        let target = direct::dialled(worker, &view, subset, to, MeshAlpn::Tcp)?;
        let about = about(&target, None, Party::unknown());
        return Ok((Rc::new(target), None, about));
    }
    let context = PickContext { hash, tried, worker: worker.index, now: Moment::now() };
    let picked = worker.random(|rng| view.pick(subset, &context, rng))?;
    let endpoint = picked.endpoint().clone();
    let way = Way { carries: MeshAlpn::Tcp, greeting: None, host: client.sni };
    let target = match as_it_is {
        true => Rc::new(direct::passed_on(&worker.targets, &view, subset, &endpoint)?),
        false => worker.targets.of(&view, subset, &endpoint, &way)?,
    };
    let about = about(&target, Some(picked), endpoint.party.clone());
    Ok((target, Some(endpoint), about))
}

/// Joins a client with its upstream until both end.
pub async fn join(
    worker: &Rc<Worker>,
    client: Io,
    first: Bytes,
    upstream: Upstream,
    mut ends: Ends,
    closer: &Closer,
) {
    let Upstream { io, about } = upstream;
    ends.destination = about.destination;
    ends.service = about.service;
    ends.mtls = about.mtls;
    let mut copy = Copy::new(client, io, first, Bytes::new());
    let told = Told { cluster: &about.cluster, address: about.address, idle: about.idle, max: about.max };
    splice(worker, &mut copy, &ends, &told, closer).await;
    drop(about.picked);
}

/// What the log says about the other side.
pub struct Told<'a> {
    /// Cluster's name.
    pub cluster: &'a str,
    /// Its address.
    pub address: SocketAddr,
    /// How long the connection may be silent.
    pub idle: Duration,
    /// How long it may live.
    pub max: Option<Duration>,
}

/// Copies, counts and logs.
pub async fn splice(
    worker: &Rc<Worker>,
    copy: &mut Copy<Io, Io>,
    ends: &Ends,
    told: &Told<'_>,
    closer: &Closer,
) {
    let (start, started) = (SystemTime::now(), Instant::now());
    let route = Route {
        reporter: ends.reporter,
        source: &ends.source,
        destination: &ends.destination,
        service: &ends.service,
        mtls: ends.mtls,
    };
    let counted = worker.telemetry.tcp_opened(&route);
    let stop = async {
        match told.max {
            Some(max) => drop(tokio::time::timeout(max, closer.closed()).await),
            None => closer.closed().await,
        }
    };
    let moved = tcp::forward(copy, told.idle, stop, |up, down| {
        counted.received(up);
        counted.sent(down);
    })
    .await;
    let (flags, why) = match &moved.end {
        End::Complete => (Flags::NONE, ""),
        End::Client(_) => (Flags::DOWNSTREAM_DISCONNECT, "downstream_remote_disconnect"),
        End::Server(_) => (Flags::UPSTREAM_CLOSED, "upstream_remote_disconnect"),
        End::Idle => (Flags::STREAM_IDLE, "idle_timeout"),
        End::Stopped => (Flags::LOCAL_RESET, "closed_by_proxy"),
    };
    counted.closed(flags);
    let mut entry = entry(start, started, ends);
    entry.flags = flags;
    entry.termination = why;
    entry.bytes_received = moved.up;
    entry.bytes_sent = moved.down;
    entry.upstream_host = Some(told.address);
    entry.upstream_cluster = told.cluster;
    worker.telemetry.log(&entry);
}

/// Tells of a connection that could not be served, which bytes cannot say to the client.
pub fn refused(worker: &Worker, ends: &Ends, failure: &Failure) {
    let Verdict { flags, details, .. } = failure.verdict();
    tracing::info!(%failure, remote = ?ends.remote, local = ?ends.local, "connection closed");
    let (start, started) = (SystemTime::now(), Instant::now());
    let route = Route {
        reporter: ends.reporter,
        source: &ends.source,
        destination: &ends.destination,
        service: &ends.service,
        mtls: ends.mtls,
    };
    worker.telemetry.tcp_opened(&route).closed(flags);
    let mut entry = entry(start, started, ends);
    entry.flags = flags;
    // As Envoy's: a policy ends the connection, and everything else is an answer that bytes cannot be told.
    match failure {
        Failure::Denied { .. } => entry.termination = &details,
        _ => entry.details = &details,
    }
    worker.telemetry.log(&entry);
}

fn entry<'a>(start: SystemTime, started: Instant, ends: &'a Ends) -> LogEntry<'a> {
    LogEntry {
        start,
        method: "",
        path: "",
        protocol: "",
        status: 0,
        flags: Flags::NONE,
        details: "",
        termination: "",
        transport_failure: "",
        bytes_received: 0,
        bytes_sent: 0,
        duration: started.elapsed(),
        upstream_time: None,
        forwarded_for: None,
        user_agent: None,
        request_id: None,
        authority: "",
        upstream_host: None,
        upstream_cluster: "",
        upstream_local: None,
        downstream_local: ends.local,
        downstream_remote: ends.remote,
        server_name: &ends.server_name,
        route_name: "",
        policies: ends.policies.as_deref().unwrap_or_default(),
    }
}
