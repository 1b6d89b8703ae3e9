//! What the loop of a connection shares with the body of the request that it serves: the stream and its buffers. Borrowed
//! only inside a poll, never across one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::io::AsyncWrite;

use crate::http::body::{BodyError, Frame};
use crate::http::buffer::{Incoming, Outgoing};
use crate::http::h1::decode::{Decoded, Decoder};
use crate::http::h1::encode;
use crate::http::headers::HeaderCase;
use crate::http::server::ServerSettings;
use crate::http::service::BadRequest;
use crate::http::timer::Deadline;
use crate::io::Io;

/// How long and how much we still listen after our last byte, so that a reset does not overtake it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;
/// Pieces of a chunked body that are decoded before the service is called.
const AHEAD: usize = 16;

/// A connection's state.
pub(super) struct Core {
    /// Taken when a tunnel takes over.
    pub(super) io: Option<Io>,
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// Of the present request's body.
    pub(super) decoder: Decoder,
    /// Pieces of the body that were decoded before the service was called.
    pub(super) ready: VecDeque<Frame>,
    /// The number of the present exchange; a body of an earlier one reads nothing.
    pub(super) exchange: u64,
    /// Body bytes of the present request.
    pub(super) received: Rc<Cell<u64>>,
    /// 1xx may be written: no final head yet, and the client knows 1xx.
    pub(super) interim_allowed: bool,
    /// A 100 was written.
    pub(super) continued: bool,
    /// Somebody still holds the request's body.
    pub(super) body_alive: bool,
    /// The request's body failed: the connection cannot go on.
    pub(super) failed: Option<BodyError>,
    pub(super) read_deadline: Deadline,
    pub(super) write_deadline: Deadline,
    /// What the read deadline bounds: idleness, or else a head.
    pub(super) deadline_is_idle: bool,
    pub(super) lingering: bool,
    pub(super) skipped_line: bool,
    body_timeout: Duration,
}

/// The loop, the body and the writer of 1xx hold it.
pub(super) type Shared = Rc<RefCell<Core>>;

impl Core {
    pub(super) fn shared(io: Io, first: Bytes, settings: &ServerSettings) -> Shared {
        Rc::new(RefCell::new(Self {
            io: Some(io),
            incoming: Incoming::new(first),
            outgoing: Outgoing::default(),
            decoder: Decoder::Done,
            ready: VecDeque::new(),
            exchange: 0,
            received: Rc::default(),
            interim_allowed: false,
            continued: false,
            body_alive: false,
            failed: None,
            read_deadline: Deadline::default(),
            write_deadline: Deadline::default(),
            deadline_is_idle: true,
            lingering: false,
            skipped_line: false,
            body_timeout: settings.body_timeout,
        }))
    }

