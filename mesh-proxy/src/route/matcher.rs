//! One `Match`: all of its conditions, on a request's head, without allocating.

mod claim;
mod display;

use http::header::{COOKIE, HOST, HeaderName};
use http::request::Parts;
use mesh_proto::wire::mesh::v1 as wire;
use regex::bytes::Regex;
use smallvec::SmallVec;

use self::claim::Claim;
pub(super) use self::claim::Token;
pub use self::claim::VerifiedClaims;
use super::text::{Text, regex};
use super::{InvalidRoute, Source};

/// Joined values of a repeated header are put together here; more than this is rare.
type Joined = SmallVec<[u8; 512]>;

/// All conditions of one match.
#[derive(Debug)]
pub(super) struct Matcher {
    path: Option<Path>,
    method: Option<Text>,
    scheme: Option<Text>,
    authority: Option<Text>,
    headers: Vec<Header>,
    query: Vec<Query>,
    claims: Vec<Claim>,
}

impl Matcher {
    /// Parses; `field` is the message's path. `None`: this proxy is not among the sources that it selects.
    pub(super) fn new(
        wire: &wire::Match,
        source: &Source<'_>,
        field: &str,
    ) -> Result<Option<Self>, InvalidRoute> {
        let text = |value: &Option<wire::StringMatch>, name: &str| {
            value.as_ref().map(|v| Text::new(v, &format!("{field}.{name}"))).transpose()
        };
        let headers = wire.headers.iter().enumerate().map(|(i, h)| (format!("{field}.headers[{i}]"), h));
        let (claims, headers): (Vec<_>, Vec<_>) = headers.partition(|(_, header)| !header.claim.is_empty());
        let query = wire.query.iter().enumerate();
        let matcher = Self {
            path: wire.path.as_ref().map(|p| Path::new(p, &format!("{field}.path"))).transpose()?,
            method: text(&wire.method, "method")?,
            scheme: text(&wire.scheme, "scheme")?,
            authority: text(&wire.authority, "authority")?,
            headers: headers.iter().map(|(f, h)| Header::new(h, f)).collect::<Result<_, _>>()?,
            claims: claims.iter().map(|(f, h)| Claim::new(h, f)).collect::<Result<_, _>>()?,
            query: query
                .map(|(i, q)| Query::new(q, &format!("{field}.query[{i}]")))
                .collect::<Result<_, _>>()?,
        };
        // Parsed even when it does not apply here: a bad one is refused everywhere alike.
        let labels = wire.source_labels.iter().all(|(name, value)| source.labels.get(name) == Some(value));
        let namespace = wire.source_namespace.is_empty() || wire.source_namespace == source.namespace;
        Ok((labels && namespace).then_some(matcher))
    }

    /// Whether a request's head, and what its token says, fulfil all of them. Cheapest first: the token may have to be verified.
    pub(super) fn matches(&self, head: &Parts, token: &Token<'_>) -> bool {
        let fits = |text: &Option<Text>, value: fn(&Parts) -> Option<&[u8]>| {
            text.as_ref().is_none_or(|text| text.matches(value(head)))
        };
        fits(&self.method, method)
            && self.path.as_ref().is_none_or(|path| path.matches(head.uri.path()))
            && fits(&self.authority, authority)
            && fits(&self.scheme, scheme)
            && self.headers.iter().all(|header| header.matches(head))
            && self.query.iter().all(|query| query.matches(head.uri.query()))
            && self.claims.iter().all(|claim| claim.matches(token))
    }
}

fn method(head: &Parts) -> Option<&[u8]> {
    Some(head.method.as_str().as_bytes())
}

fn scheme(head: &Parts) -> Option<&[u8]> {
    Some(head.uri.scheme_str().unwrap_or("http").as_bytes())
}

/// `:authority`, or Host where the target is in origin form.
fn authority(head: &Parts) -> Option<&[u8]> {
    let authority = head.uri.authority().map(|a| a.as_str().as_bytes());
    authority.or_else(|| head.headers.get(HOST).map(http::HeaderValue::as_bytes))
}

fn path_and_query(head: &Parts) -> Option<&[u8]> {
    Some(head.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str).as_bytes())
}

/// A condition on the path, without the query.
#[derive(Debug)]
enum Path {
    Exact(Box<str>, Case),
    Prefix(Box<str>, Case),
    /// Without a slash at the end.
    Segments(Box<str>, Case),
    Regex(Box<Regex>),
}

#[derive(Debug, Clone, Copy)]
enum Case {
    Kept,
    Ignored,
}

