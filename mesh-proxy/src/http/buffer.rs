//! Read and write buffers, kept per thread: a connection holds one only while it has bytes, so idle ones cost nothing.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::io::Io;

/// A fresh buffer. Most messages fit into one.
const SIZE: usize = 8 << 10;
/// A connection that fills its buffer reads in larger steps, up to this.
const MAX_SIZE: usize = 64 << 10;
/// Buffers that a thread keeps for later.
const SPARE: usize = 64;
/// Pieces shorter than this are copied behind the head; longer ones are written from where they are.
const COPY: usize = 8 << 10;
/// Slices of one vectored write.
const SLICES: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

fn take() -> BytesMut {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

fn give(mut buffer: BytesMut) {
    buffer.clear();
    // Only when nobody holds a slice of it any more.
    if buffer.try_reclaim(SIZE) && buffer.capacity() <= 2 * SIZE {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < SPARE {
                pool.push(buffer);
            }
        });
    }
}

/// What was read and not yet taken apart.
#[derive(Default)]
pub struct Incoming {
    bytes: BytesMut,
    /// The last read filled the buffer: read more at once.
    step: usize,
    /// The peer has sent its last byte.
    eof: bool,
}

impl Incoming {
    /// Starts with bytes that were read by somebody else.
    #[must_use]
    pub fn new(first: Bytes) -> Self {
        let bytes = first.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        Self { bytes, step: 0, eof: false }
    }

    /// What is there.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What is there, to be taken apart.
    pub fn bytes_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Whether the peer has sent its last byte.
    #[must_use]
    pub fn is_eof(&self) -> bool {
        self.eof
    }

    /// Reads once. 0 is the end.
    pub fn poll_read(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        if self.bytes.capacity() == 0 {
            self.bytes = take();
        } else if self.bytes.capacity() - self.bytes.len() < SIZE / 4 || self.step > SIZE {
            self.bytes.reserve(self.step.max(SIZE));
        }
        let room = self.bytes.capacity() - self.bytes.len();
        match poll_read_buf(Pin::new(io), cx, &mut self.bytes) {
            Poll::Ready(Ok(n)) => {
                self.eof = n == 0;
                self.step = if n == room { (room * 2).min(MAX_SIZE) } else { 0 };
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => {
                self.eof = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Gives the buffer back while there is nothing in it.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            give(std::mem::take(&mut self.bytes));
        }
    }
}

/// What is to be written: small pieces gathered in one buffer, large ones by reference.
#[derive(Default)]
pub struct Outgoing {
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    queued: usize,
    written: u64,
    unflushed: bool,
}

impl Outgoing {
    /// Where small pieces are appended.
    pub fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail = take();
        }
        &mut self.tail
    }

    /// Appends a piece.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY {
            self.tail().extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            let head = self.tail.split().freeze();
            self.queued += head.len();
            self.queue.push_back(head);
        }
        self.queued += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued == 0 && self.tail.is_empty() && !self.unflushed
    }

    /// Bytes that the stream has taken since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.tail.clear();
        self.unflushed = false;
    }

    /// Writes until nothing waits.
    pub fn poll_write(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.queued > 0 || !self.tail.is_empty() {
            let n = ready!(self.poll_write_once(io, cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n as u64;
            self.unflushed = true;
            self.advance(n);
        }
        if self.unflushed {
            // TLS may hold what the socket did not take.
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_once(&self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        if self.queue.is_empty() {
            return io.poll_write(cx, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let pieces = self.queue.iter().map(|b| &b[..]).chain(std::iter::once(&self.tail[..]));
        let mut count = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        io.poll_write_vectored(cx, &slices[..count])
    }

    fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let Some(front) = self.queue.front_mut() else {
                if n == self.tail.len() {
                    self.tail.clear();
                } else {
                    self.tail.advance(n);
                }
                return;
            };
            let step = n.min(front.len());
            front.advance(step);
            self.queued -= step;
            n -= step;
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
    }

    /// Gives the buffer back while there is nothing in it.
    pub fn rest(&mut self) {
        if self.tail.is_empty() && self.tail.capacity() > 0 {
            give(std::mem::take(&mut self.tail));
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.bytes.clear();
        self.rest();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.tail.clear();
        self.rest();
    }
}
