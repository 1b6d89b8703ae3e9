//! ServiceEntry.

use std::collections::HashSet;
use std::net::IpAddr;

use super::super::problem::Findings;
use super::super::service_entry::{EntryEndpoint, EntryPort, Resolution, ServiceEntrySpec};
use super::host::{is_host, is_wildcard_host};
use super::{export_to, tell_yet};
use crate::model::Protocol;

const PROTOCOLS: &str = "one of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS";

pub(super) fn check(spec: &ServiceEntrySpec, findings: &mut Findings) {
    hosts(spec, findings);
    for (index, address) in spec.addresses.iter().enumerate() {
        if !is_range(address) {
            findings.error(
                format!("spec.addresses[{index}]"),
                format!("{address:?} is not an address"),
                "an IP address or a range such as 10.0.0.0/8",
            );
        }
    }
    ports(&spec.ports, findings);
    resolution(spec, findings);
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        check_endpoint(spec, endpoint, &format!("spec.endpoints[{index}]"), findings);
    }
    export_to(&spec.export_to, "spec.exportTo", findings);
    let opaque = spec.ports.iter().any(|port| Protocol::of_word(&port.protocol) == Some(Protocol::Tcp));
    if opaque && spec.addresses.is_empty() {
        findings.warning(
            "spec.addresses",
            "bytes have no name: without an address, a TCP port is reached only where this mesh gives the host one",
            "addresses that the application dials, or a port of HTTP or TLS",
        );
    }
}

fn hosts(spec: &ServiceEntrySpec, findings: &mut Findings) {
    if spec.hosts.is_empty() {
        findings.error("spec.hosts", "a ServiceEntry needs a host", "names such as api.example.com");
    }
    let mut seen = HashSet::new();
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" || !is_wildcard_host(host) || host.parse::<IpAddr>().is_ok() {
            findings.error(path, format!("{host:?} is not a host"), "a DNS name or *.suffix");
        } else if !seen.insert(host.to_ascii_lowercase()) {
            findings.error(path, format!("{host} is there twice"), "");
        } else if !host.contains('.') {
            findings.warning(
                path,
                format!("{host} has no dot: in other objects a name without one is a Service's"),
                "a full name",
            );
        }
    }
}

fn ports(ports: &[EntryPort], findings: &mut Findings) {
    if ports.is_empty() {
        findings.error("spec.ports", "a ServiceEntry needs a port", "number, name and protocol");
    }
    let (mut numbers, mut names) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port.number == 0 {
            findings.error(format!("{path}.number"), "number is missing or 0", "1 to 65535");
        } else if !numbers.insert(port.number) {
            findings.error(format!("{path}.number"), format!("port {} is there twice", port.number), "");
        }
        if port.name.is_empty() {
            findings.error(path.clone(), "name is missing", "a name");
        } else if !names.insert(port.name.as_str()) {
            findings.error(format!("{path}.name"), format!("the name {:?} is there twice", port.name), "");
        }
        if port.target_port == Some(0) {
            findings.error(format!("{path}.targetPort"), "0 is not a port", "1 to 65535");
        }
        let known = Protocol::of_word(&port.protocol).is_some() && !port.protocol.contains('/');
        if !known && !port.protocol.is_empty() {
            findings.error(
                format!("{path}.protocol"),
                format!("unknown protocol {:?}", port.protocol),
                PROTOCOLS,
            );
        }
    }
}

/// What may come together.
fn resolution(spec: &ServiceEntrySpec, findings: &mut Findings) {
    let path = "spec.resolution";
    let wildcard = spec.hosts.iter().any(|host| host.starts_with('*'));
    let selects = spec.workload_selector.is_some();
    if selects && !spec.endpoints.is_empty() {
        findings.error("spec.workloadSelector", "workloadSelector and endpoints are both set", "one of them");
    }
    if spec.workload_selector.as_ref().is_some_and(|selector| selector.labels.is_empty()) {
        findings.error("spec.workloadSelector", "labels are missing", "labels of pods");
    }
    match spec.resolved_by() {
        Resolution::None if selects || !spec.endpoints.is_empty() => {
            findings.error(
                path,
                "with resolution NONE the address dialled is the endpoint",
                "STATIC or DNS, or no endpoints and no workloadSelector",
            );
        }
        Resolution::Static if !selects && spec.endpoints.is_empty() => {
            findings.error(path, "resolution STATIC needs endpoints or a workloadSelector", "endpoints");
        }
        Resolution::Dns | Resolution::DnsRoundRobin if selects => {
            findings.error(path, "a workloadSelector needs no DNS", "STATIC");
        }
        Resolution::Dns | Resolution::DnsRoundRobin if wildcard && spec.endpoints.is_empty() => {
            findings.error(path, "DNS cannot be asked for a wildcard", "endpoints, or resolution NONE");
        }
        Resolution::DnsRoundRobin if spec.endpoints.len() > 1 => {
            findings.error(path, "DNS_ROUND_ROBIN takes one endpoint at most", "DNS");
        }
        Resolution::DynamicDns => findings.error(path, "DYNAMIC_DNS is not in force yet", "NONE or DNS"),
        _ => {}
    }
}

fn check_endpoint(spec: &ServiceEntrySpec, endpoint: &EntryEndpoint, path: &str, findings: &mut Findings) {
    let address = format!("{path}.address");
    let named = matches!(spec.resolved_by(), Resolution::Dns | Resolution::DnsRoundRobin);
    let is_ip = endpoint.address.parse::<IpAddr>().is_ok();
    if endpoint.address.is_empty() {
        findings.error(path, "address is missing", "an IP address, or a name with resolution DNS");
    } else if endpoint.address.starts_with("unix://") {
        findings.error(address, "unix sockets are not in force yet", "an IP address");
    } else if named && !is_ip && !is_host(&endpoint.address) {
        findings.error(address, format!("{:?} is not a host", endpoint.address), "a DNS name or an address");
    } else if !named && !is_ip {
        let message = format!("{:?} is not an address", endpoint.address);
        findings.error(address, message, "an IP address, or resolution DNS for a name");
    }
    for (name, number) in &endpoint.ports {
        let path = format!("{path}.ports.{name}");
        if *number == 0 {
            findings.error(path, "0 is not a port", "1 to 65535");
        } else if !spec.ports.iter().any(|port| port.name == *name) {
            findings.error(path, format!("spec.ports has no port named {name:?}"), "the name of a port");
        }
    }
    tell_yet(findings, !endpoint.network.is_empty(), path, "network");
}

/// An address, or `address/bits`.
fn is_range(text: &str) -> bool {
    let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    // Digits as everybody writes them: who reads ranges later takes neither `+8` nor `08`.
    let plain =
        |bits: &str| bits.bytes().all(|b| b.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    bits.is_none_or(|bits| plain(bits) && bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}
