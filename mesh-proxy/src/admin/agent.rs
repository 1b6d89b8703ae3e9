//! What the kubelet asks of a pod's proxy (port 15020, reachable from outside of the pod).
//!
//! In: a request's head. Out: `/healthz/ready`, the application's own probes (`/app-health/...`), `/drain/<token>`, metrics
//! of proxy and application together, `/quitquitquit`. The paths are Istio's agent's; `/drain/<token>` is ours: the preStop
//! hook of each application container asks it, and its answer lets the kubelet go on to SIGTERM (design §3.3).

mod probe;
mod scrape;
#[cfg(test)]
mod tests;
mod tls;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use http::header::ALLOW;
use http::{HeaderValue, Method, Request, StatusCode};
use mesh_proto::runtime::operator;

use super::Sources;
use super::endpoints::{self, Answer, text};
use crate::config::agent;

/// What there is.
pub(super) const PATHS: &str = "/healthz/ready, /stats/prometheus, /app-health/CONTAINER/{livez,readyz,startupz}, /drain/TOKEN, POST /quitquitquit";

/// The end of the pod.
pub trait Termination: Send + Sync {
    /// Begins to drain what comes in (again: joins), and ends when the application may be told to stop. `true` when nothing
    /// is in flight any more, `false` when time was up.
    fn drain(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;

    /// Ends the proxy as SIGTERM would.
    fn quit(&self);
}

/// What the endpoints need.
pub struct Agent {
    /// Probes, token and metrics.
    pub config: agent::Agent,
    /// Where the application is.
    pub pod_ip: IpAddr,
    /// The end.
    pub termination: Box<dyn Termination>,
}

/// Answers one request; the body is not read.
pub(super) async fn answer<B>(
    agent: &Agent,
    peer: SocketAddr,
    request: &Request<B>,
    sources: &Sources,
) -> Answer {
    let (path, method) = (request.uri().path(), request.method());
    let is_get = matches!(*method, Method::GET | Method::HEAD);
    if let Some(token) = path.strip_prefix("/drain/") {
        return match &agent.config.drain_token {
            Some(expected) if !same(token.as_bytes(), expected.as_bytes()) => nothing(),
            None => nothing(),
            Some(_) if *method == Method::GET || *method == Method::POST => drain(agent).await,
            Some(_) => refused("GET, POST"),
        };
    }
    match path {
        "/healthz/ready" if is_get => endpoints::ready(request.uri().query(), sources).await,
        "/stats/prometheus" if is_get => {
            let application = match &agent.config.scrape {
                Some(target) => scrape::scrape(target, agent.pod_ip).await,
                None => String::new(),
            };
            endpoints::metrics(scrape::merged((sources.metrics)(), &application))
        }
        "/quitquitquit" if !peer.ip().to_canonical().is_loopback() => nothing(),
        // Without a header of ours: the last container of a Job asks it as Istio's users type it.
        "/quitquitquit" if *method == Method::POST => match operator::elsewhere(request.headers()) {
            Some(why) => text(StatusCode::FORBIDDEN, why.to_owned()),
            None => {
                agent.termination.quit();
                text(StatusCode::OK, "ending\n".to_owned())
            }
        },
        "/quitquitquit" => refused("POST"),
        path => match agent.config.probes.get(path) {
            Some(probe) if is_get => probe::perform(probe, agent.pod_ip, request.headers()).await,
            Some(_) => refused("GET, HEAD"),
            None if matches!(path, "/healthz/ready" | "/stats/prometheus") => refused("GET, HEAD"),
            None => nothing(),
        },
    }
}

async fn drain(agent: &Agent) -> Answer {
    let drained = agent.termination.drain().await;
    // Either way the application's end is next: a hook that fails would only put an event there.
    text(
        StatusCode::OK,
        if drained { "drained\n" } else { "some requests were still in flight\n" }.to_owned(),
    )
}

/// In a time that does not tell how much of it was right.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn nothing() -> Answer {
    text(StatusCode::NOT_FOUND, format!("there is {PATHS}\n"))
}

fn refused(allow: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("{allow}\n"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}
