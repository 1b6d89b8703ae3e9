//! `endpoints/<host>:<port>` and `workload/<ip>`: who is there. The same for every viewer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use mesh_proto::crd::Labels;
use mesh_proto::crd::destination_rule::{DestinationRuleSpec, LocalitySetting};
use mesh_proto::crd::meta::LOW_PORT_OFFSET;
use mesh_proto::model::Protocol;
use mesh_proto::wire::mesh::v1 as wire;

use super::holds;
use super::host::{full, names};
use super::policy::{PeerPolicy, peer_policy};
use crate::snapshot::{Compiled, Config, EndpointSet, EndpointView, Pod};

/// The cluster that metrics name where there is only one (Istio's default).
const CLUSTER_ID: &str = "Kubernetes";

/// The endpoints of a service's port, with the labels that some subset or `failoverPriority` of that host looks at.
#[must_use]
pub fn endpoints(config: &Config, set: &EndpointSet) -> Option<Compiled<wire::Endpoints>> {
    let wanted = wanted_labels(config, set.name.host());
    let endpoints = set.endpoints.iter().map(|view| endpoint(config, view, &wanted)).collect();
    let service = config.services.get(set.name.host()).map(|held| held.revision);
    Some(Compiled { message: wire::Endpoints { endpoints }, holds: holds(service) })
}

/// The labels that some DestinationRule, of whatever namespace, has in a subset or `failoverPriority` of this host.
fn wanted_labels<'a>(config: &'a Config, host: &str) -> BTreeSet<&'a str> {
    let rules = config.destination_rules.iter();
    let of_host = rules
        .filter(|rule| names(&full(config, &rule.spec.spec.host, &rule.reference.namespace), host).is_some());
    // The mesh's order counts for rules that have none of their own; a label too many is no harm.
    let mut wanted: BTreeSet<_> = config.options.locality.iter().flat_map(labels_of).collect();
    for spec in of_host.map(|rule| &rule.spec.spec) {
        wanted.extend(spec.subsets.iter().flat_map(|s| s.labels.keys()).map(String::as_str));
        wanted.extend(priority_labels(spec));
    }
    wanted
}

/// The names of the labels that a rule's `failoverPriority` lists compare.
fn priority_labels(spec: &DestinationRuleSpec) -> impl Iterator<Item = &str> {
    let of_subsets = spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let policies = spec.traffic_policy.iter().chain(of_subsets);
    let balancers = policies.flat_map(|policy| {
        let ports = policy.port_level_settings.iter().map(|port| port.load_balancer.as_ref());
        ports.chain([policy.load_balancer.as_ref()]).flatten()
    });
    let settings = balancers.filter_map(|balancer| balancer.locality_lb_setting.as_ref());
    settings.flat_map(labels_of)
}

fn labels_of(setting: &LocalitySetting) -> impl Iterator<Item = &str> {
    let labels = setting.failover_priority.iter();
    labels.map(|label| label.split_once('=').map_or(label.as_str(), |(name, _)| name))
}

fn endpoint(config: &Config, view: &EndpointView, wanted: &BTreeSet<&str>) -> wire::Endpoint {
    let pod = &view.pod;
    let labels = pod.labels.iter().filter(|(key, _)| wanted.contains(key.as_str()));
    wire::Endpoint {
        uid: pod.uid.to_string(),
        address: match &view.name {
            Some(_) => view.reached_at(),
            None => served_at(pod, view.address).to_string(),
        },
        identity: identity(pod),
        mtls: speaks_mtls(pod, &peer_policy(config, pod), view.address.port()),
        ready: view.ready && !pod.terminating,
        locality: pod.locality.to_string(),
        weight: view.weight,
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        facts: Some(facts(pod)),
    }
}

/// Where a pod's port is served: another place only for low ports that the local supervisor may not bind.
fn served_at(pod: &Pod, mut address: SocketAddr) -> SocketAddr {
    let offset = pod.annotations.get(LOW_PORT_OFFSET).and_then(|offset| offset.parse::<u16>().ok());
    if let (0..1024, Some(offset)) = (address.port(), offset) {
        address.set_port(address.port().saturating_add(offset));
    }
    address
}

/// Empty for who has no proxy: no certificate, so no identity to expect.
fn identity(pod: &Pod) -> String {
    if pod.injected || pod.gateway { pod.identity.to_string() } else { String::new() }
}

/// Istio's auto mTLS: where there is a sidecar and its policy for that port is not DISABLE. What a gateway's port takes its
/// servers say.
fn speaks_mtls(pod: &Pod, policy: &PeerPolicy, port: u16) -> bool {
    pod.injected && !pod.gateway && policy.of_port(port) != wire::MtlsMode::MtlsDisable
}

/// What metrics and logs say of a pod.
pub(super) fn facts(pod: &Pod) -> wire::WorkloadFacts {
    let first = |labels: &Labels, keys: &[&str]| {
        keys.iter().find_map(|key| labels.get(*key)).filter(|value| !value.is_empty()).cloned()
    };
    let service = first(&pod.labels, &["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision =
        first(&pod.labels, &["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    wire::WorkloadFacts {
        workload: pod.workload.to_string(),
        namespace: pod.namespace.to_string(),
        app: first(&pod.labels, &["app"]).unwrap_or_default(),
        version: first(&pod.labels, &["version"]).unwrap_or_default(),
        canonical_service: service.unwrap_or_else(|| pod.workload.to_string()),
        canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()),
        cluster_id: CLUSTER_ID.to_owned(),
        instance: pod.name.to_string(),
    }
}

/// A pod's port, what it speaks and which services lead to it.
pub(super) struct PodPort {
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) services: Vec<wire::ServiceRef>,
}

/// The container ports of a pod and the ports that services lead to, by number. Where several services lead to one, the
/// first one's protocol counts, in the order of names; where none does, the port's own name says it.
pub(super) fn ports(pod: &Pod) -> Vec<PodPort> {
    let numbers = pod.ports.iter().map(|port| port.number).chain(pod.services.iter().map(|to| to.target));
    let numbers: BTreeSet<u16> = numbers.collect();
    let port = |number| {
        let mut services: Vec<_> = pod.services.iter().filter(|to| to.target == number).collect();
        services.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        let name = pod.ports.iter().find(|port| port.number == number).map_or("", |port| &port.name);
        let own = || Protocol::of_port(None, Some(name).filter(|name| !name.is_empty()), number);
        let reference = |to: &&crate::snapshot::PodService| wire::ServiceRef {
            host: to.host.to_string(),
            port: u32::from(to.port),
            name: to.name.to_string(),
            namespace: to.namespace.to_string(),
        };
        PodPort {
            number,
            name: name.to_owned(),
            protocol: services.first().map_or_else(own, |to| to.protocol),
            services: services.iter().map(reference).collect(),
        }
    };
    numbers.into_iter().map(port).collect()
}

/// Who is behind a pod's address.
#[must_use]
pub fn workload(config: &Config, pod: &Pod, address: IpAddr) -> Option<Compiled<wire::Workload>> {
    let policy = peer_policy(config, pod);
    let port = |port: PodPort| wire::WorkloadPort {
        port: u32::from(port.number),
        protocol: port.protocol.into(),
        mtls: speaks_mtls(pod, &policy, port.number),
        services: port.services,
    };
    let message = wire::Workload {
        address: address.to_string(),
        uid: pod.uid.to_string(),
        identity: identity(pod),
        facts: Some(facts(pod)),
        ports: ports(pod).into_iter().map(port).collect(),
    };
    Some(Compiled { message, holds: Vec::new() })
}
