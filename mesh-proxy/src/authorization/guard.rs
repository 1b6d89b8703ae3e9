//! What a connection leaves open of the policies. In: policies, and who is at the other end. Out: the rules that still can
//! match, with only what requests decide in them.

use std::sync::Arc;

use mesh_proto::model::authorization::{Attribute, Pattern};

use super::{Clause, Connection, Matcher, Policies, RequestFacts, Rule, Verdict};

/// The policies of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    deny: Vec<Rule>,
    allow: Vec<Rule>,
    restricted: bool,
}

/// Which kind of rule it is. Where a text can be read in several ways, DENY matches if one of them does, ALLOW if all do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// For DENY.
    Any,
    /// For ALLOW.
    All,
}

impl Reading {
    /// For what must not match.
    pub(super) fn opposite(self) -> Self {
        match self {
            Self::Any => Self::All,
            Self::All => Self::Any,
        }
    }
}

impl Guard {
    /// For the requests of a connection.
    #[must_use]
    pub fn of_requests(policies: &Policies, connection: &Connection) -> Self {
        let known = |matcher: &Matcher| matcher.of_connection(connection);
        let left = |rules: &[Rule]| rules.iter().filter_map(|rule| rule.given(known)).collect();
        Self { deny: left(&policies.deny), allow: left(&policies.allow), restricted: policies.restricted }
    }

    /// The verdict on a request.
    #[must_use]
    pub fn decide(&self, request: &RequestFacts<'_>) -> Verdict {
        let matches = |rule: &&Rule, reading| rule.matches(|matcher| matcher.of_request(request, reading));
        if let Some(rule) = self.deny.iter().find(|rule| matches(rule, Reading::Any)) {
            return Verdict::Denied(Some(rule.label.clone()));
        }
        if !self.restricted || self.allow.iter().any(|rule| matches(&rule, Reading::All)) {
            return Verdict::Allowed;
        }
        Verdict::Denied(None)
    }

    /// The verdict where it is the same for whatever is asked for.
    #[must_use]
    pub fn whole(&self) -> Option<Verdict> {
        if let Some(rule) = self.deny.iter().find(|rule| rule.is_settled()) {
            return Some(Verdict::Denied(Some(rule.label.clone())));
        }
        if self.restricted && self.allow.is_empty() {
            return Some(Verdict::Denied(None));
        }
        let allowed = !self.restricted || self.allow.iter().any(Rule::is_settled);
        (self.deny.is_empty() && allowed).then_some(Verdict::Allowed)
    }
}

impl Policies {
    /// The verdict on a connection that carries bytes. An ALLOW rule that asks for something of a request cannot match; a
    /// DENY rule asks for one thing less.
    #[must_use]
    pub fn of_bytes(&self, connection: &Connection) -> Verdict {
        let known = |matcher: &Matcher| match matcher.attribute {
            Attribute::RemoteIp => Some(matcher.holds(|p| p.is_address(connection.source))),
            _ if matcher.attribute.is_of_request() => Some(true),
            _ => matcher.of_connection(connection),
        };
        let matches = |rule: &&Rule| rule.given(known).is_some();
        if let Some(rule) = self.deny.iter().find(matches) {
            return Verdict::Denied(Some(rule.label.clone()));
        }
        let asks = |rule: &&Rule| rule.matchers().any(|matcher| matcher.attribute.is_of_request());
        if !self.restricted || self.allow.iter().filter(|rule| !asks(rule)).any(|rule| matches(&rule)) {
            return Verdict::Allowed;
        }
        Verdict::Denied(None)
    }
}

impl Rule {
    fn matchers(&self) -> impl Iterator<Item = &Arc<Matcher>> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }

    /// What is left of it once some matchers are decided; `None`: it cannot match any more.
    fn given(&self, known: impl Fn(&Matcher) -> Option<bool>) -> Option<Self> {
        Some(Self {
            label: self.label.clone(),
            from: one_of(&self.from, &known)?,
            to: one_of(&self.to, &known)?,
            when: all_of(&self.when, &known)?,
        })
    }

    /// It matches whatever is asked for.
    fn is_settled(&self) -> bool {
        self.from.is_empty() && self.to.is_empty() && self.when.is_empty()
    }

    fn matches(&self, holds: impl Fn(&Matcher) -> bool) -> bool {
        let one_of = |clauses: &[Clause]| {
            clauses.is_empty() || clauses.iter().any(|clause| clause.iter().all(|m| holds(m)))
        };
        self.when.iter().all(|matcher| holds(matcher)) && one_of(&self.from) && one_of(&self.to)
    }
}

