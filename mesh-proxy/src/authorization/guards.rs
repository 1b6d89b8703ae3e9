//! The guards of one thread. In: policies, and what they may look at of a connection. Out: what is left of them, made once for
//! all connections that are the same to them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mesh_proto::model::SpiffeId;
use mesh_proto::model::authorization::Attribute;

use super::{Connection, Guard, Policies};
use crate::store::SelfConfig;

/// How many rules all guards together keep: some ten megabytes.
const RULES: usize = 30_000;
/// How many guards are kept at all.
const GUARDS: usize = 1_024;

/// The guards that are known, of one version of the policies.
#[derive(Default)]
pub struct Guards {
    of: Option<Arc<SelfConfig>>,
    known: HashMap<Kind, Rc<Guard>>,
    rules: usize,
}

/// Which facts of a connection rules look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Facts {
    peer: bool,
    source: bool,
    address: bool,
    port: bool,
    sni: bool,
}

/// A connection, as far as it makes a difference.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    peer: Option<SpiffeId>,
    source: Option<IpAddr>,
    address: Option<IpAddr>,
    port: Option<u16>,
    sni: Option<Box<str>>,
}

impl Facts {
    /// A rule looks at this too.
    pub(super) fn note(&mut self, attribute: &Attribute) {
        match attribute {
            Attribute::SourcePrincipal
            | Attribute::SourceNamespace
            | Attribute::SourceServiceAccount
            | Attribute::SourceTrustDomain => self.peer = true,
            Attribute::SourceIp => self.source = true,
            Attribute::DestinationIp => self.address = true,
            Attribute::DestinationPort => self.port = true,
            Attribute::ConnectionSni => self.sni = true,
            Attribute::RemoteIp
            | Attribute::RequestHeader(_)
            | Attribute::RequestHost
            | Attribute::RequestMethod
            | Attribute::RequestPath
            | Attribute::RequestPrincipal
            | Attribute::RequestAudiences
            | Attribute::RequestPresenter
            | Attribute::RequestClaim(_) => {}
        }
    }

    fn of(self, connection: &Connection) -> Kind {
        Kind {
            peer: connection.peer.clone().filter(|_| self.peer),
            source: self.source.then_some(connection.source),
            address: self.address.then(|| connection.destination.ip()),
            port: self.port.then(|| connection.destination.port()),
            sni: self.sni.then(|| connection.sni.clone()),
        }
    }
}

impl Guards {
    /// What is left of a workload's policies at a connection.
    pub fn get(&mut self, config: &Arc<SelfConfig>, connection: &Connection) -> Rc<Guard> {
        if !self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, config)) {
            *self = Self { of: Some(config.clone()), ..Self::default() };
        }
        self.at(&config.authorization, connection)
    }

    fn at(&mut self, policies: &Policies, connection: &Connection) -> Rc<Guard> {
        let kind = policies.facts.of(connection);
        if let Some(guard) = self.known.get(&kind) {
            return guard.clone();
        }
        let guard = Rc::new(Guard::of_requests(policies, connection));
        if self.known.len() >= GUARDS || self.rules + guard.len() > RULES {
            self.known.clear();
            self.rules = 0;
        }
        self.rules += guard.len();
        self.known.insert(kind, guard.clone());
        guard
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::wire::mesh::v1 as wire;

    use super::super::Verdict;
    use super::super::tests::{allow, connection, deny, rule};
    use super::*;

    #[test]
    fn connections_that_are_the_same_to_rules_share_a_guard() {
        let wire = [
            deny(vec![rule(
                &[&[("source.namespace", &["a"], &[])]],
                &[&[("request.path", &["/a"], &[])]],
                &[],
            )]),
            allow(vec![rule(&[], &[], &[("request.method", &["GET"], &[])])]),
        ];
        let policies = Policies::parse(&wire).unwrap();
        let mut guards = Guards::default();
        let at = |peer: Option<&str>, source: &str| Connection {
            source: source.parse().unwrap(),
            ..connection(peer)
        };
        let a = guards.at(&policies, &at(Some("td/ns/a/sa/x"), "10.0.0.1"));
        let again = guards.at(&policies, &at(Some("td/ns/a/sa/x"), "10.0.0.2"));
        assert!(Rc::ptr_eq(&a, &again), "no rule looks at addresses");
        let other = guards.at(&policies, &at(Some("td/ns/b/sa/x"), "10.0.0.1"));
        assert!(!Rc::ptr_eq(&a, &other));
        assert_eq!((a.len(), other.len()), (2, 1), "what cannot match is not kept");
    }

    /// What is kept is of the policies in force: of those of before nothing is left.
    #[test]
    fn other_policies_decide_anew() {
        let config = |authorization| {
            let wire = wire::SelfConfig {
                identity: "spiffe://cluster.local/ns/shop/sa/a".into(),
                mtls: wire::MtlsMode::MtlsStrict.into(),
                authorization,
                ..Default::default()
            };
            Arc::new(SelfConfig::try_from(wire).unwrap())
        };
        let (open, closed) = (config(vec![]), config(vec![allow(vec![])]));
        let mut guards = Guards::default();
        let connection = connection(None);
        let first = guards.get(&open, &connection);
        assert!(Rc::ptr_eq(&first, &guards.get(&open, &connection)), "made once");
        for _ in 0..2 {
            assert_eq!(guards.get(&open, &connection).whole(), Some(Verdict::Allowed));
            assert_eq!(guards.get(&closed, &connection).whole(), Some(Verdict::Denied(None)));
        }
    }

    /// A policy without rules, for one port: it closes that one, whichever was asked for first.
    #[test]
    fn what_is_for_one_port_is_not_for_another() {
        let policies = Policies::parse(&[wire::AuthorizationPolicy { ports: vec![8080], ..allow(vec![]) }]);
        let policies = policies.unwrap();
        for order in [[8080, 9090], [9090, 8080]] {
            let mut guards = Guards::default();
            for port in order {
                let at = Connection { destination: ([10, 0, 0, 1], port).into(), ..connection(None) };
                let verdict = guards.at(&policies, &at).whole();
                let expected = if port == 8080 { Verdict::Denied(None) } else { Verdict::Allowed };
                assert_eq!(verdict, Some(expected), "{port} of {order:?}");
            }
        }
    }

    /// Whoever opens connections with names of their own choice fills nothing.
    #[test]
    fn no_more_than_so_many() {
        let wire =
            [deny(vec![rule(&[], &[&[("request.path", &["/a"], &[])]], &[("connection.sni", &["a"], &[])])])];
        let policies = Policies::parse(&wire).unwrap();
        let mut guards = Guards::default();
        for name in 0..3 * GUARDS {
            let connection = Connection { sni: name.to_string().into(), ..connection(None) };
            let _ = guards.at(&policies, &connection);
            assert!(guards.known.len() <= GUARDS && guards.rules <= RULES);
        }
    }
}
