//! What a type cannot say: contradictions, names, ranges, and what is not in force yet. Pure: an object in, findings at
//! paths out.
//!
//! The rule for a field that we don't act on: where it decides **where** or **what** is sent, or restricts, the object is
//! refused; where it only tunes, the object is accepted with a warning. Nothing is ignored in silence.

mod authorization_policy;
mod core;
mod destination_rule;
mod gateway;
mod host;
mod peer_authentication;
mod request_authentication;
mod service_entry;
mod target_refs;
mod text;
mod virtual_service;

use super::object::Object;
use super::problem::Findings;

pub use destination_rule::locality;
pub use gateway::{Serving, own as own_gateway, serving, tls as server_tls, unserved};
pub use host::{is_host, is_wildcard_host};
pub use virtual_service::{RETRY_WORDS, body_bytes, retry_words};

/// Checks one object.
pub fn object(object: &Object, findings: &mut Findings) {
    match object {
        Object::Namespace(_) | Object::ServiceAccount(_) => {}
        Object::Secret(secret) => core::secret(secret, findings),
        Object::ConfigMap(map) => core::config_map(map, findings),
        Object::Service(service) => core::service(service, findings),
        Object::Deployment(deployment) => core::deployment(deployment, findings),
        Object::Pod(pod) => core::pod(&pod.spec, "spec", findings),
        Object::VirtualService(rules) => virtual_service::check(&rules.spec, findings),
        Object::DestinationRule(rule) => destination_rule::check(&rule.spec, findings),
        Object::Gateway(gateway) => gateway::check(&gateway.spec, findings),
        Object::ServiceEntry(entry) => service_entry::check(&entry.spec, findings),
        Object::PeerAuthentication(policy) => peer_authentication::check(&policy.spec, findings),
        Object::AuthorizationPolicy(policy) => authorization_policy::check(policy, findings),
        Object::RequestAuthentication(rules) => request_authentication::check(rules, findings),
    }
}

/// Says that a field that decides where or what is sent, or that restricts, is not in force: the object is refused.
fn refuse_yet(findings: &mut Findings, set: bool, path: &str, field: &str) {
    if set {
        findings.error(super::yaml::join(path, field), format!("{field} is not in force yet"), "");
    }
}

/// Says that a field that tunes is not acted on.
fn tell_yet(findings: &mut Findings, set: bool, path: &str, field: &str) {
    if set {
        findings.warning(
            super::yaml::join(path, field),
            format!("{field} is accepted, not in force yet"),
            "",
        );
    }
}

/// Checks `exportTo`.
fn export_to(list: &[String], path: &str, findings: &mut Findings) {
    for (index, namespace) in list.iter().enumerate() {
        let known = matches!(namespace.as_str(), "*" | "." | "~");
        if !known && !crate::model::identity::is_kubernetes_name(namespace) {
            findings.error(
                format!("{path}[{index}]"),
                format!("{namespace:?} is not a namespace"),
                "'*', '.', '~' or a namespace",
            );
        }
        if matches!(namespace.as_str(), "*" | "~") && list.len() > 1 {
            findings.error(
                format!("{path}[{index}]"),
                format!("{namespace:?} with other entries contradicts them"),
                "",
            );
        }
    }
}

#[cfg(test)]
mod tests;
