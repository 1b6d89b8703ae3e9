//! The operator's way in: `GET /ca/status` and `POST /ca/command`, over plain HTTP/1.1.
//!
//! Who may use it is a matter of the place: a socket that only its owner can open (a local mesh), or loopback inside the
//! authority's pod, which only those reach who may forward ports to it (Kubernetes). Nothing here signs a certificate or
//! shows a key. A command needs POST, a header that no web page can send here without asking, and a host that is local: a
//! program that is made to fetch an address for somebody else changes nothing.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::runtime::{drain, operator};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::audit;
use crate::keeper::{CommandError, Keeper, Request as Command};

/// How long the head of a request may take, and a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest command.
const MAX_BODY: usize = 16 << 10;
/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 32;

/// Where commands come in.
#[derive(Debug)]
pub enum Door {
    /// A socket of its owner alone; removed at the end.
    Socket(UnixListener, PathBuf),
    /// Loopback.
    Loopback(TcpListener),
}

impl Door {
    /// A socket that only we can open. What a dead process left there is removed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn socket(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The mode counts from the first moment: nobody can connect before the bits are right.
        let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(before);
        let listener = bound?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Socket(listener, path.to_owned()))
    }

    /// A port of this machine or pod.
    ///
    /// # Errors
    /// When it is not loopback: then everybody could come in.
    pub fn loopback(listener: TcpListener) -> io::Result<Self> {
        if !listener.local_addr()?.ip().is_loopback() {
            return Err(io::Error::other("commands are taken on loopback alone (127.0.0.1 or ::1)"));
        }
        Ok(Self::Loopback(listener))
    }
}

/// Serves until the drain starts.
pub async fn serve(door: Door, keeper: Arc<Keeper>, drain: drain::Watch) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let accepted = tokio::select! {
            () = drain.draining() => break,
            accepted = accept(&door) => accepted,
        };
        let (stream, by) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an operator's connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (keeper, drain) = (keeper.clone(), drain.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, by, keeper) => {}
                () = drain.draining() => {}
            }
            drop(slot);
        });
    }
    if let Door::Socket(_, path) = &door {
        let _ = std::fs::remove_file(path);
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, and who has it.
async fn accept(door: &Door) -> io::Result<(Box<dyn Stream>, String)> {
    match door {
        Door::Socket(listener, _) => {
            let (stream, _) = listener.accept().await?;
            let peer = stream.peer_cred()?;
            let ours = nix::unistd::geteuid().as_raw();
            // The mode says so already; the kernel's word counts more.
            if peer.uid() != ours && peer.uid() != 0 {
                return Err(io::Error::other(format!("user {} is not the authority's owner", peer.uid())));
            }
            let by = format!("uid {} pid {}", peer.uid(), peer.pid().unwrap_or_default());
            Ok((Box::new(stream), by))
        }
        Door::Loopback(listener) => {
            let (stream, peer) = listener.accept().await?;
            Ok((Box::new(stream), peer.to_string()))
        }
    }
}

async fn connection(stream: Box<dyn Stream>, by: String, keeper: Arc<Keeper>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { Ok::<_, Infallible>(answer(request, &keeper, &by).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "an operator's connection ended");
    }
}

async fn answer(request: Request<Incoming>, keeper: &Keeper, by: &str) -> Response<Full<Bytes>> {
    if !operator::is_local(request.headers()) {
        return text(StatusCode::FORBIDDEN, "host must be localhost\n");
    }
    let refusal = operator::refusal(request.headers());
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/ca/status") => told(keeper.status().await),
        (&Method::POST, "/ca/command") => {
            if let Some(why) = refusal {
                return text(StatusCode::FORBIDDEN, why);
            }
            let body = Limited::new(request.into_body(), MAX_BODY).collect();
            let Ok(Ok(body)) = tokio::time::timeout(BODY_TIMEOUT, body).await else {
                return text(StatusCode::BAD_REQUEST, "the command did not come whole\n");
            };
            let command: Command = match serde_json::from_slice(&body.to_bytes()) {
                Ok(command) => command,
                Err(error) => return text(StatusCode::BAD_REQUEST, &format!("not a command: {error}\n")),
            };
            let done = keeper.command(&command).await;
            let refused = done.as_ref().err().map(ToString::to_string);
            audit::command(&format!("{command:?}"), by, refused.as_deref());
            told(done)
        }
        (_, "/ca/status" | "/ca/command") => {
            text(StatusCode::METHOD_NOT_ALLOWED, "GET /ca/status, POST /ca/command\n")
        }
        _ => text(StatusCode::NOT_FOUND, "GET /ca/status, POST /ca/command\n"),
    }
}

fn told<T: serde::Serialize>(outcome: Result<T, CommandError>) -> Response<Full<Bytes>> {
    let (status, why) = match outcome {
        Ok(answer) => {
            let body = serde_json::to_vec(&answer).unwrap_or_default();
            let mut response = Response::new(Full::new(Bytes::from(body)));
            let json = header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            return response;
        }
        Err(error @ CommandError::Refused(_)) => (StatusCode::CONFLICT, error),
        Err(error @ CommandError::Invalid(_)) => (StatusCode::BAD_REQUEST, error),
        Err(error @ CommandError::Failed(_)) => (StatusCode::SERVICE_UNAVAILABLE, error),
    };
    text(status, &format!("{why}\n"))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_owned())));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
