//! Heads and bodies as bytes. Framing and connection fields are the codec's own: what a map says about them is not written.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, response};

use crate::http::body::{BodyError, Frame};
use crate::http::buffer::Outgoing;
use crate::http::h1::head::Framing;
use crate::http::headers::{HeaderCase, is_connection_specific};

/// The `Connection` field of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Nothing to say.
    Silent,
    /// To an HTTP/1.0 client that asked.
    KeepAlive,
    /// The last answer.
    Close,
    /// 101.
    Upgrade,
}

/// Where the length of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimit {
    /// By the codec.
    By(Framing),
    /// By the map's `content-length`: no body follows, but one would be so long (HEAD, 304).
    Map,
    /// Nowhere: there is none (1xx, 204), or a tunnel follows.
    Nothing,
}

/// Writes a request's head. `host` stands in where an HTTP/1.0 client named none.
pub fn request_head(
    out: &mut BytesMut,
    parts: &request::Parts,
    case: &HeaderCase,
    framing: Framing,
    greeting: Option<&(HeaderName, HeaderValue)>,
    host: impl FnOnce() -> String,
) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    match (parts.uri.path_and_query(), parts.uri.authority()) {
        (_, Some(authority)) if parts.method == Method::CONNECT => {
            out.extend_from_slice(authority.as_str().as_bytes());
        }
        (Some(path), _) => out.extend_from_slice(path.as_str().as_bytes()),
        (None, _) => out.put_u8(b'/'),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let noted = fields(out, &parts.headers, case, false);
    if !noted.host {
        line(out, case, "host", host().as_bytes());
    }
    if let Some((name, value)) = greeting {
        line(out, case, name.as_str(), value.as_bytes());
    }
    // RFC 9110 §8.6: methods that have a body say so even when it is empty.
    let has_body = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    if framing != Framing::None || has_body {
        framing_field(out, case, framing);
    }
    match (noted.upgrade, noted.te) {
        (true, _) => line(out, case, "connection", b"upgrade"),
        (false, true) => line(out, case, "connection", b"te"),
        (false, false) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a response's head.
pub fn response_head(
    out: &mut BytesMut,
    parts: &response::Parts,
    case: &HeaderCase,
    delimit: Delimit,
    connection: Connection,
) {
    status_line(out, parts.status);
    fields(out, &parts.headers, case, delimit == Delimit::Map);
    if let Delimit::By(framing) = delimit {
        framing_field(out, case, framing);
    }
    match connection {
        Connection::Silent => {}
        Connection::KeepAlive => line(out, case, "connection", b"keep-alive"),
        Connection::Close => line(out, case, "connection", b"close"),
        Connection::Upgrade => line(out, case, "connection", b"upgrade"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim (1xx) response.
pub fn interim(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap, case: &HeaderCase) {
    status_line(out, status);
    fields(out, headers, case, false);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut BytesMut, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Fields that the codec acts on.
#[derive(Default)]
struct Noted {
    host: bool,
    upgrade: bool,
    te: bool,
}

/// All fields but those that the codec writes itself. `length`: the map's `content-length` stays (HEAD, 304).
fn fields(out: &mut BytesMut, headers: &HeaderMap, case: &HeaderCase, length: bool) -> Noted {
    let mut noted = Noted::default();
    for (name, value) in headers {
        // Only names of these lengths are special.
        match name.as_str().len() {
            2 if *name == header::TE => {
                noted.te = true;
                line(out, case, "te", b"trailers");
                continue;
            }
            4 => noted.host |= *name == header::HOST,
            7 => noted.upgrade |= *name == header::UPGRADE,
            14 if !length && *name == header::CONTENT_LENGTH => continue,
            10 | 14 | 16 | 17 if is_connection_specific(name) => continue,
            _ => {}
        }
        out.reserve(name.as_str().len() + value.len() + 4);
        case.write(name, out);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    noted
}

fn framing_field(out: &mut BytesMut, case: &HeaderCase, framing: Framing) {
    match framing {
        Framing::None => line(out, case, "content-length", b"0"),
        Framing::Length(length) => {
            case.write_str("content-length", out);
            out.extend_from_slice(b": ");
            decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => line(out, case, "transfer-encoding", b"chunked"),
        Framing::UntilClose => {}
    }
}

fn line(out: &mut BytesMut, case: &HeaderCase, name: &str, value: &[u8]) {
    case.write_str(name, out);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A digit fits into a byte.
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a body in the framing that its head announced.
#[derive(Debug, PartialEq, Eq)]
pub enum Encoder {
    /// Complete.
    Done,
    /// So many bytes to come.
    Length(u64),
    /// Chunks, with trailers.
    Chunked,
    /// Until the connection closes.
    UntilClose,
}

impl Encoder {
    /// For a head with this framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked,
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Whether nothing more may be written.
    #[must_use]
    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Writes one frame. Trailers end the body.
    ///
    /// # Errors
    /// When the content is longer than announced.
    pub fn frame(&mut self, frame: Frame, out: &mut Outgoing) -> Result<(), BodyError> {
        match (&mut *self, frame) {
            (Self::Chunked, Frame::Data(data)) => {
                hexadecimal(out.tail(), data.len());
                out.push(data);
                out.tail().extend_from_slice(b"\r\n");
            }
            (Self::UntilClose, Frame::Data(data)) => out.push(data),
            (Self::Length(left), Frame::Data(data)) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or(BodyError::Malformed("longer than its content-length"))?;
                if *left == 0 {
                    *self = Self::Done;
                }
                out.push(data);
            }
            (Self::Chunked, Frame::Trailers(mut trailers)) => {
                crate::http::headers::clean_trailers(&mut trailers);
                let tail = out.tail();
                tail.extend_from_slice(b"0\r\n");
                fields(tail, &trailers, &HeaderCase::Lower, false);
                tail.extend_from_slice(b"\r\n");
                *self = Self::Done;
            }
            // Other framings have no place for trailers.
            (_, Frame::Trailers(_)) => {}
            (Self::Done, Frame::Data(_)) => {
                return Err(BodyError::Malformed("longer than its content-length"));
            }
        }
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// When the content is shorter than announced.
    pub fn finish(&mut self, out: &mut Outgoing) -> Result<(), BodyError> {
        match std::mem::replace(self, Self::Done) {
            Self::Chunked => out.tail().extend_from_slice(b"0\r\n\r\n"),
            Self::Length(_) => return Err(BodyError::Closed),
            Self::Done | Self::UntilClose => {}
        }
        Ok(())
    }
}

fn hexadecimal(out: &mut BytesMut, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        out.put_u8(b"0123456789abcdef"[number >> (at * 4) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}
