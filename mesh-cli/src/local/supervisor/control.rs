//! The control socket: HTTP/1.1 with JSON on a Unix socket that only its owner can open.
//!
//! `GET /mesh`, `GET /events` (JSON lines), `GET /log?TARGET`, `POST /stop`, `POST /start`, `POST /down`.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{Operation, Supervisor};
use crate::local::journal::Event;

/// The longest request that is read.
const MAX_REQUEST: usize = 64 << 10;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Makes the socket. Its directory is ours alone, so that nobody can come in between.
///
/// # Errors
/// When the file system refuses.
pub fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until aborted.
pub async fn serve(listener: UnixListener, supervisor: Arc<Supervisor>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, supervisor.clone()))),
            Err(error) => {
                supervisor.context.journal.tell("failed", format!("control socket: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, supervisor: Arc<Supervisor>) {
    let service = service_fn(move |request| {
        let supervisor = supervisor.clone();
        async move { Ok::<_, Infallible>(answer(&supervisor, request).await) }
    });
    // A client that goes away in between is its own affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(supervisor: &Arc<Supervisor>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET, "/mesh") => json_answer(&serde_json::to_value(supervisor.tell())),
        (&Method::GET, "/events") => events(supervisor.context.journal.subscribe()),
        (&Method::GET, "/log") => {
            let target = request.uri().query().unwrap_or_default();
            outcome(supervisor.log_of(target).map(|path| json!({"path": path})))
        }
        (&Method::POST, "/down") => {
            supervisor.end();
            json_answer(&Ok(json!({"done": "ending"})))
        }
        (&Method::POST, "/stop" | "/start") => {
            let operation = match operation(request).await {
                Ok(operation) => operation,
                Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
            };
            // The work goes on when the one who asked goes away.
            let (supervisor, stop) = (supervisor.clone(), path == "/stop");
            let work = tokio::spawn(async move {
                if stop { supervisor.stop(&operation).await } else { supervisor.start(&operation).await }
            });
            match work.await {
                Ok(done) => outcome(done.map(|done| json!({"done": done}))),
                Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.into()),
            }
        }
        _ => refuse(StatusCode::NOT_FOUND, &anyhow::anyhow!("no such request: {path}")),
    }
}

async fn operation(request: Request<Incoming>) -> anyhow::Result<Operation> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the request broke off: {error}"))?.to_bytes();
    Ok(serde_json::from_slice(&body)?)
}

fn outcome(result: anyhow::Result<serde_json::Value>) -> Response<Body> {
    match result {
        Ok(value) => json_answer(&Ok(value)),
        Err(error) => refuse(StatusCode::CONFLICT, &error),
    }
}

fn json_answer(value: &serde_json::Result<serde_json::Value>) -> Response<Body> {
    match value {
        Ok(value) => with(StatusCode::OK, value.to_string()),
        Err(error) => {
            with(StatusCode::INTERNAL_SERVER_ERROR, json!({"error": error.to_string()}).to_string())
        }
    }
}

fn refuse(status: StatusCode, error: &anyhow::Error) -> Response<Body> {
    with(status, json!({"error": format!("{error:#}")}).to_string())
}

fn with(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// One line an event, until the reader goes.
fn events(receiver: Receiver<Event>) -> Response<Body> {
    let lines = stream::unfold(receiver, |mut receiver| async move {
        let event = match receiver.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                Event { kind: "missed".to_owned(), text: format!("{missed} events missed") }
            }
            Err(RecvError::Closed) => return None,
        };
        let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), receiver))
    });
    Response::new(StreamBody::new(lines.boxed()).boxed_unsync())
}
