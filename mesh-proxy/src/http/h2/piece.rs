//! A piece of a body as it is handed to the `h2` crate, which keeps it until the connection has written it.
//!
//! The crate counts the bytes that wait, not the frames that they wait in, and each frame has a price of its own: a body that
//! comes byte by byte for a peer that does not read would hold hundreds of times what its buffer allows (CVE-2020-8659). So
//! small pieces are counted, too: each says when it is gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

/// A smaller piece is counted: what it takes to keep one may be more than what is in it.
const SMALL: usize = 1024;
/// So many small pieces of a stream may wait. With it the price of frames stays below that of a full buffer.
const MAX_WAITING: usize = 256;
/// From so many on a piece is copied: the buffer that it was read into may be much larger, and would be kept for it.
const COPIED_FROM: usize = 16;

/// Content on its way to a connection.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    /// Counted as long as it is there.
    _counted: Option<Counted>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// Makes the pieces of one stream.
#[derive(Debug, Default)]
pub struct Pieces {
    /// There was a small piece. Most bodies are one, which nobody needs to count.
    begun: bool,
    /// From the second small piece on.
    waiting: Option<Rc<Waiting>>,
}

impl Pieces {
    /// Whether one more may be handed over; `cx` is woken when it may.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(waiting) = &self.waiting else { return Poll::Ready(()) };
        if waiting.count.get() < MAX_WAITING {
            return Poll::Ready(());
        }
        *waiting.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// `bytes` to be handed over.
    pub fn piece(&mut self, bytes: Bytes) -> Piece {
        let small = bytes.len() < SMALL;
        if !small || !self.begun {
            self.begun |= small;
            return Piece { bytes, _counted: None };
        }
        let waiting = self.waiting.get_or_insert_default().clone();
        let count = waiting.count.get();
        waiting.count.set(count + 1);
        let bytes = if count < COPIED_FROM { bytes } else { Bytes::copy_from_slice(&bytes) };
        Piece { bytes, _counted: Some(Counted(waiting)) }
    }
}

/// The small pieces of a stream that are not written.
#[derive(Debug, Default)]
struct Waiting {
    count: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// One of them.
#[derive(Debug)]
struct Counted(Rc<Waiting>);

impl Drop for Counted {
    fn drop(&mut self) {
        let count = self.0.count.get() - 1;
        self.0.count.set(count);
        // Not for each single one: half of them go at a time.
        if count <= MAX_WAITING / 2
            && let Some(waker) = self.0.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
