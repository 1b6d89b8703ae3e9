//! Kubernetes' own kinds: only what would make the mesh misunderstand them.

use std::collections::HashSet;

use super::super::problem::Findings;
use super::super::workload::{ConfigMap, Container, Deployment, PodSpec, Probe, Secret, Service};

/// A value is never part of a message.
pub(super) fn secret(secret: &Secret, findings: &mut Findings) {
    for key in secret.data.keys().filter(|key| secret.value(key).is_none()) {
        findings.error(
            format!("data.{key}"),
            "not base64",
            "base64 under data, or the text under stringData",
        );
    }
}

pub(super) fn service(service: &Service, findings: &mut Findings) {
    let spec = &service.spec;
    if spec.r#type == "ExternalName" {
        external_name(&spec.external_name, findings);
        return;
    }
    if !spec.cluster_ip.is_empty()
        && !service.is_headless()
        && spec.cluster_ip.parse::<std::net::IpAddr>().is_err()
    {
        findings.error(
            "spec.clusterIP",
            format!("{:?} is not an address", spec.cluster_ip),
            "an IP address or None",
        );
    }
    if spec.ports.is_empty() && !service.is_headless() {
        findings.error("spec.ports", "a Service needs a port", "");
    }
    let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port.port == 0 {
            findings.error(format!("{path}.port"), "port is missing or 0", "1 to 65535");
        }
        if !numbers.insert((port.port, port.protocol.as_str())) {
            findings.error(format!("{path}.port"), format!("port {} is there twice", port.port), "");
        }
        if spec.ports.len() > 1 && port.name.is_empty() {
            findings.error(format!("{path}.name"), "ports need names where there are several", "");
        } else if !port.name.is_empty() && !names.insert(port.name.as_str()) {
            findings.error(format!("{path}.name"), format!("the name {:?} is there twice", port.name), "");
        }
        match port.protocol.as_str() {
            "" | "TCP" => {}
            "UDP" | "SCTP" => {
                findings.warning(
                    format!("{path}.protocol"),
                    format!("{} does not go through the mesh", port.protocol),
                    "",
                );
            }
            other => findings.error(
                format!("{path}.protocol"),
                format!("unknown protocol {other:?}"),
                "TCP, UDP or SCTP",
            ),
        }
    }
}

/// Another name for a host: of the mesh, or of the outside.
fn external_name(written: &str, findings: &mut Findings) {
    let name = written.strip_suffix('.').unwrap_or(written);
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    if name.len() > 253 || !name.split('.').all(label) {
        findings.error(
            "spec.externalName",
            format!("{written:?} is not a name"),
            "a DNS name, e.g. db.example.com",
        );
    } else if name.parse::<std::net::IpAddr>().is_ok() {
        findings.warning(
            "spec.externalName",
            "an address is taken for a name, which DNS does not know",
            "a DNS name",
        );
    }
}

/// Istio's own settings lie in the ConfigMap `istio` of its own namespace; those of a revision in `istio-<revision>`.
pub(super) fn config_map(map: &ConfigMap, findings: &mut Findings) {
    let name = &map.metadata.name;
    let named = name == "istio" || name.starts_with("istio-");
    if named && map.data.contains_key("mesh") && map.mesh_config().is_none() {
        findings.warning(
            "data.mesh",
            "Istio's mesh configuration is read from another ConfigMap",
            "the ConfigMap istio of istio-system",
        );
    }
}

pub(super) fn deployment(deployment: &Deployment, findings: &mut Findings) {
    let spec = &deployment.spec;
    let selector = &spec.selector;
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        findings.error("spec.selector", "the selector is missing", "matchLabels that the template has");
    } else if !selector.selects(&spec.template.metadata.labels) {
        findings.error(
            "spec.selector",
            "the selector does not select the template",
            "labels that spec.template.metadata.labels has",
        );
    }
    pod(&spec.template.spec, "spec.template.spec", findings);
}

pub(super) fn pod(spec: &PodSpec, path: &str, findings: &mut Findings) {
    if spec.containers.is_empty() {
        findings.error(format!("{path}.containers"), "at least one container is needed", "");
    }
    let mut names = HashSet::new();
    for (index, one) in spec.containers.iter().enumerate() {
        let path = format!("{path}.containers[{index}]");
        if one.name.is_empty() {
            findings.error(format!("{path}.name"), "name is missing", "");
        } else if !names.insert(one.name.as_str()) {
            findings.error(format!("{path}.name"), format!("the name {:?} is there twice", one.name), "");
        }
        container(one, &path, findings);
    }
}

fn container(container: &Container, path: &str, findings: &mut Findings) {
    for (index, port) in container.ports.iter().enumerate() {
        if port.container_port == 0 {
            findings.error(
                format!("{path}.ports[{index}].containerPort"),
                "containerPort is missing or 0",
                "1 to 65535",
            );
        }
    }
    let probes = [
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            check_probe(probe, &format!("{path}.{name}"), findings);
        }
    }
}

fn check_probe(probe: &Probe, path: &str, findings: &mut Findings) {
    let ways = usize::from(probe.http_get.is_some())
        + usize::from(probe.tcp_socket.is_some())
        + usize::from(probe.grpc.is_some())
        + usize::from(probe.exec.is_some());
    if ways != 1 {
        findings.error(
            path,
            format!("a probe has {ways} handlers"),
            "exactly one of httpGet, tcpSocket, grpc, exec",
        );
    }
    if probe.http_get.as_ref().is_some_and(|get| get.port.is_none()) {
        findings.error(format!("{path}.httpGet"), "port is missing", "a number or the name of a port");
    }
    if probe.tcp_socket.as_ref().is_some_and(|tcp| tcp.port.is_none()) {
        findings.error(format!("{path}.tcpSocket"), "port is missing", "a number or the name of a port");
    }
}
