//! Field lines. In: the lines of a head or trailer section. Out: a map without hop-by-hop fields, and the [`Facts`] that
//! framing and connection handling need.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::http::headers::case::{Collector, Forms};
use crate::http::headers::{aliases_trusted, is_trusted, names};
use crate::http::service::BadRequest;

/// What the fields say about the message and its connection.
#[derive(Default)]
pub struct Facts {
    /// `Content-Length`.
    pub content_length: Option<u64>,
    /// `Transfer-Encoding: chunked`.
    pub chunked: bool,
    /// `Connection: close`.
    pub close: bool,
    /// `Connection: keep-alive`.
    pub keep_alive: bool,
    /// How many `Host` fields there were.
    pub hosts: usize,
    /// `Expect: 100-continue`.
    pub expects_continue: bool,
    /// `Connection: upgrade`.
    connection_upgrade: bool,
    /// An `Upgrade` field that names something besides h2c.
    upgrade: bool,
    /// Other names that `Connection` lists.
    listed: SmallVec<[HeaderName; 2]>,
    /// How names were written.
    pub case: Collector,
}

/// What a byte is in a field name.
const INVALID: u8 = 0;
const LOWER: u8 = 1;
const UPPER: u8 = 2;
const OTHER: u8 = 3;
const DASH: u8 = 4;
const UNDERSCORE: u8 = 5;

const CLASS: [u8; 256] = {
    let mut table = [INVALID; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            b'a'..=b'z' => LOWER,
            b'A'..=b'Z' => UPPER,
            b'-' => DASH,
            b'_' => UNDERSCORE,
            b'0'..=b'9' => OTHER,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'`' | b'|' | b'~' => {
                OTHER
            }
            _ => INVALID,
        };
        b += 1;
    }
    table
};

/// Whether all bytes are token characters, and there is one.
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| CLASS[usize::from(*b)] != INVALID)
}

/// Reads the lines after the first (`ends[0]` ends the start line) up to the empty one.
///
/// # Errors
/// When a line is no field line, or the fields contradict one another.
pub fn parse(head: &Bytes, ends: &[u32], map: &mut HeaderMap, facts: &mut Facts) -> Result<(), BadRequest> {
    let lines = &ends[..ends.len() - 1];
    for line in lines.windows(2) {
        parse_line(head, line[0] as usize + 1, line[1] as usize - 1, map, facts)?;
    }
    finish(map, facts);
    Ok(())
}

/// Reads all lines up to the empty one: a trailer section has no start line.
///
/// # Errors
/// As [`parse`].
pub fn parse_trailers(section: &Bytes, ends: &[u32], map: &mut HeaderMap) -> Result<(), BadRequest> {
    let mut facts = Facts::default();
    let mut from = 0;
    for end in &ends[..ends.len() - 1] {
        parse_line(section, from, *end as usize - 1, map, &mut facts)?;
        from = *end as usize + 1;
    }
    crate::http::headers::clean_trailers(map);
    Ok(())
}

fn parse_line(
    head: &Bytes,
    from: usize,
    to: usize,
    map: &mut HeaderMap,
    facts: &mut Facts,
) -> Result<(), BadRequest> {
    let line = &head[from..to];
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(BadRequest::Folding);
    }
    let (colon, forms, underscore) = name_end(line)?;
    facts.case.add(forms, || head.slice(from..from + colon));
    let raw = &line[..colon];
    let (start, end) = trim(line, colon + 1);
    let value = &line[start..end];
    if !note(raw, value, facts)? {
        return check_value(value);
    }
    let name = names::get(raw).ok_or(BadRequest::HeaderName)?;
    if underscore && aliases_trusted(name.as_str()) {
        return check_value(value);
    }
    let value = HeaderValue::from_maybe_shared(head.slice(from + start..from + end))
        .map_err(|_| BadRequest::HeaderValue)?;
    map.try_append(name, value).map_err(|_| BadRequest::TooManyHeaders)?;
    Ok(())
}

