//! What is wrong or without effect between objects, each of which is right by itself. With the code of Istio's analyzer
//! where it has one.

use std::collections::{BTreeMap, HashMap};

use mesh_proto::crd::check::{Serving, unserved};
use mesh_proto::crd::virtual_service::Destination;
use mesh_proto::crd::{Kind, Targets};

use super::host::{at, full, names};
use super::listener::{Gateway, Served, bound, class_of, dns_names, meeting_hosts, name_of, servers_of};
use super::policy::{self, Policy, selects_some};
use super::routes::{Rules, Scope, backend_name, for_mesh, gateway_name};
use super::traffic::Rule;
use super::{alias, claims};
use crate::keys::KeySource;
use crate::snapshot::{Config, Held, Note, Outbound};

/// Everything that there is to tell, in the order of the objects.
#[must_use]
pub fn notes(config: &Config) -> Vec<Note> {
    let mut notes = Notes(Vec::new());
    // By host, so that a large mesh is not compared pair by pair.
    let mut routed: ByHost<'_, Rules> = HashMap::new();
    let named =
        |rule: &'_ std::sync::Arc<Rule>| full(config, &rule.spec.spec.host, &rule.reference.namespace);
    let rule_hosts: RuleHosts<'_> =
        config.destination_rules.iter().map(|rule| (named(rule), rule.as_ref())).collect();
    for rules in config.virtual_services.iter().map(AsRef::as_ref) {
        virtual_service(config, rules, &mut routed, &rule_hosts, &mut notes);
    }
    let mut ruled: ByHost<'_, Rule> = HashMap::new();
    for rule in config.destination_rules.iter().map(AsRef::as_ref) {
        destination_rule(config, rule, &mut ruled, &mut notes);
    }
    for (index, policy) in config.peer_authentications.iter().enumerate() {
        let older = &config.peer_authentications[..index];
        peer_authentication(config, policy, older.iter().map(AsRef::as_ref), &mut notes);
    }
    notes.0.extend(policy::notes(config));
    issuers(config, &mut notes);
    for (policy, text) in super::external::troubles(config) {
        notes.add(policy, text);
    }
    gateways(config, &mut notes);
    shadowed(config, &mut notes);
    aliases(config, &mut notes);
    closed(config, &mut notes);
    notes.0
}

/// Names for other names that lead nowhere.
fn aliases(config: &Config, notes: &mut Notes) {
    let known = |host: &str| config.services.contains_key(host) || config.aliases.contains_key(host);
    for alias in config.aliases.values() {
        let target = &alias.spec.target;
        let meant = format!("{target}.svc.{}", config.mesh.cluster_domain);
        if let Some(ring) = alias::ring(config, &alias.spec.host) {
            notes.add(alias, format!("it leads nowhere, no request for it has an answer: {ring}"));
        } else if !known(target) && known(&meant) {
            let text =
                format!("{target} is no whole name, and a name of the outside: {meant} is the Service's");
            notes.add(alias, text);
        } else if !known(target) && config.options.outbound == Outbound::RegistryOnly {
            let text = format!(
                "{target} is nobody's in the mesh, and outside is closed (REGISTRY_ONLY): a ServiceEntry opens it"
            );
            notes.add(alias, text);
        }
    }
}

/// Hosts of ServiceEntries that another object has.
fn shadowed(config: &Config, notes: &mut Notes) {
    for lost in &config.shadowed {
        let text = format!("the host {} is that of {}, which comes first", lost.host, lost.by);
        notes.0.push(Note { reference: lost.reference.clone(), text, superseded: false });
    }
}