impl Case {
    fn equal(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Self::Kept => a == b,
            Self::Ignored => a.eq_ignore_ascii_case(b),
        }
    }
}

impl Path {
    fn new(path: &wire::PathMatch, field: &str) -> Result<Self, InvalidRoute> {
        use wire::path_match::Kind;
        let case = if path.ignore_case { Case::Ignored } else { Case::Kept };
        Ok(match path.kind.as_ref() {
            Some(Kind::Exact(path)) => Self::Exact(path.as_str().into(), case),
            Some(Kind::Prefix(path)) => Self::Prefix(path.as_str().into(), case),
            Some(Kind::SegmentPrefix(path)) => Self::Segments(path.trim_end_matches('/').into(), case),
            // `ignoreUriCase` is for exact and prefix only (Istio).
            Some(Kind::Regex(pattern)) => Self::Regex(Box::new(regex(pattern, &format!("{field}.regex"))?)),
            None => return Err(InvalidRoute::Missing { field: field.to_owned() }),
        })
    }

    fn matches(&self, path: &str) -> bool {
        let path = path.as_bytes();
        let starts = |prefix: &str, case: Case| {
            path.get(..prefix.len()).is_some_and(|start| case.equal(start, prefix.as_bytes()))
        };
        match self {
            Self::Exact(text, case) => case.equal(path, text.as_bytes()),
            Self::Prefix(prefix, case) => starts(prefix, *case),
            Self::Segments(prefix, case) => {
                starts(prefix, *case) && matches!(path.get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }
}

/// A condition on a header or pseudo-header.
#[derive(Debug)]
struct Header {
    from: From,
    value: Text,
    invert: bool,
}

#[derive(Debug)]
enum From {
    Name(HeaderName),
    Pseudo(&'static str, fn(&Parts) -> Option<&[u8]>),
}

impl Header {
    fn new(header: &wire::HeaderMatch, field: &str) -> Result<Self, InvalidRoute> {
        let from = match header.name.as_str() {
            ":method" => From::Pseudo(":method", method),
            ":scheme" => From::Pseudo(":scheme", scheme),
            ":path" => From::Pseudo(":path", path_and_query),
            ":authority" | "host" => From::Pseudo(":authority", authority),
            name => From::Name(HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidRoute::Value {
                field: format!("{field}.name"),
                reason: format!("{name:?} is no header name"),
            })?),
        };
        let value = Text::required(header.value.as_ref(), &format!("{field}.value"))?;
        Ok(Self { from, value, invert: header.invert })
    }

    fn matches(&self, head: &Parts) -> bool {
        match &self.from {
            From::Pseudo(_, value) => self.decide(value(head)),
            From::Name(name) => {
                let mut values = head.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
                let first = values.next();
                match (first, values.next()) {
                    (Some(first), Some(second)) => self.decide(Some(&join(name, first, second, values))),
                    (first, _) => self.decide(first),
                }
            }
        }
    }

    fn decide(&self, value: Option<&[u8]>) -> bool {
        // Istio: for `withoutHeaders` an absent header counts as empty, except where only presence is asked for.
        let absent_is_empty = self.invert && !matches!(self.value, Text::Present(_));
        let value = if absent_is_empty { value.or(Some(b"")) } else { value };
        self.value.matches(value) != self.invert
    }
}

/// Several values of one name are matched as one text, joined with commas (cookies with `; `), as Envoy does.
fn join<'a>(name: &HeaderName, first: &[u8], second: &[u8], rest: impl Iterator<Item = &'a [u8]>) -> Joined {
    let separator: &[u8] = if name == COOKIE { b"; " } else { b"," };
    let mut joined = Joined::from_slice(first);
    joined.extend_from_slice(separator);
    joined.extend_from_slice(second);
    for value in rest {
        joined.extend_from_slice(separator);
        joined.extend_from_slice(value);
    }
    joined
}

/// A condition on a query parameter: the first of that name, undecoded, as Envoy does.
#[derive(Debug)]
struct Query {
    name: Box<str>,
    value: Text,
}

impl Query {
    fn new(query: &wire::QueryMatch, field: &str) -> Result<Self, InvalidRoute> {
        let value = Text::required(query.value.as_ref(), &format!("{field}.value"))?;
        Ok(Self { name: query.name.as_str().into(), value })
    }

    fn matches(&self, query: Option<&str>) -> bool {
        self.value.matches(parameter(query, &self.name).map(str::as_bytes))
    }
}

/// The first value of a query parameter; empty for a bare key.
pub(crate) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}
