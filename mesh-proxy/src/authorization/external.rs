//! AuthorizationPolicy CUSTOM: somebody else is asked whether a request may pass (Envoy's ext_authz), before DENY and ALLOW.
//!
//! ```text
//! self/self ─► External (parsed once) ─► a rule matches? ─► body (held, bounded) ─► grpc | http ─► call (the provider's
//!                                                                                     cluster) ─► answer ─► fields
//! ```
//! In: requests, after their paths were normalised. Out: the request as the provider wants it to go on, what its answer gets,
//! or the failure. Whatever the provider changes, tokens and policies are asked afterwards. No answer is a no, unless
//! `failOpen` says otherwise; an answer that cannot be carried out is always a no. Sources: Istio's MeshConfig, Envoy's
//! `envoy.service.auth.v3` and its ext_authz filter.

mod answer;
mod ask;
mod body;
mod call;
mod fields;
mod grpc;
mod http;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, StatusCode};
use mesh_proto::model::HostPort;
use mesh_proto::model::authorization::{InvalidPattern, TextPattern};
use mesh_proto::model::host_port::InvalidHostPort;
use mesh_proto::wire::mesh::v1 as wire;

pub use self::answer::Changes;
pub use self::ask::{Asked, Whom, bytes};

use super::{Connection, Guard, InvalidPolicy, Policies, RequestFacts, Verdict};
use crate::cluster::{ClusterCell, ClusterHandle};

