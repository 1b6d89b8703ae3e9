//! The chunked transfer coding (RFC 9112 §7.1), strict: hexadecimal size without sign, prefix or space, CR LF everywhere,
//! extensions bounded and dropped, trailers handed on without the fields that must not be there.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::http::h1::fields;
use crate::http::h1::scan::Scan;

/// Extension bytes of one body, all chunks together.
const MAX_EXTENSIONS: usize = 4 << 10;
/// The longest trailer section.
const MAX_TRAILERS: usize = 16 << 10;
/// The most trailer fields.
const MAX_TRAILER_FIELDS: usize = 100;

/// Where in the coding we are.
pub struct Chunked {
    state: State,
    extensions: usize,
}

enum State {
    /// In the size, so many digits in.
    Size {
        size: u64,
        digits: u32,
    },
    /// In an extension; content bytes of this chunk to come.
    Extension(u64),
    /// The line feed after a chunk header.
    HeaderEnd(u64),
    Data(u64),
    /// CR LF after the data.
    DataEnd,
    Trailers(Box<Scan>),
    Done,
}

/// A piece of the decoded body.
#[derive(Debug)]
pub enum Piece {
    /// Content.
    Data(Bytes),
    /// The trailer section had fields.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { state: State::Size { size: 0, digits: 0 }, extensions: 0 }
    }
}

impl Chunked {
    /// Takes the next piece from the front of `bytes`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// What is malformed.
    pub fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Piece>, &'static str> {
        loop {
            match &mut self.state {
                State::Size { .. } | State::Extension(_) | State::HeaderEnd(_) => {
                    let Some(byte) = bytes.first().copied() else { return Ok(None) };
                    bytes.advance(1);
                    self.header_byte(byte)?;
                }
                State::Data(left) => {
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Some(Piece::Data(bytes.split_to(n).freeze())));
                }
                State::DataEnd => match &bytes[..] {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.state = State::Size { size: 0, digits: 0 };
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err("no line end after a chunk"),
                },
                State::Trailers(scan) => {
                    let found = scan
                        .find(bytes, MAX_TRAILERS, MAX_TRAILER_FIELDS)
                        .map_err(|_| "malformed or too large trailer section")?;
                    let Some(length) = found else { return Ok(None) };
                    let section = bytes.split_to(length).freeze();
                    let mut trailers = HeaderMap::new();
                    if section.len() > 2 {
                        fields::parse_trailers(&section, scan.ends(), &mut trailers)
                            .map_err(|_| "malformed trailer field")?;
                    }
                    self.state = State::Done;
                    if !trailers.is_empty() {
                        return Ok(Some(Piece::Trailers(trailers)));
                    }
                }
                State::Done => return Ok(Some(Piece::End)),
            }
        }
    }

    /// Whether the last byte was taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// One byte of a chunk's header line.
    fn header_byte(&mut self, byte: u8) -> Result<(), &'static str> {
        match &mut self.state {
            State::Size { size, digits } => match (byte as char).to_digit(16) {
                // Fifteen digits cannot overflow, and no chunk is longer.
                Some(_) if *digits == 15 => return Err("chunk size too large"),
                Some(digit) => {
                    *size = *size << 4 | u64::from(digit);
                    *digits += 1;
                }
                None if *digits == 0 => return Err("no chunk size"),
                None if byte == b';' => self.state = State::Extension(*size),
                None if byte == b'\r' => self.state = State::HeaderEnd(*size),
                None => return Err("malformed chunk size"),
            },
            State::Extension(size) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err("chunk extensions too large");
                }
                match byte {
                    b'\r' => self.state = State::HeaderEnd(*size),
                    b'\t' | 0x20..=0x7e | 0x80.. => {}
                    _ => return Err("control byte in a chunk extension"),
                }
            }
            State::HeaderEnd(size) => {
                if byte != b'\n' {
                    return Err("bare CR in a chunk header");
                }
                self.state = match size {
                    0 => State::Trailers(Box::default()),
                    n => State::Data(*n),
                };
            }
            _ => unreachable!("only called in a chunk header"),
        }
        Ok(())
    }
}
