//! One policy as the pilot sends it. Out: its rules, ready to be asked; what means nothing to this build is an error that names
//! the policy.

use std::sync::Arc;

use mesh_proto::model::authorization::{Attribute, Pattern};
use mesh_proto::wire::mesh::v1 as wire;

use super::{Clause, InvalidPolicy, Matcher, Rule};

/// A policy that is being parsed.
pub(super) struct Parser {
    /// For the errors' sake.
    pub(super) policy: String,
    /// The ports that it is for; none: all.
    pub(super) ports: Vec<u16>,
    namespace: String,
    name: String,
}

impl Parser {
    pub(super) fn new(wire: &wire::AuthorizationPolicy) -> Result<Self, InvalidPolicy> {
        let origin = wire.origin.clone().unwrap_or_default();
        let policy = format!("AuthorizationPolicy {}/{}", origin.namespace, origin.name);
        let port = |port: &u32| {
            let number = u16::try_from(*port).ok().filter(|port| *port != 0);
            number.ok_or_else(|| InvalidPolicy::Port { policy: policy.clone(), port: *port })
        };
        let ports = wire.ports.iter().map(port).collect::<Result<_, _>>()?;
        Ok(Self { policy, ports, namespace: origin.namespace, name: origin.name })
    }

    pub(super) fn rules(&self, wire: &wire::AuthorizationPolicy) -> Result<Vec<Rule>, InvalidPolicy> {
        let rules = wire.rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| {
            let label = format!("ns[{}]-policy[{}]-rule[{index}]", self.namespace, self.name);
            let mut rule = self.rule(rule, label.into())?;
            rule.when.extend(self.at_ports());
            Ok(rule)
        });
        rules.collect()
    }

    fn at_ports(&self) -> Option<Arc<Matcher>> {
        let values: Vec<Pattern> = self.ports.iter().map(|port| Pattern::Port(*port)).collect();
        let attribute = Attribute::DestinationPort;
        (!values.is_empty()).then(|| Arc::new(Matcher { attribute, values, not_values: Vec::new() }))
    }

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
            return Err(InvalidPolicy::Empty { policy: self.policy.clone(), part });
        }
        wire.iter().map(|matcher| self.matcher(matcher)).collect()
    }

    fn matcher(&self, wire: &wire::AuthorizationMatch) -> Result<Arc<Matcher>, InvalidPolicy> {
        let policy = || self.policy.clone();
        let attribute: Attribute =
            wire.attribute.parse().map_err(|why| InvalidPolicy::Attribute { policy: policy(), why })?;
        if wire.values.is_empty() && wire.not_values.is_empty() {
            return Err(InvalidPolicy::Empty { policy: policy(), part: "an attribute" });
        }
        let patterns = |texts: &[String]| {
            let pattern = |text: &String| Pattern::parse(&attribute, text, &self.namespace);
            let parsed = texts.iter().map(pattern).collect::<Result<Vec<_>, _>>();
            parsed.map_err(|why| InvalidPolicy::Pattern { policy: policy(), why })
        };
        let (values, not_values) = (patterns(&wire.values)?, patterns(&wire.not_values)?);
        Ok(Arc::new(Matcher { attribute, values, not_values }))
    }
}
