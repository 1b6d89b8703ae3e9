//! The client's side of an HTTP/1 connection. In: a request. Out: the response's head, and a body that goes on sending the
//! request while it is read, and gives the connection back when both are complete. One task, no channel.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Version, header, request};

use crate::http::body::{Body, BodyError, Frame};
use crate::http::buffer::{Incoming, Outgoing};
use crate::http::h1::decode::{Decoded, Decoder};
use crate::http::h1::encode::{self, Encoder};
use crate::http::h1::head::{self, Asked, Framing, ResponseHead};
use crate::http::h1::scan::Scan;
use crate::http::headers;
use crate::http::sent::Written;
use crate::io::Io;
use crate::outbound::headers::UNREACHED;
use crate::pool::{Lease, SendError, SendErrorKind};

/// The longest head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// The most header fields of an answer, and its status line.
const MAX_LINES: usize = 101;
/// The most 1xx answers to one request.
const MAX_INTERIM: usize = 16;
/// How much of a request waits for the upstream before its source is asked for more.
const HIGH: usize = 64 << 10;

/// A connection to an upstream.
pub struct Connection {
    io: Io,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Requests that were sent on it.
    requests: u32,
    /// Counts the request that it carries, where requests are limited.
    pub lease: Option<Lease>,
}

/// Where a connection goes when its exchange is complete.
pub trait Home {
    /// Takes it back.
    fn put(&self, connection: Box<Connection>);
}

impl Connection {
    /// A new connection.
    #[must_use]
    pub fn new(io: Io) -> Box<Self> {
        Box::new(Self {
            io,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            requests: 0,
            lease: None,
        })
    }

    /// Requests that were sent on it.
    #[must_use]
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Whether it can carry a request: the upstream has neither closed it nor said anything unasked.
    #[must_use]
    pub fn is_usable(&mut self) -> bool {
        self.io.is_quiet()
    }
}

/// Sends a request and waits for the head of the answer. `greeting` goes with a connection's first request; `host` stands
/// in where the client named none; `mesh` says that the peer's identity in the mesh was verified.
///
/// # Errors
/// See [`SendErrorKind`].
pub async fn send(
    mut connection: Box<Connection>,
    request: Request<Body>,
    greeting: Option<&(HeaderName, HeaderValue)>,
    host: impl FnOnce() -> String,
    home: Rc<dyn Home>,
    mesh: bool,
) -> Result<Response<Body>, SendError> {
    let (parts, body) = request.into_parts();
    let asked = Asked {
        head: parts.method == Method::HEAD,
        connect: parts.method == Method::CONNECT,
        upgrade: parts.headers.contains_key(header::UPGRADE),
    };
    connection.requests += 1;
    let greeting = greeting.filter(|_| connection.requests == 1);
    let mut exchange = Exchange::start(connection, &parts, body, greeting, host, asked);
    let written = Written::new(parts, exchange.upload.body.sent());
    let again = |written: Written, body: Option<Body>| Some(Request::from_parts(written.back()?, body?));
    match exchange.head().await {
        // Only a sidecar of the mesh can say that: nobody else sees the greeting's connection.
        Ok(head) if mesh && head.headers.contains_key(&UNREACHED) => {
            let body = exchange.into_unreached(head, home);
            Err(SendError::new(SendErrorKind::Unreached, again(written, body)))
        }
        Ok(head) => {
            written.answered();
            exchange.into_response(head, home)
        }
        Err(kind) => {
            let body = exchange.upload.into_unused();
            Err(SendError::new(kind, again(written, body)))
        }
    }
}

/// A request on its way out.
struct Upload {
    body: Body,
    /// The whole body, where it was at hand: it is written already, and can be given back.
    full: Option<Bytes>,
    encoder: Encoder,
    /// Something was read from `body`.
    touched: bool,
    /// The connection no longer takes bytes, or the client's body failed.
    broken: bool,
}

enum UploadError {
    Client(BodyError),
    Connection,
}

impl Upload {
    /// Whether everything is written.
    fn is_complete(&self, connection: &Connection) -> bool {
        !self.broken && self.encoder.is_done() && connection.outgoing.is_empty()
    }

    fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            let mut starved = false;
            while !self.encoder.is_done() && connection.outgoing.len() < HIGH {
                self.touched = true;
                let Poll::Ready(frame) = self.body.poll_frame(cx) else {
                    starved = true;
                    break;
                };
                let outgoing = &mut connection.outgoing;
                let written = match frame {
                    Some(Ok(frame)) => self.encoder.frame(frame, outgoing),
                    Some(Err(error)) => Err(error),
                    None => self.encoder.finish(outgoing),
                };
                if let Err(error) = written {
                    self.broken = true;
                    return Poll::Ready(Err(UploadError::Client(error)));
                }
            }
            if ready!(connection.outgoing.poll_write(&mut connection.io, cx)).is_err() {
                self.broken = true;
                return Poll::Ready(Err(UploadError::Connection));
            }
            if self.encoder.is_done() {
                return Poll::Ready(Ok(()));
            }
            if starved {
                return Poll::Pending;
            }
        }
    }

    /// The body, if nothing of it was used up.
    fn into_unused(self) -> Option<Body> {
        match self.full {
            Some(full) => {
                let (case, interim) = (self.body.case().clone(), self.body.interim().cloned());
                let sent = self.body.sent().cloned();
                Some(Body::full(full).with_case(case).with_interim(interim).with_sent(sent))
            }
            None => (!self.touched).then_some(self.body),
        }
    }
}

/// One request and its answer's head.
struct Exchange {
    connection: Box<Connection>,
    upload: Upload,
    scan: Scan,
    asked: Asked,
    /// What the connection had written before.
    written_before: u64,
    /// Bytes of an answer came, if only of 1xx.
    answered: bool,
}

