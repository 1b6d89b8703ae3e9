//! `servers[].tls`: what Istio demands of it, and what of it is in force.

use super::super::super::gateway::{Server, ServerTls, ServerTlsMode};
use super::super::super::problem::Findings;

/// The cipher suites of TLS 1.2 that there are, by OpenSSL's names; Istio's defaults are among them.
pub const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Whether TLS 1.2 and TLS 1.3 may be spoken. What is older never is.
#[must_use]
pub fn versions(tls: &ServerTls) -> (bool, bool) {
    let min = tls.min_protocol_version.as_deref().and_then(version).unwrap_or(2);
    let max = tls.max_protocol_version.as_deref().and_then(version).unwrap_or(3);
    // Without one of its suites there is no TLS 1.2.
    let suites = tls.cipher_suites.is_empty() || cipher_suites(tls).next().is_some();
    (min <= 2 && max >= 2 && suites, min <= 3 && max >= 3)
}

/// The cipher suites asked for that there are.
pub fn cipher_suites(tls: &ServerTls) -> impl Iterator<Item = &str> {
    tls.cipher_suites.iter().map(String::as_str).filter(|name| CIPHER_SUITES.contains(name))
}

/// The second number of a version; `None`: the default.
fn version(name: &str) -> Option<u8> {
    match name {
        "TLSV1_0" => Some(0),
        "TLSV1_1" => Some(1),
        "TLSV1_2" => Some(2),
        "TLSV1_3" => Some(3),
        _ => None,
    }
}

/// The first field that restricts who may connect, or decides what is shown to whom, and that is not in force.
pub(super) fn not_in_force(tls: &ServerTls) -> Option<String> {
    let fields = [
        (tls.mode == Some(ServerTlsMode::AutoPassthrough), "mode: AUTO_PASSTHROUGH"),
        (!tls.ca_crl.is_empty(), "caCrl"),
        (!tls.subject_alt_names.is_empty(), "subjectAltNames"),
        (!tls.verify_certificate_spki.is_empty(), "verifyCertificateSpki"),
        (!tls.verify_certificate_hash.is_empty(), "verifyCertificateHash"),
        (tls.insecure_skip_verify == Some(true), "insecureSkipVerify"),
    ];
    let field = fields.iter().find(|(set, _)| *set)?.1;
    Some(format!("tls.{field} is not in force yet"))
}

pub(super) fn check(server: &Server, protocol: &str, path: &str, findings: &mut Findings) {
    let encrypted = matches!(protocol, "HTTPS" | "TLS");
    let Some(tls) = &server.tls else {
        if encrypted {
            findings.error(
                format!("{path}.tls"),
                format!("protocol {protocol} needs tls"),
                "tls.mode and a certificate",
            );
        }
        return;
    };
    if !encrypted && tls.mode.is_some_and(|mode| mode != ServerTlsMode::Passthrough) {
        let message = format!("tls.mode on the plaintext protocol {protocol}");
        findings.error(
            format!("{path}.tls.mode"),
            message,
            "protocol HTTPS or TLS, or only tls.httpsRedirect",
        );
    }
    if tls.https_redirect == Some(true) {
        let what = match protocol {
            "TCP" | "MONGO" => "httpsRedirect is for requests, not for bytes",
            _ if encrypted => "httpsRedirect is for plaintext ports",
            _ => "",
        };
        if !what.is_empty() {
            findings.error(format!("{path}.tls.httpsRedirect"), what, "");
        }
    }
    let path = format!("{path}.tls");
    check_versions(tls, &path, findings);
    match tls.mode {
        Some(ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual) if encrypted => {
            check_sources(tls, &path, findings);
        }
        Some(ServerTlsMode::IstioMutual) if has_source(tls) => findings.error(
            path,
            "ISTIO_MUTUAL uses the gateway's own certificate; another one is named",
            "no certificate, or mode: MUTUAL",
        ),
        _ => {}
    }
}

fn has_source(tls: &ServerTls) -> bool {
    !tls.credential_name.is_empty()
        || !tls.credential_names.is_empty()
        || !tls.tls_certificates.is_empty()
        || !tls.server_certificate.is_empty()
        || !tls.private_key.is_empty()
}

/// Exactly one way to the certificate, and one to the CA where clients show theirs.
fn check_sources(tls: &ServerTls, path: &str, findings: &mut Findings) {
    let files = !tls.server_certificate.is_empty() || !tls.private_key.is_empty();
    let ways = [
        files,
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    let expected = "credentialName, or serverCertificate and privateKey";
    match ways.iter().filter(|way| **way).count() {
        0 => findings.error(path, "no certificate is named", expected),
        1 => {}
        _ => findings.error(path, "certificates are named in several ways", "one of them"),
    }
    let pairs = tls.tls_certificates.iter().map(|pair| (&pair.server_certificate, &pair.private_key));
    for (certificate, key) in pairs.chain(files.then_some((&tls.server_certificate, &tls.private_key))) {
        if certificate.is_empty() || key.is_empty() {
            findings.error(path, "serverCertificate or privateKey is missing", "both");
        }
    }
    if tls.credential_names.len() > 2 || tls.tls_certificates.len() > 2 {
        findings.error(path, "more than two certificates", "at most one RSA and one ECDSA certificate");
    }
    let verified = matches!(tls.mode, Some(ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual));
    let secret = !tls.credential_name.is_empty()
        || !tls.credential_names.is_empty()
        || !tls.ca_cert_credential_name.is_empty();
    if verified && !secret && tls.ca_certificates.is_empty() {
        findings.error(path, "caCertificates is missing: who signs client certificates?", "a file");
    }
    let names = tls.credential_names.iter().chain([&tls.credential_name, &tls.ca_cert_credential_name]);
    for name in names.filter(|name| !name.is_empty()) {
        if !crate::model::identity::is_kubernetes_name(name) {
            findings.error(
                path,
                format!("{name:?} is not the name of a Secret"),
                "a name; the Secret is looked for in the namespace of the gateway workload",
            );
        }
    }
}

fn check_versions(tls: &ServerTls, path: &str, findings: &mut Findings) {
    for (field, value) in
        [("minProtocolVersion", &tls.min_protocol_version), ("maxProtocolVersion", &tls.max_protocol_version)]
    {
        let Some(name) = value.as_deref() else { continue };
        if name != "TLS_AUTO" && version(name).is_none() {
            let expected = "TLS_AUTO, TLSV1_2 or TLSV1_3";
            findings.error(format!("{path}.{field}"), format!("unknown version {name:?}"), expected);
        } else if field == "minProtocolVersion" && version(name).is_some_and(|number| number < 2) {
            findings.warning(format!("{path}.{field}"), "TLS 1.2 is the lowest version that is spoken", "");
        }
    }
    for (index, name) in tls.cipher_suites.iter().enumerate() {
        if !CIPHER_SUITES.contains(&name.as_str()) {
            findings.warning(
                format!("{path}.cipherSuites[{index}]"),
                format!("there is no cipher suite {name:?}: it is left out"),
                format!("of TLS 1.2: {}; those of TLS 1.3 are always there", CIPHER_SUITES.join(", ")),
            );
        }
    }
    if versions(tls) == (false, false) {
        findings.error(
            path,
            "no version of TLS is left",
            "TLS 1.2 or 1.3 within minProtocolVersion and maxProtocolVersion, and a cipher suite that exists",
        );
    }
}
