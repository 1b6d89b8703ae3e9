//! A message body: what every stage above the wire sees of the bytes after a head.
//!
//! A body is polled in the task that serves its request; there is no channel behind it. Not polling it is back-pressure.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::http::headers::HeaderCase;
use crate::http::interim::Interim;
use crate::http::sent::Sent;
use crate::http::{h1, h2};
use crate::io::Io;

/// One piece of a body.
#[derive(Debug)]
pub enum Frame {
    /// Content bytes, never empty.
    Data(Bytes),
    /// The trailer section; nothing follows.
    Trailers(HeaderMap),
}

/// Why a body ended before it was complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The sender closed the connection in the middle.
    #[error("connection closed before the body was complete")]
    Closed,
    /// The sender's framing is wrong.
    #[error("malformed body: {0}")]
    Malformed(&'static str),
    /// The connection failed.
    #[error("connection failed: {0}")]
    Io(io::ErrorKind),
    /// The HTTP/2 stream was reset.
    #[error("stream reset: {0}")]
    Reset(::h2::Reason),
    /// The sender was silent for too long.
    #[error("body timed out")]
    Timeout,
    /// A stage above gave up; the text says which and why.
    #[error("{0}")]
    Aborted(Box<str>),
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            kind => Self::Io(kind),
        }
    }
}

/// A body made by another stage: wrap one to watch, delay or cut it.
pub trait Source {
    /// The next piece; `None` at the end.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>>;
    /// How many content bytes are still to come, where that is known.
    fn known_len(&self) -> Option<u64>;
    /// Whether nothing more will come. May be false at the end.
    fn is_end(&self) -> bool;
}

/// The content and trailers of a message, and what the codecs hand one another beside it.
pub struct Body {
    kind: Kind,
    case: HeaderCase,
    interim: Option<Interim>,
    sent: Option<Sent>,
}

enum Kind {
    Empty,
    Full(Bytes),
    Request(h1::server::RequestBody),
    Response(Box<h1::client::ResponseBody>),
    H2(Box<h2::message::Incoming>),
    H2Response(Box<h2::client::ResponseBody>),
    Source(Box<dyn Source>),
    Upgraded(Box<(Io, Bytes)>),
}

impl Body {
    fn of(kind: Kind) -> Self {
        Self { kind, case: HeaderCase::Lower, interim: None, sent: None }
    }

    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    /// All the content at once.
    #[must_use]
    pub fn full(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self::of(if content.is_empty() { Kind::Empty } else { Kind::Full(content) })
    }

    /// A body that another stage makes. To put something around a body, prefer [`Self::wrap`].
    #[must_use]
    pub fn from_source(source: Box<dyn Source>) -> Self {
        Self::of(Kind::Source(source))
    }

    /// Puts a source around this body. Unlike [`Self::from_source`] it keeps what belongs to the message: the case of its
    /// field names, and the way back for 1xx answers.
    #[must_use]
    pub fn wrap(mut self, source: impl FnOnce(Self) -> Box<dyn Source>) -> Self {
        let case = std::mem::take(&mut self.case);
        let (interim, sent) = (self.interim.take(), self.sent.take());
        Self { kind: Kind::Source(source(self)), case, interim, sent }
    }

    /// The same message with this content, all of it at hand, and no trailers.
    #[must_use]
    pub(crate) fn filled(self, content: Bytes) -> Self {
        Self { kind: Self::full(content).kind, ..self }
    }

    /// Whether [`Self::into_upgraded`] has a stream.
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        matches!(self.kind, Kind::Upgraded(_))
    }

    /// The upstream's stream after its 101 (or 2xx to CONNECT), and what it sent behind that head.
    ///
    /// # Errors
    /// The body itself, where it is an ordinary one.
    pub fn into_upgraded(self) -> Result<(Io, Bytes), Self> {
        match self.kind {
            Kind::Upgraded(upgraded) => Ok(*upgraded),
            kind => Err(Self { kind, ..self }),
        }
    }

    /// The next piece; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match &mut self.kind {
            Kind::Empty | Kind::Upgraded(_) => Poll::Ready(None),
            Kind::Full(content) => {
                let content = std::mem::take(content);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::Data(content))))
            }
            Kind::Request(body) => body.poll_frame(cx),
            Kind::Response(body) => body.poll_frame(cx),
            Kind::H2(body) => body.poll_frame(cx),
            Kind::H2Response(body) => body.poll_frame(cx),
            Kind::Source(source) => source.poll_frame(cx),
        }
    }

    /// The next piece; `None` at the end.
    pub async fn frame(&mut self) -> Option<Result<Frame, BodyError>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// How many content bytes are still to come, where that is known.
    #[must_use]
    pub fn known_len(&self) -> Option<u64> {
        match &self.kind {
            Kind::Empty | Kind::Upgraded(_) => Some(0),
            Kind::Full(content) => Some(content.len() as u64),
            Kind::Request(body) => body.known_len(),
            Kind::Response(body) => body.known_len(),
            Kind::H2(body) => body.known_len(),
            Kind::H2Response(body) => body.known_len(),
            Kind::Source(source) => source.known_len(),
        }
    }

    /// Whether nothing more will come. May be false at the end.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match &self.kind {
            Kind::Empty | Kind::Upgraded(_) => true,
            Kind::Full(_) => false,
            Kind::Request(body) => body.known_len() == Some(0),
            Kind::Response(body) => body.known_len() == Some(0),
            Kind::H2(body) => body.is_end(),
            Kind::H2Response(body) => body.is_end(),
            Kind::Source(source) => source.is_end(),
        }
    }

    /// The content, where all of it is at hand and nothing follows.
    pub(crate) fn as_full(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Full(content) => Some(content),
            _ => None,
        }
    }

    pub(crate) fn request(body: h1::server::RequestBody) -> Self {
        Self::of(Kind::Request(body))
    }

    pub(crate) fn response(body: Box<h1::client::ResponseBody>) -> Self {
        Self::of(Kind::Response(body))
    }

    pub(crate) fn h2(body: Box<h2::message::Incoming>) -> Self {
        Self::of(Kind::H2(body))
    }

    pub(crate) fn h2_response(body: Box<h2::client::ResponseBody>) -> Self {
        Self::of(Kind::H2Response(body))
    }

    pub(crate) fn upgraded(io: Io, read: Bytes) -> Self {
        Self::of(Kind::Upgraded(Box::new((io, read))))
    }

    pub(crate) fn with_case(mut self, case: HeaderCase) -> Self {
        self.case = case;
        self
    }

    pub(crate) fn case(&self) -> &HeaderCase {
        &self.case
    }

    pub(crate) fn with_interim(mut self, interim: Option<Interim>) -> Self {
        self.interim = interim;
        self
    }

    /// Tells a client that waits for it to send this body, which is about to be read here; what an upstream says of that
    /// later does not reach it any more.
    pub(crate) fn go_on(&mut self) {
        if let Some(interim) = &mut self.interim {
            interim.go_on();
        }
    }

    /// Where its request's head is to be once it is written.
    pub(crate) fn with_sent(mut self, sent: Option<Sent>) -> Self {
        self.sent = sent;
        self
    }

    pub(crate) fn set_sent(&mut self, sent: Sent) {
        self.sent = Some(sent);
    }

    pub(crate) fn sent(&self) -> Option<&Sent> {
        self.sent.as_ref()
    }

    pub(crate) fn interim(&self) -> Option<&Interim> {
        self.interim.as_ref()
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("known_len", &self.known_len()).finish_non_exhaustive()
    }
}
