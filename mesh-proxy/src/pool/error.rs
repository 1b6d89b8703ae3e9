//! Why a request could not be sent or was not answered, and whether it is safe to send it again.

use std::io;

use http::Request;

use super::Overflow;
use crate::http::{Body, BodyError};

/// A failed attempt.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// What happened.
    pub kind: SendErrorKind,
    /// The request, whenever nothing of it was used up.
    pub request: Option<Box<Request<Body>>>,
}

/// What happened to an attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendErrorKind {
    /// The upstream's address does not take connections.
    #[error("connect failed: {0}")]
    ConnectFailed(io::ErrorKind),
    /// TCP or TLS took longer than allowed.
    #[error("connect timed out")]
    ConnectTimeout,
    /// The TLS handshake failed; the text names both identities where they differ.
    #[error("TLS: {0}")]
    Tls(String),
    /// HTTP/2: the upstream did not look at the request (`REFUSED_STREAM`, or above GOAWAY's last stream).
    #[error("stream refused")]
    RefusedStream,
    /// The connection ended before the first byte of an answer.
    #[error("connection closed before an answer")]
    ClosedBeforeResponse {
        /// It was the connection's first request.
        first_use: bool,
        /// Something of the request may have reached the upstream.
        bytes_written: bool,
    },
    /// The connection or stream was reset, or failed in the middle of the answer's head.
    #[error("upstream reset")]
    Reset,
    /// The answer is not HTTP that we forward.
    #[error("malformed answer: {0}")]
    Protocol(&'static str),
    /// The peer's sidecar says that nothing of the request reached its application.
    #[error("the application behind the peer's sidecar could not be reached")]
    Unreached,
    /// A limit of the DestinationRule's connectionPool is reached.
    #[error("overflow: {} of the DestinationRule is reached", .0.field())]
    Overflow(Overflow),
    /// The client's body failed while it was being sent: not the upstream's fault.
    #[error("request body: {0}")]
    RequestBody(BodyError),
}

impl SendError {
    /// An attempt's failure, with its request where nothing of that was used up.
    #[must_use]
    pub fn new(kind: SendErrorKind, request: Option<Request<Body>>) -> Self {
        Self { kind, request: request.map(Box::new) }
    }
}

impl SendErrorKind {
    /// Whether the upstream certainly has not acted on the request, whatever its method: it may be sent again.
    #[must_use]
    pub fn is_safe_to_repeat(&self) -> bool {
        match self {
            Self::ConnectFailed(_)
            | Self::ConnectTimeout
            | Self::Tls(_)
            | Self::RefusedStream
            | Self::Unreached
            | Self::Overflow(_) => true,
            // A reused connection that the upstream closes while we write was closed before it read.
            Self::ClosedBeforeResponse { bytes_written, .. } => !bytes_written,
            Self::Reset | Self::Protocol(_) | Self::RequestBody(_) => false,
        }
    }
}
