//! HTTP/1: heads of requests and answers, and bodies in chunks.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};

use crate::http::h1::authority;
use crate::http::h1::chunked::{Chunked, Piece};
use crate::http::h1::head::{Asked, Framing, parse_request, parse_response};
use crate::http::h1::scan::Scan;

/// Limits like those of a connection.
const LONGEST: usize = 64 << 10;
const MOST: usize = 100;

/// A whole head and the ends of its lines. Looked at in two pieces it is the same one.
fn scanned(data: &[u8]) -> Option<(Bytes, Vec<u32>)> {
    let mut scan = Scan::default();
    let whole = scan.find(data, LONGEST, MOST);
    let mut pieces = Scan::default();
    let half = data.len() / 2;
    let first = pieces.find(&data[..half], LONGEST, MOST);
    let second = if matches!(first, Ok(None)) { pieces.find(data, LONGEST, MOST) } else { first };
    assert_eq!(whole, second, "in two pieces");
    let length = whole.ok()??;
    Some((Bytes::copy_from_slice(&data[..length]), scan.ends().to_vec()))
}

/// Nothing in it that would be another line of a head that is written next.
fn is_one_line_each(headers: &HeaderMap) -> bool {
    headers.iter().all(|(_, value)| !value.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0)))
}

/// A request's head.
pub fn request(data: &[u8]) {
    let Some((head, ends)) = scanned(data) else { return };
    let Ok(parsed) = parse_request(&head, &ends, HeaderMap::new()) else { return };
    assert!(is_one_line_each(&parsed.headers));
    let mut hosts = parsed.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    assert!(hosts.next().is_none() && host.is_none_or(|host| authority::is_valid(host.as_bytes())));
    assert!(host.is_some() || parsed.version == http::Version::HTTP_10);
    let target = parsed.uri.to_string();
    assert!(target.bytes().all(|b| b.is_ascii_graphic() && b != b'#'), "{target:?}");
    for name in [header::TRANSFER_ENCODING, header::CONNECTION] {
        assert!(!parsed.headers.contains_key(&name), "{name}");
    }
    let lengths = parsed.headers.get_all(header::CONTENT_LENGTH).iter().count();
    let expected = match parsed.framing {
        Framing::Length(_) => 1..=1,
        Framing::None => 0..=1,
        Framing::Chunked => 0..=0,
        Framing::UntilClose => panic!("a request has an end"),
    };
    assert!(expected.contains(&lengths), "{:?} and {lengths} lengths", parsed.framing);
}

/// An answer's head; its first byte says what was asked.
pub fn response(data: &[u8]) {
    let Some((asked, data)) = data.split_first() else { return };
    let asked = Asked { head: asked & 1 > 0, connect: asked & 2 > 0, upgrade: asked & 4 > 0 };
    let Some((head, ends)) = scanned(data) else { return };
    let Ok(parsed) = parse_response(&head, &ends, HeaderMap::new(), asked) else { return };
    assert!(is_one_line_each(&parsed.headers));
    assert!(parsed.framing != Framing::UntilClose || !parsed.keep_alive);
    assert!(!asked.head || parsed.framing == Framing::None);
    assert!(!parsed.upgrade || asked.upgrade || asked.connect);
}

/// What a body in chunks comes to: its content, its trailers, what is left behind it; or that it is bad.
fn decoded(data: &[u8], piece: usize) -> Option<(Vec<u8>, usize, Vec<u8>)> {
    let (mut chunked, mut content, mut trailers) = (Chunked::default(), Vec::new(), 0);
    let mut bytes = BytesMut::new();
    let mut pieces = data.chunks(piece.max(1));
    loop {
        match chunked.decode(&mut bytes).ok()? {
            Some(Piece::Data(data)) => content.extend_from_slice(&data),
            Some(Piece::Trailers(fields)) => {
                assert!(is_one_line_each(&fields));
                trailers = fields.len();
            }
            Some(Piece::End) => {
                let rest = pieces.flatten().copied();
                return Some((content, trailers, bytes.iter().copied().chain(rest).collect()));
            }
            None => bytes.extend_from_slice(pieces.next()?),
        }
    }
}

/// A body in chunks: in single bytes the same as in whole.
pub fn chunked(data: &[u8]) {
    let whole = decoded(data, data.len());
    for piece in [1, 3] {
        assert_eq!(decoded(data, piece), whole, "in pieces of {piece}");
    }
}
