//! `GET /metrics` and `GET /healthz/ready`, over plain HTTP/1.1. Nothing here changes anything.

use std::convert::Infallible;
use std::time::Duration;

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

/// Serves until the drain starts.
pub async fn serve(listener: TcpListener, metrics: PrometheusHandle, drain: drain::Watch) {
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
        let (metrics, drain) = (metrics.clone(), drain.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = answer(request.method(), request.uri().path(), &metrics);
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

fn answer(method: &Method, path: &str, metrics: &PrometheusHandle) -> Response<Full<Bytes>> {
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
        // We listen only when everything is there.
        (&Method::GET | &Method::HEAD, "/healthz/ready") => text(StatusCode::OK, PLAIN, "ready\n".to_owned()),
        (_, "/metrics" | "/healthz/ready") => {
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
        let ask = |method: Method, path: &str| answer(&method, path, &recorder.handle()).status().as_u16();
        assert_eq!(ask(Method::GET, "/metrics"), 200);
        assert_eq!(ask(Method::GET, "/healthz/ready"), 200);
        assert_eq!(ask(Method::POST, "/metrics"), 405);
        assert_eq!(ask(Method::GET, "/shutdown"), 404);
        assert!(recorder.handle().render().contains("citadel_server_csr_count 3"));
    }
}
