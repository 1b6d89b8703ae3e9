//! AuthorizationPolicy. What cannot be enforced is refused, and a refused policy lets nothing in: nothing here is skipped, as
//! Istio skips rules with what it does not know.

use super::super::authorization_policy::{
    Action, AuthorizationPolicy, AuthorizationPolicySpec, Condition, Field, Rule,
};
use super::super::problem::Findings;
use super::target_refs;
use crate::model::authorization::{Attribute, Pattern};

/// So many values of one policy: more is a mistake, and costs every request.
const MAX_VALUES: usize = 10_000;

pub(super) fn check(policy: &AuthorizationPolicy, findings: &mut Findings) {
    let spec = &policy.spec;
    let (one, many) = (spec.target_ref.as_ref(), &spec.target_refs);
    target_refs::check(&policy.metadata, spec.selector.as_ref(), one, many, findings);
    action(policy, findings);
    let mut counted = 0;
    for (index, wanted) in spec.rules.iter().enumerate() {
        rule(wanted, policy, &format!("spec.rules[{index}]"), &mut counted, findings);
    }
    if counted > MAX_VALUES {
        findings.error("spec.rules", format!("{counted} values"), format!("at most {MAX_VALUES}"));
    }
}

fn action(policy: &AuthorizationPolicy, findings: &mut Findings) {
    let spec = &policy.spec;
    match spec.action {
        Action::Custom => custom(spec, findings),
        Action::Audit | Action::Allow | Action::Deny => {}
    }
    if spec.provider.is_some() && spec.action != Action::Custom {
        findings.error("spec.provider", "only CUSTOM has a provider", "");
    }
    if policy.is_dry_run() && spec.action == Action::Custom {
        findings.error("metadata.annotations", "CUSTOM has no dry run", "ALLOW, DENY");
    }
    if spec.action == Action::Deny && spec.rules.is_empty() {
        findings.warning("spec", "DENY without rules denies nothing", "rules: [{}] denies everything");
    }
}

/// A provider is asked before tokens are looked at: it may be the one who brings them.
fn custom(spec: &AuthorizationPolicySpec, findings: &mut Findings) {
    if spec.provider.as_ref().is_none_or(|provider| provider.name.is_empty()) {
        findings.error(
            "spec.provider.name",
            "CUSTOM needs a provider",
            "one of MeshConfig's extensionProviders",
        );
    }
    if spec.rules.is_empty() {
        findings.error(
            "spec.rules",
            "CUSTOM without rules asks about nothing",
            "rules: [{}] asks about everything",
        );
    }
    let mut refuse = |path: String, what: &str| {
        let message = format!("{what} with CUSTOM: tokens are verified after the provider has answered");
        findings.error(path, message, "DENY or ALLOW, beside the CUSTOM policy");
    };
    for (index, rule) in spec.rules.iter().enumerate() {
        for (at, from) in rule.from.iter().flatten().enumerate() {
            let source = from.source.clone().unwrap_or_default();
            if source.request_principals.is_some() || source.not_request_principals.is_some() {
                refuse(format!("spec.rules[{index}].from[{at}].source"), "requestPrincipals");
            }
        }
        for (at, condition) in rule.when.iter().flatten().enumerate() {
            if condition.key.starts_with("request.auth.") {
                refuse(format!("spec.rules[{index}].when[{at}].key"), &condition.key);
            }
        }
    }
}

fn rule(
    wanted: &Rule,
    policy: &AuthorizationPolicy,
    path: &str,
    counted: &mut usize,
    findings: &mut Findings,
) {
    let namespace = &policy.metadata.namespace;
    let mut group = |fields: &[Field<'_>], path: &str, findings: &mut Findings| {
        for (name, attribute, wanted, unwanted) in fields {
            *counted += values(attribute, *wanted, namespace, &format!("{path}.{name}"), findings);
            let negative = format!("{path}.{}", negative(name));
            *counted += values(attribute, *unwanted, namespace, &negative, findings);
        }
        if fields.iter().all(|(_, _, wanted, unwanted)| wanted.is_none() && unwanted.is_none()) {
            findings.error(path.to_owned(), "is empty", "at least one field; without it anything matches");
        }
    };
    let empty = |is_empty: bool, name: &str, findings: &mut Findings| {
        if is_empty {
            let path = format!("{path}.{name}");
            findings.error(path, "is an empty list", "at least one, or leave it out: then anything matches");
        }
    };
    empty(wanted.from.as_ref().is_some_and(Vec::is_empty), "from", findings);
    for (index, from) in wanted.from.iter().flatten().enumerate() {
        let path = format!("{path}.from[{index}].source");
        group(&from.source.clone().unwrap_or_default().fields(), &path, findings);
        if let Some(source) = &from.source {
            let by_account = source.service_accounts.is_some() || source.not_service_accounts.is_some();
            let otherwise = source.principals.is_some() || source.namespaces.is_some();
            if by_account && otherwise {
                findings.error(path, "serviceAccounts with principals or namespaces", "one of them");
            }
        }
    }
    empty(wanted.to.as_ref().is_some_and(Vec::is_empty), "to", findings);
    for (index, to) in wanted.to.iter().flatten().enumerate() {
        let path = format!("{path}.to[{index}].operation");
        group(&to.operation.clone().unwrap_or_default().fields(), &path, findings);
    }
    empty(wanted.when.as_ref().is_some_and(Vec::is_empty), "when", findings);
    for (index, condition) in wanted.when.iter().flatten().enumerate() {
        *counted += when(condition, namespace, &format!("{path}.when[{index}]"), findings);
    }
}

fn when(condition: &Condition, namespace: &str, path: &str, findings: &mut Findings) -> usize {
    let attribute = match condition.key.parse::<Attribute>() {
        // Those have fields of their own in `to`.
        Ok(Attribute::RequestHost | Attribute::RequestMethod | Attribute::RequestPath) | Err(_) => {
            findings.error(
                format!("{path}.key"),
                format!("{:?} is no attribute that a policy can look at", condition.key),
                "request.headers[NAME], request.auth.{principal,audiences,presenter,claims[NAME]}, source.{ip,\
                 namespace,principal,serviceAccount,trustDomain}, remote.ip, destination.{ip,port}, connection.sni",
            );
            return 0;
        }
        Ok(attribute) => attribute,
    };
    if condition.values.is_none() && condition.not_values.is_none() {
        findings.error(path, "has neither values nor notValues", "one of them");
    }
    let wanted =
        values(&attribute, condition.values.as_deref(), namespace, &format!("{path}.values"), findings);
    let unwanted = values(
        &attribute,
        condition.not_values.as_deref(),
        namespace,
        &format!("{path}.notValues"),
        findings,
    );
    wanted + unwanted
}

/// Checks one list; says how long it is.
fn values(
    attribute: &Attribute,
    list: Option<&[String]>,
    namespace: &str,
    path: &str,
    findings: &mut Findings,
) -> usize {
    let Some(list) = list else { return 0 };
    if list.is_empty() {
        findings.error(path, "is an empty list", "at least one, or leave it out");
    }
    for (index, text) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match Pattern::parse(attribute, text, namespace) {
            Err(wrong) => findings.error(path, wrong.to_string(), ""),
            Ok(_) if *attribute == Attribute::SourcePrincipal && text.starts_with("spiffe://") => {
                findings.error(path, "principals have no scheme", "TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT");
            }
            Ok(_) => {}
        }
    }
    list.len()
}

/// `notPrincipals` of `principals`.
fn negative(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    format!("not{}{}", first.map(String::from).unwrap_or_default(), letters.as_str())
}
