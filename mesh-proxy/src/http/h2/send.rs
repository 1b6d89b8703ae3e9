//! Sends a body on a stream: one piece at a time, only as the peer's window takes it.

use std::task::{Context, Poll, ready};

use ::h2::{Reason, SendStream};
use bytes::Bytes;

use crate::http::body::{Body, BodyError, Frame};
use crate::http::h2::piece::{Piece, Pieces};
use crate::http::service::grpc_status;

/// A body on its way out.
pub struct Sending {
    stream: SendStream<Piece>,
    pieces: Pieces,
    /// The rest of it.
    pub body: Body,
    pending: Bytes,
    /// Content bytes that were handed over.
    pub sent: u64,
    /// `grpc-status` of its trailers.
    pub grpc_status: Option<u32>,
    /// Everything is handed over.
    pub done: bool,
    /// Something was read from the body.
    pub touched: bool,
}

/// Why a body was not sent.
#[derive(Debug)]
pub enum SendingError {
    /// The peer reset the stream or closed the connection.
    Peer(::h2::Error),
    /// The same, without a reason.
    Closed,
    /// The body itself failed; the stream was reset.
    Body(BodyError),
}

impl Sending {
    /// `stream`'s head is sent, and did not end it.
    #[must_use]
    pub fn new(stream: SendStream<Piece>, body: Body) -> Self {
        let (pieces, pending) = (Pieces::default(), Bytes::new());
        Self { stream, pieces, body, pending, sent: 0, grpc_status: None, done: false, touched: false }
    }

    /// Ready when everything was handed over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendingError>> {
        while !self.done {
            if !self.pending.is_empty() {
                ready!(self.poll_pending(cx))?;
                continue;
            }
            if let Poll::Ready(reason) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(
                    reason.map_or_else(SendingError::Peer, |r| SendingError::Peer(r.into()))
                ));
            }
            self.touched = true;
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => self.pending = data,
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.grpc_status = grpc_status(&trailers);
                    self.done = true;
                    self.stream.send_trailers(trailers).map_err(SendingError::Peer)?;
                }
                Some(Err(error)) => {
                    self.reset(&error);
                    return Poll::Ready(Err(SendingError::Body(error)));
                }
                None => {
                    self.done = true;
                    self.stream
                        .send_data(self.pieces.piece(Bytes::new()), true)
                        .map_err(SendingError::Peer)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendingError>> {
        if self.pieces.poll_room(cx).is_pending() {
            // What waits goes with a stream that ends, and it has to be known that it did.
            return self.stream.poll_reset(cx).map(|reason| {
                Err(reason.map_or_else(SendingError::Peer, |reason| SendingError::Peer(reason.into())))
            });
        }
        self.stream.reserve_capacity(self.pending.len());
        let mut room = self.stream.capacity();
        if room == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(capacity)) => room = capacity,
                Some(Err(error)) => return Poll::Ready(Err(SendingError::Peer(error))),
                None => return Poll::Ready(Err(SendingError::Closed)),
            }
        }
        let piece = self.pending.split_to(room.min(self.pending.len()));
        self.sent += piece.len() as u64;
        self.done = self.pending.is_empty() && self.body.is_end();
        Poll::Ready(self.stream.send_data(self.pieces.piece(piece), self.done).map_err(SendingError::Peer))
    }

    /// Ends the stream because of `error`; what waits for its window is not sent.
    pub fn reset(&mut self, error: &BodyError) {
        let reason = match error {
            BodyError::Reset(reason) if *reason != Reason::NO_ERROR => *reason,
            BodyError::Malformed(_) => Reason::PROTOCOL_ERROR,
            _ => Reason::INTERNAL_ERROR,
        };
        self.stream.send_reset(reason);
    }
}
