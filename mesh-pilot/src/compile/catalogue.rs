//! `catalogue/<namespace>`: the names of a namespace that a viewer may see.

use std::collections::BTreeMap;

use mesh_proto::wire::mesh::v1 as wire;

use super::alias;
use super::cluster::kind;
use super::holds;
use super::host::{full, sees};
use super::routes::{Rules, for_mesh, visibility};
use crate::snapshot::{Compiled, Config, Service, Viewer};

/// The services of a namespace, and the hosts that only its VirtualServices have (among them wildcards, which also take
/// every matching service that no more specific one names).
#[must_use]
pub fn catalogue(config: &Config, viewer: &Viewer, namespace: &str) -> Option<Compiled<wire::Catalogue>> {
    let services = config.services.values().filter(|held| *held.spec.namespace == *namespace);
    let services = services.filter(|held| sees(config, &viewer.namespace, &held.spec));
    let mut entries: BTreeMap<String, wire::CatalogueEntry> = BTreeMap::new();
    let mut revisions = Vec::new();
    for held in services {
        revisions.push(held.revision);
        entries.insert(held.spec.host.to_string(), service_entry(&held.spec));
    }
    for held in config.aliases.values().filter(|held| *held.spec.namespace == *namespace) {
        let Some(target) = alias::target(config, &viewer.namespace, &held.spec.host) else { continue };
        revisions.push(target.service.revision);
        revisions.extend(target.revisions);
        entries.insert(held.spec.host.to_string(), alias_entry(&held.spec.host, &target.service.spec));
    }
    let rules = config.virtual_services.iter().filter(|rules| *rules.reference.namespace == *namespace);
    let seen = |rules: &&std::sync::Arc<Rules>| {
        for_mesh(rules)
            && !rules.spec.spec.http.is_empty()
            && visibility(config, rules, &viewer.namespace).is_some()
    };
    for rules in rules.filter(seen) {
        for host in &rules.spec.spec.hosts {
            let host = full(config, host, namespace);
            // Addresses are hosts for gateways only; a service's host is its own namespace's to tell.
            let visible = config
                .services
                .get(host.as_str())
                .is_some_and(|held| sees(config, &viewer.namespace, &held.spec));
            if visible || entries.contains_key(&host) || host.parse::<std::net::IpAddr>().is_ok() {
                continue;
            }
            revisions.push(rules.revision);
            entries.entry(host.clone()).or_insert_with(|| route_entry(host));
        }
    }
    if entries.is_empty() {
        return None;
    }
    let message = wire::Catalogue { entries: entries.into_values().collect() };
    Some(Compiled { message, holds: holds(revisions) })
}

fn service_entry(service: &Service) -> wire::CatalogueEntry {
    let port = |port: &crate::snapshot::ServicePort| wire::CataloguePort {
        number: u32::from(port.number),
        protocol: port.protocol.into(),
        name: port.name.to_string(),
    };
    wire::CatalogueEntry {
        host: service.host.to_string(),
        kind: kind(service).into(),
        vips: service.vips.iter().map(ToString::to_string).collect(),
        cidrs: service.entry.iter().flat_map(|entry| entry.ranges.clone()).collect(),
        ports: service.ports.iter().map(port).collect(),
        vip_routes: false,
    }
}

/// A name without an address: whoever asks DNS for it gets the target's.
fn alias_entry(host: &str, target: &Service) -> wire::CatalogueEntry {
    wire::CatalogueEntry {
        host: host.to_owned(),
        kind: wire::EntryKind::EntryService.into(),
        vips: Vec::new(),
        cidrs: Vec::new(),
        ..service_entry(target)
    }
}

fn route_entry(host: String) -> wire::CatalogueEntry {
    wire::CatalogueEntry {
        host,
        kind: wire::EntryKind::EntryRouteOnly.into(),
        ..wire::CatalogueEntry::default()
    }
}
