//! Somebody who is asked (ext_authz), by HTTP on raw sockets and by gRPC, and who answers as the test says.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Response};
use mesh_proto::model::Kind;
use mesh_proto::wire::envoy::service::auth::v3 as auth;
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::mesh::{Mesh, Pod, host, policy};

/// The port of the service `authz`.
pub const PORT: u16 = 9000;

/// By HTTP: each question as it came, and the bytes of the next answers.
#[derive(Clone)]
pub struct ByHttp {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Vec<u8>>>,
    /// Answers are kept back.
    held: Arc<watch::Sender<bool>>,
}

impl ByHttp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let held = Arc::new(watch::Sender::new(false));
        let authorizer = Self { address, asked: Arc::default(), answer: Arc::default(), held };
        let serving = authorizer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        authorizer
    }

    /// From now on: these bytes (nothing: no answer at all).
    pub fn answers(&self, raw: &str) {
        *self.answer.lock() = raw.as_bytes().to_vec();
    }

    /// From now on: a status with fields and content.
    pub fn says(&self, status: u16, headers: &str, body: &str) {
        self.answers(&format!(
            "HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\n\r\n{body}",
            body.len()
        ));
    }

    /// Keeps answers back, or gives those that were kept back.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// The newest question.
    pub fn last(&self) -> String {
        self.asked.lock().last().cloned().unwrap_or_default()
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            let head = loop {
                if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                    break end + 4;
                }
                if !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                    return;
                }
            };
            let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
            let length =
                text.split("content-length: ").nth(1).and_then(|l| l.lines().next()?.trim().parse().ok());
            while buffer.len() < head + length.unwrap_or(0) {
                if !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                    return;
                }
            }
            let whole: Vec<u8> = buffer.drain(..head + length.unwrap_or(0)).collect();
            self.asked.lock().push(String::from_utf8_lossy(&whole).into_owned());
            let _ = self.held.subscribe().wait_for(|held| !held).await;
            let answer = self.answer.lock().clone();
            if answer.is_empty() {
                // For ever, or until the one who asks goes away.
                while matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {}
                self.asked.lock().push("gone".to_owned());
                return;
            }
            if stream.write_all(&answer).await.is_err() || !answer.starts_with(b"HTTP/1.1 ") {
                return;
            }
        }
    }
}

/// What one is answered by gRPC.
#[derive(Clone)]
pub enum Say {
    /// A message.
    Message(Box<auth::CheckResponse>),
    /// A status of gRPC without a message.
    Status(u32),
    /// Bytes where a message was to be.
    Raw(&'static [u8]),
    /// Nothing.
    Nothing,
}

/// By gRPC.
#[derive(Clone)]
pub struct ByGrpc {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<auth::AttributeContext>>>,
    /// The heads of questions.
    pub heads: Arc<Mutex<Vec<HeaderMap>>>,
    say: Arc<Mutex<Say>>,
}

impl ByGrpc {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let say = Arc::new(Mutex::new(Say::Nothing));
        let authorizer = Self { address, asked: Arc::default(), heads: Arc::default(), say };
        let serving = authorizer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serving.clone().answer(request, respond));
                    }
                });
            }
        });
        authorizer
    }

    /// From now on.
    pub fn says(&self, say: Say) {
        *self.say.lock() = say;
    }

    /// The newest question.
    pub fn last(&self) -> auth::AttributeContext {
        self.asked.lock().last().cloned().unwrap_or_default()
    }

    async fn answer(
        self,
        request: http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        assert_eq!(request.uri().path(), "/envoy.service.auth.v3.Authorization/Check");
        let (head, mut body) = request.into_parts();
        let mut all = BytesMut::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            all.extend_from_slice(&data);
        }
        self.heads.lock().push(head.headers);
        self.asked.lock().push(auth::CheckRequest::decode(&all[5..]).unwrap().attributes.unwrap());
        let say = self.say.lock().clone();
        let response = Response::builder().header("content-type", "application/grpc");
        let (content, status) = match say {
            Say::Message(message) => (framed(&message.encode_to_vec()), 0),
            Say::Raw(raw) => (Bytes::from_static(raw), 0),
            Say::Status(status) => (Bytes::new(), status),
            Say::Nothing => std::future::pending().await,
        };
        let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
        let _ = send.send_data(content, false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.to_string().parse().unwrap());
        let _ = send.send_trailers(trailers);
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.len().try_into().unwrap());
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Publishes the service `authz` with one endpoint: an address outside of the mesh, or a pod of it.
pub fn publish(mesh: &Mesh, at: SocketAddr, pod: Option<&Pod>) {
    publish_as("authz", mesh, at, pod);
}

/// The same under another name.
pub fn publish_as(service: &str, mesh: &Mesh, at: SocketAddr, pod: Option<&Pod>) {
    let name = format!("{}:{PORT}", host(service));
    let outside = wire::Endpoint {
        uid: at.to_string(),
        address: at.to_string(),
        ready: true,
        weight: 1,
        ..Default::default()
    };
    let endpoint = pod.map_or(outside, Pod::endpoint);
    let cluster =
        wire::Cluster { name: Some(cluster_of(service)), policy: Some(policy()), ..Default::default() };
    mesh.pilot.publish(Kind::Cluster, &name, &cluster);
    mesh.pilot.publish(Kind::Endpoints, &name, &wire::Endpoints { endpoints: vec![endpoint] });
}

/// Of a service that is asked.
pub fn cluster_of(service: &str) -> wire::HostPort {
    wire::HostPort { host: host(service), port: PORT.into() }
}

/// A policy without conditions: everything is asked about.
pub fn asking(protocol: wire::external_authorization::Protocol) -> wire::ExternalAuthorization {
    wire::ExternalAuthorization {
        policies: vec![wire::AuthorizationPolicy {
            origin: Some(wire::Origin {
                namespace: "default".into(),
                name: "ask".into(),
                ..Default::default()
            }),
            rules: vec![wire::AuthorizationRule::default()],
            ..Default::default()
        }],
        provider: "authz".into(),
        cluster: Some(cluster_of("authz")),
        timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        status_on_error: 403,
        protocol: Some(protocol),
        ..Default::default()
    }
}
