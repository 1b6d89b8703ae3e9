//! The application's metrics beside ours. In: where it tells them. Out: its text, or a comment that says why not.
//!
//! A scrape of the pod must not fail because the application's part does: ours comes always.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;

use super::probe;
use crate::config::agent::Scrape;

/// Prometheus' usual scrape timeout is ten seconds.
const TIMEOUT: Duration = Duration::from_secs(8);
/// More is told to nobody: it would be held in our memory.
const MAX_BODY: usize = 8 << 20;

/// Asks the application.
pub(super) async fn scrape(target: &Scrape, pod: IpAddr) -> String {
    let asked = tokio::time::timeout(TIMEOUT, ask(target, pod)).await;
    let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
    asked.unwrap_or_else(|why| {
        let why = why.replace(['\r', '\n'], " ");
        format!("# metrics of the application at :{}{} are missing: {why}\n", target.port, target.path)
    })
}

/// Both texts, ours last.
pub(super) fn merged(ours: String, application: &str) -> String {
    if application.is_empty() {
        return ours;
    }
    // OpenMetrics ends with a line that would end ours too.
    let mut all = application.trim_end().trim_end_matches("# EOF").to_owned();
    if !all.is_empty() && !all.ends_with('\n') {
        all.push('\n');
    }
    all.push_str(&ours);
    all
}

async fn ask(target: &Scrape, pod: IpAddr) -> Result<String, String> {
    let stream = probe::connect("", target.port, pod).await?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    tokio::spawn(async move { drop(connection.await) });
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.path.parse().map_err(|e| format!("{e}"))?;
    request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    if !answer.status().is_success() {
        return Err(format!("status {}", answer.status().as_u16()));
    }
    let (mut text, mut body) = (BytesMut::new(), answer.into_body());
    while let Some(frame) = body.frame().await {
        text.extend(frame.map_err(|e| e.to_string())?.into_data().unwrap_or_default());
        if text.len() > MAX_BODY {
            return Err(format!("more than {} MiB", MAX_BODY >> 20));
        }
    }
    String::from_utf8(text.to_vec()).map_err(|_| "not UTF-8".to_owned())
}
