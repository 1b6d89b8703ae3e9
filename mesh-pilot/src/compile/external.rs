//! Who is asked about a pod's requests: the AuthorizationPolicies with action CUSTOM that are for it, and their provider.
//!
//! In: configuration and a pod. Out: `self/self`'s `external_authorization`, and what is told about such policies. Istio's
//! semantics: one provider for a workload; where it is unknown, wrong, or one of several, what is to be asked about is denied.

use std::sync::Arc;

use mesh_proto::crd;
use mesh_proto::crd::authorization_policy::Action;
use mesh_proto::crd::meta::WorkloadSelector;
use mesh_proto::model::HostPort;
use mesh_proto::wire::mesh::v1 as wire;
use wire::external_authorization::Protocol;

use super::host::{full, visible_service};
use super::{authorization, on_wire};
use crate::snapshot::{Addresses, Authorizer, Config, Held, Pod, Provider, Speaks};

type Policy = Held<Arc<crd::AuthorizationPolicy>>;

/// The cluster that is asked, as a dependent of `self/self`.
#[must_use]
pub fn cluster_of(message: &wire::SelfConfig) -> Option<HostPort> {
    let asked = message.external_authorization.as_ref()?;
    HostPort::try_from(asked.cluster.as_ref()?).ok()
}

/// Who is asked about a pod's requests, and about which; `None`: nobody about any.
pub(super) fn external(config: &Config, pod: &Pod) -> Option<wire::ExternalAuthorization> {
    let mut policies: Vec<&Policy> =
        custom(config).filter(|policy| authorization::is_for(config, policy, pod)).collect();
    policies.sort_by(|a, b| a.reference.cmp(&b.reference));
    let first = policies.first()?;
    let name = provider_of(first);
    let mut asked = wire::ExternalAuthorization {
        policies: policies.iter().map(|policy| authorization::asking(config, policy)).collect(),
        provider: name.to_owned(),
        status_on_error: 403,
        ..wire::ExternalAuthorization::default()
    };
    let found = match policies.iter().find(|policy| provider_of(policy) != name) {
        Some(other) => Err(format!(
            "two providers for one workload: {name} ({}) and {} ({})",
            first.reference,
            provider_of(other),
            other.reference
        )),
        None => find(config, name).and_then(|authorizer| {
            let cluster = cluster(config, authorizer, Some(&pod.namespace))
                .map_err(|why| format!("extensionProvider {name}: {why}"))?;
            // Each question would ask another one, for ever.
            match pod.services.iter().any(|service| *service.host == *cluster.host()) {
                true => Err(format!("extensionProvider {name}: {} would ask itself", cluster.host())),
                false => Ok((authorizer, cluster)),
            }
        }),
    };
    match found {
        Err(trouble) => asked.trouble = trouble,
        Ok((authorizer, cluster)) => fill(&mut asked, authorizer, &cluster),
    }
    Some(asked)
}

fn fill(asked: &mut wire::ExternalAuthorization, authorizer: &Authorizer, cluster: &HostPort) {
    asked.cluster = Some(wire::HostPort { host: cluster.host().to_owned(), port: cluster.port().into() });
    asked.timeout = Some(on_wire(authorizer.timeout));
    asked.fail_open = authorizer.fail_open;
    asked.status_on_error = authorizer.status_on_error.into();
    asked.body = authorizer.body;
    asked.clear_route_cache = authorizer.clear_route_cache;
    asked.protocol = Some(match &authorizer.speaks {
        Speaks::Grpc => Protocol::Grpc(wire::Empty {}),
        Speaks::Http(http) => Protocol::Http(http.clone()),
    });
}

/// What is wrong with policies whose provider cannot be asked, each with its policy.
pub(super) fn troubles(config: &Config) -> Vec<(&Policy, String)> {
    let policies: Vec<&Policy> = custom(config).collect();
    let mut troubles = Vec::new();
    for (index, policy) in policies.iter().enumerate() {
        let name = provider_of(policy);
        let whole = find(config, name).and_then(|authorizer| {
            cluster(config, authorizer, None).map_err(|why| format!("extensionProvider {name}: {why}"))
        });
        match whole {
            Err(why) => {
                troubles.push((*policy, format!("{why}: what the policy matches is denied")));
                continue;
            }
            Ok(cluster) if selects(config, policy, &cluster) => {
                let host = cluster.host();
                let text = format!(
                    "it selects the pods of {host}, too, which would ask themselves: what it matches there is denied"
                );
                troubles.push((*policy, text));
            }
            Ok(_) => {}
        }
        let rival = policies.iter().enumerate().find(|(other, rival)| {
            *other != index && provider_of(rival) != name && may_meet(config, policy, rival)
        });
        if let Some((_, rival)) = rival {
            let text = format!(
                "{} asks {} where this asks {name}: a workload that is selected by both denies what either matches",
                rival.reference,
                provider_of(rival)
            );
            troubles.push((*policy, text));
        }
    }
    troubles
}

