//! What rules look at in a request. A field that comes several times, and a path with parameters, can be read in several
//! ways by who gets them: DENY matches if one reading does, ALLOW only if all do.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;
use mesh_proto::model::authorization::{Attribute, Pattern, TextPattern};
use smallvec::SmallVec;

use super::Matcher;
use super::guard::{Fits as _, Reading};
use crate::destination::bare_name;
use crate::jwt::Claims;

/// A text that is put together for a decision: no memory is asked for unless it is longer than all that is usual.
type Text = SmallVec<[u8; 128]>;

/// A request, as its rules see it.
#[derive(Debug)]
pub struct RequestFacts<'a> {
    method: &'a str,
    /// As the application gets it, without its query.
    path: &'a str,
    /// Without what stands behind `;` in its segments, where that is something else.
    bare_path: Option<Text>,
    /// As it was sent.
    host: &'a [u8],
    /// Without port and trailing dot.
    host_name: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    remote: IpAddr,
    token: Option<Token<'a>>,
}

/// What a request's valid token says.
#[derive(Debug)]
pub struct Token<'a> {
    claims: &'a Claims,
    /// Claims that are lists with spaces between.
    space_delimited: &'a [String],
}

impl<'a> Token<'a> {
    /// Of verified claims. `space_delimited`: claims that are lists with spaces between, beside those that always are.
    #[must_use]
    pub fn new(claims: &'a Claims, space_delimited: &'a [String]) -> Self {
        Self { claims, space_delimited }
    }
}

impl<'a> RequestFacts<'a> {
    /// Of a request whose path has been normalised. `remote`: the client, as far as somebody who is trusted tells of it.
    #[must_use]
    pub fn new(head: &'a Parts, remote: IpAddr, token: Option<Token<'a>>) -> Self {
        let host = head.headers.get(HOST).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let host_name = std::str::from_utf8(host).ok().and_then(bare_name);
        let path = head.uri.path();
        Self {
            method: head.method.as_str(),
            path,
            bare_path: path.contains(';').then(|| bare(path)),
            host,
            host_name,
            headers: &head.headers,
            remote,
            token,
        }
    }

    /// The texts that an attribute can be read as, of hosts in lower case; those of fields are looked for by their names.
    pub(super) fn texts(&self, attribute: &Attribute, mut see: impl FnMut(&[u8])) {
        match attribute {
            Attribute::RequestMethod => see(self.method.as_bytes()),
            Attribute::RequestPath => {
                see(self.path.as_bytes());
                self.bare_path.iter().for_each(|bare| see(bare));
            }
            Attribute::RequestHost => {
                let lower = |text: &[u8]| text.iter().map(u8::to_ascii_lowercase).collect::<Text>();
                see(&lower(self.host));
                let name = self.host_name.map(str::as_bytes).filter(|name| *name != self.host);
                name.iter().for_each(|name| see(&lower(name)));
                bracketed(self.host).iter().for_each(|address| see(&lower(address)));
            }
            _ => self.token.iter().for_each(|token| token.texts(attribute, &mut see)),
        }
    }
}

/// A path as servers read it that take parameters from segments: `/admin;x=1/a` is `/admin/a`.
fn bare(path: &str) -> Text {
    let mut bare = Text::new();
    for segment in path.split('/').skip(1) {
        let name = segment.split(';').next().unwrap_or_default();
        // `/;a/b` is `//b`, which is `/b` to many.
        if !name.is_empty() || segment.is_empty() {
            bare.push(b'/');
            bare.extend_from_slice(name.as_bytes());
        }
    }
    if bare.is_empty() {
        bare.push(b'/');
    }
    bare
}

/// An IPv6 address as a host has it, without a port.
fn bracketed(host: &[u8]) -> Option<&[u8]> {
    let end = host.iter().position(|b| *b == b']')?;
    host.starts_with(b"[").then(|| &host[..=end])
}

impl Matcher {
    /// Whether it holds for a request; matchers of connections have been decided before.
    pub(super) fn of_request(&self, request: &RequestFacts<'_>, reading: Reading) -> bool {
        let fits = |patterns: &[Pattern], reading| {
            patterns.iter().any(|pattern| self.attribute_fits(pattern, request, reading))
        };
        (self.values.is_empty() || fits(&self.values, reading))
            && (self.not_values.is_empty() || !fits(&self.not_values, reading.opposite()))
    }

