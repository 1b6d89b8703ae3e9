//! Which VirtualService routes a host, and its rules for the wire.
//!
//! Istio's semantics: a host of the mesh is routed by **one** VirtualService, whole: the most specific of those that name
//! it, then private before exported before public, then the oldest. Static selectors of a match (`port`, `gateways`,
//! `sourceNamespace`) are decided here; a match that does not select the viewer is gone, and a rule whose matches are all
//! gone is gone.

use std::time::Duration;

use mesh_proto::crd::check::{body_bytes, retry_words};
use mesh_proto::crd::virtual_service::{
    Destination, DirectResponse, HttpDestination, HttpMatch, HttpRoute, L4Destination, Retries, TcpRoute,
    TlsMatch, TlsRoute,
};
use mesh_proto::crd::{self, StringMatch};
use mesh_proto::model::HostPort;
use mesh_proto::model::authorization::routed_claim;
use mesh_proto::wire::mesh::v1 as wire;

use super::host::{Visibility, full, names, visible, visible_service};
use super::{alias, on_wire, origin};
use crate::snapshot::{Config, Held, RoutedHosts};

/// A VirtualService with its place in the configuration.
pub(super) type Rules = Held<std::sync::Arc<crd::VirtualService>>;

/// Istio's default for what is tried again.
const RETRY_ON: &[&str] =
    &["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"];
/// Istio's default number of retries.
const RETRY_ATTEMPTS: u32 = 2;
/// Istio's default pause before a retry.
const RETRY_BACKOFF: Duration = Duration::from_millis(25);

/// Whether a VirtualService is for sidecars.
pub(super) fn for_mesh(rules: &Rules) -> bool {
    let gateways = &rules.spec.spec.gateways;
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// How a VirtualService is visible in a namespace.
pub(super) fn visibility(config: &Config, rules: &Rules, namespace: &str) -> Option<Visibility> {
    let list = rules.spec.spec.export_to.iter().map(String::as_str);
    let default = &config.options.default_export.virtual_services;
    visible(list, default, &rules.reference.namespace, namespace)
}

/// The VirtualService that routes `host` (of a service, or itself a wildcard that only routes have) for clients in
/// `namespace`. By an index: a configuration change compiles every name that somebody uses, one after the other.
pub(super) fn select<'a>(config: &'a Config, namespace: &str, host: &str) -> Option<&'a Rules> {
    let routed = config.routed.get_or_init(|| by_host(config));
    let exact = routed.exact.get(host).into_iter().flatten().map(|age| (host, *age));
    let wildcards = routed.wildcards.iter().map(|(pattern, age)| (pattern.as_str(), *age));
    let candidate = |(pattern, age): (&str, usize)| {
        let specificity = names(pattern, host)?;
        let rules: &'a Rules = config.virtual_services.get(age)?;
        let tier = visibility(config, rules, namespace)?;
        Some(((std::cmp::Reverse(specificity), tier, age), rules))
    };
    let candidates = exact.chain(wildcards).filter_map(candidate);
    candidates.min_by_key(|(rank, _)| *rank).map(|(_, rules)| rules)
}

fn by_host(config: &Config) -> RoutedHosts {
    let mut routed = RoutedHosts::default();
    for (age, rules) in config.virtual_services.iter().enumerate().filter(|(_, rules)| for_mesh(rules)) {
        for host in &rules.spec.spec.hosts {
            let host = full(config, host, &rules.reference.namespace);
            if host.starts_with('*') {
                routed.wildcards.push((host, age));
            } else {
                routed.exact.entry(host).or_default().push(age);
            }
        }
    }
    routed
}

/// For whom rules are made.
pub(super) struct Scope<'a> {
    /// What configuration says.
    pub(super) config: &'a Config,
    /// The client's namespace.
    pub(super) namespace: &'a str,
    /// The port that is asked for.
    pub(super) port: u16,
    /// The gateways on that port (`namespace/name`); none: sidecars (`mesh`).
    pub(super) gateways: &'a [String],
}

impl Scope<'_> {
    fn is_for(&self, gateways: &[String], port: Option<u16>, source_namespace: &str, owner: &str) -> bool {
        let gateway = |gateway: &String| match self.gateways {
            [] => gateway == "mesh",
            list => list.contains(&gateway_name(gateway, owner)),
        };
        (gateways.is_empty() || gateways.iter().any(gateway))
            && port.is_none_or(|port| port == self.port)
            && (source_namespace.is_empty() || source_namespace == self.namespace)
    }
}

/// `namespace/name` of a gateway as a VirtualService of `owner` calls it.
pub(super) fn gateway_name(gateway: &str, owner: &str) -> String {
    if gateway.contains('/') { gateway.to_owned() } else { format!("{owner}/{gateway}") }
}

