//! `destination/<host>:<port>`: the routes of a name, for one viewer.

use mesh_proto::model::{HostPort, Protocol};
use mesh_proto::wire::mesh::v1 as wire;

use super::host::{full, visible_service};
use super::routes::{Rules, Scope, default_retry, http_rules, select, tcp_rules, tls_rules};
use super::{alias, holds, origin};
use crate::snapshot::{Compiled, Config, Service, Viewer};

/// The routes of a service's port, or (for a host that only a VirtualService has) of any port.
#[must_use]
pub fn destination(config: &Config, viewer: &Viewer, name: &HostPort) -> Option<Compiled<wire::Destination>> {
    let alias = alias::target(config, &viewer.namespace, name.host());
    let service = match &alias {
        Some(target) => Some(target.service),
        None => visible_service(config, &viewer.namespace, name.host()),
    };
    let port = service.and_then(|held| held.spec.ports.iter().find(|port| port.number == name.port()));
    // Where requests go by themselves.
    let real = alias.as_ref().map(|target| HostPort::new(&target.service.spec.host, name.port()));
    let real = real.as_ref().unwrap_or(name);
    let rules = rules_of(config, &viewer.namespace, name, real);
    let exists = match (service, port) {
        (_, Some(_)) => true,
        // A service without that port: an unknown name, whatever routes say.
        (Some(_), None) => false,
        (None, _) => rules.is_some_and(|rules| !rules.spec.spec.http.is_empty()),
    };
    if !exists {
        return None;
    }
    let scope = Scope { config, namespace: &viewer.namespace, port: name.port(), gateways: &[] };
    let http = rules.filter(|rules| !rules.spec.spec.http.is_empty());
    let tcp = rules.filter(|rules| !rules.spec.spec.tcp.is_empty());
    let table = http.map_or_else(
        || wire::RouteTable { rules: vec![default_rule(real)], origin: None },
        |rules| wire::RouteTable {
            rules: http_rules(&scope, rules),
            origin: Some(origin(rules, "spec", None)),
        },
    );
    let tcp_table = tcp.map_or_else(|| vec![default_tcp_rule(real)], |rules| tcp_rules(&scope, rules));
    let tls = rules.filter(|rules| !rules.spec.spec.tls.is_empty() && port.is_some());
    let tls_table = tls.map(|rules| tls_of(&scope, rules)).unwrap_or_default();
    let message = wire::Destination {
        name: Some(name.into()),
        http: Some(table),
        tcp: if port.is_some() { tcp_table } else { Vec::new() },
        protocol: port.map_or(Protocol::Http, |port| port.protocol).into(),
        service: service.map(|held| service_ref(&held.spec, name.port())),
        requires: Vec::new(),
        tls: tls_table,
    };
    let revisions =
        http.or(tcp).or(tls).map(|rules| rules.revision).into_iter().chain(service.map(|held| held.revision));
    let way = alias.into_iter().flat_map(|target| target.revisions);
    Some(Compiled { message, holds: holds(revisions.chain(way)) })
}

/// Those of the host; of an alias, only those that name just it come before those of what it stands for.
fn rules_of<'a>(config: &'a Config, namespace: &str, name: &HostPort, real: &HostPort) -> Option<&'a Rules> {
    let own = select(config, namespace, name.host());
    if name == real {
        return own;
    }
    let names_it = |rules: &&Rules| {
        let mut hosts = rules.spec.spec.hosts.iter();
        hosts.any(|host| full(config, host, &rules.reference.namespace) == name.host())
    };
    own.filter(names_it).or_else(|| select(config, namespace, real.host()))
}

/// The rules for TLS, by SNI in full.
fn tls_of(scope: &Scope<'_>, rules: &Rules) -> Vec<wire::TlsRule> {
    let named = tls_rules(scope, rules).into_iter().map(|(hosts, rule)| {
        let sni_hosts = hosts.iter().map(|host| full(scope.config, host, &rules.reference.namespace));
        wire::TlsRule { sni_hosts: sni_hosts.collect(), rule: Some(rule) }
    });
    named.collect()
}

/// A service's port for metric labels.
pub(super) fn service_ref(service: &Service, port: u16) -> wire::ServiceRef {
    wire::ServiceRef {
        host: service.host.to_string(),
        port: u32::from(port),
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
    }
}

fn everything_to(name: &HostPort) -> Vec<wire::WeightedBackend> {
    vec![wire::WeightedBackend { cluster: Some(name.into()), subset: String::new(), weight: 1 }]
}

/// A plain service: to itself, with Istio's default retries.
fn default_rule(name: &HostPort) -> wire::Rule {
    let route =
        wire::RouteAction { backends: everything_to(name), timeout: None, retry: Some(default_retry()) };
    wire::Rule {
        name: "default".to_owned(),
        origin: None,
        matches: Vec::new(),
        action: Some(wire::rule::Action::Route(route)),
    }
}

fn default_tcp_rule(name: &HostPort) -> wire::TcpRule {
    wire::TcpRule { backends: everything_to(name), ..wire::TcpRule::default() }
}
