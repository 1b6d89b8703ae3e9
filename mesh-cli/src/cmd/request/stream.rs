//! Exchanges that are no requests: a WebSocket message there and back, bytes over TCP there and back.

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::answer::Answer;
use super::connection::tunnel;
use super::plan::Plan;

/// What is sent when `-d` says nothing.
const HELLO: &str = "hello";
/// The largest answer that is kept.
const MAX_BODY: u64 = 64 << 20;

/// Sends the message, ends the sending half, reads until the other side ends.
pub async fn tcp(plan: &Plan) -> anyhow::Result<Answer> {
    let mut stream = tunnel(plan).await?;
    let data = plan.data.as_deref().unwrap_or(HELLO.as_bytes());
    stream.write_all(data).await.context("the connection was closed")?;
    stream.shutdown().await?;
    let mut body = Vec::new();
    stream.take(MAX_BODY).read_to_end(&mut body).await.context("the connection broke off")?;
    if body.is_empty() && !data.is_empty() {
        bail!("the connection was closed without an answer");
    }
    Ok(Answer {
        status: 200,
        protocol: "TCP",
        body: String::from_utf8_lossy(&body).into_owned(),
        ..Answer::default()
    })
}

/// Upgrades, sends the message, reads one, closes.
///
/// The upgrade goes through a tunnel, as a WebSocket client with a proxy does it; the sidecar routes what is inside.
pub async fn websocket(plan: &Plan) -> anyhow::Result<Answer> {
    let stream = tunnel(plan).await?;
    let mut request = format!("ws://{}{}", plan.authority, plan.path).into_client_request()?;
    request.headers_mut().insert(http::header::HOST, HeaderValue::from_str(&plan.host)?);
    for (name, value) in &plan.headers {
        request.headers_mut().append(name, value.clone());
    }
    let mut answer = Answer { protocol: "HTTP/1.1", ..Answer::default() };
    let (mut socket, response) = match tokio_tungstenite::client_async(request, stream).await {
        Ok(open) => open,
        Err(Error::Http(refused)) => {
            answer.status = refused.status().as_u16();
            answer.take_headers(refused.headers());
            answer.body = String::from_utf8_lossy(refused.body().as_deref().unwrap_or_default()).into_owned();
            return Ok(answer);
        }
        Err(error) => return Err(error).context("the WebSocket handshake failed"),
    };
    answer.status = response.status().as_u16();
    answer.take_headers(response.headers());
    let data = plan.data.as_deref().unwrap_or(HELLO.as_bytes());
    let message = match std::str::from_utf8(data) {
        Ok(text) => Message::text(text),
        Err(_) => Message::binary(data.to_vec()),
    };
    socket.send(message).await.context("the WebSocket was closed")?;
    while let Some(message) = socket.next().await {
        let message = message.context("the WebSocket broke off")?;
        if message.is_text() || message.is_binary() {
            answer.body = String::from_utf8_lossy(&message.into_data()).into_owned();
            let _ = socket.close(None).await;
            return Ok(answer);
        }
    }
    bail!("the WebSocket was closed before a message came")
}
