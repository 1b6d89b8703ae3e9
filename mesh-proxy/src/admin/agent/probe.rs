//! One probe of the application, performed inside the pod as the kubelet would from outside.
//!
//! In: the probe as the container had it. Out: the application's answer, or 500 and why. Kubernetes' rules: no certificate
//! is checked, redirects are followed on the same host, a redirect elsewhere counts as success, and the body is told only
//! in part.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::Endpoint;

use super::tls;
use crate::admin::endpoints::{Answer, text};
use crate::capture::application::{FROM_V4, FROM_V6};
use crate::config::agent::{Grpc, HttpGet, Probe};

/// Kubernetes' default of `timeoutSeconds`.
const TIMEOUT: u32 = 1;
/// The longest that is waited for an application; nobody waits for longer.
const MAX_TIMEOUT: u32 = 300;
/// As many redirects as the kubelet follows.
const MAX_REDIRECTS: usize = 10;
/// As much of the answer as the kubelet shows.
const MAX_BODY: usize = 10 << 10;

/// Performs `probe` against the application at `pod`. `asked`: the kubelet's own header, which goes on.
pub(super) async fn perform(probe: &Probe, pod: IpAddr, asked: &HeaderMap) -> Answer {
    let seconds = if probe.timeout_seconds == 0 { TIMEOUT } else { probe.timeout_seconds.min(MAX_TIMEOUT) };
    let performed = async {
        match probe {
            Probe { http_get: Some(get), .. } => http(get, pod, asked).await,
            Probe { tcp_socket: Some(tcp), .. } => connect(&tcp.host, tcp.port, pod)
                .await
                .map(|_| text(StatusCode::OK, "connected\n".to_owned())),
            Probe { grpc: Some(grpc), .. } => health(grpc, pod).await,
            // Refused when the bootstrap was parsed.
            Probe { .. } => Err("a probe of no kind".to_owned()),
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(seconds.into()), performed).await;
    let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")));
    outcome.unwrap_or_else(|why| {
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("probe of the application: {why}\n"))
    })
}

/// Connects to the application.
pub(super) async fn connect(host: &str, port: u16, pod: IpAddr) -> Result<TcpStream, String> {
    let at = |ip| SocketAddr::new(ip, port);
    let stream = match host {
        "" => dial(at(pod)).await,
        host => match host.parse::<IpAddr>() {
            Ok(ip) => dial(at(ip)).await,
            Err(_) => TcpStream::connect((host, port)).await,
        },
    };
    let stream = stream.map_err(|e| {
        format!("{}: {e}", if host.is_empty() { at(pod).to_string() } else { format!("{host}:{port}") })
    })?;
    // Fails only for a socket that is closed already, which the first read tells.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn dial(to: SocketAddr) -> std::io::Result<TcpStream> {
    let (socket, from) = match to {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(FROM_V4)),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(FROM_V6)),
    };
    // Where that address does not exist there is no capture that would ask for it.
    if !to.ip().is_loopback() && socket.bind(SocketAddr::new(from, 0)).is_err() {
        return TcpStream::connect(to).await;
    }
    socket.connect(to).await
}

async fn http(get: &HttpGet, pod: IpAddr, asked: &HeaderMap) -> Result<Answer, String> {
    let mut path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let secure = get.scheme.eq_ignore_ascii_case("https");
    let fields = fields(get, pod, asked)?;
    for _ in 0..=MAX_REDIRECTS {
        let stream = connect(&get.host, get.port, pod).await?;
        let answer = if secure {
            send(tls::connect(stream).await?, &path, &fields).await?
        } else {
            send(stream, &path, &fields).await?
        };
        if !answer.status().is_redirection() {
            return told(answer).await;
        }
        match next(answer.headers().get(LOCATION), get) {
            Next::Here(there) => path = there,
            // As the kubelet has it: whoever sends elsewhere is up.
            Next::Elsewhere => return Ok(text(StatusCode::OK, "redirected to another host\n".to_owned())),
            Next::Nowhere => return told(answer).await,
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects"))
}

/// The request's header: the kubelet's, with the probe's own fields over it.
fn fields(get: &HttpGet, pod: IpAddr, asked: &HeaderMap) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for name in [USER_AGENT, http::header::ACCEPT] {
        if let Some(value) = asked.get(&name) {
            fields.insert(name, value.clone());
        }
    }
    let host = if get.host.is_empty() { pod.to_string() } else { get.host.clone() };
    let host =
        if host.contains(':') { format!("[{host}]:{}", get.port) } else { format!("{host}:{}", get.port) };
    fields.insert(HOST, value("Host", &host)?);
    for header in &get.headers {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("{:?} is no header name", header.name))?;
        let value = value(&header.name, &header.value)?;
        if name == HOST {
            fields.insert(name, value);
        } else {
            fields.append(name, value);
        }
    }
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(fields)
}

