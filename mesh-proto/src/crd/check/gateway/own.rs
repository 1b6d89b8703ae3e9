//! The two forms that only this mesh knows: `spec.tls` (certificates by host) and `spec.auth` (client certificates by host).
//!
//! In: a Gateway. Out: which of them are for which server, and what is wrong with them. They mean: the servers whose hosts
//! match end TLS with that certificate, and STRICT demands a client certificate that the CA signed.

use super::super::super::gateway::{GatewaySpec, OwnCertificate, Server};
use super::super::super::problem::Findings;

/// Whether two lists of hosts have one in common, wildcards included.
fn overlap(a: &[String], b: &[String]) -> bool {
    a.iter().any(|a| b.iter().any(|b| meet(a, b).is_some()))
}

/// Where two hosts meet: the narrower one, without its namespace, in lower case.
#[must_use]
pub fn meet(a: &str, b: &str) -> Option<String> {
    let dns = |host: &str| host.rsplit('/').next().unwrap_or(host).to_ascii_lowercase();
    let (a, b) = (dns(a), dns(b));
    let covers = |wide: &str, narrow: &str| {
        wide == "*" || wide == narrow || wide.strip_prefix('*').is_some_and(|suffix| narrow.ends_with(suffix))
    };
    if covers(&a, &b) {
        Some(b)
    } else if covers(&b, &a) {
        Some(a)
    } else {
        None
    }
}

/// The certificates of `spec.tls` that are for a server.
pub fn certificates<'a>(
    spec: &'a GatewaySpec,
    server: &'a Server,
) -> impl Iterator<Item = &'a OwnCertificate> {
    spec.tls.iter().filter(|tls| overlap(&tls.hosts, &server.hosts))
}

/// The CA that has to have signed the certificates of the clients of `hosts`, if `spec.auth` demands any: the first rule's.
#[must_use]
pub fn client_ca<'a>(spec: &'a GatewaySpec, hosts: &[String]) -> Option<&'a str> {
    let mut rules = spec.auth.iter().flat_map(|auth| &auth.policy.rules);
    let rule = rules.find(|rule| overlap(&rule.hosts, hosts) && !rule.tls.is_empty())?;
    rule.tls.first().map(|tls| tls.verify.ca_certificates.as_str())
}

/// Whether one of the forms is for a server.
pub(super) fn is_meant(spec: &GatewaySpec, server: &Server) -> bool {
    certificates(spec, server).next().is_some() || client_ca(spec, &server.hosts).is_some()
}

/// Why a server cannot be served as the forms say.
pub(super) fn contradiction(spec: &GatewaySpec, server: &Server) -> Option<String> {
    if !is_meant(spec, server) {
        return None;
    }
    if server.tls.is_some() {
        return Some(
            "it has tls of its own, and spec.tls or spec.auth is for its hosts: use one form".to_owned(),
        );
    }
    if certificates(spec, server).next().is_none() {
        return Some(
            "spec.auth asks for client certificates for its hosts, and spec.tls has no certificate for them"
                .to_owned(),
        );
    }
    let rules = spec.auth.iter().flat_map(|auth| &auth.policy.rules);
    let mut cas: Vec<&str> = rules
        .filter(|rule| overlap(&rule.hosts, &server.hosts))
        .flat_map(|rule| &rule.tls)
        .map(|tls| tls.verify.ca_certificates.as_str())
        .collect();
    cas.sort_unstable();
    cas.dedup();
    (cas.len() > 1).then(|| format!("spec.auth names several CAs for its hosts: {}", cas.join(", ")))
}

pub(super) fn check(spec: &GatewaySpec, findings: &mut Findings) {
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
        if rule.tls.is_empty() {
            findings.error(format!("{path}.tls"), "tls is missing", "mode: STRICT and verify.caCertificates");
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
