//! The API server's questions over HTTPS: `/inject`, `/inject/...` and `/validate`.
//!
//! In: connections, and the newest certificate and settings. Out: answers, each within a bounded time and from a bounded
//! body. The API server does not show who it is; what is answered here is told to anybody and changes nothing.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use mesh_proto::runtime::drain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::review::{self, Answer, Outcome};
use super::settings::Settings;

/// An object has at most 3 MiB in a request to the API server; the review holds it twice for an update.
const MAX_BODY: usize = 8 << 20;
/// API servers are few and keep their connections.
const MAX_CONNECTIONS: usize = 256;
/// A handshake, and a request's head and body, take no longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way may take when the process ends.
const GRACE: Duration = Duration::from_secs(5);

/// The names of the counters (Istio's).
pub mod counters {
    /// Questions about pods.
    pub const REQUESTS: &str = "sidecar_injection_requests_total";
    /// Sidecars put in.
    pub const SUCCESS: &str = "sidecar_injection_success_total";
    /// Pods that got none.
    pub const SKIPPED: &str = "sidecar_injection_skip_total";
    /// Pods that were refused, and questions that were none.
    pub const FAILED: &str = "sidecar_injection_failure_total";
    /// Resources that were good.
    pub const PASSED: &str = "galley_validation_passed";
    /// Resources that were refused.
    pub const REFUSED: &str = "galley_validation_failed";
}

/// What the injector's files say, or why there is nothing to go by.
pub type Loaded = Result<Settings, String>;

/// The settings in force; replaced as a whole.
pub type Current = Arc<ArcSwap<Loaded>>;

/// Serves until the drain starts.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    settings: Current,
    drain: drain::Watch,
) {
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the webhook cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Whoever keeps all of them busy is closed at the door, not queued behind itself.
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!("the webhook has {MAX_CONNECTIONS} connections; one more is closed");
            continue;
        };
        let (acceptor, settings, drain) = (acceptor.clone(), settings.clone(), drain.clone());
        tokio::spawn(async move {
            let _slot = slot;
            connection(stream, acceptor, settings, drain).await;
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, settings: Current, drain: drain::Watch) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "webhook: no handshake"),
        Err(_) => return tracing::debug!("webhook: the handshake took too long"),
    };
    let service = service_fn(move |request| {
        let settings = settings.load_full();
        async move { Ok::<_, Infallible>(answer(request, &settings).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64).keep_alive_interval(Some(PATIENCE));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = drain.draining() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "webhook: connection failed");
    }
}

enum Page {
    Inject,
    Validate,
}

async fn answer(request: Request<Incoming>, settings: &Arc<Loaded>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let page = match path {
        "/inject" => Page::Inject,
        // Istio's form with the cluster and the network of remote clusters, which all belong to one here.
        path if path.starts_with("/inject/") => Page::Inject,
        "/validate" => Page::Validate,
        path if path.starts_with("/validate/") => Page::Validate,
        _ => return text(StatusCode::NOT_FOUND, "there is /inject and /validate\n".to_owned()),
    };
    if request.method() != Method::POST {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("POST {path}\n"));
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return refused;
    }
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return text(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {MAX_BODY} bytes\n"));
    }
    let body = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), MAX_BODY).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, format!("more than {MAX_BODY} bytes\n"));
        }
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n".to_owned()),
    };
    let settings = settings.clone();
    // Large objects take milliseconds, which discovery need not wait for.
    let judged = tokio::task::spawn_blocking(move || match page {
        Page::Inject => count_injection(match &*settings {
            Ok(settings) => review::injection(&body, settings, &token()),
            Err(why) => review::no_injection(&body, why),
        }),
        Page::Validate => count_validation(review::validation(&body)),
    });
    match judged.await {
        Ok(Ok(answer)) => json(&answer),
        Ok(Err(why)) => {
            tracing::warn!(why, "webhook: not a question");
            text(StatusCode::BAD_REQUEST, format!("{why}\n"))
        }
        Err(_) => {
            tracing::error!("BUG: a webhook's answer panicked");
            text(StatusCode::INTERNAL_SERVER_ERROR, "our own fault, see the pilot's log\n".to_owned())
        }
    }
}

/// 128 random bits.
fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn count_injection(answer: Result<Answer, String>) -> Result<Answer, String> {
    metrics::counter!(counters::REQUESTS).increment(1);
    match &answer {
        Ok(Answer { outcome: Outcome::Done, subject, .. }) => {
            metrics::counter!(counters::SUCCESS).increment(1);
            tracing::info!(subject, "sidecar injected");
        }
        Ok(Answer { outcome: Outcome::Skipped(why), subject, .. }) => {
            metrics::counter!(counters::SKIPPED).increment(1);
            tracing::info!(subject, why, "no sidecar");
        }
        Ok(Answer { outcome: Outcome::Refused(why), subject, .. }) => {
            metrics::counter!(counters::FAILED).increment(1);
            tracing::warn!(subject, why, "pod refused");
        }
        Err(_) => metrics::counter!(counters::FAILED).increment(1),
    }
    answer
}

fn count_validation(answer: Result<Answer, String>) -> Result<Answer, String> {
    match &answer {
        Ok(Answer { outcome: Outcome::Refused(why), subject, .. }) => {
            metrics::counter!(counters::REFUSED).increment(1);
            tracing::info!(subject, why, "resource refused");
        }
        Ok(_) => metrics::counter!(counters::PASSED).increment(1),
        Err(_) => metrics::counter!(counters::REFUSED).increment(1),
    }
    answer
}

fn json(answer: &Answer) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, answer.review.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
