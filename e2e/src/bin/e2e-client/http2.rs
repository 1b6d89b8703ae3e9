//! HTTP/2 and gRPC (`mesh.app.v1.Echo`) on one connection. A request that the server did not answer is an error, also where
//! the protocol would let a client send it again.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};

use super::request::{Answer, Ask};
use super::target::{Protocol, Target};

/// A connection between two requests.
pub struct Connection {
    sender: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let io = target.open().await?;
        let (sender, connection) = h2::client::handshake(io).await.context("HTTP/2 preface")?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// Whether the server would still take a request: it sent no GOAWAY.
    pub async fn is_open(&mut self) -> bool {
        if self.driver.is_finished() {
            return false;
        }
        // Lets the connection see what has come meanwhile.
        tokio::task::yield_now().await;
        std::future::poll_fn(|context| self.sender.poll_ready(context)).await.is_ok()
    }

    /// One exchange.
    pub async fn exchange(&mut self, target: &Target, ask: &Ask) -> anyhow::Result<Answer> {
        let grpc = target.protocol == Protocol::Grpc;
        let path = if grpc { grpc_path(&target.path) } else { target.path.clone() };
        let method = if grpc { "POST" } else { &ask.method };
        let mut request =
            Request::builder().method(method).uri(format!("{}://{}{path}", target.scheme, target.authority));
        for (name, value) in ask.headers.iter().filter(|(name, _)| name != "host") {
            request = request.header(name, value);
        }
        if grpc {
            request = request.header("content-type", "application/grpc").header("te", "trailers");
        }
        let body = if grpc { message(ask) } else { Bytes::copy_from_slice(ask.body.as_bytes()) };
        std::future::poll_fn(|context| self.sender.poll_ready(context)).await.context("the connection")?;
        let (response, mut stream) = self.sender.send_request(request.body(())?, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(body, true).context("sending the body")?;
        }
        let response = response.await.context("waiting for the answer")?;
        let (head, mut incoming) = response.into_parts();
        let mut whole = BytesMut::new();
        while let Some(data) = incoming.data().await {
            let data = data.context("reading the answer's body")?;
            let _ = incoming.flow_control().release_capacity(data.len());
            whole.extend_from_slice(&data);
        }
        let trailers = incoming.trailers().await.context("reading the trailers")?.unwrap_or_default();
        let grpc_status = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
        let error = match grpc_status.map(|status| status.to_str().unwrap_or("?")) {
            Some("0") => None,
            Some(status) => Some(format!("grpc-status {status} {}", grpc_message(&trailers, &head.headers))),
            None if grpc => Some("no grpc-status: the stream ended early".to_owned()),
            None => None,
        };
        let headers = flat(&head.headers);
        let body = String::from_utf8_lossy(&whole).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers, body, error, ..Answer::default() })
    }
}

fn grpc_path(path: &str) -> String {
    if path == "/" { "/mesh.app.v1.Echo/Echo".to_owned() } else { format!("/mesh.app.v1.Echo{path}") }
}

fn grpc_message(trailers: &HeaderMap, headers: &HeaderMap) -> String {
    let message = trailers.get("grpc-message").or_else(|| headers.get("grpc-message"));
    message.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned()).unwrap_or_default()
}

/// `EchoRequest { message, count, interval_millis }`, in one gRPC frame. The body is `MESSAGE [COUNT INTERVAL]`.
fn message(ask: &Ask) -> Bytes {
    let mut words = ask.body.split_whitespace();
    let text = words.next().unwrap_or("hello");
    let mut numbers = words.map(|word| word.parse::<u32>().unwrap_or_default());
    let mut payload = BytesMut::new();
    payload.put_u8(0x0a);
    varint(&mut payload, u32::try_from(text.len()).unwrap_or_default());
    payload.put_slice(text.as_bytes());
    for tag in [0x10, 0x18] {
        if let Some(number) = numbers.next() {
            payload.put_u8(tag);
            varint(&mut payload, number);
        }
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(payload.len()).unwrap_or_default());
    framed.put(payload);
    framed.freeze()
}

fn varint(into: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        into.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

fn flat(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.to_string()).and_modify(|have| have.push_str(&format!(", {value}"))).or_insert(value);
    }
    all
}
