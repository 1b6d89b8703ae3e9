//! What each path answers. In: a request's head. Out: a small response.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use mesh_proto::runtime::{log, operator};
use serde_json::{Value, json};

use super::{Sources, agent};

/// Which server was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Status,
    Metrics,
    Admin,
    Agent,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
            Self::Agent => "agent",
        }
    }
}

/// The longest that readiness is waited for in one question.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

pub(super) type Answer = Response<Full<Bytes>>;

/// Answers one request; the body is not read.
pub(super) async fn answer<B>(
    role: Role,
    peer: SocketAddr,
    request: &Request<B>,
    sources: &Sources,
) -> Answer {
    if let (Role::Agent, Some(agent)) = (role, &sources.agent) {
        return agent::answer(agent, peer, request, sources).await;
    }
    if role == Role::Admin && !is_from_this_machine(request) {
        return text(StatusCode::FORBIDDEN, "ask by address, not from a web page\n".to_owned());
    }
    let path = request.uri().path();
    let changes = match (role, path) {
        (Role::Admin, "/drain") => true,
        (Role::Admin, "/logging") => request.uri().query().is_some(),
        _ => false,
    };
    let wanted = if changes { Method::POST } else { Method::GET };
    let method = request.method();
    let page = match (role, path) {
        (Role::Status, "/healthz/ready") | (Role::Admin, "/ready") => Page::Ready,
        (Role::Metrics | Role::Admin, "/stats/prometheus") => Page::Metrics,
        (Role::Admin, "/config_dump") => Page::Document(&sources.config_dump),
        (Role::Admin, "/clusters") => Page::Document(&sources.clusters),
        (Role::Admin, "/certs") => Page::Document(&sources.certs),
        (Role::Admin, "/stats") => Page::Document(&sources.stats),
        (Role::Admin, "/drain") => Page::Drain,
        (Role::Admin, "/logging") => Page::Logging,
        _ => return text(StatusCode::NOT_FOUND, format!("there is {}\n", paths(role))),
    };
    if *method != wanted && !(wanted == Method::GET && *method == Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("{wanted} {path}\n"));
        let allow = if wanted == Method::POST { "POST" } else { "GET, HEAD" };
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return refused;
    }
    if let Some(why) = changes.then(|| operator::refusal(request.headers())).flatten() {
        return text(StatusCode::FORBIDDEN, why.to_owned());
    }
    match page {
        Page::Ready => ready(request.uri().query(), sources).await,
        Page::Metrics => metrics((sources.metrics)()),
        Page::Document(document) => document_of(&document()),
        Page::Drain => drain(request.uri().query(), sources).await,
        Page::Logging => logging(request.uri().query()),
    }
}

/// Whether traffic may come. `wait=SECONDS` waits so long for a yes: a kubelet asks once a second, and would otherwise hold
/// the application for that second though we are ready after a fraction of it.
pub(super) async fn ready(query: Option<&str>, sources: &Sources) -> Answer {
    let wait = crate::route::parameter(query, "wait").and_then(|seconds| seconds.parse().ok());
    let wait = wait.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_default().min(MAX_WAIT);
    let deadline = tokio::time::Instant::now() + wait;
    while (sources.ready)().is_err() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK).await;
    }
    match (sources.ready)() {
        Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

pub(super) fn metrics(text: String) -> Answer {
    plain("text/plain; version=0.0.4; charset=utf-8", text)
}

enum Page<'a> {
    Ready,
    Metrics,
    Document(&'a super::Document),
    Drain,
    Logging,
}

fn paths(role: Role) -> &'static str {
    match role {
        Role::Status => "/healthz/ready",
        Role::Metrics => "/stats/prometheus",
        Role::Agent => agent::PATHS,
        Role::Admin => {
            "/ready, /config_dump, /clusters, /certs, /stats, /stats/prometheus, /logging, POST /logging?level=FILTER, \
             POST /drain?timeout=SECONDS (a POST with the header x-mesh-admin)"
        }
    }
}

/// A page on the web can make a browser on this machine send requests here, also under a name of its own that resolves
/// to loopback. Such requests name an origin, or a host that is neither an address nor `localhost`.
fn is_from_this_machine<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).map(|host| host.to_str().unwrap_or("?"));
    let is_local = |host: &str| {
        let authority = host.parse::<http::uri::Authority>();
        authority.is_ok_and(|authority| {
            let host = authority.host().trim_start_matches('[').trim_end_matches(']');
            host == "localhost" || host.parse::<IpAddr>().is_ok()
        })
    };
    !request.headers().contains_key(ORIGIN) && host.is_none_or(is_local)
}

async fn drain(query: Option<&str>, sources: &Sources) -> Answer {
    let limit = match crate::route::parameter(query, "timeout") {
        None => None,
        Some(seconds) => match seconds.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok()) {
            Some(limit) => Some(limit),
            None => {
                return text(
                    StatusCode::BAD_REQUEST,
                    format!("timeout={seconds:?} is no number of seconds\n"),
                );
            }
        },
    };
    let drained = sources.drain.drain(limit).await;
    document_of(&json!({ "drained": drained }))
}

/// The log filter; with `level=`: another one from here on.
fn logging(query: Option<&str>) -> Answer {
    if query.is_some() {
        let Some(level) = crate::route::parameter(query, "level") else {
            return text(StatusCode::BAD_REQUEST, "POST /logging?level=FILTER\n".to_owned());
        };
        if let Err(error) = log::set_filter(level) {
            return text(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
        tracing::info!(level, "another log filter");
    }
    match log::filter() {
        Some(filter) => text(StatusCode::OK, format!("{filter}\n")),
        None => text(StatusCode::NOT_FOUND, "this process has no logs of its own\n".to_owned()),
    }
}

fn document_of(value: &Value) -> Answer {
    let mut body = format!("{value:#}");
    body.push('\n');
    plain("application/json", body)
}

pub(super) fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = plain("text/plain; charset=utf-8", body);
    *answer.status_mut() = status;
    answer
}

fn plain(kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_filter_is_told_and_changed() {
        log::init("test");
        let ask = |query| logging(query).status().as_u16();
        assert_eq!(ask(Some("level=warn,mesh_proxy=debug")), 200);
        assert_eq!(log::filter().as_deref(), Some("warn,mesh_proxy=debug"));
        assert_eq!(ask(None), 200);
        for bad in ["", "level=", "level=a=b=c", "filter=info"] {
            assert_eq!(ask(Some(bad)), 400, "{bad}");
        }
        assert_eq!(log::filter().as_deref(), Some("warn,mesh_proxy=debug"));
    }
}
