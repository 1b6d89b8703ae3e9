//! The key of consistent hashing, taken from a request, hashed with XXH64 as Envoy does.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use http::header::{COOKIE, HeaderName};
use http::request::Parts;
use mesh_proto::wire::mesh::v1 as wire;
use rand::Rng;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::InvalidCluster;
use super::policy::{LoadBalancer, Policy};
use crate::route::{parameter, parse_duration};

/// Where the key is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A request header; several values are joined with `,`.
    Header(HeaderName),
    /// A query parameter, the first of that name.
    Query(Box<str>),
    /// The address of the client.
    SourceIp,
    /// A cookie; made up and set where `ttl` is given and the request has none.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// Its path attribute, perhaps empty.
        path: Box<str>,
        /// Zero: a session cookie.
        ttl: Option<Duration>,
    },
}

/// What a request's key came to.
#[derive(Debug, Default)]
pub struct Hashed {
    /// The hash; `None` when the request has no key.
    pub hash: Option<u64>,
    /// A `set-cookie` for the answer, when a cookie was made up.
    pub set_cookie: Option<HeaderValue>,
}

impl Policy {
    /// What consistent hashing hashes, if this policy hashes.
    #[must_use]
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.load_balancer {
            LoadBalancer::RingHash { key, .. } | LoadBalancer::Maglev { key, .. } => Some(key),
            _ => None,
        }
    }
}

impl HashKey {
    /// Parses; `field` is the message's path.
    pub(super) fn new(wire: Option<&wire::HashKey>, field: &str) -> Result<Self, InvalidCluster> {
        use wire::hash_key::Kind;
        let invalid = |name: &str, reason| InvalidCluster::Value { field: format!("{field}.{name}"), reason };
        Ok(match wire.and_then(|w| w.kind.as_ref()) {
            Some(Kind::Header(name)) => Self::Header(
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| invalid("header", format!("{name:?} is no header name")))?,
            ),
            Some(Kind::Query(name)) => Self::Query(name.as_str().into()),
            Some(Kind::SourceIp(_)) => Self::SourceIp,
            Some(Kind::Cookie(cookie)) => {
                // A made-up cookie is written into a header.
                let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b',');
                if cookie.name.is_empty() || !plain(&cookie.name) || cookie.name.contains('=') {
                    return Err(invalid("cookie.name", format!("{:?} is no cookie name", cookie.name)));
                }
                if !plain(&cookie.path) {
                    return Err(invalid("cookie.path", format!("{:?} is no cookie path", cookie.path)));
                }
                let ttl = cookie.ttl.map(parse_duration).transpose();
                Self::Cookie {
                    name: cookie.name.as_str().into(),
                    path: cookie.path.as_str().into(),
                    ttl: ttl.map_err(|reason| invalid("cookie.ttl", reason))?,
                }
            }
            None => return Err(InvalidCluster::Missing { field: field.to_owned() }),
        })
    }

    /// Evaluates the key on a request from `source`.
    pub fn evaluate<R: Rng>(&self, head: &Parts, source: IpAddr, rng: &mut R) -> Hashed {
        let hash = |text: &[u8]| Hashed { hash: Some(xxh64(text, 0)), set_cookie: None };
        match self {
            Self::Header(name) => header(head, name),
            Self::Query(name) => {
                parameter(head.uri.query(), name).map(|v| hash(v.as_bytes())).unwrap_or_default()
            }
            Self::SourceIp => match source {
                IpAddr::V4(ip) => hash(&ip.octets()),
                IpAddr::V6(ip) => hash(&ip.octets()),
            },
            Self::Cookie { name, path, ttl } => match (cookie(head, name), ttl) {
                (Some(value), _) => hash(value),
                (None, Some(ttl)) => made_up(name, path, *ttl, rng),
                (None, None) => Hashed::default(),
            },
        }
    }
}

/// Several values are hashed as one, joined with commas.
fn header(head: &Parts, name: &HeaderName) -> Hashed {
    let mut hasher: Option<Xxh64> = None;
    for value in head.headers.get_all(name) {
        let hasher = match hasher.as_mut() {
            Some(hasher) => {
                hasher.update(b",");
                hasher
            }
            None => hasher.insert(Xxh64::new(0)),
        };
        hasher.update(value.as_bytes());
    }
    Hashed { hash: hasher.map(|h| h.digest()), set_cookie: None }
}

fn cookie<'a>(head: &'a Parts, name: &str) -> Option<&'a [u8]> {
    let lines = head.headers.get_all(COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|b| *b == b';')).find_map(|pair| {
        let (key, value) = pair.trim_ascii().split_at_checked(name.len())?;
        let value = value.strip_prefix(b"=")?;
        (key == name.as_bytes())
            .then(|| value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// A new client gets a cookie that will send it to the same endpoint again.
fn made_up<R: Rng>(name: &str, path: &str, ttl: Duration, rng: &mut R) -> Hashed {
    let value = format!("{:016x}", rng.next_u64());
    let mut text = format!("{name}=\"{value}\"");
    if !ttl.is_zero() {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        text.push_str(&format!("; Path={path}"));
    }
    text.push_str("; HttpOnly");
    Hashed { hash: Some(xxh64(value.as_bytes(), 0)), set_cookie: HeaderValue::from_str(&text).ok() }
}
