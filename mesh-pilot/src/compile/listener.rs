//! `listener/<port>`: what a gateway workload serves.
//!
//! Istio's semantics: all Gateways whose selector holds for the workload, of whatever namespace; servers on one port are
//! merged, and the oldest one says whether the port speaks TLS; a server's host (`namespace/name`) says whose
//! VirtualServices it takes; a VirtualService is bound by its `gateways`; the virtual host is the narrower of server host
//! and VirtualService host; several VirtualServices for one host are put one after the other, oldest first, rules that take
//! everything last. No route: 404. The port is that of the Service in front of the gateway, if there is one: the gateway
//! binds the `targetPort`.

pub mod secrets;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd::check::{Serving, serving, unserved};
use mesh_proto::crd::gateway::Server;
use mesh_proto::crd::{self, meta::holds_all};
use mesh_proto::model::Protocol;
use mesh_proto::wire::mesh::v1 as wire;

pub(super) use self::tls::dns_names;
use super::host::{full, intersection};
use super::routes::{Rules, Scope, gateway_name, http_rules, visibility};
use super::{features, holds, origin};
use crate::snapshot::{Compiled, Config, Held, TargetPort, Viewer};

/// A Gateway with its place in the configuration.
pub(super) type Gateway = Held<Arc<crd::Gateway>>;

/// A server that is served.
#[derive(Clone, Copy)]
pub(super) struct Served<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) index: usize,
    pub(super) server: &'a Server,
    pub(super) serving: Serving,
}

/// What cannot be on one port together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Http,
    Tcp,
    Tls,
}

pub(super) fn class_of(serving: Serving) -> Class {
    match serving {
        Serving::Http => Class::Http,
        Serving::Tcp => Class::Tcp,
        Serving::Https | Serving::TlsTcp | Serving::Passthrough | Serving::AutoPassthrough => Class::Tls,
    }
}

fn served<'a>(config: &'a Config, viewer: &'a Viewer) -> impl Iterator<Item = Served<'a>> {
    let gateways = config.gateways.iter().filter(|_| viewer.router).map(AsRef::as_ref);
    let selected =
        gateways.filter(|gateway: &&Gateway| holds_all(&gateway.spec.spec.selector, &viewer.labels));
    selected.flat_map(servers_of)
}

/// The servers of a Gateway that can be served.
pub(super) fn servers_of(gateway: &Gateway) -> impl Iterator<Item = Served<'_>> {
    let spec = &gateway.spec.spec;
    let servers = spec.servers.iter().enumerate();
    let served = servers.filter(|(_, server)| unserved(spec, server).is_none());
    served.map(move |(index, server)| Served { gateway, index, server, serving: serving(spec, server) })
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
    let mut servers: Vec<Served<'_>> =
        served(config, viewer).filter(|s| s.server.port.number == port).collect();
    let first = *servers.first()?;
    let class = class_of(first.serving);
    servers.retain(|served| class_of(served.serving) == class);
    let mut revisions: Vec<u64> = servers.iter().map(|served| served.gateway.revision).collect();
    // By age: the order in which the rules of one host follow one another.
    let visible = config.virtual_services.iter().map(AsRef::as_ref);
    let rules: Vec<&Rules> =
        visible.filter(|rules| visibility(config, rules, &viewer.namespace).is_some()).collect();
    let gateways: Vec<String> = servers.iter().map(|served| name_of(served.gateway)).collect();
    let scope = Scope { config, namespace: &viewer.namespace, port, gateways: &gateways };
    let parts = tls::Port { viewer, scope: &scope, rules: &rules };
    let mut message = wire::Listener {
        port: u32::from(port),
        protocol: protocol(&first).into(),
        origins: servers.iter().map(tls::origin_of).collect(),
        target_port: target_port(config, viewer, port).map_or(0, u32::from),
        ..wire::Listener::default()
    };
    match class {
        Class::Http => {
            let hosts = http_hosts(config, &servers, &rules);
            message.virtual_hosts = virtual_hosts(&scope, hosts, &mut revisions);
        }
        Class::Tcp => {
            message.tcp =
                servers.iter().flat_map(|served| tls::tcp(&parts, served, &mut revisions)).collect();
        }
        Class::Tls => {
            let (made, more) = tls::servers(&parts, &servers);
            message.tls_servers = made;
            revisions.extend(more);
        }
    }
    message.requires = features::of_listener(&message);
    Some(Compiled { message, holds: holds(revisions) })
}