/// A field that goes no further is no less malformed.
fn check_value(value: &[u8]) -> Result<(), BadRequest> {
    let ok = value.iter().all(|b| (*b >= 0x20 && *b != 0x7f) || *b == b'\t');
    if ok { Ok(()) } else { Err(BadRequest::HeaderValue) }
}

/// The colon's offset, how the name is written, and whether it has an underscore.
fn name_end(line: &[u8]) -> Result<(usize, Forms, bool), BadRequest> {
    let mut forms = Forms { lower: true, title: true };
    let (mut at_start, mut underscore) = (true, false);
    for (at, byte) in line.iter().enumerate() {
        match CLASS[usize::from(*byte)] {
            LOWER => {
                forms.title &= !at_start;
                at_start = false;
            }
            UPPER => {
                forms.lower = false;
                forms.title &= at_start;
                at_start = false;
            }
            OTHER => at_start = false,
            DASH => at_start = true,
            UNDERSCORE => {
                at_start = false;
                underscore = true;
            }
            _ if *byte == b':' && at > 0 => return Ok((at, forms, underscore)),
            _ => return Err(BadRequest::HeaderName),
        }
    }
    Err(BadRequest::HeaderName)
}

fn trim(line: &[u8], mut start: usize) -> (usize, usize) {
    let mut end = line.len();
    while start < end && matches!(line[start], b' ' | b'\t') {
        start += 1;
    }
    while end > start && matches!(line[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    (start, end)
}

/// Takes note of the fields that we act on. Whether the field stays in the map.
fn note(name: &[u8], value: &[u8], facts: &mut Facts) -> Result<bool, BadRequest> {
    let is = |lower: &[u8]| name.eq_ignore_ascii_case(lower);
    match name.len() {
        2 if is(b"te") => return Ok(tokens(value).any(|t| t.eq_ignore_ascii_case(b"trailers"))),
        4 if is(b"host") => facts.hosts += 1,
        6 if is(b"expect") => facts.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
        7 if is(b"upgrade") => {
            let h2c = tokens(value).any(|t| t.eq_ignore_ascii_case(b"h2c"));
            let kept = !h2c && !value.is_empty();
            facts.upgrade |= kept;
            return Ok(kept);
        }
        10 if is(b"keep-alive") => return Ok(false),
        10 if is(b"connection") => {
            note_connection(value, facts)?;
            return Ok(false);
        }
        14 if is(b"content-length") => {
            let length = content_length(value).ok_or(BadRequest::Framing)?;
            if facts.content_length.replace(length).is_some() || facts.chunked {
                return Err(BadRequest::Framing);
            }
        }
        14 if is(b"http2-settings") => return Ok(false),
        16 if is(b"proxy-connection") => return Ok(false),
        17 if is(b"transfer-encoding") => {
            if facts.content_length.is_some() {
                return Err(BadRequest::Framing);
            }
            if facts.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(BadRequest::TransferEncoding);
            }
            facts.chunked = true;
            return Ok(false);
        }
        _ => {}
    }
    Ok(true)
}

fn note_connection(value: &[u8], facts: &mut Facts) -> Result<(), BadRequest> {
    for token in tokens(value) {
        if token.eq_ignore_ascii_case(b"close") {
            facts.close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            facts.keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            facts.connection_upgrade = true;
        } else if !token.eq_ignore_ascii_case(b"te") {
            facts.listed.push(HeaderName::from_bytes(token).map_err(|_| BadRequest::HeaderValue)?);
        }
    }
    Ok(())
}

/// The elements of a comma-separated list, trimmed, without the empty ones.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(|t| t.trim_ascii()).filter(|t| !t.is_empty())
}

/// Digits only, and it fits.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// Removes what `Connection` made hop-by-hop.
fn finish(map: &mut HeaderMap, facts: &mut Facts) {
    for name in facts.listed.drain(..) {
        if !is_trusted(name.as_str()) {
            map.remove(name);
        }
    }
    if facts.upgrade && !facts.connection_upgrade {
        facts.upgrade = false;
        map.remove(header::UPGRADE);
    }
}

impl Facts {
    /// Whether the message asks for (or agrees to) another protocol than h2c.
    #[must_use]
    pub fn upgrades(&self) -> bool {
        self.upgrade
    }
}