/// Clauses that still can match; none at all when one of them matches for certain, as when there were none.
fn one_of(clauses: &[Clause], known: &impl Fn(&Matcher) -> Option<bool>) -> Option<Vec<Clause>> {
    if clauses.is_empty() {
        return Some(Vec::new());
    }
    let left: Vec<Clause> = clauses.iter().filter_map(|clause| all_of(clause, known)).collect();
    if left.is_empty() {
        return None;
    }
    Some(if left.iter().any(Vec::is_empty) { Vec::new() } else { left })
}

/// The matchers that are not decided yet; `None` when one does not hold.
fn all_of(clause: &[Arc<Matcher>], known: &impl Fn(&Matcher) -> Option<bool>) -> Option<Clause> {
    let mut left = Vec::new();
    for matcher in clause {
        match known(matcher) {
            Some(true) => {}
            Some(false) => return None,
            None => left.push(matcher.clone()),
        }
    }
    Some(left)
}

impl Matcher {
    /// Whether one of the values fits (if there are some) and none of the others does.
    pub(super) fn holds(&self, fits: impl Fn(&Pattern) -> bool) -> bool {
        (self.values.is_empty() || self.values.iter().any(&fits)) && !self.not_values.iter().any(&fits)
    }

    /// Whether it holds; `None` where that is a matter of the request. A peer that was not verified has no name at all.
    fn of_connection(&self, connection: &Connection) -> Option<bool> {
        let peer = connection.peer.as_ref();
        let named = |fits: &dyn Fn(&Pattern, &mesh_proto::model::SpiffeId) -> bool| {
            self.holds(|pattern| peer.is_some_and(|peer| fits(pattern, peer)))
        };
        Some(match &self.attribute {
            Attribute::SourcePrincipal => {
                named(&|pattern, peer| pattern.is_text(peer.as_str().trim_start_matches("spiffe://")))
            }
            Attribute::SourceNamespace => named(&|pattern, peer| match pattern {
                Pattern::Namespace(glob) => glob.matches(peer.namespace()),
                _ => false,
            }),
            Attribute::SourceServiceAccount => named(&|pattern, peer| match pattern {
                Pattern::ServiceAccount(account) => account
                    .split_once('/')
                    .is_some_and(|(of, name)| of == peer.namespace() && name == peer.service_account()),
                _ => false,
            }),
            Attribute::SourceTrustDomain => {
                named(&|pattern, peer| pattern.is_text(peer.trust_domain().as_str()))
            }
            Attribute::SourceIp => self.holds(|pattern| pattern.is_address(connection.source)),
            Attribute::DestinationIp => self.holds(|pattern| pattern.is_address(connection.destination.ip())),
            Attribute::DestinationPort => {
                self.holds(|pattern| *pattern == Pattern::Port(connection.destination.port()))
            }
            // A name has no case, and a dot at its end makes no other one of it.
            Attribute::ConnectionSni => {
                let name = connection.sni.strip_suffix('.').unwrap_or(&connection.sni);
                self.holds(|pattern| match pattern {
                    Pattern::Text(text) => text.matches_any_case(name.as_bytes()),
                    _ => false,
                })
            }
            _ => return None,
        })
    }
}

/// What patterns of one form are asked; of another form nothing fits.
pub(super) trait Fits {
    /// A text.
    fn is_text(&self, text: &str) -> bool;
    /// An address.
    fn is_address(&self, address: std::net::IpAddr) -> bool;
}

impl Fits for Pattern {
    fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Text(pattern) if pattern.matches(text.as_bytes()))
    }

    fn is_address(&self, address: std::net::IpAddr) -> bool {
        matches!(self, Self::Address(block) if block.contains(address))
    }
}
