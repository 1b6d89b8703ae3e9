//! Which rule a request takes: a destination's ordered rules, parsed once from the wire, evaluated without allocating.
//!
//! In: `wire::RouteTable` (VirtualService or Gateway API, merged and ordered by the pilot) and facts about this proxy.
//! Out: [`RouteTable::find`] over a request's head. Source labels and namespace are decided at load, so that a rule
//! that can never match here isn't kept (Istio: such a match removes the rule for this proxy).

mod backend;
mod dump;
mod duration;
mod matcher;
mod retry;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use mesh_proto::model::host_port::{HostPort, InvalidHostPort};
use mesh_proto::wire::mesh::v1 as wire;

pub use backend::{Backend, Backends};
pub(crate) use dump::{backend as dump_backend, dump_origin};
pub(crate) use duration::parse as parse_duration;
pub use matcher::VerifiedClaims;
pub(crate) use matcher::parameter;
use matcher::{Matcher, Token};
pub use retry::{Outcome, RetryOn, RetryPolicy};

use crate::cluster::ClusterHandle;

/// Facts about this proxy that matches on the source need.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The workload's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The workload's namespace.
    pub namespace: &'a str,
}

/// Why a route on the wire is refused. `field` is its path in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// A oneof or message that must be there is absent.
    #[error("{field}: missing")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// A regular expression that does not compile, or is too large.
    #[error("{field}: {reason}")]
    Regex {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A backend's name is no `host:port`.
    #[error("{field}: {source}")]
    Backend {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        source: InvalidHostPort,
    },
    /// Any other value that has no meaning.
    #[error("{field}: {reason}")]
    Value {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The rules of one destination, in order.
#[derive(Debug)]
pub struct RouteTable {
    rules: Vec<Rule>,
    origin: Option<wire::Origin>,
}

/// One rule: what it matches, and what happens then.
#[derive(Debug)]
pub struct Rule {
    /// `%ROUTE_NAME%`: the rule's name, with the match's name after a dot where it has one.
    pub name: Arc<str>,
    /// What the user wrote it in.
    pub origin: Option<Arc<wire::Origin>>,
    /// What to do.
    pub action: Arc<Action>,
    /// `None`: every request.
    matcher: Option<Matcher>,
}

/// What a rule does.
#[derive(Debug)]
pub enum Action {
    /// Forward to one of several backends.
    Route(RouteAction),
    /// Answer here.
    Respond(DirectResponse),
}

/// Forwarding.
#[derive(Debug)]
pub struct RouteAction {
    /// Where to.
    pub backends: Backends,
    /// For the whole request, retries included.
    pub timeout: Option<Duration>,
    /// Complete: defaults were filled in by the pilot.
    pub retry: RetryPolicy,
}

/// An answer of the proxy's own.
#[derive(Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body, perhaps empty.
    pub body: Bytes,
}

/// A rule for bytes (opaque ports).
#[derive(Debug)]
pub struct TcpRule {
    /// Where to.
    pub backends: Backends,
    /// What the user wrote it in.
    pub origin: Option<Arc<wire::Origin>>,
    /// The bytes are mTLS of the mesh between others.
    pub mesh_tls: bool,
}

impl RouteTable {
    /// Parses a table. `resolve` gives the handle of a backend's cluster.
    ///
    /// # Errors
    /// Names the field that has no meaning.
    pub fn new(
        wire: &wire::RouteTable,
        source: &Source<'_>,
        mut resolve: impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidRoute> {
        let mut rules = Vec::with_capacity(wire.rules.len());
        for (index, rule) in wire.rules.iter().enumerate() {
            Rule::parse(rule, source, &format!("rules[{index}]"), &mut resolve, &mut rules)?;
        }
        Ok(Self { rules, origin: wire.origin.clone() })
    }

    /// The first rule that matches. A token that was verified is among the head's extensions.
    #[must_use]
    pub fn find(&self, head: &Parts) -> Option<&Rule> {
        self.find_with(head, || head.extensions.get().cloned())
    }

    /// The same of a request whose token nobody has looked at: `claims` says what it says. It is asked once, when a rule that
    /// matches in all else looks at claims, or never.
    #[must_use]
    pub fn find_with(&self, head: &Parts, claims: impl Fn() -> Option<VerifiedClaims>) -> Option<&Rule> {
        let token = Token::new(&claims);
        self.rules.iter().find(|rule| rule.matches(head, &token))
    }

    /// All rules that can match in this proxy, in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What the table as a whole was written in; `None`: the default of a plain service.
    #[must_use]
    pub fn origin(&self) -> Option<&wire::Origin> {
        self.origin.as_ref()
    }

    /// The clusters that its rules name, perhaps repeatedly (make before break needs them).
    pub fn clusters(&self) -> impl Iterator<Item = &ClusterHandle> {
        self.rules
            .iter()
            .flat_map(|rule| match &*rule.action {
                Action::Route(route) => route.backends.as_slice(),
                Action::Respond(_) => &[],
            })
            .map(|backend| &backend.cluster)
    }
}

impl Rule {
    /// Appends what a rule on the wire comes to here: nothing where no match selects this proxy, several rules with one
    /// action where matches have names of their own (they are part of `%ROUTE_NAME%`).
    fn parse(
        wire: &wire::Rule,
        source: &Source<'_>,
        field: &str,
        resolve: &mut impl FnMut(&HostPort) -> ClusterHandle,
        rules: &mut Vec<Self>,
    ) -> Result<(), InvalidRoute> {
        let action = Arc::new(Action::new(wire.action.as_ref(), field, resolve)?);
        let origin = wire.origin.clone().map(Arc::new);
        let mut add = |name: &str, matcher: Option<Matcher>| {
            let name = if name.is_empty() { wire.name.clone() } else { format!("{}.{name}", wire.name) };
            rules.push(Self { name: name.into(), origin: origin.clone(), action: action.clone(), matcher });
        };
        if wire.matches.is_empty() {
            add("", None);
        }
        for (index, one) in wire.matches.iter().enumerate() {
            if let Some(matcher) = Matcher::new(one, source, &format!("{field}.matches[{index}]"))? {
                add(&one.name, Some(matcher));
            }
        }
        Ok(())
    }

    fn matches(&self, head: &Parts, token: &Token<'_>) -> bool {
        self.matcher.as_ref().is_none_or(|matcher| matcher.matches(head, token))
    }
}

impl Action {
    fn new(
        wire: Option<&wire::rule::Action>,
        field: &str,
        resolve: &mut impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidRoute> {
        match wire {
            Some(wire::rule::Action::Route(route)) => {
                Ok(Self::Route(RouteAction::new(route, &format!("{field}.route"), resolve)?))
            }
            Some(wire::rule::Action::DirectResponse(response)) => {
                let status = u16::try_from(response.status).ok().and_then(|s| StatusCode::from_u16(s).ok());
                let status = status.filter(|s| s.as_u16() >= 200).ok_or_else(|| InvalidRoute::Value {
                    field: format!("{field}.direct_response.status"),
                    reason: format!("{} is no final status", response.status),
                })?;
                Ok(Self::Respond(DirectResponse { status, body: response.body.clone() }))
            }
            None => Err(InvalidRoute::Missing { field: format!("{field}.action") }),
        }
    }
}

impl RouteAction {
    fn new(
        wire: &wire::RouteAction,
        field: &str,
        resolve: &mut impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidRoute> {
        let timeout = wire.timeout.map(parse_duration).transpose();
        let timeout =
            timeout.map_err(|reason| InvalidRoute::Value { field: format!("{field}.timeout"), reason })?;
        Ok(Self {
            backends: Backends::new(&wire.backends, &format!("{field}.backends"), resolve)?,
            // Istio: 0s disables it.
            timeout: timeout.filter(|t| !t.is_zero()),
            retry: RetryPolicy::new(wire.retry.as_ref(), &format!("{field}.retry"))?,
        })
    }

    /// Where to, by weight. `None`: there is no backend that may get anything (answer 500).
    pub fn choose_backend<R: rand::Rng>(&self, rng: &mut R) -> Option<&Backend> {
        self.backends.choose(rng)
    }
}

impl TcpRule {
    /// Parses a destination's rules for bytes, in order.
    ///
    /// # Errors
    /// Names the field that has no meaning.
    pub fn parse_all(
        wire: &[wire::TcpRule],
        mut resolve: impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Vec<Self>, InvalidRoute> {
        let rules = wire.iter().enumerate();
        rules
            .map(|(index, rule)| {
                Ok(Self {
                    backends: Backends::new(&rule.backends, &format!("tcp[{index}].backends"), &mut resolve)?,
                    origin: rule.origin.clone().map(Arc::new),
                    mesh_tls: rule.mesh_tls,
                })
            })
            .collect()
    }
}
