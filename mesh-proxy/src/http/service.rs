//! What stands between the server's codec and the rest of the proxy: a [`Service`] is called once per well-formed request.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Request, Response, StatusCode};

use crate::http::body::{Body, BodyError};
use crate::io::Io;

/// Answers requests. Its futures stay on one thread. A future is dropped when the client goes away before the answer.
pub trait Service {
    /// Answers one request. Hop-by-hop fields are gone; `Host` holds the authority; the URI holds path and query (the
    /// authority for CONNECT). `upgrade` is present only when the client asks for one (never h2c).
    fn call(&self, request: Request<Body>) -> impl Future<Output = Reply>;

    /// Told of a request that was answered by the codec itself, because two servers could read it differently.
    fn refused(&self, why: &BadRequest);
}

/// The answer to one request.
pub struct Reply {
    /// Head and body. The codec frames the body: `content-length` and `transfer-encoding` need not be set.
    pub response: Response<Body>,
    /// What becomes of the connection afterwards.
    pub then: Then,
    /// Told how it went once the last byte is out or the exchange has failed; dropped untold never.
    pub record: Option<Box<dyn Record>>,
}

/// What becomes of the connection after an answer.
pub enum Then {
    /// The next request may come.
    KeepAlive,
    /// It is closed (HTTP/2: GOAWAY).
    Close,
    /// After the head is written the stream belongs to this function, with the bytes that were read already.
    Tunnel(Tunnel),
}

/// Takes over a connection after 101 or a 2xx answer to CONNECT.
pub type Tunnel = Box<dyn FnOnce(Io, Bytes) -> LocalBoxFuture<'static, ()>>;

impl Reply {
    /// An answer after which the connection lives on, and nobody asks how it went.
    #[must_use]
    pub fn new(response: Response<Body>) -> Self {
        Self { response, then: Then::KeepAlive, record: None }
    }
}

/// Wants to know how an exchange ended.
pub trait Record {
    /// Ready when the answer must not go on (HTTP/1 asks; what is sent on a stream is cut by its body).
    fn poll_cut(&self, _cx: &Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }

    /// Called once.
    fn finish(self: Box<Self>, outcome: &Outcome);
}

/// `grpc-status`, where it is a number.
#[must_use]
pub fn grpc_status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Tells a record how it went, also when the connection ends in the middle and everything is dropped.
pub(crate) struct Teller {
    record: Option<Box<dyn Record>>,
    /// Request body bytes so far.
    pub(crate) received: Rc<Cell<u64>>,
    /// Response body bytes so far.
    pub(crate) sent: u64,
    /// `grpc-status`, as far as known.
    pub(crate) grpc_status: Option<u32>,
}

impl Teller {
    pub(crate) fn new(
        record: Option<Box<dyn Record>>,
        received: Rc<Cell<u64>>,
        grpc_status: Option<u32>,
    ) -> Self {
        Self { record, received, sent: 0, grpc_status }
    }

    /// The exchange has ended.
    pub(crate) fn finish(mut self, end: End) {
        self.tell(end);
    }

    /// Ready when the answer must not go on.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<BodyError> {
        self.record.as_ref().map_or(Poll::Pending, |record| record.poll_cut(cx))
    }

    fn tell(&mut self, end: End) {
        if let Some(record) = self.record.take() {
            let outcome = Outcome {
                bytes_received: self.received.get(),
                bytes_sent: self.sent,
                grpc_status: self.grpc_status,
                end,
            };
            record.finish(&outcome);
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.tell(End::ClientGone);
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Request body bytes that the client sent.
    pub bytes_received: u64,
    /// Response body bytes that were handed to the client's connection.
    pub bytes_sent: u64,
    /// `grpc-status` of the trailers (or of the head, where there were none).
    pub grpc_status: Option<u32>,
    /// Whether all of it went out.
    pub end: End,
}

/// Whether an answer went out completely, and if not, whose fault that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything is sent.
    Complete,
    /// The client closed or reset.
    ClientGone,
    /// The body failed.
    UpstreamFailed(BodyError),
}

/// Why the codec refuses a request without asking the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum BadRequest {
    /// The request line is none.
    RequestLine,
    /// Not HTTP/1.0 or HTTP/1.1.
    Version,
    /// The request target has a fragment, control bytes or no known form.
    Target,
    /// A line does not end in CR LF.
    LineEnd,
    /// A field name is no token, or there is space before the colon.
    HeaderName,
    /// A field value has control bytes.
    HeaderValue,
    /// A field line starts with space.
    Folding,
    /// `Host` is missing, there are several, it is no authority, or not the target's.
    Host,
    /// Content-Length and Transfer-Encoding together, more than one of either, or not a number.
    Framing,
    /// A transfer coding other than exactly one `chunked`, or one in HTTP/1.0.
    TransferEncoding,
    /// A chunk's size or end is malformed.
    Chunk,
    /// The head is longer than allowed.
    HeadTooLarge,
    /// There are more fields than allowed.
    TooManyHeaders,
    /// The head took longer than allowed.
    Timeout,
    /// A pseudo-header is missing, repeated or malformed (HTTP/2).
    PseudoHeader,
}

impl BadRequest {
    /// The reason in words; for a response, why it is not forwarded.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::RequestLine => "malformed start line",
            Self::Version => "unsupported HTTP version",
            Self::Target => "malformed request target",
            Self::LineEnd => "bare CR or LF",
            Self::HeaderName => "malformed header name",
            Self::HeaderValue => "malformed header value",
            Self::Folding => "folded header line",
            Self::Host => "missing, repeated, malformed or contradicting host",
            Self::Framing => "ambiguous message length",
            Self::TransferEncoding => "transfer coding other than chunked",
            Self::Chunk => "malformed chunk",
            Self::HeadTooLarge => "head too large",
            Self::TooManyHeaders => "too many headers",
            Self::Timeout => "head timed out",
            Self::PseudoHeader => "malformed pseudo-header",
        }
    }

    /// The status that answers it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