/// The HTTP rules of a VirtualService, in order.
pub(super) fn http_rules(scope: &Scope<'_>, rules: &Rules) -> Vec<wire::Rule> {
    let rule = |(index, route)| http_rule(scope, rules, index, route);
    rules.spec.spec.http.iter().enumerate().filter_map(rule).collect()
}

fn http_rule(scope: &Scope<'_>, rules: &Rules, index: usize, route: &HttpRoute) -> Option<wire::Rule> {
    let owner = &rules.reference.namespace;
    let selected = |one: &&HttpMatch| scope.is_for(&one.gateways, one.port, &one.source_namespace, owner);
    let matches: Vec<wire::Match> = route.r#match.iter().filter(selected).map(http_match).collect();
    if matches.is_empty() && !route.r#match.is_empty() {
        return None;
    }
    let action = match &route.direct_response {
        Some(response) => wire::rule::Action::DirectResponse(direct_response(response)),
        None => wire::rule::Action::Route(route_action(scope, owner, route)),
    };
    // A match that asks for nothing takes everything: with it the others mean nothing.
    let everything =
        matches.iter().any(|m| *m == wire::Match { name: m.name.clone(), ..wire::Match::default() });
    Some(wire::Rule {
        name: if route.name.is_empty() { "default".to_owned() } else { route.name.clone() },
        origin: Some(origin(rules, &format!("spec.http[{index}]"), Some(index))),
        matches: if everything { Vec::new() } else { matches },
        action: Some(action),
    })
}

fn direct_response(response: &DirectResponse) -> wire::DirectResponse {
    let body = response.body.as_ref();
    let text = body.and_then(|body| body.string.as_ref()).map(|text| text.clone().into_bytes());
    let bytes = || body.and_then(|body| body.bytes.as_ref()).and_then(|bytes| body_bytes(bytes));
    wire::DirectResponse { status: response.status, body: text.or_else(bytes).unwrap_or_default().into() }
}

fn route_action(scope: &Scope<'_>, owner: &str, route: &HttpRoute) -> wire::RouteAction {
    let one = route.route.len() == 1;
    let backend = |to: &HttpDestination| backend(scope, owner, &to.destination, to.weight, one);
    wire::RouteAction {
        backends: route.route.iter().map(backend).collect(),
        timeout: route.timeout.filter(|timeout| !timeout.0.is_zero()).map(|timeout| on_wire(timeout.0)),
        retry: Some(route.retries.as_ref().map_or_else(default_retry, retry)),
    }
}

/// A single destination takes everything, whatever its weight; a negative weight counts as none.
fn backend(
    scope: &Scope<'_>,
    owner: &str,
    to: &Destination,
    weight: Option<i32>,
    one: bool,
) -> wire::WeightedBackend {
    let weight = if one { 1 } else { u32::try_from(weight.unwrap_or(0)).unwrap_or(0) };
    let name = backend_name(scope, owner, to);
    wire::WeightedBackend { cluster: Some((&name).into()), subset: to.subset.clone(), weight }
}

/// The port is the one written, else the only one of the service, else the one that was asked for.
pub(super) fn backend_name(scope: &Scope<'_>, owner: &str, to: &Destination) -> HostPort {
    let host = full(scope.config, &to.host, owner);
    let alias = alias::target(scope.config, scope.namespace, &host);
    let host = alias.map_or(host, |target| target.service.spec.host.to_string());
    let only = || {
        let service = visible_service(scope.config, scope.namespace, &host)?;
        match &service.spec.ports[..] {
            [port] => Some(port.number),
            _ => None,
        }
    };
    let port = to.port.as_ref().map(|port| port.number).or_else(only).unwrap_or(scope.port);
    HostPort::new(&host, port)
}

/// What is tried again where nobody said.
pub(super) fn default_retry() -> wire::RetryPolicy {
    wire::RetryPolicy {
        attempts: RETRY_ATTEMPTS,
        per_try_timeout: None,
        retry_on: RETRY_ON.iter().map(|word| (*word).to_owned()).collect(),
        status_codes: Vec::new(),
        backoff: Some(on_wire(RETRY_BACKOFF)),
        ignore_previous_hosts: None,
    }
}

fn retry(retries: &Retries) -> wire::RetryPolicy {
    let default = default_retry();
    let attempts = retries.attempts.map_or(0, |attempts| u32::try_from(attempts).unwrap_or(0));
    let (mut words, codes, _) = retry_words(&retries.retry_on);
    if retries.retry_on.trim().is_empty() {
        words.clone_from(&default.retry_on);
    }
    if !codes.is_empty() && !words.iter().any(|word| word == "retriable-status-codes") {
        words.push("retriable-status-codes".to_owned());
    }
    wire::RetryPolicy {
        attempts,
        per_try_timeout: retries.per_try_timeout.map(|timeout| on_wire(timeout.0)),
        retry_on: words,
        status_codes: codes,
        backoff: retries.backoff.map(|backoff| on_wire(backoff.0)).or(default.backoff),
        ignore_previous_hosts: retries.retry_ignore_previous_hosts,
    }
}

