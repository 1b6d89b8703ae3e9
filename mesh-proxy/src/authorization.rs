//! Who may do what here: AuthorizationPolicy, decided.
//!
//! ```text
//! self/self ─► Policies (parsed once) ─► Guard (once a connection: what its peer, addresses and port leave open)
//!                                          ├─► each request: allowed, or denied by which rule
//!                                          └─► bytes: once, and again when policies change
//! ```
//! What CUSTOM selects is asked about before that ([`external`]). Any DENY that matches denies; where there is an ALLOW, one has to match. Source: Istio's AuthorizationPolicy reference;
//! where it leaves open what a text with several readings means, the reading that lets less through counts.

pub mod external;
pub mod gate;
mod guard;
mod request;

#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "it only reads what has been parsed")]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_proto::model::SpiffeId;
use mesh_proto::model::authorization::{Attribute, InvalidPattern, Pattern, UnknownAttribute};
use mesh_proto::wire::mesh::v1 as wire;

pub use self::gate::Gate;
pub use self::guard::Guard;
pub use self::request::{RequestFacts, Token};

/// Why policies cannot be used. Guessing could open what should be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Neither ALLOW nor DENY.
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
    /// One that matches denies.
    deny: Vec<Rule>,
    /// One has to match, if there is an ALLOW policy.
    allow: Vec<Rule>,
    /// There is an ALLOW policy; it may have no rules.
    restricted: bool,
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
}

impl Policies {
    /// Parses what the pilot sends.
    ///
    /// # Errors
    /// Names the policy, and what in it means nothing to this build.
    pub fn parse(wire: &[wire::AuthorizationPolicy]) -> Result<Self, InvalidPolicy> {
        let mut policies = Self::default();
        for policy in wire {
            let origin = policy.origin.clone().unwrap_or_default();
            let name = format!("AuthorizationPolicy {}/{}", origin.namespace, origin.name);
            let action = wire::AuthorizationAction::try_from(policy.action)
                .map_err(|_| InvalidPolicy::Action { policy: name.clone(), action: policy.action })?;
            let rules = match action {
                wire::AuthorizationAction::AuthorizationDeny => &mut policies.deny,
                wire::AuthorizationAction::AuthorizationAllow => {
                    policies.restricted = true;
                    &mut policies.allow
                }
            };
            for (index, rule) in policy.rules.iter().enumerate() {
                let label = format!("ns[{}]-policy[{}]-rule[{index}]", origin.namespace, origin.name);
                let parser = Parser { policy: &name, namespace: &origin.namespace };
                rules.push(parser.rule(rule, label.into())?);
            }
        }
        Ok(policies)
    }

    /// Nothing is restricted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty() && !self.restricted
    }
}

/// For the errors' sake.
struct Parser<'a> {
    policy: &'a str,
    namespace: &'a str,
}

impl Parser<'_> {
    fn rule(&self, wire: &wire::AuthorizationRule, label: Arc<str>) -> Result<Rule, InvalidPolicy> {
        let clauses = |clauses: &[wire::AuthorizationClause]| {
            clauses.iter().map(|clause| self.clause(&clause.matches, "a clause")).collect::<Result<_, _>>()
        };
        let when = wire.when.iter().map(|matcher| self.matcher(matcher));
        Ok(Rule {
            label,
            from: clauses(&wire.from)?,
            to: clauses(&wire.to)?,
            when: when.collect::<Result<_, _>>()?,
        })
    }

    fn clause(&self, wire: &[wire::AuthorizationMatch], part: &'static str) -> Result<Clause, InvalidPolicy> {
        if wire.is_empty() {
            return Err(InvalidPolicy::Empty { policy: self.policy.to_owned(), part });
        }
        wire.iter().map(|matcher| self.matcher(matcher)).collect()
    }

    fn matcher(&self, wire: &wire::AuthorizationMatch) -> Result<Arc<Matcher>, InvalidPolicy> {
        let policy = || self.policy.to_owned();
        let attribute: Attribute =
            wire.attribute.parse().map_err(|why| InvalidPolicy::Attribute { policy: policy(), why })?;
        if wire.values.is_empty() && wire.not_values.is_empty() {
            return Err(InvalidPolicy::Empty { policy: policy(), part: "an attribute" });
        }
        let patterns = |texts: &[String]| {
            let pattern = |text: &String| Pattern::parse(&attribute, text, self.namespace);
            let parsed = texts.iter().map(pattern).collect::<Result<Vec<_>, _>>();
            parsed.map_err(|why| InvalidPolicy::Pattern { policy: policy(), why })
        };
        let (values, not_values) = (patterns(&wire.values)?, patterns(&wire.not_values)?);
        Ok(Arc::new(Matcher { attribute, values, not_values }))
    }
}