fn value(name: &str, text: &str) -> Result<HeaderValue, String> {
    text.parse().map_err(|_| format!("{name}: {text:?} is no header value"))
}

async fn send<S>(stream: S, path: &str, fields: &HeaderMap) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse::<Uri>().map_err(|e| format!("{path:?}: {e}"))?;
    *request.headers_mut() = fields.clone();
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // Ends with the answer, whose body keeps it alive; or with the sender.
    tokio::spawn(async move { drop(connection.await) });
    sender.send_request(request).await.map_err(|e| match std::error::Error::source(&e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    })
}

/// The application's status, and the beginning of what it said.
async fn told(answer: Response<Incoming>) -> Result<Answer, String> {
    let status = answer.status();
    let (mut body, mut rest) = (BytesMut::new(), answer.into_body());
    while body.len() < MAX_BODY {
        match rest.frame().await {
            Some(Ok(frame)) => body.extend(frame.into_data().unwrap_or_default()),
            Some(Err(error)) => return Err(format!("in the answer's body: {error}")),
            None => break,
        }
    }
    body.truncate(MAX_BODY);
    Ok(text(status, String::from_utf8_lossy(&body).into_owned()))
}

enum Next {
    Here(String),
    Elsewhere,
    Nowhere,
}

fn next(location: Option<&HeaderValue>, get: &HttpGet) -> Next {
    let Some(uri) = location.and_then(|l| l.to_str().ok()).and_then(|l| l.parse::<Uri>().ok()) else {
        return Next::Nowhere;
    };
    let here = match uri.authority() {
        None => true,
        Some(authority) => {
            authority.port_u16().is_some_and(|port| port == get.port)
                && uri.scheme_str().is_some_and(|s| {
                    s.eq_ignore_ascii_case(if get.scheme.is_empty() { "http" } else { &get.scheme })
                })
        }
    };
    if !here {
        return Next::Elsewhere;
    }
    uri.path_and_query().map_or(Next::Nowhere, |path| Next::Here(path.to_string()))
}

/// `grpc.health.v1.Health/Check`.
async fn health(grpc: &Grpc, pod: IpAddr) -> Result<Answer, String> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct CheckRequest {
        #[prost(string, tag = "1")]
        service: String,
    }
    #[derive(Clone, PartialEq, prost::Message)]
    struct CheckResponse {
        #[prost(int32, tag = "1")]
        status: i32,
    }
    const SERVING: i32 = 1;
    let port = grpc.port;
    let connector = tower::service_fn(move |_: Uri| async move {
        connect("", port, pod).await.map(TokioIo::new).map_err(std::io::Error::other)
    });
    // The connector knows where; the address is what the application sees as its authority.
    let authority = SocketAddr::new(pod, port);
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect_with_connector(connector).await.map_err(|e| chain(&e))?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(4096);
    client.ready().await.map_err(|e| chain(&e))?;
    let request = tonic::Request::new(CheckRequest { service: grpc.service.clone().unwrap_or_default() });
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
    let answer = client.unary(request, path, codec).await;
    match answer.map(|a| a.into_inner().status) {
        Ok(SERVING) => Ok(text(StatusCode::OK, "serving\n".to_owned())),
        Ok(other) => Err(format!("the health service says {other}, not SERVING (1)")),
        Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
    }
}

/// An error with its causes: tonic keeps the reason in them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