/// Whose keys cannot be fetched.
fn issuers(config: &Config, notes: &mut Notes) {
    let wanted = super::key_sources(config);
    for held in &config.request_authentications {
        for rule in &held.spec.spec.jwt_rules {
            let Some(source) = KeySource::of(rule) else { continue };
            if !wanted.contains_key(&source) {
                let (own, all) = (crate::keys::MAX_OF_NAMESPACE, crate::keys::MAX_SOURCES);
                let text = format!(
                    "the keys of {} are not fetched: there are more than {own} issuers in {}, or {all} in the mesh",
                    rule.issuer, held.reference.namespace
                );
                notes.add(held, text);
                continue;
            }
            let Some(known) = config.keys.get(&source) else { continue };
            let Some(wrong) = &known.wrong else { continue };
            let so = match known.good {
                Some(_) => "the last good keys stay in force",
                None => "until there are some, none of its tokens is valid",
            };
            notes.add(held, format!("the keys of {} cannot be fetched: {wrong}; {so}", rule.issuer));
        }
    }
}

/// What is closed because the object that was to restrict it is refused.
fn closed(config: &Config, notes: &mut Notes) {
    for restriction in &config.restrictions {
        let reference = restriction.reference.clone();
        let text = match &restriction.targets {
            Targets::Host(host) => {
                let host = full(config, host, &reference.namespace);
                format!("{host} cannot be reached until it is put right: it was to secure connections")
            }
            Targets::Workloads(labels) => {
                let whose = if reference.namespace == config.mesh.root_namespace {
                    "the mesh".to_owned()
                } else {
                    reference.namespace.to_string()
                };
                let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let whom = if labels.is_empty() {
                    format!("all workloads of {whose}")
                } else {
                    format!("workloads of {whose} with {}", labels.join(","))
                };
                match reference.kind {
                    Kind::PeerAuthentication => format!("until it is put right, {whom} take mTLS only"),
                    _ => format!("as long as it is there, {whom} let nothing in"),
                }
            }
        };
        notes.0.push(Note { reference, text, superseded: false });
    }
}

/// The objects that name a host, oldest first.
type ByHost<'a, T> = HashMap<String, Vec<&'a T>>;

/// Every DestinationRule with its host, made full once.
type RuleHosts<'a> = Vec<(String, &'a Rule)>;

struct Notes(Vec<Note>);

impl Notes {
    fn add<T>(&mut self, held: &Held<T>, text: String) {
        self.0.push(Note { reference: held.reference.clone(), text, superseded: false });
    }

    fn superseded<T>(&mut self, held: &Held<T>, text: String) {
        self.0.push(Note { reference: held.reference.clone(), text, superseded: true });
    }
}

fn virtual_service<'a>(
    config: &Config,
    rules: &'a Rules,
    routed: &mut ByHost<'a, Rules>,
    rule_hosts: &RuleHosts<'_>,
    notes: &mut Notes,
) {
    duplicate_hosts(config, rules, routed, notes);
    unknown_gateways(config, rules, notes);
    unknown_hosts(config, rules, notes);
    for text in claims::notes(config, rules) {
        notes.add(rules, text);
    }
    let owner: &str = &rules.reference.namespace;
    let scope = Scope { config, namespace: owner, port: 0, gateways: &[] };
    let http = rules.spec.spec.http.iter().enumerate();
    let http = http.flat_map(|(i, r)| r.route.iter().map(move |to| (format!("http[{i}]"), &to.destination)));
    let tcp = rules.spec.spec.tcp.iter().enumerate();
    let tcp = tcp.flat_map(|(i, r)| r.route.iter().map(move |to| (format!("tcp[{i}]"), &to.destination)));
    let tls = rules.spec.spec.tls.iter().enumerate();
    let tls = tls.flat_map(|(i, r)| r.route.iter().map(move |to| (format!("tls[{i}]"), &to.destination)));
    for (path, to) in http.chain(tcp).chain(tls) {
        if let Some(text) = unknown_destination(&scope, rule_hosts, owner, to) {
            notes.add(rules, format!("{path}: {text} (IST0101)"));
        } else if let Some(text) = ambiguous_port(config, rules, to) {
            notes.add(rules, format!("{path}: {text} (IST0112)"));
        }
    }
}