/// Where a Service that selects the workload leads this port to. By name of a container port: as it is.
fn target_port(config: &Config, viewer: &Viewer, port: u16) -> Option<u16> {
    let services = config.services.values().map(|held| &held.spec);
    let in_front = services.filter(|service| {
        service.namespace == viewer.namespace
            && service.entry.is_none()
            && !service.selector.is_empty()
            && holds_all(&service.selector, &viewer.labels)
    });
    let mut ports = in_front.flat_map(|service| &service.ports).filter(|known| known.number == port);
    ports.find_map(|known| match known.target {
        TargetPort::Number(number) => Some(number),
        TargetPort::Name(_) => None,
    })
}

/// A host of a port, with what decides its answers.
#[derive(Default)]
struct HttpHost<'a> {
    rules: Vec<&'a Rules>,
    redirect: bool,
}

/// The hosts of some servers: those of VirtualServices, and those of servers that send everybody to https.
fn http_hosts<'a>(
    config: &Config,
    servers: &[Served<'_>],
    rules: &[&'a Rules],
) -> BTreeMap<String, HttpHost<'a>> {
    let mut hosts: BTreeMap<String, HttpHost<'a>> = BTreeMap::new();
    let redirects =
        |served: &Served<'_>| served.server.tls.as_ref().is_some_and(|tls| tls.https_redirect == Some(true));
    for served in servers.iter().filter(|served| redirects(served)) {
        for host in dns_names(served.server) {
            hosts.entry(host).or_default().redirect = true;
        }
    }
    for rules in rules.iter().filter(|rules| !rules.spec.spec.http.is_empty()) {
        let mut domains = BTreeMap::new();
        for served in servers.iter().filter(|served| bound(rules, served.gateway)) {
            for domain in meeting_hosts(config, served.gateway, served.server, rules) {
                *domains.entry(domain).or_insert(false) |= redirects(served);
            }
        }
        for (domain, redirect) in domains {
            let host = hosts.entry(domain).or_default();
            host.redirect |= redirect;
            host.rules.push(rules);
        }
    }
    hosts
}

fn virtual_hosts(
    scope: &Scope<'_>,
    hosts: BTreeMap<String, HttpHost<'_>>,
    revisions: &mut Vec<u64>,
) -> Vec<wire::VirtualHost> {
    let made = hosts.into_iter().map(|(domain, host)| {
        revisions.extend(host.rules.iter().map(|rules| rules.revision));
        virtual_host(scope, domain, &host)
    });
    made.collect()
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

fn virtual_host(scope: &Scope<'_>, domain: String, host: &HttpHost<'_>) -> wire::VirtualHost {
    let all: Vec<wire::Rule> = host.rules.iter().flat_map(|rules| http_rules(scope, rules)).collect();
    let (last, mut first): (Vec<_>, Vec<_>) = all.into_iter().partition(takes_everything);
    first.extend(last);
    let origin = host.rules.first().map(|rules| origin(rules, "spec", None));
    let table = Some(wire::RouteTable { rules: first, origin });
    wire::VirtualHost { domains: vec![domain], table, https_redirect: host.redirect }
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

fn protocol(served: &Served<'_>) -> Protocol {
    match class_of(served.serving) {
        Class::Http => Protocol::of_word(&served.server.port.protocol).unwrap_or(Protocol::Http),
        Class::Tcp => Protocol::Tcp,
        Class::Tls => Protocol::Tls,
    }
}
