//! The client's side of HTTP/2: one shared connection and the requests on it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Version, header};
use tokio::time::Instant;

use crate::http::body::{Body, BodyError, Frame};
use crate::http::h2::message::{self, Incoming, Length};
use crate::http::h2::piece::Piece;
use crate::http::h2::send::{Sending, SendingError};
use crate::http::headers::HeaderCase;
use crate::http::sent::{self, Written};
use crate::io::Io;
use crate::outbound::headers::UNREACHED;
use crate::pool::{Lease, SendError, SendErrorKind};

/// Streams that we open on one connection before we open another one.
pub const MAX_STREAMS: usize = 64;
/// What an upstream may send on one stream before it is taken.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for the connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Decoded size of an answer's fields.
const MAX_HEADER_LIST: u32 = 64 << 10;
/// Bytes buffered for a stream that the upstream does not read.
const SEND_BUFFER: usize = 256 << 10;

/// A connection to an upstream.
pub struct Connection {
    sender: SendRequest<Piece>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    active: Cell<usize>,
    requests: Cell<u32>,
    closed: Cell<bool>,
    /// When the last stream ended.
    idle_since: Cell<Option<Instant>>,
}

/// Counts one stream until its answer is complete.
struct Stream {
    state: Rc<State>,
    /// The same, where requests are limited. Dropped after the place is free.
    lease: Option<Lease>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let active = self.state.active.get() - 1;
        self.state.active.set(active);
        if active == 0 {
            self.state.idle_since.set(Some(Instant::now()));
        }
    }
}

impl Connection {
    /// Opens HTTP/2 on a stream; the connection is driven by a task of its own until the last handle and stream are gone.
    ///
    /// # Errors
    /// When the stream fails at once.
    pub async fn open(io: Io) -> Result<Self, SendErrorKind> {
        let mut builder = ::h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(CONNECTION_WINDOW as usize)
            .enable_push(false);
        let (sender, connection) = builder.handshake(io).await.map_err(|_| SendErrorKind::Reset)?;
        let state = Rc::new(State::default());
        state.idle_since.set(Some(Instant::now()));
        let told = state.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 connection to an upstream failed");
            }
            told.closed.set(true);
        });
        Ok(Self { sender, state })
    }

    /// Whether it takes one more request.
    #[must_use]
    pub fn has_room(&self, max_requests: Option<u32>, max_streams: Option<u32>) -> bool {
        let streams = max_streams.map_or(MAX_STREAMS, |max| MAX_STREAMS.min(max as usize));
        !self.state.closed.get()
            && self.state.active.get() < streams.min(self.sender.current_max_send_streams())
            && max_requests.is_none_or(|max| self.state.requests.get() < max)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Streams in flight.
    #[must_use]
    pub fn active(&self) -> usize {
        self.state.active.get()
    }

    /// Since when it has no stream; none while it has one.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        self.state.idle_since.get().filter(|_| self.state.active.get() == 0)
    }

    /// Requests that were sent on it.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.state.requests.get()
    }

    /// Takes a place on the connection; [`Ticket::send`] uses it.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        let state = &self.state;
        state.active.set(state.active.get() + 1);
        state.requests.set(state.requests.get() + 1);
        Ticket { sender: self.sender.clone(), stream: Stream { state: state.clone(), lease: None } }
    }
}

/// A place for one request.
pub struct Ticket {
    sender: SendRequest<Piece>,
    stream: Stream,
}

impl Ticket {
    /// Counts the request until its answer is complete.
    #[must_use]
    pub fn leased(mut self, lease: Lease) -> Self {
        self.stream.lease = Some(lease);
        self
    }

