//! Where tokens are in a request: fields, parameters of the query, cookies. In: a head. Out: the tokens there; the head
//! without them.
//!
//! What an application could take for a token is one here too: bytes that are no text, names in percent codes, a tab after
//! the scheme. Such a token is not valid, rather than not there.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, Uri};

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A field, and what stands before the token.
    Header {
        /// Lower case.
        name: HeaderName,
        /// Before the token.
        prefix: Prefix,
    },
    /// A parameter of the query.
    Param(String),
    /// A cookie.
    Cookie(String),
}

/// What stands before a token in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Just so; nothing if empty.
    Text(String),
    /// A scheme (a prefix that ends with a space): it has no case.
    Scheme(String),
}

impl Prefix {
    pub(super) fn new(text: &str) -> Self {
        match text.strip_suffix(' ') {
            Some(scheme) => Self::Scheme(scheme.to_ascii_lowercase()),
            None => Self::Text(text.to_owned()),
        }
    }
}

impl Place {
    /// `Authorization: Bearer`.
    pub(super) fn bearer() -> Self {
        Self::Header { name: AUTHORIZATION, prefix: Prefix::new("Bearer ") }
    }

    /// The tokens there: each line, parameter and cookie of that name. A line beside the one with a token is one too: who
    /// reads the last line, or all of them, would take it.
    pub(super) fn tokens<'a>(&self, head: &'a Parts) -> Vec<Cow<'a, str>> {
        match self {
            Self::Header { name, prefix } => {
                let lines: Vec<_> =
                    head.headers.get_all(name).iter().map(|line| text(line.as_bytes())).collect();
                let found: Vec<_> = lines.iter().filter_map(|line| behind(line, prefix)).collect();
                if found.is_empty() || lines.len() == 1 { found } else { lines }
            }
            Self::Param(name) => {
                let pairs = head.uri.query().unwrap_or_default().split('&');
                pairs.filter_map(|pair| value(pair, name, true)).collect()
            }
            Self::Cookie(name) => {
                let lines = head.headers.get_all(COOKIE).iter().map(|line| text(line.as_bytes()));
                let found = lines.flat_map(|line| {
                    let of_line =
                        |pair: &str| value(pair.trim(), name, false).map(|v| Cow::Owned(v.into_owned()));
                    line.split(';').filter_map(of_line).collect::<Vec<_>>()
                });
                found.collect()
            }
        }
    }

    /// The field that it reads, if it is one.
    pub(super) fn field(&self) -> Option<&HeaderName> {
        match self {
            Self::Header { name, .. } => Some(name),
            Self::Param(_) | Self::Cookie(_) => None,
        }
    }

    /// Takes the token away. A cookie stays: others stand beside it.
    pub(super) fn remove(&self, head: &mut Parts) {
        match self {
            Self::Header { name, .. } => {
                head.headers.remove(name);
            }
            Self::Param(name) => without_param(&mut head.uri, name),
            Self::Cookie(_) => {}
        }
    }
}

/// Bytes that are no text make no valid token of it, but a token it is.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes.trim_ascii())
}

/// What stands behind the prefix.
fn behind<'a>(line: &Cow<'a, str>, prefix: &Prefix) -> Option<Cow<'a, str>> {
    let rest = match prefix {
        Prefix::Text(prefix) => line.strip_prefix(prefix.as_str())?,
        Prefix::Scheme(scheme) => {
            let begin = line.get(..scheme.len()).filter(|begin| begin.eq_ignore_ascii_case(scheme))?;
            line[begin.len()..].strip_prefix([' ', '\t'])?
        }
    };
    let token = rest.trim();
    (!token.is_empty()).then(|| Cow::Owned(token.to_owned()))
}

/// The value of a pair of that name; `coded`: name and value may have percent codes.
fn value<'a>(pair: &'a str, name: &str, coded: bool) -> Option<Cow<'a, str>> {
    let (key, value) = pair.split_once('=')?;
    let plain = |text: &'a str| if coded { decoded(text) } else { Cow::Borrowed(text) };
    (plain(key) == name && !value.is_empty()).then(|| plain(value))
}

/// Percent codes as what they stand for.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], crate::http::path::code(bytes.get(at + 1..at + 3))) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn without_param(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let left: Vec<&str> = query.split('&').filter(|pair| value(pair, name, true).is_none()).collect();
    let whole = match left.join("&").as_str() {
        "" => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    // What was part of a URI is one without it.
    if let Ok(path) = PathAndQuery::try_from(whole) {
        parts.path_and_query = Some(path);
        if let Ok(clean) = Uri::from_parts(parts) {
            *uri = clean;
        }
    }
}
