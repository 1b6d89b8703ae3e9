//! One answer, as it is printed.

use std::collections::BTreeMap;

use http::HeaderMap;
use serde::Serialize;

/// What came back for one request. `status` is 0 and `error` set when nothing came.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// The HTTP status; 101 for a WebSocket, 200 for an echo over TCP.
    pub status: u16,
    /// Who answered, as its `instance` header says.
    pub instance: Option<String>,
    /// Its `version` header.
    pub version: Option<String>,
    /// Lower-case names, repeated values joined with `, `; trailers too.
    pub headers: BTreeMap<String, String>,
    /// The body as text; bytes that are none are replaced.
    pub body: String,
    /// From the first byte of the request (or of the connection) to the last one of the answer.
    pub millis: f64,
    /// `HTTP/1.1`, `HTTP/2`, `TCP`.
    pub protocol: &'static str,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Answer {
    /// The answer that did not come.
    pub fn failed(error: &anyhow::Error) -> Self {
        Self { error: Some(format!("{error:#}")), ..Self::default() }
    }

    /// Sets headers (or trailers), and instance and version from them.
    pub fn take_headers(&mut self, headers: &HeaderMap) {
        self.headers.extend(crate::app::joined_headers(headers));
        let value = |name: &str| self.headers.get(name).filter(|value| !value.is_empty()).cloned();
        self.instance = value("instance");
        self.version = value("version");
    }
}