    /// Sends a request and waits for the head of its answer. `fallback` is the authority where the client named none,
    /// `greeting` goes with a connection's first request.
    ///
    /// # Errors
    /// See [`SendErrorKind`].
    pub async fn send(
        mut self,
        request: Request<Body>,
        tls: bool,
        fallback: &str,
        greeting: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Response<Body>, SendError> {
        if request.method() == Method::CONNECT || request.headers().contains_key(header::UPGRADE) {
            let kind = SendErrorKind::Protocol("upgrades and CONNECT need an HTTP/1.1 upstream");
            return Err(SendError::new(kind, Some(request)));
        }
        let ready = poll_fn(|cx| self.sender.poll_ready(cx)).await;
        if ready.is_err() {
            self.stream.state.closed.set(true);
            return Err(SendError::new(SendErrorKind::RefusedStream, Some(request)));
        }
        let request = sent::seen(request).await;
        let (parts, body) = request.into_parts();
        // What is sent is used up; the head must survive a refusal.
        let (kept, mut parts) = (parts.clone(), parts);
        let uri = match message::request_uri(&mut parts, tls, fallback) {
            Ok(uri) => uri,
            Err(why) => {
                let request = Request::from_parts(kept, body);
                return Err(SendError::new(SendErrorKind::Protocol(why), Some(request)));
            }
        };
        parts.uri = uri;
        parts.version = Version::HTTP_2;
        message::clean(&mut parts.headers, length(&parts.method, &body));
        if let Some((name, value)) = greeting.filter(|_| self.first_use()) {
            parts.headers.insert(name.clone(), value.clone());
        }
        let end = body.is_end();
        let (answer, stream) = match self.sender.send_request(Request::from_parts(parts, ()), end) {
            Ok(both) => both,
            Err(error) => {
                self.stream.state.closed.set(error.is_io() || error.is_go_away());
                let request = Request::from_parts(kept, body);
                return Err(SendError::new(kind_of(&error, self.first_use()), Some(request)));
            }
        };
        let full = body.as_full().cloned();
        let written = Written::new(kept, body.sent());
        let again = |written: Written, body: Option<Body>| Some(Request::from_parts(written.back()?, body?));
        let mut sending = Sending::new(stream, body);
        sending.done = end;
        match (Exchange { answer, sending: &mut sending }).head().await {
            // Only a sidecar of the mesh can say that.
            Ok(response) if tls && response.headers().contains_key(&UNREACHED) => {
                let body = unused(sending, full);
                Err(SendError::new(SendErrorKind::Unreached, again(written, body)))
            }
            Ok(response) => Ok(self.into_response(response, sending)),
            Err(failure) => {
                let kind = failure.kind(self.first_use());
                let body = unused(sending, full);
                Err(SendError::new(kind, again(written, body)))
            }
        }
    }

    fn first_use(&self) -> bool {
        self.stream.state.requests.get() == 1
    }

    fn into_response(self, response: Response<RecvStream>, sending: Sending) -> Response<Body> {
        let (parts, stream) = response.into_parts();
        let incoming = Incoming::new(stream, &parts.headers, Rc::default());
        let body = if incoming.is_end() && sending.done {
            Body::empty()
        } else {
            let upload = (!sending.done).then_some(sending);
            Body::h2_response(Box::new(ResponseBody { incoming, upload, stream: Some(self.stream) }))
        };
        Response::from_parts(parts, body)
    }
}

fn length(method: &Method, body: &Body) -> Length {
    match body.known_len() {
        Some(0) if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => Length::Unknown,
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    }
}

/// The body, if nothing of it was used up.
fn unused(sending: Sending, full: Option<Bytes>) -> Option<Body> {
    let body = sending.body;
    match full {
        Some(full) => {
            let (case, interim) = (body.case().clone(), body.interim().cloned());
            Some(Body::full(full).with_case(case).with_interim(interim).with_sent(body.sent().cloned()))
        }
        None => (!sending.touched).then_some(body),
    }
}

enum Failure {
    Answer(::h2::Error),
    Client(BodyError),
    TooManyInterim,
}

impl Failure {
    fn kind(self, first_use: bool) -> SendErrorKind {
        match self {
            Self::Answer(error) => kind_of(&error, first_use),
            Self::Client(error) => SendErrorKind::RequestBody(error),
            Self::TooManyInterim => SendErrorKind::Protocol("too many interim answers"),
        }
    }
}

/// What it means that a stream failed before its answer's head.
fn kind_of(error: &::h2::Error, first_use: bool) -> SendErrorKind {
    // A stream that GOAWAY's last id does not cover was not looked at (RFC 9113 §6.8); the others go on.
    let unseen = error.is_go_away() && error.is_remote();
    if unseen || (error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM)) {
        return SendErrorKind::RefusedStream;
    }
    if error.is_io() {
        return SendErrorKind::ClosedBeforeResponse { first_use, bytes_written: true };
    }
    if error.is_library() || error.is_reset() && !error.is_remote() {
        return SendErrorKind::Protocol("malformed HTTP/2 answer");
    }
    SendErrorKind::Reset
}

struct Exchange<'a> {
    answer: ResponseFuture,
    sending: &'a mut Sending,
}

/// The most 1xx answers to one request.
const MAX_INTERIM: usize = 16;

impl Exchange<'_> {
    async fn head(mut self) -> Result<Response<RecvStream>, Failure> {
        let mut interim = 0;
        poll_fn(|cx| {
            if !self.sending.done {
                match self.sending.poll(cx) {
                    Poll::Ready(Err(SendingError::Body(error))) => {
                        return Poll::Ready(Err(Failure::Client(error)));
                    }
                    // The answer, or its error, says more than a stream that takes no more.
                    Poll::Ready(Err(_)) => self.sending.done = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            while let Poll::Ready(Some(Ok(head))) = self.answer.poll_informational(cx) {
                interim += 1;
                if interim > MAX_INTERIM {
                    return Poll::Ready(Err(Failure::TooManyInterim));
                }
                if let Some(to) = self.sending.body.interim() {
                    let (parts, ()) = head.into_parts();
                    to.send(parts.status, parts.headers, &HeaderCase::Lower);
                }
            }
            Pin::new(&mut self.answer).poll(cx).map_err(Failure::Answer)
        })
        .await
    }
}

/// A response's body. Goes on sending the request while it is read.
pub struct ResponseBody {
    incoming: Incoming,
    upload: Option<Sending>,
    stream: Option<Stream>,
}

impl ResponseBody {
    /// The next piece; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(upload) = &mut self.upload
            && upload.poll(cx).is_ready()
        {
            // If it failed, the answer still counts.
            self.upload = None;
        }
        let frame = self.incoming.poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_) | Ok(Frame::Trailers(_))))) {
            self.stream = None;
        }
        frame
    }

    /// Whether nothing more will come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.incoming.is_end()
    }

    /// How many bytes are to come, where that is known.
    #[must_use]
    pub fn known_len(&self) -> Option<u64> {
        self.incoming.known_len()
    }
}
