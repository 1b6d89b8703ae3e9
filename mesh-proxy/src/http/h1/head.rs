//! Message heads. In: the bytes of a whole head and the ends of its lines. Out: request or response parts and how the body
//! is framed (RFC 9112 §3, §4, §6.3), or why the message is refused.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};

use crate::http::h1::authority;
use crate::http::h1::fields::{self, Facts};
use crate::http::headers::HeaderCase;
use crate::http::service::BadRequest;

/// How the bytes after a head are delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There are none.
    None,
    /// So many.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Everything until the connection closes (responses only).
    UntilClose,
}

/// A request's head.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query, `*`, or the authority (CONNECT).
    pub uri: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// All fields but the hop-by-hop ones.
    pub headers: HeaderMap,
    /// The body.
    pub framing: Framing,
    /// Whether the client wants another exchange on this connection.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// The client asks for another protocol, or a tunnel.
    pub upgrade: bool,
    /// How names were written.
    pub case: HeaderCase,
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// All fields but the hop-by-hop ones.
    pub headers: HeaderMap,
    /// The body.
    pub framing: Framing,
    /// Whether the upstream keeps the connection.
    pub keep_alive: bool,
    /// 101, with a protocol.
    pub upgrade: bool,
    /// How names were written.
    pub case: HeaderCase,
}

/// What of the request decides the framing of its response.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// HEAD: no body whatever the fields say.
    pub head: bool,
    /// CONNECT: 2xx starts a tunnel.
    pub connect: bool,
    /// An upgrade was asked for.
    pub upgrade: bool,
}

/// Reads a request's head. `headers` is an empty map to fill.
///
/// # Errors
/// Why the request is refused.
pub fn parse_request(head: &Bytes, ends: &[u32], mut headers: HeaderMap) -> Result<RequestHead, BadRequest> {
    let line = 0..ends[0] as usize - 1;
    let (method, target, version) = request_line(&head[line])?;
    let mut facts = Facts::default();
    fields::parse(head, ends, &mut headers, &mut facts)?;
    let (uri, named) = parse_target(&method, head.slice(target))?;
    check_host(&facts, version, &mut headers, named)?;
    if version == Version::HTTP_10 && facts.chunked {
        return Err(BadRequest::TransferEncoding);
    }
    let posts = method == Method::POST || method == Method::PUT || method == Method::PATCH;
    if version == Version::HTTP_10 && posts && facts.content_length.is_none() {
        // RFC 1945 §8.3: its end would be the connection's, which a request cannot have.
        return Err(BadRequest::Framing);
    }
    let framing = match facts.content_length {
        _ if facts.chunked => Framing::Chunked,
        Some(0) | None => Framing::None,
        Some(length) => Framing::Length(length),
    };
    let connect = method == Method::CONNECT;
    if connect && framing != Framing::None {
        return Err(BadRequest::Framing);
    }
    // An upgrade with a body would make its end ambiguous: it is served as a plain request (RFC 9110 §7.8 allows that).
    let upgrade = facts.upgrades() && framing == Framing::None && version == Version::HTTP_11;
    if facts.upgrades() && !upgrade {
        headers.remove(header::UPGRADE);
    }
    let keep_alive = !facts.close && (version == Version::HTTP_11 || facts.keep_alive);
    Ok(RequestHead {
        method,
        uri,
        version,
        headers,
        framing,
        keep_alive,
        expects_continue: facts.expects_continue && version == Version::HTTP_11 && framing != Framing::None,
        upgrade: upgrade || connect,
        case: facts.case.finish(),
    })
}

