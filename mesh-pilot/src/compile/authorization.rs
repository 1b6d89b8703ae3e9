//! Who may do what with a pod: the AuthorizationPolicies that are for it, for the wire. In: configuration and a pod. Out: its
//! policies, and the revisions that they hold.
//!
//! Istio's semantics: those of its namespace and of the root namespace count, each with its selector or its targets; all of them
//! together. A dry run and AUDIT decide nothing: proxies are told of them apart.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::authorization_policy::{Action, Field, Rule};
use mesh_proto::model::TrustDomain;
use mesh_proto::wire::mesh::v1 as wire;

use super::{origin, policy, trust_domains};
use crate::snapshot::{Config, Held, Pod};

/// What our trust domain may be written as, whatever it is called: Istio's alias.
const LOCAL: &str = "cluster.local";

type Policy = Held<Arc<crd::AuthorizationPolicy>>;

/// The policies of a pod, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct OfPod {
    /// What decides.
    pub(super) enforced: Vec<wire::AuthorizationPolicy>,
    /// What is only told.
    pub(super) watched: Vec<wire::AuthorizationPolicy>,
    /// The revisions of their objects.
    pub(super) revisions: Vec<u64>,
}

/// The policies of a pod.
pub(super) fn policies(config: &Config, pod: &Pod) -> OfPod {
    let policies = config.authorization_policies.iter().map(AsRef::as_ref);
    let mut found: Vec<(&Policy, BTreeSet<u32>)> = policies
        .filter_map(|policy: &Policy| {
            let whom = policy.spec.spec.whom();
            Some((policy, policy::ports(config, &policy.reference.namespace, &whom, pod)?))
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| a.reference.cmp(&b.reference));
    let mut made = OfPod::default();
    for (policy, ports) in found {
        made.revisions.push(policy.revision);
        let Some(compiled) = compile(config, policy, ports) else { continue };
        let place = if policy.spec.decides() { &mut made.enforced } else { &mut made.watched };
        place.push(compiled);
    }
    made
}

/// Whether a policy is for a pod.
pub(super) fn is_for(config: &Config, policy: &Policy, pod: &Pod) -> bool {
    policy::ports(config, &policy.reference.namespace, &policy.spec.spec.whom(), pod).is_some()
}

fn compile(config: &Config, policy: &Policy, ports: BTreeSet<u32>) -> Option<wire::AuthorizationPolicy> {
    let action = match policy.spec.spec.action {
        Action::Allow => wire::AuthorizationAction::AuthorizationAllow,
        Action::Deny => wire::AuthorizationAction::AuthorizationDeny,
        Action::Audit => wire::AuthorizationAction::AuthorizationAudit,
        // Another one is asked.
        Action::Custom => return None,
    };
    Some(wire::AuthorizationPolicy {
        origin: Some(origin(policy, "spec", None)),
        action: action.into(),
        rules: policy.spec.spec.rules.iter().map(|wanted| rule(config, wanted)).collect(),
        ports: ports.into_iter().collect(),
    })
}

/// The rules of a policy by which another one is asked: about what a DENY with these rules would match.
pub(super) fn asking(config: &Config, policy: &Policy) -> wire::AuthorizationPolicy {
    wire::AuthorizationPolicy {
        origin: Some(origin(policy, "spec", None)),
        action: wire::AuthorizationAction::AuthorizationDeny.into(),
        rules: policy.spec.spec.rules.iter().map(|wanted| rule(config, wanted)).collect(),
        // At all of its ports: it asks about more, never about less.
        ports: Vec::new(),
    }
}

fn rule(config: &Config, rule: &Rule) -> wire::AuthorizationRule {
    let from = rule.from.iter().flatten().filter_map(|from| from.source.as_ref());
    let to = rule.to.iter().flatten().filter_map(|to| to.operation.as_ref());
    let when = rule.when.iter().flatten().map(|condition| wire::AuthorizationMatch {
        attribute: condition.key.clone(),
        values: values(config, &condition.key, condition.values.as_deref()),
        not_values: values(config, &condition.key, condition.not_values.as_deref()),
    });
    wire::AuthorizationRule {
        from: from.map(|source| clause(config, &source.fields())).collect(),
        to: to.map(|operation| clause(config, &operation.fields())).collect(),
        when: when.collect(),
    }
}

fn clause(config: &Config, fields: &[Field<'_>]) -> wire::AuthorizationClause {
    let said = fields.iter().filter(|(_, _, wanted, unwanted)| wanted.is_some() || unwanted.is_some());
    let matches = said.map(|(_, attribute, wanted, unwanted)| {
        let attribute = attribute.to_string();
        wire::AuthorizationMatch {
            values: values(config, &attribute, *wanted),
            not_values: values(config, &attribute, *unwanted),
            attribute,
        }
    });
    wire::AuthorizationClause { matches: matches.collect() }
}

/// As they are written; a name of our trust domain stands for all of them (Istio's trust domain migration).
fn values(config: &Config, attribute: &str, written: Option<&[String]>) -> Vec<String> {
    let all = || written.unwrap_or_default().iter();
    let mut values: Vec<String> = match attribute {
        "source.principal" => all().flat_map(|text| principals(config, text)).collect(),
        "source.trustDomain" => all().flat_map(|text| domains(config, text)).collect(),
        _ => return all().cloned().collect(),
    };
    let mut seen = BTreeSet::new();
    values.retain(|value| seen.insert(value.clone()));
    values
}

/// `<trust domain>/<rest>` with each of its names.
fn principals(config: &Config, text: &str) -> Vec<String> {
    match text.split_once('/') {
        Some((domain, rest)) => {
            domains(config, domain).iter().map(|domain| format!("{domain}/{rest}")).collect()
        }
        None => vec![text.to_owned()],
    }
}

/// All names of a trust domain, if it is ours; `*suffix` is kept, with the names that it does not match.
fn domains(config: &Config, written: &str) -> Vec<String> {
    let named = |name: &str| match written.strip_prefix('*') {
        // Whatever it is called: nothing is to be added.
        Some("") => false,
        Some(suffix) => name.ends_with(suffix),
        None => name == written,
    };
    let ours = || trust_domains(config).map(TrustDomain::as_str);
    if written != LOCAL && !ours().any(named) {
        return vec![written.to_owned()];
    }
    let wildcard = written.starts_with('*').then(|| written.to_owned());
    let others = ours().filter(|name| wildcard.is_none() || !named(name)).map(str::to_owned);
    wildcard.clone().into_iter().chain(others).collect()
}