    fn attribute_fits(&self, pattern: &Pattern, request: &RequestFacts<'_>, reading: Reading) -> bool {
        match (&self.attribute, pattern) {
            (Attribute::RequestMethod, pattern) => pattern.is_text(request.method),
            (Attribute::RequestPath, Pattern::Path(path)) => {
                let bare = request.bare_path.as_ref().map(|bare| path.matches(bare));
                read(reading, std::iter::once(path.matches(request.path.as_bytes())).chain(bare))
            }
            // A port or a trailing dot makes no other host of it.
            (Attribute::RequestHost, Pattern::Text(text)) => {
                text.matches_any_case(request.host)
                    || request.host_name.is_some_and(|name| text.matches_any_case(name.as_bytes()))
                    || bracketed(request.host).is_some_and(|address| text.matches_any_case(address))
            }
            (Attribute::RequestHeader(name), Pattern::Text(text)) => {
                header(request.headers, name, reading, |value| text.matches(value))
            }
            (Attribute::RemoteIp, pattern) => pattern.is_address(request.remote),
            // Without a valid token there is none of these. Of a list one is enough, as in Istio.
            (attribute, Pattern::Text(text)) => {
                request.token.as_ref().is_some_and(|token| token.fits(attribute, text))
            }
            _ => false,
        }
    }
}

impl Token<'_> {
    fn fits(&self, attribute: &Attribute, wanted: &TextPattern) -> bool {
        let fits = |text: &str| wanted.matches(text.as_bytes());
        match attribute {
            Attribute::RequestPrincipal => self.is_principal(wanted),
            Attribute::RequestAudiences => self.claims.audiences.iter().any(|audience| fits(audience)),
            Attribute::RequestPresenter => self.claims.presenter.as_deref().is_some_and(fits),
            Attribute::RequestClaim(path) => {
                self.claims.texts_with(path, self.space_delimited).any(|text| fits(&text))
            }
            _ => false,
        }
    }

    fn texts(&self, attribute: &Attribute, mut see: impl FnMut(&[u8])) {
        let claims = self.claims;
        let mut see = |text: &str| see(text.as_bytes());
        match attribute {
            Attribute::RequestPrincipal => claims.principal().into_iter().for_each(see),
            Attribute::RequestAudiences => claims.audiences.iter().for_each(|audience| see(audience)),
            Attribute::RequestPresenter => claims.presenter.as_deref().into_iter().for_each(see),
            Attribute::RequestClaim(path) => {
                claims.texts_with(path, self.space_delimited).for_each(|text| see(&text));
            }
            _ => {}
        }
    }

    /// `<issuer>/<subject>`, divided at the last slash as Istio does: an issuer whose name begins with another one's, or a
    /// subject with a slash, is not taken for somebody else.
    fn is_principal(&self, wanted: &TextPattern) -> bool {
        let Some(principal) = self.claims.principal() else { return false };
        let issuer = self.claims.issuer.as_str();
        let subject = self.claims.subject.as_deref().unwrap_or_default();
        match wanted {
            TextPattern::Exact(whole) => {
                whole.rsplit_once('/').is_some_and(|(of, name)| of == issuer && name == subject)
            }
            // `ISSUER/*`
            TextPattern::Prefix(begin) if begin.ends_with('/') => begin.strip_suffix('/') == Some(issuer),
            // `*/SUBJECT`
            TextPattern::Suffix(end) if end.starts_with('/') => end.strip_prefix('/') == Some(subject),
            TextPattern::Present | TextPattern::Prefix(_) | TextPattern::Suffix(_) => {
                wanted.matches(principal.as_bytes())
            }
        }
    }
}

/// One of the readings, or all of them.
fn read(reading: Reading, mut fits: impl Iterator<Item = bool>) -> bool {
    match reading {
        Reading::Any => fits.any(|fits| fits),
        Reading::All => fits.all(|fits| fits),
    }
}

/// A field's lines: each for itself and all of them joined; for [`Reading::Any`] also what stands between commas.
fn header(headers: &HeaderMap, name: &str, reading: Reading, fits: impl Fn(&[u8]) -> bool) -> bool {
    let mut lines = headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let (first, more) = (lines.next(), lines.next());
    let commas = |line: &[u8]| {
        reading == Reading::Any
            && line.contains(&b',')
            && line.split(|b| *b == b',').any(|part| fits(part.trim_ascii()))
    };
    let Some(first) = first else { return false };
    if more.is_none() {
        return fits(first) || commas(first);
    }
    let all = || headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
    let mut joined = Text::from_slice(first);
    for line in all().skip(1) {
        joined.push(b',');
        joined.extend_from_slice(line);
    }
    let readings = all().map(&fits).chain([fits(&joined)]);
    read(reading, readings) || commas(&joined)
}
