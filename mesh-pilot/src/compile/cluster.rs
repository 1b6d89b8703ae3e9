//! `cluster/<host>:<port>`: how a service is reached, for one viewer.

use mesh_proto::crd::destination_rule::Subset;
use mesh_proto::crd::{Kind, Restriction, Targets};
use mesh_proto::model::HostPort;
use mesh_proto::wire::mesh::v1 as wire;

use super::destination::service_ref;
use super::host::{full, names, visible_service};
use super::traffic::{Groups, first_policy, select, subsets};
use super::{holds, origin};
use crate::snapshot::{Compiled, Config, Service, Viewer};

/// The policy and the subsets of a service's port. A host that a refused DestinationRule was to secure has none: it cannot
/// be reached until that is put right.
#[must_use]
pub fn cluster(config: &Config, viewer: &Viewer, name: &HostPort) -> Option<Compiled<wire::Cluster>> {
    let held = visible_service(config, &viewer.namespace, name.host())?;
    let service = &held.spec;
    let port = service.ports.iter().find(|port| port.number == name.port())?;
    if restricted(config, &viewer.namespace, service).is_some() {
        return None;
    }
    let rules = select(config, &viewer.namespace, &viewer.labels, name.host(), &service.namespace);
    let whole = Groups::of(first_policy(&rules), name.port());
    let subset = |subset: &Subset| wire::Subset {
        name: subset.name.clone(),
        labels: subset.labels.clone(),
        policy: Some(
            subset
                .traffic_policy
                .as_ref()
                .map_or(whole, |policy| whole.overridden(policy, name.port()))
                .complete(&config.options),
        ),
    };
    let message = wire::Cluster {
        name: Some(name.into()),
        policy: Some(whole.complete(&config.options)),
        subsets: subsets(&rules).into_iter().map(subset).collect(),
        origin: rules.first().map(|rule| origin(rule, "spec", None)),
        kind: kind(service).into(),
        protocol: port.protocol.into(),
        service: Some(service_ref(service, name.port())),
        requires: Vec::new(),
    };
    let revisions = rules.iter().map(|rule| rule.revision).chain([held.revision]);
    Some(Compiled { message, holds: holds(revisions) })
}

/// What kind of name a service is.
pub(super) fn kind(service: &Service) -> wire::EntryKind {
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
