//! `GET /metrics`, `GET /healthz/ready` and `GET /ready`, over plain HTTP/1.1. Nothing here changes anything:
//! commands are [`commands`]'s.

pub mod commands;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::runtime::drain;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

/// How long the head of a request may take, and a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether there is something to sign with, and if not, why. Cheap to clone; clones are the same. By default there is:
/// whoever listens only when everything is there says nothing.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<ArcSwapOption<String>>);

impl Ready {
    /// Not yet, because of `why`.
    pub fn not_yet(&self, why: &str) {
        self.0.store(Some(Arc::new(why.to_owned())));
    }

    /// Why not yet.
    #[must_use]
    pub fn why(&self) -> Option<Arc<String>> {
        self.0.load_full()
    }

    /// From here on.
    pub fn now(&self) {
        self.0.store(None);
    }
}

/// Serves until the drain starts.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, ready: Ready, drain: drain::Watch) {
    loop {
        let accepted = tokio::select! {
            () = drain.draining() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (metrics, ready, drain) = (metrics.clone(), ready.clone(), drain.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = answer(request.method(), request.uri().path(), &metrics, &ready);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            tokio::select! {
                _ = http.serve_connection(TokioIo::new(stream), service) => {}
                () = drain.draining() => {}
            }
        });
    }
}

fn answer(method: &Method, path: &str, metrics: &PrometheusHandle, ready: &Ready) -> Response<Full<Bytes>> {
    let text = |status: StatusCode, kind: &'static str, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response
    };
    const PLAIN: &str = "text/plain; charset=utf-8";
    match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render())
        }
        (&Method::GET | &Method::HEAD, "/healthz/ready" | "/ready") => match ready.why() {
            None => text(StatusCode::OK, PLAIN, "ready\n".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        },
        (_, "/metrics" | "/healthz/ready" | "/ready") => {
            text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET only\n".to_owned())
        }
        _ => text(StatusCode::NOT_FOUND, PLAIN, "try /metrics or /healthz/ready\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_two_paths_and_one_method() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("citadel_server_csr_count").increment(3);
        });
        let ready = Ready::default();
        let ask =
            |method: Method, path: &str| answer(&method, path, &recorder.handle(), &ready).status().as_u16();
        assert_eq!(ask(Method::GET, "/metrics"), 200);
        assert_eq!(ask(Method::GET, "/healthz/ready"), 200);
        ready.not_yet("no signing certificate yet");
        assert_eq!(ask(Method::GET, "/ready"), 503);
        ready.now();
        assert_eq!(ask(Method::GET, "/ready"), 200);
        assert_eq!(ask(Method::POST, "/metrics"), 405);
        assert_eq!(ask(Method::GET, "/shutdown"), 404);
        assert!(recorder.handle().render().contains("citadel_server_csr_count 3"));
    }
}
