//! Who may do what here: AuthorizationPolicy, decided.
//!
//! ```text
//! self/self ─► Policies (parsed once) ─► Guard (once for connections alike: what peer, addresses and port leave open, indexed)
//!                                          ├─► each request: allowed, or denied by which rule
//!                                          └─► bytes: once, and again when policies change
//! ```
//! What CUSTOM selects is asked about before that ([`external`]). Any DENY that matches denies; where there is an ALLOW, one has to match. Source: Istio's AuthorizationPolicy reference;
//! where it leaves open what a text with several readings means, the reading that lets less through counts.

pub mod external;
pub mod gate;
mod guard;
mod guards;
mod literals;
mod parse;
mod request;
mod rules;
pub mod under_way;
mod watched;

#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "it only reads what has been parsed")]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::parse::Parser;
use mesh_proto::model::SpiffeId;
use mesh_proto::model::authorization::{Attribute, InvalidPattern, Pattern, UnknownAttribute};
use mesh_proto::wire::mesh::v1 as wire;

use crate::respond::Failure;

pub use self::gate::Gate;
pub use self::guard::Guard;
use self::guards::Facts;
pub use self::guards::Guards;
pub use self::request::{RequestFacts, Token};
pub use self::rules::Rules;
pub use self::watched::{Shadow, Watched};

/// Why policies cannot be used. Guessing could open what should be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// None of those that it may have here.
    #[error("{policy}: unknown action {action}")]
    Action {
        /// Which policy.
        policy: String,
        /// Its number on the wire.
        action: i32,
    },
    /// What this build does not know.
    #[error("{policy}: {why}")]
    Attribute {
        /// Which policy.
        policy: String,
        /// Which attribute.
        why: UnknownAttribute,
    },
    /// A value that means nothing.
    #[error("{policy}: {why}")]
    Pattern {
        /// Which policy.
        policy: String,
        /// Which value.
        why: InvalidPattern,
    },
    /// No port.
    #[error("{policy}: {port} is no port from 1 to 65535")]
    Port {
        /// Which policy.
        policy: String,
        /// What stands there.
        port: u32,
    },
    /// It asks for nothing, which would match everything.
    #[error("{policy}: {part} without anything to match")]
    Empty {
        /// Which policy.
        policy: String,
        /// What is empty.
        part: &'static str,
    },
}

/// All policies of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// What decides.
    enforced: Actions,
    /// Dry runs: decided and told, and nothing comes of it.
    dry_run: Actions,
    /// What matches is told.
    audit: Vec<Rule>,
    /// What rules look at of a connection.
    facts: Facts,
}

/// Rules that decide together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Actions {
    /// One that matches denies.
    deny: Vec<Rule>,
    /// There is a DENY policy; it may have no rules.
    denies: Restricted,
    /// One has to match, if there is an ALLOW policy.
    allow: Vec<Rule>,
    /// There is an ALLOW policy; it may have no rules.
    restricted: Restricted,
}

/// Where there is a policy of some action.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Restricted {
    everywhere: bool,
    /// Only at these ports of the workload.
    ports: Vec<u16>,
}

/// One rule: all three parts have to match.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// As Envoy's details have it: `ns[default]-policy[name]-rule[0]`.
    label: Arc<str>,
    /// Empty, or one of them.
    from: Vec<Clause>,
    /// Empty, or one of them.
    to: Vec<Clause>,
    /// All of them.
    when: Clause,
}

/// All of them have to match.
type Clause = Vec<Arc<Matcher>>;

/// An attribute, with what it has to be (if that is not empty) and what it must not be.
#[derive(Debug, PartialEq, Eq)]
struct Matcher {
    attribute: Attribute,
    values: Vec<Pattern>,
    not_values: Vec<Pattern>,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allowed,
    /// It may not: by this rule, or (none) because no ALLOW matches.
    Denied(Option<Arc<str>>),
}

/// What is known of a connection when it has been let in.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Who was verified.
    pub peer: Option<SpiffeId>,
    /// Where it comes from.
    pub source: IpAddr,
    /// Our address, and the workload's port.
    pub destination: SocketAddr,
    /// The name that the client's TLS asked for; empty: none.
    pub sni: Box<str>,
    /// Why nothing may go on or begin on it any more, once that is so.
    pub ended: Ended,
}

/// Why a connection is over; nothing, as long as it is not.
#[derive(Debug, Clone, Default)]
pub struct Ended(RefCell<Option<Failure>>);

impl Ended {
    /// It is over from here on. The first reason stays.
    pub fn end(&self, failure: Failure) {
        self.0.borrow_mut().get_or_insert(failure);
    }

    /// Why it is over, if it is.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.0.borrow().clone()
    }
}

impl Policies {
    /// Parses what the pilot sends to be enforced.
    ///
    /// # Errors
    /// Names the policy, and what in it means nothing to this build.
    pub fn parse(wire: &[wire::AuthorizationPolicy]) -> Result<Self, InvalidPolicy> {
        let mut policies = Self::default();
        wire.iter().try_for_each(|policy| policies.add(policy, false))?;
        Ok(policies)
    }

    /// The same, with what is only to be told: AUDIT and dry runs.
    ///
    /// # Errors
    /// Names the policy, and what in it means nothing to this build.
    pub fn watching(mut self, wire: &[wire::AuthorizationPolicy]) -> Result<Self, InvalidPolicy> {
        wire.iter().try_for_each(|policy| self.add(policy, true))?;
        Ok(self)
    }

    fn add(&mut self, policy: &wire::AuthorizationPolicy, watched: bool) -> Result<(), InvalidPolicy> {
        use wire::AuthorizationAction as Action;
        let parser = Parser::new(policy)?;
        let rules = parser.rules(policy)?;
        for matcher in rules.iter().flat_map(Rule::matchers) {
            self.facts.note(&matcher.attribute);
        }
        if !parser.ports.is_empty() {
            self.facts.note(&Attribute::DestinationPort);
        }
        let unknown = || InvalidPolicy::Action { policy: parser.policy.clone(), action: policy.action };
        let actions = if watched { &mut self.dry_run } else { &mut self.enforced };
        let (of_action, restricted) = match Action::try_from(policy.action).map_err(|_| unknown())? {
            Action::AuthorizationDeny => (&mut actions.deny, &mut actions.denies),
            Action::AuthorizationAllow => (&mut actions.allow, &mut actions.restricted),
            Action::AuthorizationAudit if watched => {
                self.audit.extend(rules);
                return Ok(());
            }
            Action::AuthorizationAudit => return Err(unknown()),
        };
        of_action.extend(rules);
        restricted.add(&parser.ports);
        Ok(())
    }

    /// Nothing is restricted, and nothing is to be told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.enforced.is_empty() && !self.watches()
    }

    /// There is something to be told that decides nothing.
    #[must_use]
    pub fn watches(&self) -> bool {
        !self.audit.is_empty() || self.dry_run != Actions::default()
    }
}

impl Actions {
    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.restricted == Restricted::default()
    }
}

impl Restricted {
    fn add(&mut self, ports: &[u16]) {
        self.everywhere |= ports.is_empty();
        self.ports.extend(ports);
    }

    fn at(&self, port: u16) -> bool {
        self.everywhere || self.ports.contains(&port)
    }
}
