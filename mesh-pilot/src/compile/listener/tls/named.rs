//! AUTO_PASSTHROUGH: mTLS between members of the mesh, passed on to the service that its SNI names.
//!
//! Istio's semantics: `outbound_.<port>_.<subset>_.<host>` leads to that port, subset and service, for every service of the
//! mesh that the gateway may see and whose name is one of the server's hosts; no VirtualService is needed. What has another
//! name, or is no mTLS of the mesh, is closed: no outsider learns which services there are.

use mesh_proto::wire::mesh::v1 as wire;

use super::super::super::host::{names, sees};
use super::super::super::traffic::{select, subsets};
use super::{Port, Served, origin_of};
use crate::snapshot::Service;

pub(super) fn forwarding(
    port: &Port<'_>,
    served: &Served<'_>,
    revisions: &mut Vec<u64>,
) -> Vec<wire::TlsServer> {
    let (config, viewer) = (port.scope.config, port.viewer);
    let mut all = Vec::new();
    for held in config.services.values() {
        let service = &held.spec;
        let external = service.entry.as_ref().is_some_and(|entry| entry.external);
        if external || !sees(config, &viewer.namespace, service) || !is_offered(served, service) {
            continue;
        }
        revisions.push(held.revision);
        let rules = select(config, &viewer.namespace, &viewer.labels, &service.host, &service.namespace);
        revisions.extend(rules.iter().map(|rule| rule.revision));
        let of_rules = subsets(&rules);
        let subsets = std::iter::once("").chain(of_rules.iter().map(|subset| subset.name.as_str()));
        for subset in subsets {
            all.extend(service.ports.iter().map(|to| named(served, service, to.number, subset)));
        }
    }
    all
}

/// Whether a server's hosts have the service: `namespace/` in front of one is the service's.
fn is_offered(served: &Served<'_>, service: &Service) -> bool {
    served.server.hosts.iter().any(|host| {
        let (namespace, dns) = host.split_once('/').unwrap_or(("*", host));
        let from = match namespace {
            "*" => true,
            "." => *service.namespace == *served.gateway.reference.namespace,
            named => *service.namespace == *named,
        };
        let dns = dns.strip_suffix('.').unwrap_or(dns).to_ascii_lowercase();
        from && names(&dns, &service.host).is_some()
    })
}

fn named(served: &Served<'_>, service: &Service, port: u16, subset: &str) -> wire::TlsServer {
    let cluster = wire::HostPort { host: service.host.to_string(), port: u32::from(port) };
    let backend = wire::WeightedBackend { cluster: Some(cluster), subset: subset.to_owned(), weight: 1 };
    let rule = wire::TcpRule { backends: vec![backend], origin: Some(origin_of(served)), mesh_tls: true };
    wire::TlsServer {
        hosts: vec![format!("outbound_.{port}_.{subset}_.{}", service.host)],
        origin: Some(origin_of(served)),
        action: Some(wire::tls_server::Action::Forward(rule)),
    }
}
