//! What stands between the server's codec and the rest of the proxy: a [`Service`] is called once per well-formed request.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Request, Response, StatusCode};

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
    /// Called once.
    fn finish(self: Box<Self>, outcome: &Outcome);
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
pub enum BadRequest {
    /// The request line is none.
    #[error("malformed request line")]
    RequestLine,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("unsupported HTTP version")]
    Version,
    /// The request target has a fragment, control bytes or no known form.
    #[error("malformed request target")]
    Target,
    /// A line does not end in CR LF.
    #[error("bare CR or LF")]
    LineEnd,
    /// A field name is no token, or there is space before the colon.
    #[error("malformed header name")]
    HeaderName,
    /// A field value has control bytes.
    #[error("malformed header value")]
    HeaderValue,
    /// A field line starts with space.
    #[error("folded header line")]
    Folding,
    /// `Host` is missing, there are several, it is no authority, or not the target's.
    #[error("missing, repeated, malformed or contradicting host")]
    Host,
    /// Content-Length and Transfer-Encoding together, more than one of either, or not a number.
    #[error("ambiguous message length")]
    Framing,
    /// A transfer coding other than exactly one `chunked`, or one in HTTP/1.0.
    #[error("transfer coding other than chunked")]
    TransferEncoding,
    /// A chunk's size or end is malformed.
    #[error("malformed chunk")]
    Chunk,
    /// The head is longer than allowed.
    #[error("head too large")]
    HeadTooLarge,
    /// There are more fields than allowed.
    #[error("too many headers")]
    TooManyHeaders,
    /// The head took longer than allowed.
    #[error("head timed out")]
    Timeout,
    /// A pseudo-header is missing, repeated or malformed (HTTP/2).
    #[error("malformed pseudo-header")]
    PseudoHeader,
}

impl BadRequest {
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
