//! `listener/<port>`: what a gateway workload serves.
//!
//! Istio's semantics: all Gateways whose selector holds for the workload, of whatever namespace; servers on one port are
//! merged; a server's host (`namespace/name`) says whose VirtualServices it takes; a VirtualService is bound by its
//! `gateways`; the virtual host is the narrower of server host and VirtualService host; several VirtualServices for one
//! host are put one after the other, oldest first, rules that take everything last. No route: 404.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd::check::unserved;
use mesh_proto::crd::gateway::Server;
use mesh_proto::crd::{self, meta::holds_all};
use mesh_proto::model::Protocol;
use mesh_proto::wire::mesh::v1 as wire;

use super::host::{full, intersection};
use super::routes::{Rules, Scope, gateway_name, http_rules, visibility};
use super::{holds, origin};
use crate::snapshot::{Compiled, Config, Held, Viewer};

/// A Gateway with its place in the configuration.
pub(super) type Gateway = Held<Arc<crd::Gateway>>;

/// A server that is served.
struct Served<'a> {
    gateway: &'a Gateway,
    index: usize,
    server: &'a Server,
}

fn served<'a>(config: &'a Config, viewer: &'a Viewer) -> impl Iterator<Item = Served<'a>> {
    let gateways = config.gateways.iter().filter(|_| viewer.router).map(AsRef::as_ref);
    let selected =
        gateways.filter(|gateway: &&Gateway| holds_all(&gateway.spec.spec.selector, &viewer.labels));
    selected.flat_map(|gateway| {
        let servers = gateway.spec.spec.servers.iter().enumerate();
        let served = servers.filter(|(_, server)| unserved(&gateway.spec.spec, server).is_none());
        served.map(move |(index, server)| Served { gateway, index, server })
    })
}

/// The ports that a gateway workload listens on, sorted.
#[must_use]
pub fn listener_ports(config: &Config, viewer: &Viewer) -> Vec<u16> {
    let ports: BTreeSet<u16> = served(config, viewer).map(|served| served.server.port.number).collect();
    ports.into_iter().collect()
}

/// The listener on one of them.
#[must_use]
pub fn listener(config: &Config, viewer: &Viewer, port: u16) -> Option<Compiled<wire::Listener>> {
    let servers: Vec<Served<'_>> = served(config, viewer).filter(|s| s.server.port.number == port).collect();
    let first = servers.first()?;
    let protocol = protocol(first.server);
    let mut revisions: Vec<u64> = servers.iter().map(|served| served.gateway.revision).collect();
    let mut hosts: BTreeMap<String, Vec<&Rules>> = BTreeMap::new();
    // By age: the order in which the rules of one host follow one another.
    for rules in config.virtual_services.iter().map(AsRef::as_ref) {
        if visibility(rules, &viewer.namespace).is_none() || rules.spec.spec.http.is_empty() {
            continue;
        }
        for domain in domains(config, &servers, rules) {
            revisions.push(rules.revision);
            hosts.entry(domain).or_default().push(rules);
        }
    }
    let gateways: Vec<String> = servers.iter().map(|served| name_of(served.gateway)).collect();
    let scope = Scope { config, namespace: &viewer.namespace, port, gateways: &gateways };
    let virtual_hosts =
        hosts.into_iter().map(|(domain, rules)| virtual_host(&scope, domain, &rules)).collect();
    let origins = servers
        .iter()
        .map(|served| origin(served.gateway, &format!("spec.servers[{}]", served.index), Some(served.index)));
    let message = wire::Listener {
        port: u32::from(port),
        protocol: protocol.into(),
        virtual_hosts,
        origins: origins.collect(),
        requires: Vec::new(),
    };
    Some(Compiled { message, holds: holds(revisions) })
}

/// `namespace/name`.
pub(super) fn name_of(gateway: &Gateway) -> String {
    format!("{}/{}", gateway.reference.namespace, gateway.reference.name)
}

/// Whether a VirtualService names a gateway.
pub(super) fn bound(rules: &Rules, gateway: &Gateway) -> bool {
    let name = name_of(gateway);
    let mut gateways = rules.spec.spec.gateways.iter().filter(|gateway| *gateway != "mesh");
    gateways.any(|gateway| gateway_name(gateway, &rules.reference.namespace) == name)
}

/// The hosts of a VirtualService on these servers.
fn domains(config: &Config, servers: &[Served<'_>], rules: &Rules) -> BTreeSet<String> {
    let mut domains = BTreeSet::new();
    for served in servers.iter().filter(|served| bound(rules, served.gateway)) {
        domains.extend(meeting_hosts(config, served.gateway, served.server, rules));
    }
    domains
}

/// Where the hosts of a server and of a VirtualService meet: the narrower ones.
pub(super) fn meeting_hosts(
    config: &Config,
    gateway: &Gateway,
    server: &Server,
    rules: &Rules,
) -> Vec<String> {
    let mut meeting = Vec::new();
    for server_host in &server.hosts {
        let (namespace, dns) = server_host.split_once('/').unwrap_or(("*", server_host));
        let owner: &str = &rules.reference.namespace;
        let taken = match namespace {
            "*" => true,
            "." => *owner == *gateway.reference.namespace,
            named => named == owner,
        };
        if !taken {
            continue;
        }
        let dns = dns.strip_suffix('.').unwrap_or(dns).to_ascii_lowercase();
        for host in &rules.spec.spec.hosts {
            let host = full(config, host, owner);
            meeting.extend(intersection(&dns, &host).map(str::to_owned));
        }
    }
    meeting
}

fn virtual_host(scope: &Scope<'_>, domain: String, rules: &[&Rules]) -> wire::VirtualHost {
    let all: Vec<wire::Rule> = rules.iter().flat_map(|rules| http_rules(scope, rules)).collect();
    let (last, mut first): (Vec<_>, Vec<_>) = all.into_iter().partition(takes_everything);
    first.extend(last);
    let origin = rules.first().map(|rules| origin(rules, "spec", None));
    wire::VirtualHost { domains: vec![domain], table: Some(wire::RouteTable { rules: first, origin }) }
}

/// Istio's pure catch-all: no match, or one that asks only for the path `/` and below.
fn takes_everything(rule: &wire::Rule) -> bool {
    use wire::path_match::Kind;
    let any_path = |path: &wire::PathMatch| match &path.kind {
        Some(Kind::Prefix(prefix)) => prefix == "/",
        Some(Kind::Regex(regex)) => regex == ".*" || regex == "/.*",
        _ => false,
    };
    let pure = |one: &wire::Match| {
        one.path.as_ref().is_none_or(any_path)
            && *one
                == wire::Match { path: one.path.clone(), name: one.name.clone(), ..wire::Match::default() }
    };
    rule.matches.is_empty() || rule.matches.iter().any(pure)
}

fn protocol(server: &Server) -> Protocol {
    Protocol::of_word(&server.port.protocol).unwrap_or(Protocol::Http)
}
