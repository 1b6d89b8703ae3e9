//! Routes of sidecars that look at claims (`@request.auth.claims`) of tokens that no caller can believe. In: configuration. Out:
//! what there is to tell about it.
//!
//! A sidecar reads a request's token by the RequestAuthentications for its own workload, the caller: those for the called one
//! are for what comes in there. Which pods there are is not looked at: they come and go, and a configuration stays what it is.

use std::sync::Arc;

use mesh_proto::crd::target_ref::Target;
use mesh_proto::crd::virtual_service::HttpMatch;
use mesh_proto::crd::{self, Labels};

use super::host::{at, full};
use super::policy::is_target;
use super::routes::{Rules, for_mesh, visibility};
use crate::snapshot::{Config, Held, Service};

type Authentication = Held<Arc<crd::RequestAuthentication>>;

/// What a RequestAuthentication is to a match.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    /// Some caller that the match is for may have it.
    Callers,
    /// Only those who are called have it.
    Called,
    /// Others, or gateways.
    Others,
}

/// What there is to tell about a VirtualService's matches.
pub(super) fn notes(config: &Config, rules: &Rules) -> Vec<String> {
    if !for_mesh(rules) {
        return Vec::new();
    }
    let http = rules.spec.spec.http.iter().enumerate();
    let matches = http.flat_map(|(rule, route)| {
        route
            .r#match
            .iter()
            .enumerate()
            .map(move |(index, one)| (format!("http[{rule}].match[{index}]"), one))
    });
    let looking = matches.filter(|(_, one)| of_sidecars(one) && looks_at_claims(one));
    looking.filter_map(|(path, one)| Some(format!("{path}: {}", unknown(config, rules, one)?))).collect()
}

fn of_sidecars(one: &HttpMatch) -> bool {
    one.gateways.is_empty() || one.gateways.iter().any(|gateway| gateway == "mesh")
}

/// What begins like a claim and is none has been refused.
fn looks_at_claims(one: &HttpMatch) -> bool {
    one.headers.keys().chain(one.without_headers.keys()).any(|name| name.starts_with('@'))
}

fn unknown(config: &Config, rules: &Rules, one: &HttpMatch) -> Option<String> {
    let mut called = None;
    for held in config.request_authentications.iter().map(AsRef::as_ref) {
        match whose(config, rules, one, held) {
            Whose::Callers => return None,
            Whose::Called => called = called.or(Some(held)),
            Whose::Others => {}
        }
    }
    let hint = called.map(|held| {
        format!("; {}{} is for those who are called, not for the callers", held.reference, at(&held.origin))
    });
    Some(format!(
        "sidecars know no claims here, as no RequestAuthentication is for the workloads that send such requests: headers with \
         @request.auth.claims never match, and withoutHeaders always; add one for the callers{}",
        hint.unwrap_or_default()
    ))
}

fn whose(config: &Config, rules: &Rules, one: &HttpMatch, held: &Authentication) -> Whose {
    let (spec, namespace) = (&held.spec.spec, &*held.reference.namespace);
    let seen = || {
        visibility(config, rules, namespace).is_some()
            && (one.source_namespace.is_empty() || one.source_namespace == *namespace)
    };
    if spec.jwt_rules.is_empty() || (*namespace != *config.mesh.root_namespace && !seen()) {
        return Whose::Others;
    }
    let whom = spec.whom();
    let called = called(config, rules);
    if !whom.targets.is_empty() {
        let of = |target: &Target<'_>| match target {
            Target::Gateway(_) | Target::GatewayClass(_) => Whose::Others,
            Target::Service(_) | Target::ServiceEntry(_)
                if called.iter().any(|service| is_target(&service.reference, namespace, *target)) =>
            {
                Whose::Called
            }
            Target::Service(_) | Target::ServiceEntry(_) => Whose::Callers,
        };
        return best(whom.targets.iter().map(of));
    }
    let Some(selected) = whom.selector.map(|selector| &selector.match_labels).filter(|l| !l.is_empty())
    else {
        return Whose::Callers;
    };
    let within = |labels: &Labels| !labels.is_empty() && crd::meta::holds_all(labels, selected);
    let of_gateways = config.gateways.iter().any(|gateway| within(&gateway.spec.spec.selector));
    let others = one.source_labels.iter().any(|(name, value)| selected.get(name).is_some_and(|v| v != value));
    if of_gateways || others {
        return Whose::Others;
    }
    let of_called =
        |service: &&Held<Service>| *service.spec.namespace == *namespace && within(&service.spec.selector);
    if called.iter().any(of_called) { Whose::Called } else { Whose::Callers }
}

fn best(all: impl Iterator<Item = Whose>) -> Whose {
    all.fold(Whose::Others, |best, one| match (&best, &one) {
        (Whose::Callers, _) | (_, Whose::Others) => best,
        _ => one,
    })
}

/// The services whose requests are routed.
fn called<'a>(config: &'a Config, rules: &Rules) -> Vec<&'a Held<Service>> {
    let hosts = rules.spec.spec.hosts.iter();
    let hosts = hosts.map(|host| full(config, host, &rules.reference.namespace));
    hosts.filter_map(|host| config.services.get(host.as_str()).map(AsRef::as_ref)).collect()
}
