//! Who may do what with a pod: the AuthorizationPolicies that are for it, for the wire. In: configuration and a pod. Out: its
//! policies, and the revisions that they hold.
//!
//! Istio's semantics: those of its namespace and of the root namespace count, each with its selector; all of them together.
//! A dry run and AUDIT decide nothing, so proxies are not told of them.

use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::authorization_policy::{Action, Field, Rule};
use mesh_proto::wire::mesh::v1 as wire;

use super::{origin, policy};
use crate::snapshot::{Config, Held, Pod};

/// What principals may be written with, whatever the trust domain is called: Istio's alias.
const LOCAL: &str = "cluster.local";

type Policy = Held<Arc<crd::AuthorizationPolicy>>;

/// The policies of a pod, in the order of their names, with their revisions.
pub(super) fn policies(config: &Config, pod: &Pod) -> (Vec<wire::AuthorizationPolicy>, Vec<u64>) {
    let mut found: Vec<&Policy> = config
        .authorization_policies
        .iter()
        .map(AsRef::as_ref)
        .filter(|policy| is_for(config, policy, pod))
        .collect();
    found.sort_by(|a, b| a.reference.cmp(&b.reference));
    let compiled = found.iter().filter_map(|policy| compile(config, policy)).collect();
    (compiled, found.iter().map(|policy| policy.revision).collect())
}

/// Whether a policy is for a pod.
pub(super) fn is_for(config: &Config, policy: &Policy, pod: &Pod) -> bool {
    let selector = policy.spec.spec.selector.as_ref();
    policy::is_for(config, &policy.reference.namespace, selector, pod)
}

fn compile(config: &Config, policy: &Policy) -> Option<wire::AuthorizationPolicy> {
    if policy.spec.is_dry_run() {
        return None;
    }
    let action = match policy.spec.spec.action {
        Action::Allow => wire::AuthorizationAction::AuthorizationAllow,
        Action::Deny => wire::AuthorizationAction::AuthorizationDeny,
        // AUDIT decides nothing; of CUSTOM another one is asked.
        Action::Audit | Action::Custom => return None,
    };
    Some(wire::AuthorizationPolicy {
        origin: Some(origin(policy, "spec", None)),
        action: action.into(),
        rules: policy.spec.spec.rules.iter().map(|wanted| rule(config, wanted)).collect(),
    })
}

/// The rules of a policy by which another one is asked: about what a DENY with these rules would match.
pub(super) fn asking(config: &Config, policy: &Policy) -> wire::AuthorizationPolicy {
    wire::AuthorizationPolicy {
        origin: Some(origin(policy, "spec", None)),
        action: wire::AuthorizationAction::AuthorizationDeny.into(),
        rules: policy.spec.spec.rules.iter().map(|wanted| rule(config, wanted)).collect(),
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

/// As they are written; of a trust domain's alias its name.
fn values(config: &Config, attribute: &str, written: Option<&[String]>) -> Vec<String> {
    let domain = config.mesh.trust_domain.as_str();
    let named = |text: &String| match (attribute, text.strip_prefix(LOCAL)) {
        ("source.principal", Some(rest)) if rest.starts_with('/') => format!("{domain}{rest}"),
        ("source.trustDomain", Some("")) => domain.to_owned(),
        _ => text.clone(),
    };
    written.unwrap_or_default().iter().map(named).collect()
}
