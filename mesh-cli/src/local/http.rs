//! Short conversations over HTTP/1.1: with admin addresses, probes, and the control socket.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use ::http::{Method, Request, Response, StatusCode};
use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh_proto::runtime::operator::HEADER;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::netns;

/// The longest answer that is read, in bytes (a status of a mesh with thousands of resources).
const MAX_ANSWER: usize = 64 << 20;
/// The longest line of a stream.
const MAX_LINE: usize = 1 << 20;

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum Server {
    Tcp(SocketAddrV4),
    /// From within a network namespace.
    Within(PathBuf, SocketAddrV4),
    Unix(PathBuf),
}

impl Server {
    /// A connection to it.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn tcp(&self) -> anyhow::Result<TcpStream> {
        let (connected, address) = match self {
            Self::Tcp(address) => (TcpStream::connect(address).await, address),
            Self::Within(netns, address) => (netns::connect(netns, *address).await, address),
            Self::Unix(path) => anyhow::bail!("{} is no TCP server", path.display()),
        };
        connected.with_context(|| format!("cannot reach {address}"))
    }
}

/// A status and the whole body.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// When there is no answer in time.
pub async fn send(server: &Server, request: Request<Bytes>, patience: Duration) -> anyhow::Result<Answer> {
    let whole = async { read(open(server, request).await?).await };
    timeout(patience, whole)
        .await
        .with_context(|| format!("no answer within {} s", patience.as_secs_f64()))?
}

/// Sends a request on a connection that is open already, and reads the whole answer.
///
/// # Errors
/// When there is no answer in time.
pub async fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    request: Request<Bytes>,
    patience: Duration,
) -> anyhow::Result<Answer> {
    let whole = async { read(exchange(stream, request).await?).await };
    timeout(patience, whole)
        .await
        .with_context(|| format!("no answer within {} s", patience.as_secs_f64()))?
}

async fn read(response: Response<Incoming>) -> anyhow::Result<Answer> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
    Ok(Answer { status, body })
}

/// GET.
///
/// # Errors
/// When there is no answer in time.
pub async fn get(server: &Server, path: &str, patience: Duration) -> anyhow::Result<Answer> {
    send(server, request(Method::GET, path, Bytes::new())?, patience).await
}

/// POST.
///
/// # Errors
/// When there is no answer in time.
pub async fn post(server: &Server, path: &str, body: Bytes, patience: Duration) -> anyhow::Result<Answer> {
    send(server, request(Method::POST, path, body)?, patience).await
}

/// A request to one of our own servers.
fn request(method: Method, path: &str, body: Bytes) -> anyhow::Result<Request<Bytes>> {
    Ok(Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header(HEADER, "meshctl")
        .body(body)?)
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// Asks for such an answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(server: &Server, path: &str) -> anyhow::Result<Self> {
        let response = open(server, request(Method::GET, path, Bytes::new())?).await?;
        anyhow::ensure!(response.status().is_success(), "{path} answered {}", response.status());
        Ok(Self { body: response.into_body(), buffer: BytesMut::new() })
    }

    /// The next line; `None` when the server has ended.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.buffer.len() > MAX_LINE {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

async fn open(server: &Server, request: Request<Bytes>) -> anyhow::Result<Response<Incoming>> {
    match server {
        Server::Tcp(_) | Server::Within(..) => exchange(server.tcp().await?, request).await,
        Server::Unix(path) => {
            let stream = UnixStream::connect(path)
                .await
                .with_context(|| format!("cannot reach {}", path.display()))?;
            exchange(stream, request).await
        }
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    request: Request<Bytes>,
) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends when the answer has been read or dropped.
    tokio::spawn(connection);
    Ok(sender.send_request(request.map(Full::new)).await?)
}
