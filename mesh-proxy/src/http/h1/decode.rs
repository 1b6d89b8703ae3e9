//! Takes a body out of the bytes that were read, by its framing.

use crate::http::body::{BodyError, Frame};
use crate::http::buffer::Incoming;
use crate::http::h1::chunked::{Chunked, Piece};
use crate::http::h1::head::Framing;

/// What is still to come of a body.
pub enum Decoder {
    /// Nothing.
    Done,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
    /// Everything until the connection closes.
    UntilClose,
}

/// What the bytes at hand hold.
pub enum Decoded {
    /// A piece.
    Frame(Frame),
    /// The body is complete.
    End,
    /// Read on.
    NeedMore,
}

impl Decoder {
    /// For a body that starts now.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// How many bytes are to come, where that is known.
    #[must_use]
    pub fn known_len(&self) -> Option<u64> {
        match self {
            Self::Done => Some(0),
            Self::Length(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// Takes the next piece out of what was read.
    ///
    /// # Errors
    /// Wrong framing, or the connection ended too early.
    pub fn decode(&mut self, incoming: &mut Incoming) -> Result<Decoded, BodyError> {
        let eof = incoming.is_eof();
        let bytes = incoming.bytes_mut();
        match self {
            Self::Done => return Ok(Decoded::End),
            Self::Length(left) if !bytes.is_empty() => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= n as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                return Ok(Decoded::Frame(Frame::Data(bytes.split_to(n).freeze())));
            }
            Self::Chunked(chunked) => match chunked.decode(bytes).map_err(BodyError::Malformed)? {
                Some(Piece::Data(data)) => return Ok(Decoded::Frame(Frame::Data(data))),
                Some(Piece::Trailers(trailers)) => {
                    *self = Self::Done;
                    return Ok(Decoded::Frame(Frame::Trailers(trailers)));
                }
                Some(Piece::End) => {
                    *self = Self::Done;
                    return Ok(Decoded::End);
                }
                None => {}
            },
            Self::UntilClose if !bytes.is_empty() => {
                return Ok(Decoded::Frame(Frame::Data(bytes.split().freeze())));
            }
            Self::UntilClose if eof => {
                *self = Self::Done;
                return Ok(Decoded::End);
            }
            Self::Length(_) | Self::UntilClose => {}
        }
        if eof { Err(BodyError::Closed) } else { Ok(Decoded::NeedMore) }
    }

    /// When the last chunk's data was taken, the end may be at hand already: then the connection is free at once.
    pub fn settle(&mut self, incoming: &mut Incoming) -> Result<(), BodyError> {
        if let Self::Chunked(_) = self
            && incoming.bytes().starts_with(b"\r\n0\r\n\r\n")
            && matches!(self.decode(incoming)?, Decoded::End)
        {
            *self = Self::Done;
        }
        Ok(())
    }
}