/// A host that an older VirtualService routes already: for sidecars the first one has it, whole.
fn duplicate_hosts<'a>(config: &Config, rules: &'a Rules, routed: &mut ByHost<'a, Rules>, notes: &mut Notes) {
    if !for_mesh(rules) {
        return;
    }
    let spec = &rules.spec.spec;
    let hosts: Vec<String> =
        spec.hosts.iter().map(|host| full(config, host, &rules.reference.namespace)).collect();
    let mut lost = BTreeMap::new();
    for host in &hosts {
        let rivals = routed.entry(host.clone()).or_default();
        if let Some(rival) = rivals.iter().find(|rival| covers(config, rival, rules)) {
            lost.insert(host, *rival);
        }
        rivals.push(rules);
    }
    let only_mesh = spec.gateways.iter().all(|gateway| gateway == "mesh");
    for (host, rival) in &lost {
        let text =
            format!("{host} is routed by {}{}, which is older (IST0109)", rival.reference, at(&rival.origin));
        if lost.len() == hosts.len() && only_mesh {
            notes.superseded(rules, text);
        } else {
            notes.add(rules, text);
        }
    }
}

/// A name of the mesh that no service has: most often a short name that was meant for another namespace.
fn unknown_hosts(config: &Config, rules: &Rules, notes: &mut Notes) {
    if !for_mesh(rules) {
        return;
    }
    let owner = &rules.reference.namespace;
    let domain = format!(".svc.{}", config.mesh.cluster_domain);
    for written in &rules.spec.spec.hosts {
        let host = full(config, written, owner);
        let known = config.services.contains_key(host.as_str()) || config.aliases.contains_key(host.as_str());
        if host.starts_with('*') || !host.ends_with(&domain) || known {
            continue;
        }
        let elsewhere = || {
            let mut services = config.services.values();
            services.find(|held| *held.spec.name == **written).map(|held| held.spec.host.clone())
        };
        let hint = if written.contains('.') { None } else { elsewhere() };
        let hint = hint.map(|host| format!("; {host} is another one's")).unwrap_or_default();
        notes.add(
            rules,
            format!("no service has the host {host}: only requests for just that name are routed{hint}"),
        );
    }
}

/// Whether the older one is seen wherever the younger one is, with no less precedence.
fn covers(config: &Config, older: &Rules, younger: &Rules) -> bool {
    let default = &config.options.default_export.virtual_services;
    let list = |rules: &Rules| match &rules.spec.spec.export_to[..] {
        [] => default.clone(),
        said => said.to_vec(),
    };
    let public = |rules: &Rules| list(rules).iter().all(|entry| entry == "*");
    let same = list(older) == list(younger) && older.reference.namespace == younger.reference.namespace;
    same || (public(older) && public(younger))
}

fn unknown_gateways(config: &Config, rules: &Rules, notes: &mut Notes) {
    for gateway in rules.spec.spec.gateways.iter().filter(|gateway| *gateway != "mesh") {
        let name = gateway_name(gateway, &rules.reference.namespace);
        let Some(found) = config.gateways.iter().find(|gateway| name_of(gateway) == name) else {
            notes.add(rules, format!("there is no Gateway {name} (IST0101)"));
            continue;
        };
        let servers = || found.spec.spec.servers.iter();
        if servers().all(|server| meeting_hosts(config, found, server, rules).is_empty()) {
            notes.add(rules, format!("no server of Gateway {name} has one of its hosts (IST0132)"));
        } else if servers().all(|server| unserved(&found.spec.spec, server).is_some()) {
            notes.add(rules, format!("no server of Gateway {name} is served"));
        }
    }
}

fn unknown_destination(
    scope: &Scope<'_>,
    rule_hosts: &RuleHosts<'_>,
    owner: &str,
    to: &Destination,
) -> Option<String> {
    let config = scope.config;
    let name = backend_name(scope, owner, to);
    let Some(service) = config.services.get(name.host()) else {
        return Some(format!(
            "the host {} is unknown: requests for it are answered with 503 NC",
            name.host()
        ));
    };
    let ports = &service.spec.ports;
    if to.port.is_some() && !ports.iter().any(|port| port.number == name.port()) {
        return Some(format!(
            "{} has no port {}: requests for it are answered with 503 NC",
            name.host(),
            name.port()
        ));
    }
    if !to.subset.is_empty() && !has_subset(rule_hosts, &service.spec.host, &to.subset) {
        let host = name.host();
        return Some(format!("{host} has no subset {}: requests for it are answered with 503 NC", to.subset));
    }
    None
}

