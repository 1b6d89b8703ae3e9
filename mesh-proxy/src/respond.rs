//! The one place where a failure becomes an answer: status, Istio's response flag, and a detail that says whose fault it is.
//!
//! In: [`Failure`], made by whichever stage noticed. Out: [`Verdict`] and, for requests, the response (gRPC callers get
//! trailers-only answers). Sources: Envoy's response flags and response code details, gRFC's HTTP to gRPC status mapping.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use mesh_proto::model::HostPort;

use crate::cluster::NoEndpoint;
use crate::http::path::BadPath;
use crate::http::{BadRequest, Body};
use crate::pool::SendErrorKind;
use crate::store::Demand;
use crate::telemetry::Flags;

mod external;
#[cfg(test)]
mod tests;

pub use self::external::{Denial, External};

/// What Envoy says of each request that a policy denies: which policy is nobody's business but the access log's.
const DENIED: &str = "RBAC: access denied";
/// What Envoy adds where a limit was reached.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Who asked.
    Client,
    /// A policy forbids it.
    Policy,
    /// The routing configuration.
    Route,
    /// Who should have answered.
    Upstream,
    /// The mesh itself: this proxy, or its control plane.
    Mesh,
}

/// Everything that can go wrong with a request or connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The codec refused the message.
    #[error("{0}")]
    Malformed(BadRequest),
    /// CONNECT to something that is no `host:port`.
    #[error("CONNECT needs host:port, not {0:?}")]
    ConnectTarget(String),
    /// The client went away before the answer.
    #[error("the client went away")]
    ClientGone,
    /// The client's body failed while it was being sent.
    #[error("the client's body failed: {0}")]
    RequestBody(String),
    /// Plaintext to a port that takes only mTLS.
    #[error("PeerAuthentication {policy} demands mTLS")]
    PlaintextRefused {
        /// Which one.
        policy: String,
    },
    /// A TLS handshake that is none of the mesh's, where one was needed.
    #[error("not a handshake of the mesh on a port that is declared {protocol}")]
    ForeignTls {
        /// The port's protocol.
        protocol: &'static str,
    },
    /// A handshake that was refused; the text names who and why.
    #[error("TLS handshake: {0}")]
    Handshake(String),
    /// No server of a gateway's port has the name that the client asks for.
    #[error("no TLS server for {0}")]
    NoTlsServer(String),
    /// The server's certificate has not come, or cannot be used.
    #[error("the server for that name has no certificate that can be used")]
    NoCertificate,
    /// A request on a connection that is for other hosts.
    #[error("misdirected: {0}")]
    Misdirected(String),
    /// A policy that restricts this workload cannot be enforced.
    #[error("{policy} cannot be enforced by this proxy, so nothing is let in")]
    FailClosed {
        /// Which one.
        policy: String,
    },
    /// An AuthorizationPolicy forbids it.
    #[error("AuthorizationPolicy: {}", rule.as_deref().unwrap_or("no ALLOW rule matches"))]
    Denied {
        /// The DENY rule; none: there are ALLOW policies, and none of them matches.
        rule: Option<Arc<str>>,
    },
    /// Somebody else who is asked has not let it pass.
    #[error("external authorization: {0}")]
    External(External),
    /// A token that is not valid, in Envoy's words.
    #[error("{0}")]
    Unauthenticated(String),
    /// A valid token that is for others.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// A path that servers read differently.
    #[error("{0}")]
    BadPath(#[from] BadPath),
    /// Nothing matches.
    #[error("no route for this request")]
    NoRoute,
    /// The destination has no rule for opaque bytes.
    #[error("{0} has no route for opaque bytes")]
    NoTcpRoute(HostPort),
    /// REGISTRY_ONLY, and nobody registered it.
    #[error("nobody registered {0}")]
    Blocked(String),
    /// Nobody knows this name with this port, and this proxy does not ask DNS.
    #[error("{0} is neither a host and port of the mesh nor an address")]
    UnknownHost(String),
    /// A socket that a sidecar has for its own pod only.
    #[error("{0} is a port of the proxy itself: nothing is sent there")]
    ProxyPort(std::net::SocketAddr),
    /// The route has no backend with a weight.
    #[error("no backend has a weight")]
    NoBackend,
    /// No endpoint could be chosen.
    #[error("{0}")]
    NoEndpoint(#[from] NoEndpoint),
    /// An attempt failed for good.
    #[error("{kind}")]
    Send {
        /// How.
        kind: SendErrorKind,
        /// Other attempts had failed before.
        retried: bool,
    },
    /// The route's timeout.
    #[error("no answer within the route's timeout")]
    RouteTimeout,
    /// The retry policy's timeout for one attempt.
    #[error("no answer within the time for one attempt")]
    PerTryTimeout,
    /// mTLS is demanded towards an endpoint that has no identity.
    #[error("mTLS to {0} is demanded, but it has no identity in the mesh")]
    NoIdentity(String),
    /// The control plane's answer about a name.
    #[error("{0}")]
    Demand(#[from] Demand),
    /// This proxy has no configuration yet.
    #[error("this proxy has no configuration yet")]
    NotReady,
    /// A contradiction in our own code.
    #[error("BUG: {0}")]
    Bug(&'static str),
}

/// What a failure means to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Status of the answer.
    pub status: StatusCode,
    /// Response flags.
    pub flags: Flags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Whose fault it is.
    pub fault: Fault,
}

impl Failure {
    /// Whether somebody who was asked about a request has said so, or has said nothing; the request itself is whole.
    #[must_use]
    pub fn is_an_answer(&self) -> bool {
        matches!(self, Self::External(why) if why.is_an_answer())
    }

    /// Status, flag, detail and fault.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let client = |text| told(StatusCode::BAD_REQUEST, Flags::DOWNSTREAM_PROTOCOL, text, Fault::Client);
        let late = |text| known(StatusCode::GATEWAY_TIMEOUT, Flags::UPSTREAM_TIMEOUT, text, Fault::Upstream);
        match self {
            Self::Malformed(why) => {
                told(why.status(), Flags::DOWNSTREAM_PROTOCOL, format!("client: {why}"), Fault::Client)
            }
            Self::ConnectTarget(_) | Self::Handshake(_) | Self::RequestBody(_) => client(self.to_string()),
            Self::ClientGone => known(
                StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
                Flags::DOWNSTREAM_DISCONNECT,
                "downstream_remote_disconnect",
                Fault::Client,
            ),
            Self::PlaintextRefused { .. }
            | Self::ForeignTls { .. }
            | Self::FailClosed { .. }
            | Self::ProxyPort(_) => {
                told(StatusCode::FORBIDDEN, Flags::NONE, format!("policy: {self}"), Fault::Policy)
            }
            Self::Denied { rule } => Self::denied(rule.as_deref()),
            Self::External(why) => why.verdict(),
            Self::Unauthenticated(_) => self.token(StatusCode::UNAUTHORIZED),
            Self::Audience => self.token(StatusCode::FORBIDDEN),
            Self::BadPath(_) => {
                known(StatusCode::BAD_REQUEST, Flags::NONE, "path_normalization_failed", Fault::Client)
            }
            Self::NoTlsServer(_) => {
                known(StatusCode::NOT_FOUND, Flags::NO_ROUTE, "filter_chain_not_found", Fault::Route)
            }
            Self::NoCertificate => told(unavailable, Flags::NONE, format!("route: {self}"), Fault::Route),
            Self::Misdirected(_) => {
                told(StatusCode::MISDIRECTED_REQUEST, Flags::NONE, format!("client: {self}"), Fault::Client)
            }
            Self::NoRoute | Self::NoTcpRoute(_) => {
                known(StatusCode::NOT_FOUND, Flags::NO_ROUTE, "route_not_found", Fault::Route)
            }
            Self::Blocked(_) => known(StatusCode::BAD_GATEWAY, Flags::NONE, "block_all", Fault::Policy),
            Self::UnknownHost(_) => {
                known(StatusCode::BAD_GATEWAY, Flags::DNS_FAILURE, "dns_resolution_failure", Fault::Client)
            }
            Self::NoBackend => {
                known(StatusCode::INTERNAL_SERVER_ERROR, Flags::NO_CLUSTER, "cluster_not_found", Fault::Route)
            }
            Self::NoEndpoint(why) => Self::no_endpoint(why),
            Self::Send { kind, retried } => Self::send(kind, *retried),
            Self::RouteTimeout => late("response_timeout"),
            Self::PerTryTimeout => late("upstream_per_try_timeout"),
            Self::NoIdentity(_) => told(
                unavailable,
                Flags::UPSTREAM_CONNECT_FAILED,
                format!("upstream_reset_before_response_started{{remote_connection_failure|TLS: {self}}}"),
                Fault::Route,
            ),
            Self::Demand(why) => Self::demand(why),
            Self::NotReady => known(unavailable, Flags::NO_CLUSTER, "proxy_not_ready", Fault::Mesh),
            Self::Bug(_) => {
                told(StatusCode::INTERNAL_SERVER_ERROR, Flags::NONE, self.to_string(), Fault::Mesh)
            }
        }
    }

    /// Envoy's form: spaces would end the field in a log.
    fn token(&self, status: StatusCode) -> Verdict {
        let details = format!("jwt_authn_access_denied{{{}}}", self.to_string().replace(' ', "_"));
        told(status, Flags::NONE, details, Fault::Client)
    }

    /// Envoy's words.
    fn denied(rule: Option<&str>) -> Verdict {
        let details = format!("rbac_access_denied_matched_policy[{}]", rule.unwrap_or("none"));
        told(StatusCode::FORBIDDEN, Flags::NONE, details, Fault::Policy)
    }

    fn no_endpoint(why: &NoEndpoint) -> Verdict {
        let (flags, details, fault) = match why {
            NoEndpoint::ClusterAbsent(_) | NoEndpoint::UnknownSubset { .. } => {
                (Flags::NO_CLUSTER, "cluster_not_found", Fault::Route)
            }
            NoEndpoint::Empty(_) | NoEndpoint::NoneReady { .. } | NoEndpoint::AllEjected { .. } => {
                (Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream", Fault::Upstream)
            }
            NoEndpoint::Unresolved { .. } => {
                (Flags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream{dns_resolution_failure}", Fault::Upstream)
            }
            NoEndpoint::Passthrough(_) | NoEndpoint::NotDialled(_) => {
                (Flags::NO_CLUSTER, "original_dst_unknown", Fault::Route)
            }
        };
        Verdict { status: StatusCode::SERVICE_UNAVAILABLE, flags, details: Cow::Borrowed(details), fault }
    }

    fn send(kind: &SendErrorKind, retried: bool) -> Verdict {
        let reset = |reason: &str| format!("upstream_reset_before_response_started{{{reason}}}");
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let (status, flags, details, fault) = match kind {
            SendErrorKind::ConnectFailed(why) => (
                unavailable,
                Flags::UPSTREAM_CONNECT_FAILED,
                reset(&format!("remote_connection_failure|{why}")),
                Fault::Upstream,
            ),
            SendErrorKind::ConnectTimeout => {
                (unavailable, Flags::UPSTREAM_CONNECT_FAILED, reset("connection_timeout"), Fault::Upstream)
            }
            SendErrorKind::Tls(why) => (
                unavailable,
                Flags::UPSTREAM_CONNECT_FAILED,
                reset(&format!("remote_connection_failure|TLS_error: {why}")),
                Fault::Upstream,
            ),
            SendErrorKind::Unreached => (
                unavailable,
                Flags::UPSTREAM_CONNECT_FAILED,
                reset("remote_connection_failure|application"),
                Fault::Upstream,
            ),
            SendErrorKind::Overflow(_) => {
                (unavailable, Flags::UPSTREAM_OVERFLOW, reset("overflow"), Fault::Policy)
            }
            SendErrorKind::RefusedStream => {
                (unavailable, Flags::UPSTREAM_RESET, reset("remote_refused_stream_reset"), Fault::Upstream)
            }
            SendErrorKind::ClosedBeforeResponse { .. } => {
                (unavailable, Flags::UPSTREAM_CLOSED, reset("connection_termination"), Fault::Upstream)
            }
            SendErrorKind::Reset => {
                (unavailable, Flags::UPSTREAM_RESET, reset("remote_reset"), Fault::Upstream)
            }
            SendErrorKind::Protocol(why) => (
                StatusCode::BAD_GATEWAY,
                Flags::UPSTREAM_PROTOCOL,
                reset(&format!("protocol_error|{why}")),
                Fault::Upstream,
            ),
            SendErrorKind::RequestBody(why) => (
                StatusCode::BAD_REQUEST,
                Flags::DOWNSTREAM_PROTOCOL,
                format!("client: the request body failed: {why}"),
                Fault::Client,
            ),
        };
        let flags = if retried { flags.with(Flags::RETRY_LIMIT) } else { flags };
        Verdict { status, flags, details: Cow::Owned(details), fault }
    }

    fn demand(why: &Demand) -> Verdict {
        let (details, fault) = match why {
            Demand::Timeout(_) => ("discovery_timeout", Fault::Mesh),
            Demand::Absent(_) => ("cluster_not_found", Fault::Route),
            Demand::Rejected(..) => ("configuration_rejected", Fault::Mesh),
            Demand::Full(_) => ("too_many_destinations", Fault::Client),
        };
        Verdict {
            status: StatusCode::SERVICE_UNAVAILABLE,
            flags: Flags::NO_CLUSTER,
            details: Cow::Borrowed(details),
            fault,
        }
    }

    /// The answer. `open` callers (the proxy's own application) are told everything; others only the detail's first word.
    #[must_use]
    pub fn response(&self, grpc: bool, open: bool) -> Response<Body> {
        let verdict = self.verdict();
        if let Self::External(External::Denied { denial, .. }) = self {
            return denial.response(grpc);
        }
        let text = match self {
            Self::Denied { .. } => DENIED.to_owned(),
            // Nor who was asked, and how that went.
            Self::External(_) => short(&verdict.details).to_owned(),
            Self::Unauthenticated(_) | Self::Audience => self.to_string(),
            _ if open => self.text(&verdict),
            _ => short(&verdict.details).to_owned(),
        };
        let mut response =
            if grpc { trailers_only(verdict.status, &text) } else { plain(verdict.status, text) };
        if matches!(self, Self::Unauthenticated(_)) {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
        }
        if matches!(self, Self::Send { kind: SendErrorKind::Overflow(_), .. }) {
            response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        response
    }

    /// One line: who, what, detail.
    fn text(&self, verdict: &Verdict) -> String {
        let who = match verdict.fault {
            Fault::Client => "client",
            Fault::Policy => "policy",
            Fault::Route => "route",
            Fault::Upstream => "upstream",
            Fault::Mesh => "mesh",
        };
        format!("{who}: {self} ({})\n", verdict.details)
    }
}

/// A verdict whose detail is a fixed word.
const fn known(status: StatusCode, flags: Flags, details: &'static str, fault: Fault) -> Verdict {
    Verdict { status, flags, details: Cow::Borrowed(details), fault }
}

/// A verdict whose detail says more.
const fn told(status: StatusCode, flags: Flags, details: String, fault: Fault) -> Verdict {
    Verdict { status, flags, details: Cow::Owned(details), fault }
}

fn short(details: &str) -> &str {
    details.split(['{', ':', '|']).next().unwrap_or_default()
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// gRPC over HTTP/2, "Responses": Trailers-Only.
fn trailers_only(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(grpc_status(status)));
    if let Ok(message) = HeaderValue::from_str(&percent_encode(text.trim_end())) {
        headers.insert("grpc-message", message);
    }
    response
}

/// gRPC's "HTTP to gRPC Status Code Mapping", as Envoy's local replies use it.
#[must_use]
pub fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// gRPC's `grpc-message` encoding: everything but printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Whether a request is gRPC: its failures are answered in gRPC's way.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.starts_with(b"application/grpc") && !value.starts_with(b"application/grpc-web")
    })
}
