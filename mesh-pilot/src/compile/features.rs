//! What a proxy has to know to take a resource: without it, it would drop what narrows something and go on as if nothing had
//! been said. In: a message that is made. Out: the names of its features, for `requires`.

use mesh_proto::discovery::{CERTIFICATE_RULES, EXTERNAL_AUTHORIZATION, TLS_PARAMETERS};
use mesh_proto::wire::mesh::v1 as wire;

/// Of `self/self`.
pub(super) fn of_self(message: &wire::SelfConfig) -> Vec<String> {
    listed(&[
        (message.external_authorization.is_some(), EXTERNAL_AUTHORIZATION),
        (message.mesh_tls.is_some(), TLS_PARAMETERS),
    ])
}

/// Of a cluster: TLS to the outside, of all of it or of a subset.
pub(super) fn of_cluster(message: &wire::Cluster) -> Vec<String> {
    let policies = || {
        let subsets = message.subsets.iter().filter_map(|subset| subset.policy.as_ref());
        message.policy.iter().chain(subsets).filter_map(|policy| policy.client_tls.as_ref())
    };
    listed(&[
        (policies().any(|tls| tls.parameters.is_some()), TLS_PARAMETERS),
        (policies().any(|tls| tls.crl.is_some()), CERTIFICATE_RULES),
    ])
}

/// Of a gateway's port.
pub(super) fn of_listener(message: &wire::Listener) -> Vec<String> {
    let settings = || {
        message.tls_servers.iter().filter_map(|server| match &server.action {
            Some(wire::tls_server::Action::Terminate(end)) => end.settings.as_ref(),
            _ => None,
        })
    };
    listed(&[
        (settings().any(|tls| tls.parameters.is_some()), TLS_PARAMETERS),
        (settings().any(|tls| tls.crl.is_some() || tls.rules.is_some()), CERTIFICATE_RULES),
    ])
}

fn listed(all: &[(bool, &str)]) -> Vec<String> {
    all.iter().filter(|(needed, _)| *needed).map(|(_, name)| (*name).to_owned()).collect()
}
