//! One request from its first byte to its last: what metrics and the access log will say about it.
//!
//! In: what each stage finds out. Out: exactly one record, also when the client goes away before the answer (the call's
//! future is dropped then, and this with it).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, Version};

use crate::authorization::under_way::{Permit, Told};
use crate::cluster::{Picked, Seen};
use crate::drain::Closer;
use crate::http::service::Tunnel;
use crate::http::{BadRequest, Body, BodyError, End, Outcome, Record, Reply, Then};
use crate::io::Io;
use crate::respond::{Failure, is_grpc};
use crate::tcp;
use crate::telemetry::{Flags, LogEntry, Party, Reporter, RequestFacts, RequestProtocol, Route, Service};
use crate::worker::Worker;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Istio's correlation id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which rule has denied a request: only where MeshConfig says `denyReasonHeader: true`.
pub const DENIED_BY: HeaderName = HeaderName::from_static("x-mesh-denied-by");

/// Facts of a connection that each of its requests shares.
#[derive(Clone)]
pub struct Ends {
    /// Which side we are.
    pub reporter: Reporter,
    /// The client's workload.
    pub source: Arc<Party>,
    /// The server's; requests that leave replace it.
    pub destination: Arc<Party>,
    /// What is asked for; requests that leave replace it.
    pub service: Arc<Service>,
    /// The mesh leg is mTLS.
    pub mtls: bool,
    /// Our end of the client's connection.
    pub local: Option<SocketAddr>,
    /// The client's end.
    pub remote: Option<SocketAddr>,
    /// SNI.
    pub server_name: Rc<str>,
    /// What policies say of it that decide nothing.
    pub policies: Option<Rc<str>>,
}

impl Ends {
    /// The client's address, as hashing takes it.
    #[must_use]
    pub fn source_ip(&self) -> IpAddr {
        self.source().ip()
    }

    /// The client's end.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.remote.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
    }
}

/// One request.
pub struct Exchange {
    worker: Rc<Worker>,
    ends: Ends,
    started: Instant,
    protocol: RequestProtocol,
    status: u16,
    flags: Flags,
    details: Cow<'static, str>,
    upstream_time: Option<Duration>,
    picked: Option<Picked>,
    /// How the attempt with it ended is told.
    judged: bool,
    log: Option<Box<LogFields>>,
    /// It is decided again when policies change.
    permit: Option<Permit>,
    done: bool,
}

/// What only the access log needs.
struct LogFields {
    start: SystemTime,
    method: Method,
    uri: Uri,
    version: Version,
    authority: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    route_name: Arc<str>,
    upstream_cluster: String,
    upstream_host: Option<SocketAddr>,
    transport_failure: String,
}

