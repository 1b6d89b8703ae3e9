//! What a connection leaves open of the policies. In: policies, and who is at the other end. Out: the rules that still can
//! match, with only what requests decide in them.

use std::sync::Arc;

use mesh_proto::model::authorization::{Attribute, Pattern};

use super::{
    Actions, Clause, Connection, Matcher, Policies, RequestFacts, Rule, Rules, Shadow, Verdict, Watched,
};

/// The policies of one connection.
#[derive(Debug)]
pub struct Guard {
    enforced: Decider,
    /// What is told and decides nothing.
    watched: Option<Box<Watch>>,
}

/// Rules that decide together.
#[derive(Debug)]
struct Decider {
    deny: Rules,
    /// There is a DENY policy.
    denies: bool,
    allow: Rules,
    /// There is an ALLOW policy.
    restricted: bool,
}

#[derive(Debug)]
struct Watch {
    audit: Rules,
    dry_run: Decider,
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
        let left = |rules: &[Rule]| Rules::new(rules.iter().filter_map(|rule| rule.given(known)).collect());
        let port = connection.destination.port();
        let decider = |actions: &Actions| Decider {
            deny: left(&actions.deny),
            denies: actions.denies.at(port),
            allow: left(&actions.allow),
            restricted: actions.restricted.at(port),
        };
        let watch = || Watch { audit: left(&policies.audit), dry_run: decider(&policies.dry_run) };
        let watched = policies.watches().then(|| Box::new(watch()));
        Self { enforced: decider(&policies.enforced), watched }
    }

    /// The verdict on a request.
    #[must_use]
    pub fn decide(&self, request: &RequestFacts<'_>) -> Verdict {
        let Decider { deny, allow, restricted, .. } = &self.enforced;
        if let Some(rule) = deny.first(request, Reading::Any) {
            return Verdict::Denied(Some(rule.label.clone()));
        }
        if !restricted || allow.first(request, Reading::All).is_some() {
            return Verdict::Allowed;
        }
        Verdict::Denied(None)
    }

    /// The verdict where it is the same for whatever is asked for.
    #[must_use]
    pub fn whole(&self) -> Option<Verdict> {
        let Decider { deny, allow, restricted, .. } = &self.enforced;
        if let Some(rule) = deny.settled() {
            return Some(Verdict::Denied(Some(rule.label.clone())));
        }
        if *restricted && allow.is_empty() {
            return Some(Verdict::Denied(None));
        }
        let allowed = !restricted || allow.settled().is_some();
        (deny.is_empty() && allowed).then_some(Verdict::Allowed)
    }

    /// What is told of a request and decides nothing.
    #[must_use]
    pub fn watch(&self, request: &RequestFacts<'_>) -> Watched {
        let Some(watch) = &self.watched else { return Watched::default() };
        let label = |rule: Option<&Rule>| rule.map(|rule| rule.label.clone());
        let Decider { deny, denies, allow, restricted } = &watch.dry_run;
        Watched {
            audit: label(watch.audit.first(request, Reading::Any)),
            deny: denies.then(|| Shadow::of_deny(label(deny.first(request, Reading::Any)))),
            allow: restricted.then(|| Shadow::of_allow(label(allow.first(request, Reading::All)))),
        }
    }

    /// How many rules still can match.
    #[must_use]
    pub fn len(&self) -> usize {
        let of = |decider: &Decider| decider.deny.len() + decider.allow.len();
        let watched = self.watched.as_ref().map(|watch| watch.audit.len() + of(&watch.dry_run));
        of(&self.enforced) + watched.unwrap_or_default()
    }

    /// Whether none can.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Policies {
    /// The verdict on a connection that carries bytes.
    #[must_use]
    pub fn of_bytes(&self, connection: &Connection) -> Verdict {
        if let Some(rule) = first_of_bytes(&self.enforced.deny, connection, Reading::Any) {
            return Verdict::Denied(Some(rule));
        }
        let restricted = self.enforced.restricted.at(connection.destination.port());
        if !restricted || first_of_bytes(&self.enforced.allow, connection, Reading::All).is_some() {
            return Verdict::Allowed;
        }
        Verdict::Denied(None)
    }

    /// What is told of such a connection and decides nothing.
    #[must_use]
    pub fn watch_bytes(&self, connection: &Connection) -> Watched {
        let first = |rules, reading| first_of_bytes(rules, connection, reading);
        let port = connection.destination.port();
        let Actions { deny, denies, allow, restricted } = &self.dry_run;
        Watched {
            audit: first(&self.audit, Reading::Any),
            deny: denies.at(port).then(|| Shadow::of_deny(first(deny, Reading::Any))),
            allow: restricted.at(port).then(|| Shadow::of_allow(first(allow, Reading::All))),
        }
    }
}

/// The first rule that matches a connection of bytes. Of an ALLOW rule that asks for something of a request none can; a DENY rule
/// asks for one thing less.
fn first_of_bytes(rules: &[Rule], connection: &Connection, reading: Reading) -> Option<Arc<str>> {
    let holds = |matcher: &Matcher| match matcher.attribute {
        Attribute::RemoteIp => matcher.holds(|p| p.is_address(connection.source)),
        _ if matcher.attribute.is_of_request() => reading == Reading::Any,
        _ => matcher.of_connection(connection).unwrap_or_default(),
    };
    let asks = |rule: &Rule| rule.matchers().any(|matcher| matcher.attribute.is_of_request());
    let can = |rule: &&Rule| reading == Reading::Any || !asks(rule);
    rules.iter().filter(can).find(|rule| rule.matches(holds)).map(|rule| rule.label.clone())
}

impl Rule {
    pub(super) fn matchers(&self) -> impl Iterator<Item = &Arc<Matcher>> {
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
    pub(super) fn is_settled(&self) -> bool {
        self.from.is_empty() && self.to.is_empty() && self.when.is_empty()
    }

    pub(super) fn matches(&self, holds: impl Fn(&Matcher) -> bool) -> bool {
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