fn custom(config: &Config) -> impl Iterator<Item = &Policy> {
    let policies = config.authorization_policies.iter().map(AsRef::as_ref);
    policies.filter(|policy| policy.spec.spec.action == Action::Custom && !policy.spec.is_dry_run())
}

fn provider_of(policy: &Policy) -> &str {
    policy.spec.spec.provider.as_ref().map_or("", |provider| provider.name.as_str())
}

fn find<'a>(config: &'a Config, name: &str) -> Result<&'a Authorizer, String> {
    let mut known = config.options.extension_providers.iter();
    match known.find(|provider| provider.name == name).map(|provider| &provider.is) {
        None => Err(format!("no extensionProvider of MeshConfig is called {name}")),
        Some(Provider::Other(kind)) => {
            Err(format!("extensionProvider {name} is {kind}, which cannot be asked"))
        }
        Some(Provider::Wrong(why)) => Err(format!("extensionProvider {name}: {why}")),
        Some(Provider::Authorizer(authorizer)) => Ok(authorizer),
    }
}

/// The cluster of `[namespace/]host`; Istio takes full names only, here `svc.ns` means the service, too.
fn cluster(config: &Config, authorizer: &Authorizer, viewer: Option<&str>) -> Result<HostPort, String> {
    let (namespace, written) = match authorizer.service.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, authorizer.service.as_str()),
    };
    let host = match written.contains('.') {
        true => full(config, written, &config.mesh.root_namespace),
        false => written.to_owned(),
    };
    let found = config.services.get(host.as_str());
    let held = found.filter(|held| namespace.is_none_or(|namespace| *held.spec.namespace == *namespace));
    let Some(held) = held else {
        return Err(format!("no service has the host {}", authorizer.service));
    };
    let dialled = |entry: &crate::snapshot::Entry| entry.addresses == Addresses::Dialled;
    if host.starts_with('*') || held.spec.entry.as_ref().is_some_and(dialled) {
        return Err(format!("{host} has no address of its own"));
    }
    if held.spec.ports.iter().all(|port| port.number != authorizer.port) {
        return Err(format!("{host} has no port {}", authorizer.port));
    }
    if let Some(viewer) = viewer
        && visible_service(config, viewer, &host).is_none()
    {
        return Err(format!("{host} is not exported to {viewer}"));
    }
    Ok(HostPort::new(&host, authorizer.port))
}

/// Whether a policy selects whatever pods a service has.
fn selects(config: &Config, policy: &Policy, cluster: &HostPort) -> bool {
    let Some(service) = config.services.get(cluster.host()).map(|held| &held.spec) else { return false };
    let namespace = &policy.reference.namespace;
    (*namespace == service.namespace || *namespace == config.mesh.root_namespace)
        && !service.selector.is_empty()
        && policy.spec.spec.selector.as_ref().is_none_or(|selector| selector.selects(&service.selector))
}

/// Whether some workload may be selected by both.
fn may_meet(config: &Config, a: &Policy, b: &Policy) -> bool {
    let root = |policy: &Policy| *policy.reference.namespace == *config.mesh.root_namespace;
    let none = crd::Labels::new();
    let labels = |policy: &Policy| -> crd::Labels {
        let selector: Option<&WorkloadSelector> = policy.spec.spec.selector.as_ref();
        selector.map_or_else(|| none.clone(), |selector| selector.match_labels.clone())
    };
    let (of_a, of_b) = (labels(a), labels(b));
    let agree = of_a.iter().all(|(label, value)| of_b.get(label).is_none_or(|other| other == value));
    agree && (a.reference.namespace == b.reference.namespace || root(a) || root(b))
}
