//! One client connection: plain or TLS, HTTP/1.1 or HTTP/2, straight to a gateway or through a sidecar's proxy port.

use std::net::SocketAddrV4;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::answer::Answer;
use super::plan::{Entry, Plan, Scheme};

/// The largest answer that is kept.
const MAX_BODY: usize = 64 << 20;

/// Plain or TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open connection.
pub enum Connection {
    /// HTTP/1.1.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// The connection to where the plan enters the mesh.
pub async fn connect(plan: &Plan) -> anyhow::Result<Box<dyn Stream>> {
    let stream = match &plan.entry {
        Entry::Sidecar(proxy) => proxy.tcp().await.context("cannot connect to the sidecar")?,
        Entry::Gateway { ip, port, offset } => gateway(*ip, *port, *offset).await?,
        Entry::Pod(target) => return Ok(Box::new(target.connect().await?)),
    };
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// A port below 1024 is served as it is where the gateway may bind it, else at the port plus `offset`.
async fn gateway(ip: std::net::Ipv4Addr, port: u16, offset: u16) -> anyhow::Result<TcpStream> {
    let address = SocketAddrV4::new(ip, port);
    let shifted = (port < 1024).then(|| SocketAddrV4::new(ip, port + offset));
    for candidate in shifted.into_iter().chain([address]) {
        if let Ok(stream) = TcpStream::connect(candidate).await {
            return Ok(stream);
        }
    }
    bail!(
        "the gateway at {ip} does not serve port {port} (`meshctl status` says which Gateway servers are in force and why not)"
    )
}

/// For streams other than HTTP: straight to a gateway, or a tunnel through the sidecar.
pub async fn tunnel(plan: &Plan) -> anyhow::Result<Box<dyn Stream>> {
    let mut stream = connect(plan).await?;
    if matches!(plan.entry, Entry::Gateway { .. }) {
        return Ok(stream);
    }
    let authority = &plan.authority;
    stream.write_all(format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::with_capacity(256);
    // One byte at a time: what follows the head belongs to the tunnel.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 16 * 1024 {
            bail!("the sidecar's answer to CONNECT is too long");
        }
        head.push(
            stream
                .read_u8()
                .await
                .context("the sidecar closed the connection instead of answering CONNECT")?,
        );
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("the sidecar refused CONNECT {authority}: {}", head.lines().next().unwrap_or_default());
    }
    Ok(stream)
}

impl Connection {
    /// Opens one for the plan's scheme.
    ///
    /// # Errors
    /// Where the connection, the TLS or the HTTP handshake failed.
    pub async fn open(plan: &Plan) -> anyhow::Result<Self> {
        if let Some(tls) = &plan.tls {
            let name =
                ServerName::try_from(plan.server_name.clone()).context("the URL's host is no server name")?;
            let stream = TlsConnector::from(tls.clone()).connect(name, tunnel(plan).await?).await;
            let stream = stream.context("the TLS handshake failed")?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            return Self::handshake(stream, http2).await;
        }
        let http2 = matches!(plan.scheme, Scheme::H2c | Scheme::Grpc);
        Self::handshake(connect(plan).await?, http2).await
    }

    async fn handshake(stream: impl Stream + 'static, http2: bool) -> anyhow::Result<Self> {
        let io = TokioIo::new(stream);
        if http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_connection_window_size(16 << 20);
            let (sender, connection) = builder.handshake(io).await.context("the HTTP/2 handshake failed")?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let (sender, connection) = http1::handshake(io).await.context("the HTTP handshake failed")?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    /// Whether another request may be sent on it.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready() && !sender.is_closed(),
            Self::Http2(sender) => sender.is_ready() && !sender.is_closed(),
        }
    }

    /// `HTTP/1.1` or `HTTP/2`.
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Http1(_) => "HTTP/1.1",
            Self::Http2(_) => "HTTP/2",
        }
    }

    /// Sends one request; the answer's head.
    pub async fn send(
        &mut self,
        plan: &Plan,
        request: http::request::Builder,
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        let http2 = matches!(self, Self::Http2(_));
        let scheme = if plan.scheme == Scheme::Https { "https" } else { "http" };
        let target = match (http2, plan.absolute()) {
            (true, _) => format!("{scheme}://{}{}", plan.host, plan.path),
            (false, true) => format!("{scheme}://{}{}", plan.authority, plan.path),
            (false, false) => plan.path.clone(),
        };
        let mut request: Request<Full<Bytes>> = request.uri(target).body(Full::new(body))?;
        for (name, value) in &plan.headers {
            request.headers_mut().append(name, value.clone());
        }
        match self {
            Self::Http1(sender) => {
                request.headers_mut().insert(header::HOST, HeaderValue::from_str(&plan.host)?);
                sender.ready().await.context("the connection was closed")?;
                sender.send_request(request).await.context("no answer")
            }
            Self::Http2(sender) => {
                sender.ready().await.context("the connection was closed")?;
                sender.send_request(request).await.context("no answer")
            }
        }
    }

    /// Sends the plan's request and reads the whole answer.
    pub async fn request(&mut self, plan: &Plan) -> anyhow::Result<Answer> {
        let request = Request::builder().method(plan.method.clone());
        let response = self.send(plan, request, plan.data.clone().unwrap_or_default()).await?;
        let mut answer =
            Answer { status: response.status().as_u16(), protocol: self.protocol(), ..Answer::default() };
        answer.take_headers(response.headers());
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| {
            anyhow::anyhow!("the answer broke off after status {}: {error}", answer.status)
        })?;
        if let Some(trailers) = body.trailers().cloned() {
            answer.take_headers(&trailers);
        }
        answer.body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(answer)
    }
}
