//! The HTTP side: one port for HTTP/1.1, HTTP/2 by prior knowledge, gRPC and WebSocket.
//!
//! `/status/N`, `/delay/SECONDS`, `/bytes/N`, `/fault` (see [`super::switch`]); everything else answers what it saw.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::service::Routes;

use super::switch::{Fault, Then};
use super::{App, answer, authorizer, grpc, websocket};

/// Any answer's body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The largest answer of `/bytes/N`.
const MAX_BYTES: u64 = 1 << 30;
/// The longest wait of `/delay/SECONDS`.
const MAX_DELAY: f64 = 3600.0;

/// Why a request gets no answer at all.
#[derive(Debug, thiserror::Error)]
#[error("the fault switch closes this connection")]
struct Closed;

/// A body of plain text.
pub fn text(status: StatusCode, body: &str) -> Response<Body> {
    let full = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(|never| match never {});
    let mut response = Response::new(full.boxed_unsync());
    *response.status_mut() = status;
    if !body.is_empty() {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}

/// Serves until `stopping` turns true, then ends open connections after their current answer.
pub async fn serve(listener: TcpListener, app: Arc<App>, mut stopping: watch::Receiver<bool>) {
    let routes = grpc::routes(app.clone()).await;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.changed() => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, app.clone(), routes.clone(), stopping.clone()));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    connections.join_all().await;
}

async fn connection(stream: TcpStream, app: Arc<App>, routes: Routes, mut stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    let client = stream.peer_addr().ok().map(|at| answer::Client(at.ip().to_canonical()));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        handle(request, app.clone(), routes.clone())
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).initial_connection_window_size(16 << 20);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // What a client does to its connection is no business of ours.
        _ = connection.as_mut() => return,
        _ = stopping.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn handle(request: Request<Incoming>, app: Arc<App>, routes: Routes) -> Result<Response<Body>, Closed> {
    if request.uri().path() == "/fault" {
        return Ok(signed(&app, fault(request, &app).await));
    }
    app.tally.count(request.headers());
    let verdict = app.switch.decide(rand::random());
    if let Some(wait) = verdict.wait {
        tokio::time::sleep(wait).await;
    }
    match verdict.then {
        Then::Answer => {}
        Then::Status(status) => return Ok(signed(&app, numbered(status, "the fault switch is on\n"))),
        Then::Hang => std::future::pending().await,
        Then::Close => return Err(Closed),
    }
    if is_grpc(&request) {
        let response = tower_call(routes, request).await;
        return Ok(signed(&app, response));
    }
    if app.authorizer {
        return Ok(signed(&app, authorizer::by_http(request).await));
    }
    if websocket::is_upgrade(request.headers()) {
        return Ok(signed(&app, websocket::accept(request)));
    }
    let response = plain(request, &app).await;
    Ok(signed(&app, response))
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn tower_call(mut routes: Routes, request: Request<Incoming>) -> Response<Body> {
    use tonic::codegen::Service as _;
    match routes.call(request).await {
        Ok(response) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Err(never) => match never {},
    }
}

/// Instance and version as headers.
fn signed(app: &App, mut response: Response<Body>) -> Response<Body> {
    for (name, value) in [("instance", &app.whoami.instance), ("version", &app.whoami.version)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// What no page of another site can say without being asked whether it may.
fn is_json<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json") && !request.headers().contains_key(header::ORIGIN)
}

async fn fault(request: Request<Incoming>, app: &App) -> Response<Body> {
    match *request.method() {
        Method::GET => {}
        Method::DELETE => {
            let set = app.switch.set(Fault::default());
            set.expect("no fault is a valid one");
        }
        Method::POST | Method::PUT if !is_json(&request) => {
            return text(
                StatusCode::FORBIDDEN,
                "a web page could send this too: add content-type: application/json\n",
            );
        }
        Method::POST | Method::PUT => {
            let Ok(body) = Limited::new(request.into_body(), 4096).collect().await else {
                return text(StatusCode::PAYLOAD_TOO_LARGE, "a fault is a small JSON object\n");
            };
            let parsed = serde_json::from_slice::<Fault>(&body.to_bytes()).map_err(|error| error.to_string());
            if let Err(error) = parsed.and_then(|fault| app.switch.set(fault)) {
                let example = r#"{"status":503,"rate":0.5} or {"hang":true} or {"slow":2} or {"close":true}"#;
                return text(StatusCode::BAD_REQUEST, &format!("{error}; expected e.g. {example}\n"));
            }
        }
        _ => return text(StatusCode::METHOD_NOT_ALLOWED, "GET shows, POST sets, DELETE clears\n"),
    }
    json(StatusCode::OK, &serde_json::to_value(app.switch.get()).unwrap_or_default())
}

async fn plain(request: Request<Incoming>, app: &App) -> Response<Body> {
    let mut parts = request.uri().path().trim_start_matches('/').splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("status", Some(status)) => match status.parse() {
            Ok(status) => numbered(status, ""),
            Err(_) => text(StatusCode::BAD_REQUEST, "/status/N wants a status from 200 to 599\n"),
        },
        ("bytes", Some(count)) => match count.parse() {
            Ok(count) if count <= MAX_BYTES => bytes_of(count),
            _ => text(StatusCode::BAD_REQUEST, "/bytes/N wants a number up to 1073741824\n"),
        },
        ("delay", Some(seconds)) => match seconds.parse::<f64>() {
            Ok(seconds) if (0.0..=MAX_DELAY).contains(&seconds) => {
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                described(request, app).await
            }
            _ => text(StatusCode::BAD_REQUEST, "/delay/SECONDS wants a number up to 3600\n"),
        },
        _ => described(request, app).await,
    }
}

async fn described(request: Request<Incoming>, app: &App) -> Response<Body> {
    let mut answer = answer::describe(&app.whoami, &request);
    if !app.calls.is_empty() && request.uri().path() == "/" {
        answer.insert("calls".to_owned(), app.calls.all(request.headers()).await);
    }
    // A body that nobody wants is still read, so that the connection can be used again.
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    json(StatusCode::OK, &Value::Object(answer))
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text(status, &format!("{value}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn numbered(status: u16, body: &str) -> Response<Body> {
    match StatusCode::from_u16(status) {
        Ok(status) if status.as_u16() >= 200 => text(status, body),
        _ => text(StatusCode::BAD_REQUEST, "/status/N wants a status from 200 to 599\n"),
    }
}

/// `count` bytes, made as the client takes them.
fn bytes_of(count: u64) -> Response<Body> {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 16 * 1024]);
    let pieces = (0..count.div_ceil(PIECE.len() as u64)).map(move |index| {
        let left = count - index * PIECE.len() as u64;
        let piece = PIECE.slice(..PIECE.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        Ok(Frame::data(piece))
    });
    let mut response = Response::new(StreamBody::new(tokio_stream::iter(pieces)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(count));
    response
}
