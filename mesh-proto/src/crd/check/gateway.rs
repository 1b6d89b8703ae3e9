//! Gateway, with the forms that only this mesh knows.

use std::collections::HashMap;

use super::super::gateway::{GatewaySpec, Server, ServerTlsMode};
use super::super::problem::Findings;
use super::host::is_wildcard_host;

const PROTOCOLS: &[&str] = &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"];

/// Why a server is left unserved, if it is: it needs something that is not in force yet. Serving it without would let in
/// what it was to keep out.
#[must_use]
pub fn unserved(spec: &GatewaySpec, server: &Server) -> Option<String> {
    let protocol = server.port.protocol.to_ascii_uppercase();
    if !matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB") {
        return Some(format!("protocol {protocol} is not in force yet"));
    }
    if server.tls.as_ref().is_some_and(|tls| tls.https_redirect == Some(true)) {
        return Some("tls.httpsRedirect is not in force yet".to_owned());
    }
    if !server.bind.is_empty() {
        return Some("bind is not in force yet".to_owned());
    }
    if spec.tls.iter().any(|tls| overlap(&tls.hosts, &server.hosts)) {
        return Some(
            "spec.tls has a certificate for its hosts, and TLS at gateways is not in force yet".to_owned(),
        );
    }
    let mut rules = spec.auth.iter().flat_map(|auth| &auth.policy.rules);
    if rules.any(|rule| overlap(&rule.hosts, &server.hosts)) {
        return Some(
            "spec.auth asks for client certificates for its hosts, and that is not in force yet".to_owned(),
        );
    }
    None
}

/// Whether two lists of hosts have one in common, wildcards included.
fn overlap(a: &[String], b: &[String]) -> bool {
    let dns = |host: &str| host.rsplit('/').next().unwrap_or(host).to_ascii_lowercase();
    let covers = |wide: &str, narrow: &str| {
        wide == "*" || wide == narrow || wide.strip_prefix('*').is_some_and(|suffix| narrow.ends_with(suffix))
    };
    a.iter().any(|a| b.iter().any(|b| covers(&dns(a), &dns(b)) || covers(&dns(b), &dns(a))))
}

pub(super) fn check(spec: &GatewaySpec, findings: &mut Findings) {
    if spec.servers.is_empty() {
        findings.error("spec.servers", "a Gateway needs a server", "");
    }
    if spec.selector.is_empty() {
        findings.warning(
            "spec.selector",
            "no selector: every gateway workload is selected",
            "labels such as istio: ingressgateway",
        );
    }
    let mut seen = HashMap::new();
    for (index, server) in spec.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        check_server(server, &path, findings);
        for host in &server.hosts {
            if let Some(first) = seen.insert((server.port.number, host.as_str()), index) {
                let message = format!("{host} on port {} is in servers[{first}] already", server.port.number);
                findings.warning(format!("{path}.hosts"), message, "");
            }
        }
        if let Some(why) = unserved(spec, server) {
            findings.warning(path, format!("the server is left unserved: {why}"), "");
        }
    }
    own_forms(spec, findings);
}

fn check_server(server: &Server, path: &str, findings: &mut Findings) {
    if server.port.number == 0 {
        findings.error(format!("{path}.port"), "port.number is missing or 0", "1 to 65535");
    }
    let protocol = server.port.protocol.to_ascii_uppercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        let message = if protocol.is_empty() {
            "port.protocol is missing".to_owned()
        } else {
            format!("unknown protocol {:?}", server.port.protocol)
        };
        findings.error(format!("{path}.port.protocol"), message, format!("one of {}", PROTOCOLS.join(", ")));
    }
    if server.hosts.is_empty() {
        findings.error(format!("{path}.hosts"), "a server needs a host", "\"*\" or names");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let dns = match host.split_once('/') {
            Some(("*" | ".", dns)) => dns,
            Some((namespace, dns)) if crate::model::identity::is_kubernetes_name(namespace) => dns,
            Some(_) => "",
            None => host,
        };
        if !is_wildcard_host(dns) {
            let expected = "a DNS name, *.suffix or *, with namespace/ in front or without";
            findings.error(format!("{path}.hosts[{index}]"), format!("{host:?} is not a host"), expected);
        }
    }
    check_tls(server, &protocol, path, findings);
}

fn check_tls(server: &Server, protocol: &str, path: &str, findings: &mut Findings) {
    let encrypted = matches!(protocol, "HTTPS" | "TLS");
    match &server.tls {
        None if encrypted => {
            findings.error(
                format!("{path}.tls"),
                format!("protocol {protocol} needs tls"),
                "tls.mode and a certificate",
            );
        }
        Some(tls) if !encrypted && tls.mode.is_some_and(|mode| mode != ServerTlsMode::Passthrough) => {
            let message = format!("tls.mode on the plaintext protocol {protocol}");
            findings.error(
                format!("{path}.tls.mode"),
                message,
                "protocol HTTPS or TLS, or only tls.httpsRedirect",
            );
        }
        Some(tls) if encrypted && tls.https_redirect == Some(true) => {
            findings.error(format!("{path}.tls.httpsRedirect"), "httpsRedirect is for plaintext ports", "");
        }
        _ => {}
    }
    if !server.default_endpoint.is_empty() {
        findings.warning(
            format!("{path}.defaultEndpoint"),
            "defaultEndpoint is not in force, in Istio neither",
            "",
        );
    }
}

fn own_forms(spec: &GatewaySpec, findings: &mut Findings) {
    for (index, tls) in spec.tls.iter().enumerate() {
        let path = format!("spec.tls[{index}]");
        findings.warning(
            path.clone(),
            "spec.tls is a form that only this mesh knows",
            "the standard form: servers[].tls with mode: SIMPLE, serverCertificate and privateKey (or credentialName), on a server \
             with port.protocol: HTTPS",
        );
        if tls.hosts.is_empty() {
            findings.error(
                format!("{path}.hosts"),
                "hosts are missing",
                "the hosts of the servers that it is for",
            );
        }
        if tls.server_certificate.is_empty() || tls.private_key.is_empty() {
            findings.error(path, "serverCertificate or privateKey is missing", "both");
        }
    }
    let rules = spec.auth.iter().flat_map(|auth| &auth.policy.rules);
    for (index, rule) in rules.enumerate() {
        let path = format!("spec.auth.policy.rules[{index}]");
        findings.warning(
            path.clone(),
            "spec.auth is a form that only this mesh knows",
            "the standard form: servers[].tls with mode: MUTUAL and caCertificates (or credentialName)",
        );
        if rule.hosts.is_empty() {
            findings.error(
                format!("{path}.hosts"),
                "hosts are missing",
                "the hosts of the servers that it is for",
            );
        }
        for (i, tls) in rule.tls.iter().enumerate() {
            if tls.mode != "STRICT" {
                findings.error(
                    format!("{path}.tls[{i}].mode"),
                    format!("unknown mode {:?}", tls.mode),
                    "STRICT",
                );
            }
            if tls.verify.ca_certificates.is_empty() {
                findings.error(format!("{path}.tls[{i}].verify"), "caCertificates is missing", "a file");
            }
        }
    }
}
