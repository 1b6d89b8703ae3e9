//! The admin endpoint: `/debug/status`, `/debug/events`, `/metrics`, `/healthz/ready`. Loopback or not is a matter of the
//! address that it is given; it changes nothing.

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
}

impl Admin {
    /// Serves until the drain starts.
    pub async fn serve(self, listener: TcpListener, drain: drain::Watch) {
        loop {
            let accepted = tokio::select! {
                () = drain.draining() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    tokio::spawn(self.clone().connection(stream, peer, drain.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self, stream: tokio::net::TcpStream, peer: SocketAddr, drain: drain::Watch) {
        let service = hyper::service::service_fn(move |request| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new());
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

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match request.uri().path() {
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