impl Exchange {
    fn start(
        mut connection: Box<Connection>,
        parts: &request::Parts,
        body: Body,
        greeting: Option<&(HeaderName, HeaderValue)>,
        host: impl FnOnce() -> String,
        asked: Asked,
    ) -> Self {
        let framing = match body.known_len() {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        encode::request_head(connection.outgoing.tail(), parts, body.case(), framing, greeting, host);
        let full = body.as_full().cloned();
        let encoder = match &full {
            Some(full) => {
                connection.outgoing.push(full.clone());
                Encoder::Done
            }
            None => Encoder::new(framing),
        };
        let written_before = connection.outgoing.written();
        let upload = Upload { body, full, encoder, touched: false, broken: false };
        Self { connection, upload, scan: Scan::default(), asked, written_before, answered: false }
    }

    /// The final head; 1xx answers before it go to the client.
    async fn head(&mut self) -> Result<ResponseHead, SendErrorKind> {
        for _ in 0..=MAX_INTERIM {
            let bytes = poll_fn(|cx| self.poll_head(cx)).await?;
            let head = head::parse_response(&bytes, self.scan.ends(), headers::fresh(), self.asked)
                .map_err(|why| SendErrorKind::Protocol(why.text()))?;
            self.scan.reset();
            self.answered = true;
            if !head.status.is_informational() || head.upgrade {
                return Ok(head);
            }
            if let Some(interim) = self.upload.body.interim() {
                interim.send(head.status, head.headers, &head.case);
            }
        }
        Err(SendErrorKind::Protocol("too many interim answers"))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, SendErrorKind>> {
        if !self.upload.broken && !self.upload.is_complete(&self.connection) {
            match self.upload.poll(&mut self.connection, cx) {
                Poll::Ready(Err(UploadError::Client(error))) => {
                    return Poll::Ready(Err(SendErrorKind::RequestBody(error)));
                }
                // An upstream may answer and close without taking all of it: the answer counts.
                Poll::Ready(Err(UploadError::Connection) | Ok(())) | Poll::Pending => {}
            }
        }
        let Connection { io, incoming, .. } = &mut *self.connection;
        loop {
            match self.scan.find(incoming.bytes(), MAX_HEAD, MAX_LINES) {
                Ok(Some(length)) => return Poll::Ready(Ok(incoming.bytes_mut().split_to(length).freeze())),
                Ok(None) => {}
                Err(why) => return Poll::Ready(Err(SendErrorKind::Protocol(why.text()))),
            }
            match ready!(incoming.poll_read(io, cx)) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(Err(self.ended())),
            }
        }
    }

    /// What it means that the connection ended before the head was complete.
    fn ended(&self) -> SendErrorKind {
        if self.answered || !self.connection.incoming.bytes().is_empty() {
            return SendErrorKind::Reset;
        }
        SendErrorKind::ClosedBeforeResponse {
            first_use: self.connection.requests == 1,
            bytes_written: self.connection.outgoing.written() > self.written_before,
        }
    }

    /// The request's body, if nothing of it was used up: the answer was only the sidecar's, and its connection is good.
    fn into_unreached(mut self, head: ResponseHead, home: Rc<dyn Home>) -> Option<Body> {
        let content = match head.framing {
            Framing::None => Some(0),
            Framing::Length(length) => usize::try_from(length).ok(),
            _ => None,
        };
        let incoming = self.connection.incoming.bytes_mut();
        let whole = content.is_some_and(|length| length <= incoming.len());
        if let Some(length) = content.filter(|_| whole) {
            drop(incoming.split_to(length));
        }
        let clean = whole
            && head.keep_alive
            && self.upload.is_complete(&self.connection)
            && self.connection.incoming.bytes().is_empty()
            && !self.connection.incoming.is_eof();
        if clean {
            self.connection.incoming.rest();
            self.connection.outgoing.rest();
            home.put(self.connection);
        }
        self.upload.into_unused()
    }

    /// The response. Where its body is complete already, the connection goes home at once.
    fn into_response(self, head: ResponseHead, home: Rc<dyn Home>) -> Result<Response<Body>, SendError> {
        let Self { mut connection, upload, .. } = self;
        let body = if head.upgrade {
            let read = connection.incoming.bytes_mut().split().freeze();
            Body::upgraded(connection.io, read)
        } else {
            let complete = match head.framing {
                Framing::None => Some(Bytes::new()),
                // It is no longer than a slice in memory.
                Framing::Length(length) if length <= connection.incoming.bytes().len() as u64 => {
                    Some(connection.incoming.bytes_mut().split_to(length as usize).freeze())
                }
                _ => None,
            };
            let mut rest = ResponseBody {
                connection: Some(connection),
                decoder: Decoder::new(if complete.is_some() { Framing::None } else { head.framing }),
                upload,
                keep_alive: head.keep_alive,
                home,
            };
            match complete {
                Some(content) => {
                    rest.finish();
                    Body::full(content)
                }
                None => Body::response(Box::new(rest)),
            }
        };
        let mut response = Response::new(body.with_case(head.case));
        *response.status_mut() = head.status;
        *response.version_mut() = Version::HTTP_11;
        *response.headers_mut() = head.headers;
        Ok(response)
    }
}

/// A response's body that is not all there yet.
pub struct ResponseBody {
    connection: Option<Box<Connection>>,
    decoder: Decoder,
    upload: Upload,
    keep_alive: bool,
    home: Rc<dyn Home>,
}

impl ResponseBody {
    /// The next piece; `None` at the end. Goes on sending the request meanwhile.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        if !self.upload.broken && !self.upload.is_complete(connection) {
            // If it fails, the answer still counts; the connection is not used again.
            let _ = self.upload.poll(connection, cx);
        }
        loop {
            match self.decoder.decode(&mut connection.incoming) {
                Ok(Decoded::Frame(frame)) => {
                    let settled = self.decoder.settle(&mut connection.incoming);
                    if self.decoder.is_done() {
                        self.finish();
                    }
                    return Poll::Ready(Some(settled.map(|()| frame)));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(error) => return self.fail(error),
            }
            if let Err(error) = ready!(connection.incoming.poll_read(&mut connection.io, cx)) {
                return self.fail(error.into());
            }
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame, BodyError>>> {
        self.connection = None;
        Poll::Ready(Some(Err(error)))
    }

    /// How many bytes are to come, where that is known.
    #[must_use]
    pub fn known_len(&self) -> Option<u64> {
        self.decoder.known_len()
    }

    /// The response is complete: the connection goes home if the request is complete too, and nothing unasked has come.
    fn finish(&mut self) {
        if let Some(mut connection) = self.connection.take()
            && self.keep_alive
            && self.upload.is_complete(&connection)
            && connection.incoming.bytes().is_empty()
            && !connection.incoming.is_eof()
        {
            connection.incoming.rest();
            connection.outgoing.rest();
            self.home.put(connection);
        }
    }
}
