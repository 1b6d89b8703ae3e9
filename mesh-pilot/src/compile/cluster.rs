//! `cluster/<host>:<port>`: how a service is reached, for one viewer.

use mesh_proto::crd::destination_rule::Subset;
use mesh_proto::crd::{Kind, Restriction, Targets};
use mesh_proto::model::{HostPort, SpiffeId};
use mesh_proto::wire::mesh::v1 as wire;

use super::destination::service_ref;
use super::host::{full, names, visible_service};
use super::traffic::{Groups, first_policy, select, subsets};
use super::{features, holds, origin, policy};
use crate::snapshot::{Compiled, Config, Service, Viewer};

/// The policy and the subsets of a service's port. A host that a refused DestinationRule was to secure has none, nor one with a
/// policy that cannot be enforced anywhere: it cannot be reached until that is put right.
#[must_use]
pub fn cluster(config: &Config, viewer: &Viewer, name: &HostPort) -> Option<Compiled<wire::Cluster>> {
    let held = visible_service(config, &viewer.namespace, name.host())?;
    let service = &held.spec;
    let port = service.ports.iter().find(|port| port.number == name.port())?;
    let unenforced = policy::nowhere(config, held);
    if restricted(config, &viewer.namespace, service).is_some() || unenforced.is_some() {
        return None;
    }
    let rules = select(config, &viewer.namespace, &viewer.labels, name.host(), &service.namespace);
    let whole = Groups::of(first_policy(&rules), name.port());
    let complete = |groups: Groups<'_>| completed(groups, config, &viewer.namespace, service);
    let subset = |subset: &Subset| wire::Subset {
        name: subset.name.clone(),
        labels: subset.labels.clone(),
        policy: Some(complete(
            subset.traffic_policy.as_ref().map_or(whole, |policy| whole.overridden(policy, name.port())),
        )),
    };
    let mut message = wire::Cluster {
        name: Some(name.into()),
        policy: Some(complete(whole)),
        subsets: subsets(&rules).into_iter().map(subset).collect(),
        origin: rules.first().map(|rule| origin(rule, "spec", None)),
        kind: kind(service).into(),
        protocol: port.protocol.into(),
        service: Some(service_ref(service, name.port())),
        requires: Vec::new(),
        addresses: service.entry.as_ref().map_or(wire::Addresses::All, |entry| entry.addresses).into(),
    };
    message.requires = features::of_cluster(&message);
    let revisions = rules.iter().map(|rule| rule.revision).chain([held.revision]);
    Some(Compiled { message, holds: holds(revisions) })
}

/// Settings for the wire: outside of the mesh there is no mTLS of the mesh by itself.
fn completed(groups: Groups<'_>, config: &Config, client: &str, service: &Service) -> wire::Policy {
    let mut policy = groups.complete(&config.options, client);
    let external = service.entry.as_ref().is_some_and(|entry| entry.external);
    if external && policy.tls() == wire::UpstreamTls::Auto {
        policy.set_tls(wire::UpstreamTls::Disable);
    }
    // Whom a ServiceEntry's host is known to be, where the rule does not say.
    let Some(entry) = &service.entry else { return policy };
    let names = &entry.subject_alt_names;
    match policy.tls() {
        wire::UpstreamTls::Originate => {
            if let Some(tls) = &mut policy.client_tls
                && tls.subject_alt_names.is_empty()
                && !tls.insecure_skip_verify
            {
                tls.subject_alt_names.clone_from(names);
            }
        }
        wire::UpstreamTls::Auto | wire::UpstreamTls::IstioMutual => {
            let members: Vec<_> = names.iter().filter(|name| name.parse::<SpiffeId>().is_ok()).collect();
            if !members.is_empty() {
                let tls = policy.client_tls.get_or_insert_default();
                if tls.subject_alt_names.is_empty() {
                    tls.subject_alt_names = members.into_iter().cloned().collect();
                }
            }
        }
        wire::UpstreamTls::Disable => {}
    }
    policy
}

/// What kind of name a service is.
pub(super) fn kind(service: &Service) -> wire::EntryKind {
    if service.entry.is_some() {
        return wire::EntryKind::EntryExternal;
    }
    if service.headless { wire::EntryKind::EntryHeadless } else { wire::EntryKind::EntryService }
}

/// The refused DestinationRule that was to secure connections of this namespace to the service.
pub(super) fn restricted<'a>(config: &'a Config, client: &str, service: &Service) -> Option<&'a Restriction> {
    config.restrictions.iter().find(|restriction| {
        let Targets::Host(host) = &restriction.targets else { return false };
        let namespace: &str = &restriction.reference.namespace;
        let concerns = [client, &service.namespace, &config.mesh.root_namespace].contains(&namespace);
        restriction.reference.kind == Kind::DestinationRule
            && concerns
            && names(&full(config, host, namespace), &service.host).is_some()
    })
}