/// Why it cannot be used. Guessing could open what should be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidExternal {
    /// One of the policies.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// Whom to ask.
    #[error("cluster: {0}")]
    Cluster(#[from] InvalidHostPort),
    /// A pattern for names of fields.
    #[error("{0}")]
    Pattern(#[from] InvalidPattern),
    /// A field is missing or out of range.
    #[error("{0}")]
    Field(&'static str),
}

/// Who is asked about this workload's requests, and about which.
#[derive(Debug, Clone, PartialEq)]
pub struct External {
    /// What these would deny is asked about.
    selection: Policies,
    /// The provider's name.
    name: String,
    /// It, or why it cannot be asked.
    provider: Result<Provider, String>,
}

/// Somebody who can be asked.
#[derive(Debug, Clone)]
struct Provider {
    cluster: ClusterHandle,
    timeout: Duration,
    fail_open: bool,
    status_on_error: StatusCode,
    body: Option<Shown>,
    clear_route_cache: bool,
    protocol: Protocol,
}

/// How much of a body is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    max: usize,
    allow_partial: bool,
    as_bytes: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Protocol {
    Grpc,
    Http(HttpSettings),
}

/// Patterns are of names in lower case.
#[derive(Debug, Clone, PartialEq)]
struct HttpSettings {
    prefix: String,
    shown: Vec<TextPattern>,
    additional: Vec<(HeaderName, HeaderValue)>,
    upstream: Vec<TextPattern>,
    downstream_on_allow: Vec<TextPattern>,
    /// None: all.
    downstream_on_deny: Option<Vec<TextPattern>>,
}

impl PartialEq for Provider {
    /// The cell of a cluster says nothing that its name does not.
    fn eq(&self, other: &Self) -> bool {
        let settings = |p: &Self| {
            (p.timeout, p.fail_open, p.status_on_error, p.body, p.clear_route_cache, p.protocol.clone())
        };
        self.cluster.name() == other.cluster.name() && settings(self) == settings(other)
    }
}

impl External {
    /// Parses what the pilot sends.
    ///
    /// # Errors
    /// Which part of it is none.
    pub fn parse(wire: &wire::ExternalAuthorization) -> Result<Self, InvalidExternal> {
        let selection = Policies::parse(&wire.policies)?;
        let provider = match wire.trouble.is_empty() {
            true => Ok(Provider::parse(wire)?),
            false => Err(wire.trouble.clone()),
        };
        Ok(Self { selection, name: wire.provider.clone(), provider })
    }

    /// The cluster that is asked.
    #[must_use]
    pub fn cluster(&self) -> Option<&HostPort> {
        self.provider.as_ref().ok().map(|provider| provider.cluster.name())
    }

    /// Gives it the cell in which that cluster is published.
    pub fn connect(&mut self, handle: impl FnOnce(&HostPort) -> ClusterHandle) {
        if let Ok(provider) = &mut self.provider {
            provider.cluster = handle(provider.cluster.name());
        }
    }

    /// What of a connection's requests is asked about.
    pub(super) fn guard(&self, connection: &Connection) -> Guard {
        Guard::of_requests(&self.selection, connection)
    }

    /// Whether somebody is to be asked about a request.
    pub(super) fn selects(&self, connection: &Connection, request: &RequestFacts<'_>) -> bool {
        self.guard(connection).decide(request) != Verdict::Allowed
    }

    /// Whether routes are chosen after the answer, not before.
    #[must_use]
    pub fn clears_route(&self) -> bool {
        self.provider.as_ref().is_ok_and(|provider| provider.clear_route_cache)
    }

    /// Whether bytes that were let in under `before` may flow on: those that were not asked about then must be now.
    #[must_use]
    pub fn still_holds(&self, before: Option<&Self>, connection: &Connection) -> bool {
        let selects = |by: &Self| by.selection.of_bytes(connection) != Verdict::Allowed;
        before.is_some_and(|before| before.asks_the_same(self) && selects(before)) || !selects(self)
    }

    /// Whether it is the same one that is asked in the same way, whatever he is told and for how long he is waited for.
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        let whom = |by: &Self| {
            let provider = by.provider.as_ref().ok()?;
            Some((provider.cluster.name().clone(), std::mem::discriminant(&provider.protocol)))
        };
        self.name == other.name && whom(self) == whom(other)
    }
}

impl Provider {
    fn parse(wire: &wire::ExternalAuthorization) -> Result<Self, InvalidExternal> {
        let cluster = wire.cluster.as_ref().ok_or(InvalidExternal::Field("cluster is missing"))?;
        let timeout = wire.timeout.unwrap_or_default().try_into().ok().filter(|t: &Duration| !t.is_zero());
        let status = u16::try_from(wire.status_on_error).ok().filter(|status| (200..600).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let protocol = wire.protocol.as_ref().ok_or(InvalidExternal::Field("protocol is missing"))?;
        let body = |body: wire::CheckedBody| {
            let max = usize::try_from(body.max_bytes).ok().filter(|max| *max > 0);
            let max = max.ok_or(InvalidExternal::Field("body.max_bytes is 0"))?;
            Ok::<_, InvalidExternal>(Shown {
                max,
                allow_partial: body.allow_partial,
                as_bytes: body.as_bytes,
            })
        };
        Ok(Self {
            cluster: Arc::new(ClusterCell::absent(HostPort::try_from(cluster)?)),
            timeout: timeout.ok_or(InvalidExternal::Field("timeout is no time"))?,
            fail_open: wire.fail_open,
            status_on_error: status.ok_or(InvalidExternal::Field("status_on_error is no final status"))?,
            body: wire.body.map(body).transpose()?,
            clear_route_cache: wire.clear_route_cache,
            protocol: match protocol {
                wire::external_authorization::Protocol::Grpc(_) => Protocol::Grpc,
                wire::external_authorization::Protocol::Http(http) => {
                    Protocol::Http(HttpSettings::parse(http)?)
                }
            },
        })
    }
}

impl HttpSettings {
    fn parse(wire: &wire::HttpAuthorization) -> Result<Self, InvalidExternal> {
        let patterns = |list: &[String]| -> Result<Vec<TextPattern>, InvalidExternal> {
            Ok(list.iter().map(|text| TextPattern::parse(text)).collect::<Result<_, _>>()?)
        };
        let additional = wire.additional_headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !fields::is_framing(name));
            Some((name?, HeaderValue::from_str(value).ok()?))
        });
        let additional: Option<Vec<_>> = additional.collect();
        let prefix = &wire.path_prefix;
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
        let is_path = prefix.starts_with('/') && prefix.bytes().all(plain);
        if !prefix.is_empty() && !is_path {
            return Err(InvalidExternal::Field("path_prefix is no path"));
        }
        let on_deny = patterns(&wire.to_downstream_on_deny)?;
        Ok(Self {
            prefix: prefix.clone(),
            shown: patterns(&wire.request_headers)?,
            additional: additional.ok_or(InvalidExternal::Field("additional_headers cannot be sent"))?,
            upstream: patterns(&wire.to_upstream_on_allow)?,
            downstream_on_allow: patterns(&wire.to_downstream_on_allow)?,
            downstream_on_deny: Some(on_deny).filter(|list| !list.is_empty()),
        })
    }
}