impl Exchange {
    /// A request has come.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, ends: Ends, head: &Parts) -> Box<Self> {
        let log = worker.telemetry.logs().then(|| Box::new(LogFields::new(head)));
        let grpc = is_grpc(&head.headers);
        Box::new(Self {
            worker: worker.clone(),
            ends,
            started: Instant::now(),
            protocol: if grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            status: 0,
            flags: Flags::NONE,
            details: Cow::Borrowed(""),
            upstream_time: None,
            picked: None,
            judged: false,
            log,
            permit: None,
            done: false,
        })
    }

    /// A message that the codec refused: nothing of its head is known.
    pub fn malformed(worker: &Rc<Worker>, ends: Ends, why: BadRequest) {
        let (head, ()) = http::Request::new(()).into_parts();
        let mut exchange = Self::new(worker, ends, &head);
        exchange.failed(&Failure::Malformed(why));
        exchange.finish(&Outcome { bytes_received: 0, bytes_sent: 0, grpc_status: None, end: End::Complete });
    }

    /// When the request began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether failures are answered in gRPC's way.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        self.protocol == RequestProtocol::Grpc
    }

    /// Which rule was taken.
    pub fn route(&mut self, name: &Arc<str>) {
        if let Some(log) = &mut self.log {
            log.route_name = name.clone();
        }
    }

    /// It is allowed as long as this says so.
    pub fn permit(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// Where it is told that it is not allowed any more.
    #[must_use]
    pub fn told(&self) -> Option<Rc<Told>> {
        self.permit.as_ref().map(Permit::told)
    }

    /// What policies say that decide nothing.
    pub fn policies(&mut self, said: Rc<str>) {
        self.ends.policies = Some(said);
    }

    /// Which id the request got.
    pub fn request_id(&mut self, id: &HeaderValue) {
        if let Some(log) = &mut self.log {
            log.request_id = Some(id.clone());
        }
    }

    /// Which service is meant, and by which cluster's name (Istio's form).
    pub fn service(&mut self, service: &Arc<Service>, cluster: impl FnOnce() -> String) {
        self.ends.service = service.clone();
        self.cluster(cluster);
    }

    /// By which cluster's name the log knows where it goes.
    pub fn cluster(&mut self, cluster: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.upstream_cluster = cluster();
        }
    }

    /// Who was chosen to answer. The endpoint counts as busy until the exchange is over, or another one is chosen.
    pub fn upstream(&mut self, destination: Option<&Arc<Party>>, address: SocketAddr, mtls: bool) {
        if let Some(destination) = destination {
            self.ends.destination = destination.clone();
            self.ends.mtls = mtls;
        }
        if let Some(log) = &mut self.log {
            log.upstream_host = Some(address);
        }
    }

    /// Keeps a choice until the exchange is over.
    pub fn hold(&mut self, picked: Option<Picked>) {
        self.picked = picked;
        self.judged = false;
    }

    /// How the attempt with the choice that is kept ended: the first word counts.
    pub fn saw(&mut self, seen: Seen, sent: tokio::time::Instant, ended: tokio::time::Instant) {
        if let Some(picked) = self.picked.as_ref().filter(|_| !self.judged) {
            self.judged = true;
            picked.saw(seen, sent, ended);
        }
    }

    /// One more response flag.
    pub fn flag(&mut self, flag: Flags) {
        self.flags = self.flags.with(flag);
    }

    /// An answer of the upstream's.
    pub fn answered(&mut self, status: u16, took: Duration) {
        self.status = status;
        self.upstream_time = Some(took);
        self.details = Cow::Borrowed("via_upstream");
    }

    /// An answer of our own that is no failure.
    pub fn direct(&mut self, status: u16) {
        self.status = status;
        self.details = Cow::Borrowed("direct_response");
    }

    /// An answer of our own because something failed.
    pub fn failed(&mut self, failure: &Failure) {
        // What we say ourselves needs nobody's leave.
        self.permit = None;
        let verdict = failure.verdict();
        self.status = verdict.status.as_u16();
        self.flags = self.flags.with(verdict.flags);
        self.details = verdict.details;
        if let (Some(log), Failure::Send { kind, .. }) = (&mut self.log, failure) {
            log.transport_failure = kind.to_string();
        }
    }

    /// Tells metrics and log, once.
    pub fn finish(&mut self, outcome: &Outcome) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.picked = None;
        if let Some(failure) = self.permit.take().and_then(|permit| permit.told().failure()) {
            self.flags = self.flags.with(Flags::LOCAL_RESET);
            self.details = failure.verdict().details;
        }
        let termination = match &outcome.end {
            End::Complete => "",
            End::ClientGone => {
                self.flags = self.flags.with(Flags::DOWNSTREAM_DISCONNECT);
                "downstream_remote_disconnect"
            }
            End::UpstreamFailed(_) => {
                self.flags = self.flags.with(Flags::UPSTREAM_CLOSED);
                "upstream_reset_after_response_started"
            }
        };
        let duration = self.started.elapsed();
        self.worker.telemetry.request(&RequestFacts {
            route: Route {
                reporter: self.ends.reporter,
                source: &self.ends.source,
                destination: &self.ends.destination,
                service: &self.ends.service,
                mtls: self.ends.mtls,
            },
            protocol: self.protocol,
            status: self.status,
            grpc_status: outcome.grpc_status,
            flags: self.flags,
            duration,
            request_bytes: outcome.bytes_received,
            response_bytes: outcome.bytes_sent,
        });
        if let Some(log) = &self.log {
            self.log(log, outcome, termination, duration);
        }
    }

    fn log(&self, log: &LogFields, outcome: &Outcome, termination: &str, duration: Duration) {
        self.worker.telemetry.log(&LogEntry {
            start: log.start,
            method: log.method.as_str(),
            path: log.uri.path_and_query().map_or_else(|| log.uri.path(), |p| p.as_str()),
            protocol: version_name(log.version),
            status: self.status,
            flags: self.flags,
            details: &self.details,
            termination,
            transport_failure: &log.transport_failure,
            bytes_received: outcome.bytes_received,
            bytes_sent: outcome.bytes_sent,
            duration,
            upstream_time: self.upstream_time,
            forwarded_for: log.forwarded_for.as_ref().map(HeaderValue::as_bytes),
            user_agent: log.user_agent.as_ref().map(HeaderValue::as_bytes),
            request_id: log.request_id.as_ref().map(HeaderValue::as_bytes),
            authority: log.authority.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default(),
            upstream_host: log.upstream_host,
            upstream_cluster: &log.upstream_cluster,
            upstream_local: None,
            downstream_local: self.ends.local,
            downstream_remote: self.ends.remote,
            server_name: &self.ends.server_name,
            route_name: &log.route_name,
            policies: self.ends.policies.as_deref().unwrap_or_default(),
        });
    }
}