fn http_match(one: &HttpMatch) -> wire::Match {
    let invert = |invert| move |(name, value): (&String, &StringMatch)| header(name, value, invert);
    let headers = one.headers.iter().map(invert(false)).chain(one.without_headers.iter().map(invert(true)));
    wire::Match {
        name: one.name.clone(),
        path: one.uri.as_ref().and_then(|uri| path(uri, one.ignore_uri_case)),
        method: one.method.as_ref().map(string),
        scheme: one.scheme.as_ref().map(string),
        authority: one.authority.as_ref().map(string),
        headers: headers.collect(),
        query: one
            .query_params
            .iter()
            .map(|(name, value)| wire::QueryMatch { name: name.clone(), value: Some(string(value)) })
            .collect(),
        source_labels: one.source_labels.clone(),
        source_namespace: String::new(),
    }
}

fn header(name: &str, value: &StringMatch, invert: bool) -> wire::HeaderMatch {
    let present = StringMatch::Regex("*".to_owned());
    let value = if *value == present { &StringMatch::Present {} } else { value };
    // What begins like a claim and is none has been refused.
    let claim = routed_claim(name).ok().flatten().unwrap_or_default();
    wire::HeaderMatch { name: name.to_ascii_lowercase(), value: Some(string(value)), invert, claim }
}

fn string(value: &StringMatch) -> wire::StringMatch {
    use wire::string_match::Kind;
    let kind = match value {
        StringMatch::Exact(text) => Kind::Exact(text.clone()),
        StringMatch::Prefix(text) => Kind::Prefix(text.clone()),
        StringMatch::Regex(text) => Kind::Regex(text.clone()),
        StringMatch::Present {} => Kind::Present(true),
    };
    wire::StringMatch { kind: Some(kind) }
}

fn path(value: &StringMatch, ignore_case: bool) -> Option<wire::PathMatch> {
    use wire::path_match::Kind;
    let kind = match value {
        StringMatch::Exact(text) => Kind::Exact(text.clone()),
        StringMatch::Prefix(text) => Kind::Prefix(text.clone()),
        StringMatch::Regex(text) => Kind::Regex(text.clone()),
        StringMatch::Present {} => return None,
    };
    Some(wire::PathMatch { ignore_case: ignore_case && !matches!(kind, Kind::Regex(_)), kind: Some(kind) })
}

/// The TCP rules of a VirtualService, in order.
pub(super) fn tcp_rules(scope: &Scope<'_>, rules: &Rules) -> Vec<wire::TcpRule> {
    let rule = |(index, route): (usize, &TcpRoute)| {
        let owner = &rules.reference.namespace;
        let mut matches = route.r#match.iter();
        let selected = matches.any(|one| scope.is_for(&one.gateways, one.port, &one.source_namespace, owner));
        if !selected && !route.r#match.is_empty() {
            return None;
        }
        let one = route.route.len() == 1;
        let to = |to: &L4Destination| backend(scope, owner, &to.destination, to.weight, one);
        Some(wire::TcpRule {
            backends: route.route.iter().map(to).collect(),
            origin: Some(origin(rules, &format!("spec.tcp[{index}]"), Some(index))),
            mesh_tls: false,
        })
    };
    rules.spec.spec.tcp.iter().enumerate().filter_map(rule).collect()
}

/// The TLS rules of a VirtualService, in order, each with the server names that it is for.
pub(super) fn tls_rules(scope: &Scope<'_>, rules: &Rules) -> Vec<(Vec<String>, wire::TcpRule)> {
    let owner = &rules.reference.namespace;
    let rule = |(index, route): (usize, &TlsRoute)| {
        let selected = |one: &&TlsMatch| scope.is_for(&one.gateways, one.port, &one.source_namespace, owner);
        let hosts: Vec<String> =
            route.r#match.iter().filter(selected).flat_map(|one| one.sni_hosts.clone()).collect();
        let one = route.route.len() == 1;
        let to = |to: &L4Destination| backend(scope, owner, &to.destination, to.weight, one);
        let made = wire::TcpRule {
            backends: route.route.iter().map(to).collect(),
            origin: Some(origin(rules, &format!("spec.tls[{index}]"), Some(index))),
            mesh_tls: false,
        };
        (!hosts.is_empty()).then_some((hosts, made))
    };
    rules.spec.spec.tls.iter().enumerate().filter_map(rule).collect()
}
