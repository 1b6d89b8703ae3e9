//! Writes an answer, and decides whether the connection lives on.

use std::future::poll_fn;
use std::task::{Context, Poll};

use http::{HeaderMap, Response, StatusCode, Version, response};

use super::core::{self, Shared};
use crate::drain::DrainWatch;
use crate::http::body::{Body, BodyError, Frame};
use crate::http::h1::encode::{self, Connection, Delimit, Encoder};
use crate::http::h1::head::Framing;
use crate::http::headers::{self, HeaderCase};
use crate::http::server::ServerSettings;
use crate::http::service::{BadRequest, End, Reply, Teller, Then, Tunnel, grpc_status};

/// How much of an answer waits for the client before its source is asked for more.
const HIGH: usize = 64 << 10;

/// What of the request matters for its answer.
pub(super) struct Exchange {
    /// HEAD.
    pub(super) head: bool,
    /// CONNECT.
    pub(super) connect: bool,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    /// An upgrade or a tunnel was asked for.
    pub(super) upgrade: bool,
}

/// Sends an answer. Whether the next request may come; otherwise the connection is closed.
pub(super) async fn send(
    core: &Shared,
    reply: Reply,
    exchange: &Exchange,
    settings: &ServerSettings,
    drain: &DrainWatch,
) -> bool {
    let Reply { mut response, then, record } = reply;
    let wants_next = matches!(then, Then::KeepAlive);
    let tunnel = match then {
        Then::Tunnel(tunnel) if exchange.upgrade => Some(tunnel),
        _ => None,
    };
    let status = response.status();
    let switches = status.is_informational() || (exchange.connect && status.is_success());
    if tunnel.is_none() && switches {
        // Nothing would take over the connection: the upstream agreed to what nobody asked for.
        response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
    }
    if matches!(core.borrow().failed, Some(BodyError::Malformed(_))) {
        // Whatever the service made of the broken body: the client's framing is at fault.
        response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    let (parts, body) = response.into_parts();
    let delimit = delimit(&parts, &body, exchange, tunnel.is_some());
    let keep = wants_next
        && exchange.keep_alive
        && delimit != Delimit::By(Framing::UntilClose)
        && !drain.is_draining()
        && may_go_on(core, exchange, settings);
    write_head(core, &parts, body.case(), delimit, connection(&parts, &tunnel, keep, exchange));
    let grpc_status = record.as_ref().and_then(|_| grpc_status(&parts.headers));
    let received = core.borrow().received.clone();
    let framing = match delimit {
        Delimit::By(framing) => framing,
        Delimit::Map | Delimit::Nothing => Framing::None,
    };
    let teller = Teller::new(record, received, grpc_status);
    let mut sending = Sending { body, encoder: Encoder::new(framing), teller };
    headers::recycle(parts.headers);
    let end = poll_fn(|cx| sending.poll(core, cx)).await;
    let Sending { body, teller, .. } = sending;
    drop(body);
    let complete = end == End::Complete;
    if complete && let Some(tunnel) = tunnel {
        tunnel_away(core, tunnel).await;
    }
    teller.finish(end);
    finish(core, complete, keep, settings).await
}

/// After the answer: on to the next request, or goodbye.
async fn finish(core: &Shared, complete: bool, keep: bool, settings: &ServerSettings) -> bool {
    if core.borrow().io.is_none() {
        return false;
    }
    if !complete {
        // The answer was cut: for one that ends with the connection, only a reset tells that apart from its end.
        let core = core.borrow();
        if let Some(tcp) = core.io.as_ref().and_then(crate::io::Io::tcp) {
            let _ = socket2::SockRef::from(tcp).set_linger(Some(std::time::Duration::ZERO));
        }
        return false;
    }
    if keep && drain_body(core, settings).await {
        return true;
    }
    let unread = {
        let core = core.borrow();
        !core.decoder.is_done() || !core.incoming.bytes().is_empty()
    };
    core::close(core, unread).await;
    false
}

/// Hands the stream over.
async fn tunnel_away(core: &Shared, tunnel: Tunnel) {
    let (io, read) = {
        let mut core = core.borrow_mut();
        (core.io.take(), core.incoming.bytes_mut().split().freeze())
    };
    if let Some(io) = io {
        tunnel(io, read).await;
    }
}

/// Whether what is unread of the request lets another one follow (F5, F6).
fn may_go_on(core: &Shared, exchange: &Exchange, settings: &ServerSettings) -> bool {
    let core = core.borrow();
    if core.decoder.is_done() {
        return true;
    }
    // A client that waits for 100 and gets a final answer may send the body or not: nobody can tell.
    let waits = exchange.expects_continue && !core.continued && core.received.get() == 0;
    let short = core.decoder.known_len().is_some_and(|left| left <= settings.drain_body as u64);
    core.failed.is_none() && !waits && (core.body_alive || short)
}

/// Reads and drops what is left of a request's body, within limits. Whether it is complete.
async fn drain_body(core: &Shared, settings: &ServerSettings) -> bool {
    if core.borrow().decoder.is_done() {
        return true;
    }
    let mut left = settings.drain_body;
    let draining = poll_fn(|cx| {
        loop {
            match std::task::ready!(core.borrow_mut().poll_body(cx)) {
                None => return Poll::Ready(true),
                Some(Ok(Frame::Data(data))) if data.len() <= left => left -= data.len(),
                Some(Ok(Frame::Trailers(_))) => {}
                Some(_) => return Poll::Ready(false),
            }
        }
    });
    tokio::time::timeout(settings.header_timeout, draining).await.unwrap_or(false)
}

fn delimit(parts: &response::Parts, body: &Body, exchange: &Exchange, tunnel: bool) -> Delimit {
    if tunnel || parts.status == StatusCode::NO_CONTENT {
        return Delimit::Nothing;
    }
    if exchange.head || parts.status == StatusCode::NOT_MODIFIED {
        return Delimit::Map;
    }
    Delimit::By(match body.known_len() {
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None if exchange.version == Version::HTTP_10 => Framing::UntilClose,
        None => Framing::Chunked,
    })
}

fn connection(
    parts: &response::Parts,
    tunnel: &Option<Tunnel>,
    keep: bool,
    exchange: &Exchange,
) -> Connection {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        Connection::Upgrade
    } else if tunnel.is_some() {
        Connection::Silent
    } else if !keep {
        Connection::Close
    } else if exchange.version == Version::HTTP_10 {
        Connection::KeepAlive
    } else {
        Connection::Silent
    }
}