/// Reads a response's head. `headers` is an empty map to fill.
///
/// # Errors
/// Why the response is not forwarded.
pub fn parse_response(
    head: &Bytes,
    ends: &[u32],
    mut headers: HeaderMap,
    asked: Asked,
) -> Result<ResponseHead, BadRequest> {
    let (status, version) = status_line(&head[..ends[0] as usize - 1])?;
    let mut facts = Facts::default();
    fields::parse(head, ends, &mut headers, &mut facts)?;
    if version == Version::HTTP_10 && facts.chunked {
        return Err(BadRequest::TransferEncoding);
    }
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || asked.head
        || (asked.connect && status.is_success());
    let framing = match facts.content_length {
        _ if bodiless => Framing::None,
        _ if facts.chunked => Framing::Chunked,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    if switching != (facts.upgrades() && switching && asked.upgrade) {
        return Err(BadRequest::Framing);
    }
    if status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(ResponseHead {
        status,
        version,
        headers,
        framing,
        // A body where none may be is what an upstream would send next: such a connection is not used again.
        keep_alive: !facts.close
            && framing != Framing::UntilClose
            && (version == Version::HTTP_11 || facts.keep_alive)
            && !(status == StatusCode::NO_CONTENT
                && (facts.chunked || facts.content_length.is_some_and(|n| n > 0))),
        upgrade: switching || (asked.connect && status.is_success()),
        case: facts.case.finish(),
    })
}

fn request_line(line: &[u8]) -> Result<(Method, std::ops::Range<usize>, Version), BadRequest> {
    let space = memchr::memchr(b' ', line).ok_or(BadRequest::RequestLine)?;
    if !fields::is_token(&line[..space]) {
        return Err(BadRequest::RequestLine);
    }
    let method = Method::from_bytes(&line[..space]).map_err(|_| BadRequest::RequestLine)?;
    let rest = &line[space + 1..];
    let length = memchr::memchr(b' ', rest).ok_or(BadRequest::RequestLine)?;
    let version = match &rest[length + 1..] {
        b"HTTP/1.1" => Version::HTTP_11,
        b"HTTP/1.0" => Version::HTTP_10,
        other if is_version(other) => return Err(BadRequest::Version),
        _ => return Err(BadRequest::RequestLine),
    };
    Ok((method, space + 1..space + 1 + length, version))
}

fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn status_line(line: &[u8]) -> Result<(StatusCode, Version), BadRequest> {
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::HTTP_11,
        Some(b"HTTP/1.0 ") => Version::HTTP_10,
        _ => return Err(BadRequest::RequestLine),
    };
    // The space before an empty reason is often left out.
    let (status, reason) = match &line[9..] {
        [a, b, c] => ([*a, *b, *c], &[][..]),
        [a, b, c, b' ', reason @ ..] => ([*a, *b, *c], reason),
        _ => return Err(BadRequest::RequestLine),
    };
    if !reason.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)) {
        return Err(BadRequest::RequestLine);
    }
    let status = StatusCode::from_bytes(&status).map_err(|_| BadRequest::RequestLine)?;
    if status.as_u16() > 599 {
        return Err(BadRequest::RequestLine);
    }
    Ok((status, version))
}

/// The URI that the stages above see, and the authority that the target itself names, with its default port.
type Target = (Uri, Option<(Bytes, &'static [u8])>);

fn parse_target(method: &Method, target: Bytes) -> Result<Target, BadRequest> {
    // A fragment is no part of a target, and the URI parser would cut it off in silence.
    if target.is_empty() || !target.iter().all(|b| (0x21..0x7f).contains(b) && *b != b'#') {
        return Err(BadRequest::Target);
    }
    if *method == Method::CONNECT {
        let ok = authority::is_valid(&target) && authority::port(&target).is_some();
        let uri = Uri::from_maybe_shared(target.clone()).ok().filter(|_| ok).ok_or(BadRequest::Target)?;
        return Ok((uri, Some((target, b"443"))));
    }
    if target[0] == b'/' {
        return Ok((origin_form(target)?, None));
    }
    if target == "*" && *method == Method::OPTIONS {
        return Ok((Uri::from_static("*"), None));
    }
    let scheme =
        |name: &str| target.get(..name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name.as_bytes()));
    let (start, port): (usize, &[u8]) = if scheme("http://") {
        (7, b"80")
    } else if scheme("https://") {
        (8, b"443")
    } else {
        return Err(BadRequest::Target);
    };
    let rest = target.slice(start..);
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (named, path) = (rest.slice(..end), rest.slice(end..));
    if !authority::is_valid(&named) {
        return Err(BadRequest::Target);
    }
    let path = match path.first() {
        None if *method == Method::OPTIONS => Bytes::from_static(b"*"),
        None => Bytes::from_static(b"/"),
        Some(b'?') => Bytes::from([b"/", &path[..]].concat()),
        Some(_) => path,
    };
    Ok((origin_form(path)?, Some((named, port))))
}

fn origin_form(path: Bytes) -> Result<Uri, BadRequest> {
    let path = PathAndQuery::from_maybe_shared(path).map_err(|_| BadRequest::Target)?;
    Ok(Uri::from(path))
}

/// Exactly one valid `Host`, equal to the target's authority where that has one (RFC 9112 §3.2). HTTP/1.0 may leave it out.
fn check_host(
    facts: &Facts,
    version: Version,
    headers: &mut HeaderMap,
    named: Option<(Bytes, &'static [u8])>,
) -> Result<(), BadRequest> {
    match (facts.hosts, named) {
        (0, Some((named, _))) if version == Version::HTTP_10 => {
            let value = HeaderValue::from_maybe_shared(named).map_err(|_| BadRequest::Host)?;
            headers.insert(header::HOST, value);
            Ok(())
        }
        (0, None) if version == Version::HTTP_10 => Ok(()),
        (1, named) => {
            let host = headers.get(header::HOST).ok_or(BadRequest::Host)?.as_bytes();
            let agrees = named.is_none_or(|(named, port)| authority::same(&named, host, port));
            if authority::is_valid(host) && agrees { Ok(()) } else { Err(BadRequest::Host) }
        }
        _ => Err(BadRequest::Host),
    }
}
