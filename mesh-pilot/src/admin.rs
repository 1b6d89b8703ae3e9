//! The admin endpoint: `/debug/status`, `/debug/events`, `/metrics`, `/healthz/ready`. It changes nothing. What it says of
//! a mesh's configuration is said on loopback alone: an address that others reach serves numbers and readiness.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::runtime::drain;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use crate::status::{LiveEvent, Status};

type Body = BoxBody<Bytes, Infallible>;

/// Answers.
#[derive(Clone)]
pub struct Admin {
    /// How things are.
    pub status: Arc<Status>,
    /// What happens.
    pub events: broadcast::Sender<LiveEvent>,
    /// Numbers.
    pub metrics: PrometheusHandle,
    /// Who may ask for what.
    pub audience: Audience,
}

/// Who reaches an admin address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// This machine, or this pod: everything is said.
    Us,
    /// Anybody: numbers and readiness.
    Everybody,
}

/// The head of a request is there within this time.
const HEAD: std::time::Duration = std::time::Duration::from_secs(10);
/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 128;

impl Admin {
    /// Serves until the drain starts.
    pub async fn serve(self, listener: TcpListener, drain: drain::Watch) {
        let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let next = async {
                let slot = slots.clone().acquire_owned().await.expect("never closed");
                (listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                () = drain.draining() => return,
                next = next => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = self.clone().connection(stream, peer, drain.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self, stream: tokio::net::TcpStream, peer: SocketAddr, drain: drain::Watch) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "admin connection ended");
                }
            }
            () = drain.draining() => {}
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Body> {
        if method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match path {
            path if path.starts_with("/debug/") && self.audience == Audience::Everybody => text(
                StatusCode::NOT_FOUND,
                "/debug is told on this pod's loopback alone: use meshctl status, or kubectl port-forward POD 8080\n",
            ),
            "/debug/status" => self.report(),
            "/debug/events" => self.events(),
            "/metrics" => typed("text/plain; version=0.0.4", self.metrics.render()),
            "/healthz/ready" | "/ready" => {
                if self.status.is_ready() {
                    text(StatusCode::OK, "ready\n")
                } else {
                    let body = if self.status.is_loaded() {
                        "there is no certificate yet: discovery is not served\n".to_owned()
                    } else {
                        format!("the first listing is not done\n{}", self.status.waiting().join("\n"))
                    };
                    text(StatusCode::SERVICE_UNAVAILABLE, &body)
                }
            }
            _ => text(StatusCode::NOT_FOUND, "/debug/status, /debug/events, /metrics, /healthz/ready\n"),
        }
    }

    fn report(&self) -> Response<Body> {
        match serde_json::to_string(&self.status.report()) {
            Ok(json) => typed("application/json", json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    /// Lines until the client goes. One that reads too slowly misses some, and is told how many.
    fn events(&self) -> Response<Body> {
        let lines = BroadcastStream::new(self.events.subscribe()).map(|event| {
            let line = match event {
                Ok(event) => serde_json::to_string(&event).unwrap_or_default(),
                Err(tokio_stream::wrappers::errors::BroadcastStreamRecvError::Lagged(missed)) => {
                    serde_json::json!({"kind": "missed", "text": format!("{missed} events missed")})
                        .to_string()
                }
            };
            Ok::<_, Infallible>(Frame::data(Bytes::from(line + "\n")))
        });
        let mut response = Response::new(http_body_util::BodyExt::boxed(StreamBody::new(lines)));
        set_type(&mut response, "application/x-ndjson");
        response
    }
}

fn text(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = typed("text/plain", body.to_owned());
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    set_type(&mut response, content_type);
    response
}

fn set_type(response: &mut Response<Body>, content_type: &'static str) {
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::push::{Hub, rules::Rules};
    use crate::snapshot::MeshSettings;

    #[test]
    fn what_everybody_reaches_says_nothing_of_the_configuration() {
        let settings = MeshSettings {
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_domain: Arc::from("cluster.local"),
            root_namespace: Arc::from("istio-system"),
        };
        let (snapshot, _) = crate::index::Index::new(settings).snapshot();
        let status = Arc::new(Status::new(Arc::new(Hub::new(snapshot, Box::new(Rules)))));
        let told = |audience| {
            let (status, metrics) = (status.clone(), PrometheusBuilder::new().build_recorder().handle());
            let admin = Admin { status, events: broadcast::channel(1).0, metrics, audience };
            ["/debug/status", "/debug/events", "/metrics", "/healthz/ready", "/else"]
                .map(|path| admin.answer(&Method::GET, path).status().as_u16())
        };
        assert_eq!(told(Audience::Us), [200, 200, 200, 503, 404]);
        assert_eq!(told(Audience::Everybody), [404, 404, 200, 503, 404]);
    }
}