/// Without a port, the port is the one that was asked for: right only where the destination has it.
fn ambiguous_port(config: &Config, rules: &Rules, to: &Destination) -> Option<String> {
    let owner = &rules.reference.namespace;
    let host = full(config, &to.host, owner);
    let service = config.services.get(host.as_str())?;
    let itself = rules.spec.spec.hosts.iter().any(|named| full(config, named, owner) == host);
    if to.port.is_some() || service.spec.ports.len() < 2 || itself {
        return None;
    }
    let ports: Vec<_> = service.spec.ports.iter().map(|port| port.number.to_string()).collect();
    let ports = ports.join(", ");
    Some(format!(
        "{host} has several ports and port.number is not set: requests to other ports than {ports} are answered with 503 NC"
    ))
}

fn has_subset(rule_hosts: &RuleHosts<'_>, host: &str, subset: &str) -> bool {
    let mut rules = rule_hosts.iter().filter(|(pattern, _)| names(pattern, host).is_some());
    rules.any(|(_, rule)| rule.spec.spec.subsets.iter().any(|known| known.name == subset))
}

fn destination_rule<'a>(config: &Config, rule: &'a Rule, ruled: &mut ByHost<'a, Rule>, notes: &mut Notes) {
    let host = full(config, &rule.spec.spec.host, &rule.reference.namespace);
    let known = config.services.contains_key(host.as_str())
        || (host.starts_with('*') && config.services.keys().any(|service| names(&host, service).is_some()));
    if let Some(alias) = config.aliases.get(host.as_str()).filter(|_| !known) {
        let target = &alias.spec.target;
        notes.add(
            rule,
            format!("{host} is another name of {target} (ExternalName), whose rules are those of both"),
        );
    } else if !known {
        notes.add(rule, format!("no service has the host {host} (IST0174)"));
    }
    let selector = &rule.spec.spec.workload_selector;
    let older = ruled.entry(host).or_default();
    let rivals: Vec<&Rule> = older
        .iter()
        .copied()
        .filter(|older| {
            older.reference.namespace == rule.reference.namespace
                && older.spec.spec.workload_selector == *selector
        })
        .collect();
    older.push(rule);
    let Some(first) = rivals.first() else { return };
    let spec = &rule.spec.spec;
    let rival_policy = rivals.iter().find(|rival| rival.spec.spec.traffic_policy.is_some());
    let lost_policy = rival_policy.filter(|_| spec.traffic_policy.is_some());
    let known = |name: &str| rivals.iter().any(|r| r.spec.spec.subsets.iter().any(|s| s.name == name));
    let lost: Vec<&str> = spec.subsets.iter().map(|s| s.name.as_str()).filter(|name| known(name)).collect();
    let all = lost.len() == spec.subsets.len() && (lost_policy.is_some() || spec.traffic_policy.is_none());
    let mut texts = Vec::new();
    if let Some(rival) = lost_policy {
        texts.push(format!(
            "the trafficPolicy of {}{} is in force, which is older",
            rival.reference,
            at(&rival.origin)
        ));
    }
    texts.extend(lost.iter().map(|name| format!("the subset {name} is already in {}", first.reference)));
    for text in texts {
        if all { notes.superseded(rule, text) } else { notes.add(rule, text) }
    }
}