    /// Writes what waits. `Err(())`: the client is gone, or takes nothing for too long.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        let io = self.io.as_mut().expect("not taken before a tunnel");
        let before = self.outgoing.written();
        match self.outgoing.poll_write(io, cx) {
            Poll::Ready(result) => {
                self.write_deadline.clear();
                Poll::Ready(result.map_err(drop))
            }
            Poll::Pending => {
                if self.outgoing.written() > before || !self.write_deadline.is_set() {
                    self.write_deadline.set(self.body_timeout);
                }
                self.write_deadline.poll_expired(cx).map(Err)
            }
        }
    }

    /// While the service works: writes 1xx, and is ready when the client has gone away.
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.outgoing.is_empty()
            && let Poll::Ready(Err(())) = self.poll_flush(cx)
        {
            return Poll::Ready(());
        }
        self.poll_gone(cx)
    }

    /// Ready when the client closed. Looks only while nothing else reads: the body is complete and no next request waits.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.decoder.is_done() || !self.incoming.bytes().is_empty() {
            return Poll::Pending;
        }
        let io = self.io.as_mut().expect("not taken before a tunnel");
        match self.incoming.poll_read(io, cx) {
            Poll::Ready(Ok(n)) if n > 0 => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Decodes what is there of a chunked body, so that a malformed one is refused before anybody acts on it. Whether
    /// that is all of it, in at most one piece.
    pub(super) fn decode_ahead(&mut self) -> Result<bool, BadRequest> {
        while self.ready.len() < AHEAD {
            match self.decoder.decode(&mut self.incoming) {
                Ok(Decoded::Frame(frame)) => {
                    if let Frame::Data(data) = &frame {
                        self.received.set(self.received.get() + data.len() as u64);
                    }
                    self.ready.push_back(frame);
                }
                Ok(Decoded::End) => {
                    return Ok(matches!(self.ready.make_contiguous(), [] | [Frame::Data(_)]));
                }
                Ok(Decoded::NeedMore) => break,
                Err(_) => return Err(BadRequest::Chunk),
            }
        }
        Ok(false)
    }

    /// The next piece of the request's body.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let result = loop {
            match self.decoder.decode(&mut self.incoming) {
                Ok(Decoded::NeedMore) => {}
                Ok(Decoded::End) => break Ok(None),
                Ok(Decoded::Frame(frame)) => {
                    break self.decoder.settle(&mut self.incoming).map(|()| Some(frame));
                }
                Err(error) => break Err(error),
            }
            let Some(io) = self.io.as_mut() else { break Err(BodyError::Closed) };
            match self.incoming.poll_read(io, cx) {
                Poll::Ready(Ok(_)) => self.read_deadline.clear(),
                Poll::Ready(Err(error)) => break Err(error.into()),
                Poll::Pending => {
                    if !self.read_deadline.is_set() {
                        self.read_deadline.set(self.body_timeout);
                    }
                    ready!(self.read_deadline.poll_expired(cx));
                    break Err(BodyError::Timeout);
                }
            }
        };
        self.read_deadline.clear();
        Poll::Ready(match result {
            Ok(Some(frame)) => {
                if let Frame::Data(data) = &frame {
                    self.received.set(self.received.get() + data.len() as u64);
                }
                Some(Ok(frame))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = Some(error.clone());
                Some(Err(error))
            }
        })
    }
}

/// The body of a request whose bytes are not all there yet.
pub struct RequestBody {
    core: Shared,
    exchange: u64,
}

impl RequestBody {
    pub(super) fn new(core: Shared, exchange: u64) -> Self {
        Self { core, exchange }
    }

    /// The next piece; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut core = self.core.borrow_mut();
        if core.exchange != self.exchange {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        core.poll_body(cx)
    }

    /// How many bytes are to come, where that is known.
    #[must_use]
    pub fn known_len(&self) -> Option<u64> {
        let core = self.core.borrow();
        if core.exchange == self.exchange && core.ready.is_empty() { core.decoder.known_len() } else { None }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        if core.exchange == self.exchange {
            core.body_alive = false;
        }
    }
}

/// Writes 1xx answers of one exchange.
#[derive(Clone)]
pub struct InterimWriter {
    core: Shared,
    exchange: u64,
}

impl InterimWriter {
    pub(super) fn new(core: Shared, exchange: u64) -> Self {
        Self { core, exchange }
    }

    /// Queues one; the connection's loop writes it.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap, case: &HeaderCase) {
        let mut core = self.core.borrow_mut();
        if core.exchange == self.exchange && core.interim_allowed {
            core.continued |= status == StatusCode::CONTINUE;
            encode::interim(core.outgoing.tail(), status, headers, case);
        }
    }
}

/// Says goodbye. `linger`: the client may still be sending, and would lose our answer to a reset.
pub(super) async fn close(core: &Shared, linger: bool) {
    let goodbye = poll_fn(|cx| {
        let mut core = core.borrow_mut();
        match &mut core.io {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    });
    let closing = async {
        if goodbye.await.is_err() || !linger {
            return;
        }
        let mut taken = 0;
        poll_fn(|cx| {
            let mut core = core.borrow_mut();
            let core = &mut *core;
            let Some(io) = core.io.as_mut() else { return Poll::Ready(()) };
            loop {
                core.incoming.bytes_mut().clear();
                match ready!(core.incoming.poll_read(io, cx)) {
                    Ok(n) if n > 0 && taken < LINGER_BYTES => taken += n,
                    _ => return Poll::Ready(()),
                }
            }
        })
        .await;
    };
    // Bounded: a client that neither reads nor closes is dropped.
    let _ = tokio::time::timeout(LINGER, closing).await;
}