fn write_head(
    core: &Shared,
    parts: &response::Parts,
    case: &HeaderCase,
    delimit: Delimit,
    connection: Connection,
) {
    let mut core = core.borrow_mut();
    core.interim_allowed = false;
    encode::response_head(core.outgoing.tail(), parts, case, delimit, connection);
}

/// An answer's body on its way out.
struct Sending {
    body: Body,
    encoder: Encoder,
    teller: Teller,
}

impl Sending {
    fn poll(&mut self, core: &Shared, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(why) = self.teller.poll_cut(cx) {
            return Poll::Ready(End::UpstreamFailed(why));
        }
        loop {
            let starved = match self.fill(core, cx) {
                Ok(starved) => starved,
                Err(error) => return Poll::Ready(End::UpstreamFailed(error)),
            };
            let mut core = core.borrow_mut();
            match core.poll_flush(cx) {
                Poll::Ready(Err(())) => return Poll::Ready(End::ClientGone),
                Poll::Ready(Ok(())) if self.encoder.is_done() => return Poll::Ready(End::Complete),
                Poll::Ready(Ok(())) if starved => return core.poll_gone(cx).map(|()| End::ClientGone),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes from the body what fits. Whether it has nothing more for now. The core is not borrowed while the body is
    /// polled: it may well read the request.
    fn fill(&mut self, core: &Shared, cx: &mut Context<'_>) -> Result<bool, BodyError> {
        while !self.encoder.is_done() && core.borrow().outgoing.len() < HIGH {
            let frame = match self.body.poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(frame) => frame.transpose()?,
            };
            let outgoing = &mut core.borrow_mut().outgoing;
            match frame {
                Some(frame) => {
                    match &frame {
                        Frame::Data(data) => self.teller.sent += data.len() as u64,
                        Frame::Trailers(trailers) => {
                            self.teller.grpc_status = grpc_status(trailers).or(self.teller.grpc_status);
                        }
                    }
                    self.encoder.frame(frame, outgoing)?;
                }
                None if self.encoder == Encoder::UntilClose => self.encoder = Encoder::Done,
                None => self.encoder.finish(outgoing)?,
            }
        }
        Ok(false)
    }
}

/// Answers what the service never sees, and closes.
pub(super) async fn refuse(core: &Shared, why: BadRequest) {
    let mut parts = Response::new(()).into_parts().0;
    parts.status = why.status();
    parts.headers = HeaderMap::new();
    write_head(core, &parts, &HeaderCase::Lower, Delimit::By(Framing::None), Connection::Close);
    let written = poll_fn(|cx| core.borrow_mut().poll_flush(cx)).await;
    if written.is_ok() {
        core::close(core, true).await;
    }
}