impl LogFields {
    fn new(head: &Parts) -> Self {
        let field = |headers: &HeaderMap, name: &HeaderName| headers.get(name).cloned();
        Self {
            start: SystemTime::now(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            authority: field(&head.headers, &HOST),
            user_agent: field(&head.headers, &USER_AGENT),
            forwarded_for: field(&head.headers, &FORWARDED_FOR),
            request_id: field(&head.headers, &REQUEST_ID),
            route_name: Arc::from(""),
            upstream_cluster: String::new(),
            upstream_host: None,
            transport_failure: String::new(),
        }
    }
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl Record for Exchange {
    fn poll_cut(&self, cx: &Context<'_>) -> Poll<BodyError> {
        self.permit.as_ref().map_or(Poll::Pending, |permit| permit.poll_cut(cx))
    }

    fn finish(mut self: Box<Self>, outcome: &Outcome) {
        Exchange::finish(&mut self, outcome);
    }
}

impl Drop for Exchange {
    /// Dropped before it was finished: the client went away while we were still busy.
    fn drop(&mut self) {
        if !self.done {
            self.failed(&Failure::ClientGone);
            self.status = 0;
            self.finish(&Outcome {
                bytes_received: 0,
                bytes_sent: 0,
                grpc_status: None,
                end: End::ClientGone,
            });
        }
    }
}

/// The codec's reply to a request that was answered or has failed; an upgraded connection becomes a tunnel. `open`: the
/// client is our own application and is told everything.
#[must_use]
pub fn reply(
    mut exchange: Box<Exchange>,
    answer: Result<Response<Body>, Failure>,
    open: bool,
    closer: &Closer,
) -> Reply {
    match answer {
        Err(failure) => {
            exchange.failed(&failure);
            let mut response = failure.response(exchange.is_grpc(), open);
            if let Failure::Denied { rule } = &failure
                && exchange.worker.store.self_config().is_some_and(|config| config.deny_reason_header)
            {
                let rule = rule.as_deref().unwrap_or("none");
                let rule = HeaderValue::from_str(rule).unwrap_or(HeaderValue::from_static("unknown"));
                response.headers_mut().insert(DENIED_BY, rule);
            }
            Reply { response, then: Then::KeepAlive, record: Some(exchange) }
        }
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let (head, body) = response.into_parts();
            match body.into_upgraded() {
                Ok((upstream, early)) => {
                    let then = Then::Tunnel(tunnel(exchange, upstream, early, closer.clone()));
                    Reply { response: Response::from_parts(head, Body::empty()), then, record: None }
                }
                Err(_) => reply(exchange, Err(Failure::Bug("an upgrade without a stream")), open, closer),
            }
        }
        Ok(response) => Reply { response, then: Then::KeepAlive, record: Some(exchange) },
    }
}

/// Joins the client's stream with the upstream's until both end; the exchange is over then.
fn tunnel(mut exchange: Box<Exchange>, upstream: Io, early: Bytes, closer: Closer) -> Tunnel {
    Box::new(move |client, first| {
        Box::pin(async move {
            let mut copy = tcp::Copy::new(client, upstream, first, early);
            let told = exchange.told();
            let stop = async {
                match told {
                    Some(told) => tokio::select! {
                        () = closer.closed() => {}
                        _ = told.denied() => {}
                    },
                    None => closer.closed().await,
                }
            };
            let moved = tcp::forward(&mut copy, tcp::IDLE, stop, |_, _| {}).await;
            let end = match moved.end {
                tcp::End::Client(_) => End::ClientGone,
                tcp::End::Server(error) => End::UpstreamFailed(error.into()),
                tcp::End::Complete | tcp::End::Idle | tcp::End::Stopped => End::Complete,
            };
            Exchange::finish(
                &mut exchange,
                &Outcome { bytes_received: moved.up, bytes_sent: moved.down, grpc_status: None, end },
            );
        })
    })
}
