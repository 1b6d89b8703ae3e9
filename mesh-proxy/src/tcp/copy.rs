//! Copies both directions of two streams in one task, with each direction's end kept apart (half-close).
//!
//! In: client and server streams. Out: byte counts that can be read while it runs, and how it ended. Nothing is buffered
//! beyond one block a direction: a slow reader stops the other side.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(test)]
mod tests;

/// One read: large enough for a TLS record.
const BLOCK: usize = 16 * 1024;

/// How a transfer ended.
#[derive(Debug)]
pub enum End {
    /// Both sides said all that they had to say.
    Complete,
    /// The client's side failed.
    Client(io::Error),
    /// The server's side failed.
    Server(io::Error),
    /// Nothing moved for too long.
    Idle,
    /// We ended it (drain, policy).
    Stopped,
}

/// What a transfer moved.
#[derive(Debug)]
pub struct Transferred {
    /// From client to server.
    pub up: u64,
    /// From server to client.
    pub down: u64,
    /// How it ended.
    pub end: End,
}

/// Two streams being joined.
pub struct Copy<A, B> {
    client: A,
    server: B,
    up: Direction,
    down: Direction,
}

enum State {
    Running,
    /// The source ended; the rest is flushed and the target's write side closed.
    Closing,
    Done,
}

struct Direction {
    buffer: Box<[u8]>,
    /// Bytes read ahead of the copy, written before anything else.
    first: Bytes,
    from: usize,
    to: usize,
    moved: u64,
    dirty: bool,
    state: State,
}

/// Which of a direction's two ends failed.
enum Fault {
    Source(io::Error),
    Target(io::Error),
}

impl Direction {
    fn new(first: Bytes) -> Self {
        Self {
            buffer: vec![0; BLOCK].into_boxed_slice(),
            first,
            from: 0,
            to: 0,
            moved: 0,
            dirty: false,
            state: State::Running,
        }
    }

    fn poll<S, T>(&mut self, cx: &mut Context<'_>, source: &mut S, target: &mut T) -> Poll<Result<(), Fault>>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        while matches!(self.state, State::Running) {
            ready!(self.poll_write(cx, target)).map_err(Fault::Target)?;
            let mut into = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *source).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) if into.filled().is_empty() => self.state = State::Closing,
                Poll::Ready(Ok(())) => (self.from, self.to) = (0, into.filled().len()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Source(error))),
                Poll::Pending => {
                    // Nothing more to come for now: what was written must not wait in a TLS buffer.
                    if self.dirty {
                        ready!(Pin::new(&mut *target).poll_flush(cx)).map_err(Fault::Target)?;
                        self.dirty = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        if matches!(self.state, State::Closing) {
            match ready!(Pin::new(&mut *target).poll_shutdown(cx)) {
                // The other side is gone already; its own direction says so, if it matters.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                other => other.map_err(Fault::Target)?,
            }
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut T,
    ) -> Poll<io::Result<()>> {
        while !self.first.is_empty() {
            let n = ready!(Pin::new(&mut *target).poll_write(cx, &self.first))?;
            self.wrote(n)?;
            let _written = self.first.split_to(n);
        }
        while self.from < self.to {
            let n = ready!(Pin::new(&mut *target).poll_write(cx, &self.buffer[self.from..self.to]))?;
            self.wrote(n)?;
            self.from += n;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, n: usize) -> io::Result<()> {
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moved += n as u64;
        self.dirty = true;
        Ok(())
    }
}

impl<A, B> Copy<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// `first` was already read from `client`; `early` from `server`.
    pub fn new(client: A, server: B, first: Bytes, early: Bytes) -> Self {
        Self { client, server, up: Direction::new(first), down: Direction::new(early) }
    }

    /// Bytes so far: client to server, server to client.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        (self.up.moved, self.down.moved)
    }

    /// Runs until both directions ended or one failed. May be dropped and called again.
    pub async fn run(&mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let up = self.up.poll(cx, &mut self.client, &mut self.server);
        let down = self.down.poll(cx, &mut self.server, &mut self.client);
        match (up, down) {
            (Poll::Ready(Err(Fault::Source(e))), _) | (_, Poll::Ready(Err(Fault::Target(e)))) => {
                Poll::Ready(End::Client(e))
            }
            (Poll::Ready(Err(Fault::Target(e))), _) | (_, Poll::Ready(Err(Fault::Source(e)))) => {
                Poll::Ready(End::Server(e))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Complete),
            _ => Poll::Pending,
        }
    }
}