fn peer_authentication<'a>(
    config: &Config,
    policy: &Policy,
    mut older: impl Iterator<Item = &'a Policy>,
    notes: &mut Notes,
) {
    let spec = &policy.spec.spec;
    if selects_some(policy) && policy.reference.namespace == config.mesh.root_namespace {
        notes.superseded(policy, "a policy with a selector is ignored in the root namespace".to_owned());
        return;
    }
    let rival = older.find(|older| {
        older.reference.namespace == policy.reference.namespace
            && selects_some(older) == selects_some(policy)
            && (!selects_some(policy) || older.spec.spec.selector == spec.selector)
    });
    if let Some(rival) = rival {
        let text = format!(
            "{}{} is in force for the same workloads, which is older",
            rival.reference,
            at(&rival.origin)
        );
        notes.superseded(policy, text);
    }
}

fn gateways(config: &Config, notes: &mut Notes) {
    for (age, gateway) in config.gateways.iter().enumerate() {
        let bound = config.virtual_services.iter().any(|rules| bound(rules, gateway));
        if !bound {
            let hint = to_bind(config, gateway);
            let text = format!("no VirtualService is bound to it: every request is answered with 404{hint}");
            notes.add(gateway, text);
        }
        let older: Vec<&Gateway> = config.gateways[..age].iter().map(AsRef::as_ref).collect();
        shared_ports(gateway, &older, notes);
    }
}

/// The line that would bind a VirtualService whose hosts the Gateway has.
fn to_bind(config: &Config, gateway: &Gateway) -> String {
    let meets = |rules: &&Rules| {
        let mut servers = gateway.spec.spec.servers.iter();
        servers.any(|server| !meeting_hosts(config, gateway, server, rules).is_empty())
    };
    let mut candidates = config.virtual_services.iter().map(AsRef::as_ref).filter(meets);
    let Some(rules) = candidates.next() else {
        let name = name_of(gateway);
        return format!("; a VirtualService is bound to it by the line `gateways: [{name}]` in its spec");
    };
    let own = rules.reference.namespace == gateway.reference.namespace;
    let name = if own { gateway.reference.name.to_string() } else { name_of(gateway) };
    // Without the line it was for the mesh, and it stays so.
    let mut all = rules.spec.spec.gateways.clone();
    if all.is_empty() {
        all.push("mesh".to_owned());
    }
    all.push(name);
    format!(
        "; add the line `gateways: [{}]` to spec of {}{}",
        all.join(", "),
        rules.reference,
        at(&rules.origin)
    )
}

/// Servers that an older Gateway (or an earlier server) of the same gateways leaves nothing of.
fn shared_ports(gateway: &Gateway, older: &[&Gateway], notes: &mut Notes) {
    let same = |other: &&&Gateway| other.spec.spec.selector == gateway.spec.spec.selector;
    let before: Vec<Served<'_>> = older.iter().filter(same).flat_map(|other| servers_of(other)).collect();
    let own: Vec<Served<'_>> = servers_of(gateway).collect();
    for (index, served) in own.iter().enumerate() {
        let port = served.server.port.number;
        let earlier = before.iter().chain(&own[..index]).filter(|other| other.server.port.number == port);
        let (mut same, mut other) = (Vec::new(), None);
        for before in earlier {
            if class_of(before.serving) == class_of(served.serving) {
                same.push(before);
            } else {
                other = other.or(Some(before));
            }
        }
        if let Some(first) = other.filter(|_| same.is_empty()) {
            let text = format!(
                "servers[{}] is not served: port {port} is served in another way by servers[{}] of Gateway {}",
                served.index,
                first.index,
                name_of(first.gateway)
            );
            notes.add(gateway, text);
        } else if ends_tls(served) {
            for host in dns_names(served.server) {
                let first =
                    same.iter().find(|other| ends_tls(other) && dns_names(other.server).contains(&host));
                if let Some(first) = first {
                    let text = format!(
                        "servers[{}]: {host} on port {port} is served by servers[{}] of Gateway {}, which comes first (IST0145)",
                        served.index,
                        first.index,
                        name_of(first.gateway)
                    );
                    notes.add(gateway, text);
                }
            }
        }
    }
}

fn ends_tls(served: &Served<'_>) -> bool {
    matches!(served.serving, Serving::Https | Serving::TlsTcp)
}
