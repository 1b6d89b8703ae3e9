//! Heads and bodies between HTTP/2 and what the stages above see: `Host` instead of `:authority`, one `cookie`, no
//! connection fields (RFC 9113 §8.2.2, §8.2.3, §8.3).

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request};

use crate::http::body::{BodyError, Frame};
use crate::http::h1::authority;
use crate::http::headers::{self, aliases_trusted};
use crate::http::service::BadRequest;

/// The content of a stream. Window is given back for a piece when the next one is asked for: by then it was taken.
pub struct Incoming {
    stream: ::h2::RecvStream,
    /// Bytes handed out whose window was not given back yet.
    taken: usize,
    left: Option<u64>,
    received: Rc<Cell<u64>>,
    data_done: bool,
    done: bool,
}

impl Incoming {
    /// The body behind a head with these fields. `received` counts its bytes for whoever outlives it.
    #[must_use]
    pub fn new(stream: ::h2::RecvStream, fields: &HeaderMap, received: Rc<Cell<u64>>) -> Self {
        let left = fields.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        Self { stream, taken: 0, left, received, data_done: false, done: false }
    }

    /// The next piece; `None` at the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if self.taken > 0 {
            // The stream may be gone by now: then nobody waits for the window.
            let _ = self.stream.flow_control().release_capacity(std::mem::take(&mut self.taken));
        }
        while !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.taken = data.len();
                    self.received.set(self.received.get() + data.len() as u64);
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return self.fail(&error),
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                self.done = true;
                Poll::Ready(trailers.map(|mut trailers| {
                    headers::clean_trailers(&mut trailers);
                    Ok(Frame::Trailers(trailers))
                }))
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &::h2::Error) -> Poll<Option<Result<Frame, BodyError>>> {
        self.done = true;
        Poll::Ready(Some(Err(body_error(error))))
    }

    /// Whether nothing more will come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.done || self.stream.is_end_stream()
    }

    /// How many bytes are to come, where that is known.
    #[must_use]
    pub fn known_len(&self) -> Option<u64> {
        if self.is_end() { Some(0) } else { self.left.filter(|left| *left > 0) }
    }
}

/// What a failed stream means for the body on it.
#[must_use]
pub fn body_error(error: &::h2::Error) -> BodyError {
    match (error.get_io(), error.reason()) {
        (Some(io), _) => BodyError::Io(io.kind()),
        (None, Some(reason)) => BodyError::Reset(reason),
        (None, None) => BodyError::Closed,
    }
}

/// Turns a request's head into what the stages above see.
///
/// # Errors
/// When its authority or path is missing, malformed or contradicts `Host`.
pub fn normalise_request(parts: &mut request::Parts, max_headers: usize) -> Result<(), BadRequest> {
    if parts.headers.len() > max_headers {
        return Err(BadRequest::TooManyHeaders);
    }
    let uri = std::mem::take(&mut parts.uri).into_parts();
    check_authority(parts, uri.authority.as_ref())?;
    if parts.method == Method::CONNECT {
        parts.uri = uri.authority.map(Uri::from).ok_or(BadRequest::PseudoHeader)?;
    } else {
        let path = uri.path_and_query.ok_or(BadRequest::PseudoHeader)?;
        let starts = path.as_str().starts_with('/') || (path == "*" && parts.method == Method::OPTIONS);
        // As strict as over HTTP/1, where such a target would have to be written next.
        let plain = path.as_str().bytes().all(|b| (0x21..0x7f).contains(&b));
        let scheme = uri.scheme.is_some_and(|s| s == Scheme::HTTP || s == Scheme::HTTPS);
        if !starts || !plain || !scheme {
            return Err(BadRequest::Target);
        }
        parts.uri = Uri::from(path);
    }
    drop_aliases(&mut parts.headers);
    join_cookies(&mut parts.headers);
    Ok(())
}

fn check_authority(parts: &mut request::Parts, named: Option<&Authority>) -> Result<(), BadRequest> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), named) {
        (_, Some(_), _) | (None, None, None) => Err(BadRequest::Host),
        (Some(host), None, None) if authority::is_valid(host.as_bytes()) => Ok(()),
        (Some(_), None, None) => Err(BadRequest::Host),
        (host, None, Some(named)) => {
            let name = named.as_str().as_bytes();
            let agrees = host.is_none_or(|host| authority::same(host.as_bytes(), name, b""));
            if !agrees || !authority::is_valid(name) {
                return Err(BadRequest::Host);
            }
            if host.is_none() {
                let value = HeaderValue::from_str(named.as_str()).map_err(|_| BadRequest::Host)?;
                parts.headers.insert(header::HOST, value);
            }
            Ok(())
        }
    }
}

fn drop_aliases(fields: &mut HeaderMap) {
    if fields.keys().any(|name| aliases_trusted(name.as_str())) {
        let bad: Vec<HeaderName> = fields.keys().filter(|n| aliases_trusted(n.as_str())).cloned().collect();
        for name in bad {
            fields.remove(name);
        }
    }
}

/// HTTP/2 may split `cookie`; HTTP/1 and applications know only one.
fn join_cookies(fields: &mut HeaderMap) {
    let mut cookies = fields.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut all = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(cookie.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
        fields.insert(header::COOKIE, value);
    }
}

/// Removes what HTTP/2 forbids, and says the body's length where it is known.
pub fn clean(fields: &mut HeaderMap, length: Length) {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        fields.remove(name);
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings"] {
        fields.remove(name);
    }
    if let Some(te) = fields.get(header::TE)
        && te != "trailers"
    {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    match length {
        Length::AsIs => {}
        Length::Unknown => {
            fields.remove(header::CONTENT_LENGTH);
        }
        Length::Known(length) => {
            let told = fields.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
            if told != Some(length) {
                fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
    }
}

/// What a head says about the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// What the map says: no body follows, but one would be so long.
    AsIs,
    /// Nothing.
    Unknown,
    /// This.
    Known(u64),
}

/// The URI of a request to an HTTP/2 upstream.
///
/// # Errors
/// When the request names no usable authority.
pub fn request_uri(parts: &mut request::Parts, tls: bool, fallback: &str) -> Result<Uri, &'static str> {
    let host = parts.headers.remove(header::HOST);
    let authority = match &host {
        Some(host) => Authority::try_from(host.as_bytes()),
        None => Authority::try_from(fallback),
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(authority.map_err(|_| "the request's host is no authority")?);
    let path = parts.uri.path_and_query().cloned();
    uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(uri).map_err(|_| "the request's target is no HTTP/2 path")
}
