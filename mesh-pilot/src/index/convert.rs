//! Kubernetes' objects narrowed to what the mesh needs of them.

use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::crd::{self, IntOrString, Labels};
use mesh_proto::model::{Protocol, SpiffeId};

use crate::snapshot::{Alias, ContainerPort, MeshSettings, Pod, Service, ServicePort, TargetPort};

/// The annotation of a pod that has a sidecar.
const INJECTED: &str = "sidecar.istio.io/status";

/// Istio's annotation of a pod that is made a gateway.
const TEMPLATES: &str = "inject.istio.io/templates";

/// Istio's label for a place.
const LOCALITY: &str = "istio-locality";
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// A Service; `None` when it is another name ([`alias`]).
pub fn service(service: &crd::Service, mesh: &MeshSettings) -> Option<Service> {
    let (metadata, spec) = (&service.metadata, &service.spec);
    if spec.r#type == "ExternalName" {
        return None;
    }
    let host = host(metadata, mesh);
    let tcp = |port: &&crd::workload::ServicePort| matches!(port.protocol.as_str(), "" | "TCP");
    let ports = spec.ports.iter().filter(tcp).map(|port| ServicePort {
        number: port.port,
        name: Arc::from(port.name.as_str()),
        protocol: Protocol::of_port(
            port.app_protocol.as_deref(),
            Some(port.name.as_str()).filter(|name| !name.is_empty()),
            port.port,
        ),
        target: match &port.target_port {
            Some(IntOrString::Number(number)) => TargetPort::Number(*number),
            Some(IntOrString::Name(name)) => TargetPort::Name(Arc::from(name.as_str())),
            None => TargetPort::Number(port.port),
        },
    });
    Some(Service {
        host,
        name: Arc::from(metadata.name.as_str()),
        namespace: Arc::from(metadata.namespace.as_str()),
        vips: addresses(std::iter::once(&spec.cluster_ip).chain(&spec.cluster_ips)),
        headless: service.is_headless(),
        ports: ports.collect(),
        selector: spec.selector.clone(),
        publish_not_ready: spec.publish_not_ready_addresses,
        labels: metadata.labels.clone(),
        annotations: metadata.annotations.clone(),
        entry: None,
    })
}

/// An ExternalName Service.
pub fn alias(service: &crd::Service, mesh: &MeshSettings) -> Option<Alias> {
    let (metadata, spec) = (&service.metadata, &service.spec);
    let target = spec.external_name.strip_suffix('.').unwrap_or(&spec.external_name);
    (spec.r#type == "ExternalName").then(|| Alias {
        host: host(metadata, mesh),
        namespace: Arc::from(metadata.namespace.as_str()),
        target: Arc::from(target.to_ascii_lowercase()),
        annotations: metadata.annotations.clone(),
    })
}

fn host(metadata: &crd::ObjectMeta, mesh: &MeshSettings) -> Arc<str> {
    let host = format!("{}.{}.svc.{}", metadata.name, metadata.namespace, mesh.cluster_domain);
    Arc::from(host.to_ascii_lowercase())
}

/// What is an address (`None` and nothing are none), each once.
fn addresses<'a>(given: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = Vec::new();
    for address in given.filter_map(|text| text.parse().ok()) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

/// A Pod; `None` while it has no address and when it is over.
pub fn pod(pod: &crd::Pod, mesh: &MeshSettings) -> Option<Pod> {
    let metadata = &pod.metadata;
    let address: IpAddr = pod.status.pod_ip.parse().ok()?;
    if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    let account = pod.service_account();
    let identity = SpiffeId::new(&mesh.trust_domain, &metadata.namespace, account)
        .inspect_err(
            |error| tracing::warn!(pod = metadata.name, %error, "a pod without identity is left out"),
        )
        .ok()?;
    let ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
    let ports = ports.filter(|port| matches!(port.protocol.as_str(), "" | "TCP"));
    // An uid is given by whoever runs the pod; a file without one is its own.
    let uid = if metadata.uid.is_empty() {
        format!("{}/{}", metadata.namespace, metadata.name)
    } else {
        metadata.uid.clone()
    };
    Some(Pod {
        uid: Arc::from(uid),
        name: Arc::from(metadata.name.as_str()),
        namespace: Arc::from(metadata.namespace.as_str()),
        service_account: Arc::from(account),
        identity,
        address,
        more_addresses: addresses(
            pod.status.pod_ips.iter().map(|ip| &ip.ip).filter(|ip| **ip != pod.status.pod_ip),
        ),
        workload: Arc::from(workload(&metadata.name, &metadata.labels)),
        ports: ports
            .map(|port| ContainerPort { number: port.container_port, name: Arc::from(port.name.as_str()) })
            .collect(),
        ready: pod.is_ready(),
        terminating: metadata.deletion_timestamp.is_some(),
        host_network: pod.spec.host_network,
        injected: metadata.annotations.contains_key(INJECTED),
        gateway: metadata.annotations.get(TEMPLATES).is_some_and(|list| list.contains("gateway")),
        locality: Arc::from(locality(&metadata.labels)),
        labels: metadata.labels.clone(),
        annotations: metadata.annotations.clone(),
        services: Vec::new(),
    })
}

/// Where labels say that something runs, as `region/zone/subzone`: `istio-locality` with dots between (or slashes, where
/// they are allowed), else the well-known topology labels, which a Node has too. Empty: they do not say.
pub fn locality(labels: &Labels) -> String {
    let label = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
    if let Some(all) = labels.get(LOCALITY).filter(|all| !all.is_empty()) {
        return if all.contains('/') { all.clone() } else { all.replacen('.', "/", 2) };
    }
    let parts = [label(REGION), label(ZONE), label(SUBZONE)];
    // Without a region there is nothing to be in.
    if parts[0].is_empty() {
        return String::new();
    }
    parts.join("/").trim_end_matches('/').to_owned()
}

/// The workload behind a pod's name: `reviews-v2-7d9c5c6d4-x2x4z` (with the label `pod-template-hash`) and
/// `reviews-v2-0` are both of `reviews-v2`.
fn workload<'a>(name: &'a str, labels: &Labels) -> &'a str {
    if let Some(hash) = labels.get("pod-template-hash")
        && let Some((rest, _)) = name.rsplit_once('-')
        && let Some(rest) = rest.strip_suffix(hash.as_str()).and_then(|rest| rest.strip_suffix('-'))
    {
        return rest;
    }
    match name.rsplit_once('-') {
        Some((rest, ordinal)) if !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localities() {
        let of = |labels: &[(&str, &str)]| {
            locality(&labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[(LOCALITY, "r.z.s")]), "r/z/s");
        assert_eq!(of(&[(LOCALITY, "us-east1/us-east1-b")]), "us-east1/us-east1-b");
        assert_eq!(of(&[(REGION, "r")]), "r");
        assert_eq!(of(&[(REGION, "r"), (ZONE, "z"), (SUBZONE, "s")]), "r/z/s");
        assert_eq!(of(&[(REGION, "r"), (LOCALITY, "other")]), "other");
        assert_eq!(of(&[(ZONE, "z")]), "");
    }

    #[test]
    fn workload_names() {
        let hashed = Labels::from([("pod-template-hash".to_owned(), "7d9c5c6d4".to_owned())]);
        assert_eq!(workload("reviews-v2-7d9c5c6d4-x2x4z", &hashed), "reviews-v2");
        assert_eq!(workload("reviews-v2-0", &Labels::new()), "reviews-v2");
        assert_eq!(workload("single", &Labels::new()), "single");
        assert_eq!(workload("single-", &Labels::new()), "single-");
    }
}
