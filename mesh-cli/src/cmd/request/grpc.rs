//! A gRPC call by hand, so that status, headers and trailers are shown as they came.
//!
//! `/` means `mesh.app.v1.Echo/Echo` of the sample application, with `-d` as the message. Any other method is sent an empty
//! message. Framing: gRPC over HTTP/2 (one flag byte, four bytes of length, the message).

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Limited};
use mesh_proto::wire::mesh::app::v1::{EchoRequest, EchoResponse};
use prost::Message as _;
use serde_json::json;

use super::answer::Answer;
use super::connection::Connection;
use super::plan::Plan;

/// The sample application's service.
const ECHO: &str = "/mesh.app.v1.Echo/";
/// The largest answer that is kept.
const MAX_BODY: usize = 64 << 20;

/// Makes one call and reads all of its messages and trailers.
pub async fn call(plan: &Plan, connection: &mut Connection) -> anyhow::Result<Answer> {
    let mut plan = plan.clone();
    if plan.path == "/" {
        plan.path = format!("{ECHO}Echo");
    }
    let echo = plan.path.starts_with(ECHO);
    let message = match &plan.data {
        Some(data) if echo => {
            let message = String::from_utf8(data.to_vec()).context("-d: the message is not UTF-8")?;
            EchoRequest { message, ..EchoRequest::default() }.encode_to_vec()
        }
        _ => Vec::new(),
    };
    let request = Request::builder()
        .method(Method::POST)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers");
    let response = connection.send(&plan, request, frame(&message)).await?;
    let mut answer =
        Answer { status: response.status().as_u16(), protocol: connection.protocol(), ..Answer::default() };
    answer.take_headers(response.headers());
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    let body = body
        .map_err(|error| anyhow::anyhow!("the answer broke off after status {}: {error}", answer.status))?;
    if let Some(trailers) = body.trailers().cloned() {
        answer.take_headers(&trailers);
    }
    let messages = unframe(body.to_bytes())?;
    answer.body = if echo { echoes(&messages)? } else { format!("{} messages", messages.len()) };
    Ok(answer)
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a command line is shorter"));
    framed.extend_from_slice(message);
    framed.freeze()
}

fn unframe(mut body: Bytes) -> anyhow::Result<Vec<Bytes>> {
    let mut messages = Vec::new();
    while body.len() >= 5 {
        anyhow::ensure!(body.get_u8() == 0, "the answer is compressed, which was not asked for");
        let length = body.get_u32() as usize;
        anyhow::ensure!(length <= body.len(), "the last message broke off");
        messages.push(body.split_to(length));
    }
    anyhow::ensure!(body.is_empty(), "the last message broke off");
    Ok(messages)
}

/// The sample application's answers as JSON, one a line.
fn echoes(messages: &[Bytes]) -> anyhow::Result<String> {
    let mut lines = Vec::with_capacity(messages.len());
    for message in messages {
        let echo = EchoResponse::decode(message.clone()).context("the answer is no EchoResponse")?;
        let peer = (!echo.peer.is_empty()).then_some(echo.peer);
        let line = json!({
            "message": echo.message, "instance": echo.instance, "workload": echo.workload, "version": echo.version,
            "namespace": echo.namespace, "headers": echo.headers, "peer": peer,
        });
        lines.push(line.to_string());
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_unframes() {
        let two = [frame(b"a"), frame(b"")].concat();
        assert_eq!(unframe(Bytes::from(two)).unwrap(), [Bytes::from("a"), Bytes::new()]);
        assert!(unframe(Bytes::from_static(b"\0\0\0\0\x05ab")).is_err());
        assert!(unframe(Bytes::from_static(b"\x01\0\0\0\0")).is_err());
        assert!(unframe(Bytes::from_static(b"\0\0")).is_err());
    }
}
