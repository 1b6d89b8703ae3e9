//! What the application calls in its turn: the URLs in `CALLS`, through `HTTP_PROXY`, with the tracing headers passed on.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Headers that a well-behaved application passes on, so that traces and user attributes survive.
const PASSED_ON: [&str; 13] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "end-user",
    "accept-language",
    "user-agent",
    "cookie",
];
/// The largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;
/// How long a call may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// The calls of one application.
#[derive(Debug)]
pub struct Calls {
    urls: Vec<Uri>,
    /// host:port of the proxy.
    proxy: Option<String>,
}

impl Calls {
    /// `urls` are absolute `http` URLs; `proxy` is a URL or host:port.
    pub fn new(urls: &[String], proxy: Option<&str>) -> anyhow::Result<Self> {
        let parse = |url: &String| {
            let uri: Uri = url.parse().with_context(|| format!("CALLS: {url:?} is not a URL"))?;
            if uri.scheme_str() != Some("http") || uri.authority().is_none() {
                bail!("CALLS: {url:?} is not an absolute http URL");
            }
            Ok(uri)
        };
        let urls = urls.iter().filter(|url| !url.is_empty()).map(parse).collect::<anyhow::Result<_>>()?;
        let proxy = proxy.map(|p| p.strip_prefix("http://").unwrap_or(p).trim_end_matches('/').to_owned());
        Ok(Self { urls, proxy })
    }

    /// Whether there is anything to call.
    pub fn is_empty(&self) -> bool {
        self.urls.is_empty()
    }

    /// Calls each URL in order; a failure is part of the result.
    pub async fn all(&self, incoming: &HeaderMap) -> Value {
        let mut results = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            let result = match tokio::time::timeout(PATIENCE, self.one(url, incoming)).await {
                Ok(Ok(result)) => result,
                Ok(Err(error)) => json!({"url": url.to_string(), "error": format!("{error:#}")}),
                Err(_) => json!({"url": url.to_string(), "error": format!("no answer within {PATIENCE:?}")}),
            };
            results.push(result);
        }
        Value::Array(results)
    }

    async fn one(&self, url: &Uri, incoming: &HeaderMap) -> anyhow::Result<Value> {
        let authority = url.authority().expect("checked when parsed").as_str();
        let address = match &self.proxy {
            Some(proxy) => proxy.clone(),
            None if url.port().is_some() => authority.to_owned(),
            None => format!("{authority}:80"),
        };
        let stream =
            TcpStream::connect(&address).await.with_context(|| format!("cannot connect to {address}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        // A proxy wants the absolute form, a server the path.
        let target = match (&self.proxy, url.path_and_query()) {
            (None, Some(path)) => path.as_str().parse()?,
            _ => url.clone(),
        };
        let mut request = Request::get(target).header(header::HOST, authority).body(Empty::<Bytes>::new())?;
        for name in PASSED_ON {
            for value in incoming.get_all(name) {
                request.headers_mut().append(name, value.clone());
            }
        }
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
        Ok(json!({"url": url.to_string(), "status": status, "body": body}))
    }
}
