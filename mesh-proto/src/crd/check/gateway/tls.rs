//! `servers[].tls`: what Istio demands of it, and what of it is in force.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::super::super::gateway::{Server, ServerTls, ServerTlsMode};
use super::super::super::problem::Findings;
use crate::model::TlsParameters;
use crate::model::tls::CipherSuite;

/// How TLS is spoken: as the server says, else as the mesh does. What is older than TLS 1.2 never is.
#[must_use]
pub fn parameters(tls: &ServerTls, mesh: &TlsParameters) -> TlsParameters {
    let said = |name: &Option<String>| name.as_deref().and_then(version);
    let min = said(&tls.min_protocol_version).unwrap_or(if mesh.tls12 { 2 } else { 3 });
    let max = said(&tls.max_protocol_version).unwrap_or(3);
    let own: Vec<CipherSuite> = tls.cipher_suites.iter().filter_map(|name| name.parse().ok()).collect();
    // Without one of its suites there is no TLS 1.2.
    let suites = tls.cipher_suites.is_empty() || !own.is_empty();
    TlsParameters {
        tls12: min <= 2 && max >= 2 && suites,
        tls13: max >= 3,
        cipher_suites: if tls.cipher_suites.is_empty() { mesh.cipher_suites.clone() } else { own },
        groups: mesh.groups.clone(),
    }
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

/// Of `verifyCertificateSpki`: the SHA-256 of a public key, in base64.
#[must_use]
pub fn key_pin(text: &str) -> Option<[u8; 32]> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok()
}

/// Of `verifyCertificateHash`: the SHA-256 of a certificate in hexadecimal digits, with colons between bytes or without.
#[must_use]
pub fn certificate_pin(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<&str> = if text.contains(':') {
        text.split(':').collect()
    } else {
        (0..text.len()).step_by(2).map(|at| text.get(at..at + 2)).collect::<Option<_>>()?
    };
    let two = |byte: &&str| byte.len() == 2 && byte.bytes().all(|b| b.is_ascii_hexdigit());
    if !digits.iter().all(two) {
        return None;
    }
    let bytes: Result<Vec<u8>, _> = digits.iter().map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes.ok()?.try_into().ok()
}

/// Why a server is not served as its `tls` says: something that restricts who may connect, or decides what is shown to
/// whom, and that cannot be kept.
pub(super) fn not_in_force(tls: &ServerTls) -> Option<String> {
    if tls.insecure_skip_verify == Some(true) {
        return Some("tls.insecureSkipVerify is not in force yet".to_owned());
    }
    let shown = matches!(
        tls.mode,
        Some(ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual | ServerTlsMode::IstioMutual)
    );
    let mesh = tls.mode == Some(ServerTlsMode::IstioMutual);
    let field =
        of_clients(tls).into_iter().find(|(set, name)| *set && (!shown || mesh && *name == "caCrl"))?.1;
    Some(match mesh {
        true => format!("tls.{field}: the mesh's own roots have no list of what is revoked"),
        false => format!("tls.{field} is about clients' certificates, and mode asks for none (MUTUAL does)"),
    })
}

/// The fields that say which clients are let in.
fn of_clients(tls: &ServerTls) -> [(bool, &'static str); 4] {
    [
        (!tls.ca_crl.is_empty(), "caCrl"),
        (!tls.subject_alt_names.is_empty(), "subjectAltNames"),
        (!tls.verify_certificate_spki.is_empty(), "verifyCertificateSpki"),
        (!tls.verify_certificate_hash.is_empty(), "verifyCertificateHash"),
    ]
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
    check_pins(tls, &path, findings);
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
        if name.parse::<CipherSuite>().is_err() {
            findings.warning(
                format!("{path}.cipherSuites[{index}]"),
                format!("there is no cipher suite {name:?}: it is left out"),
                format!("of TLS 1.2: {}; those of TLS 1.3 are always there", CipherSuite::names()),
            );
        }
    }
    let spoken = parameters(tls, &TlsParameters::default());
    if !spoken.tls12 && !spoken.tls13 {
        findings.error(
            path,
            "no version of TLS is left",
            "TLS 1.2 or 1.3 within minProtocolVersion and maxProtocolVersion, and a cipher suite that exists",
        );
    }
}

fn check_pins(tls: &ServerTls, path: &str, findings: &mut Findings) {
    for (index, pin) in tls.verify_certificate_spki.iter().enumerate() {
        if key_pin(pin).is_none() {
            let message = format!("{pin:?} is no SHA-256 of a public key");
            findings.error(format!("{path}.verifyCertificateSpki[{index}]"), message, "32 bytes in base64");
        }
    }
    for (index, pin) in tls.verify_certificate_hash.iter().enumerate() {
        if certificate_pin(pin).is_none() {
            let message = format!("{pin:?} is no SHA-256 of a certificate");
            let expected = "64 hexadecimal digits, with colons or without";
            findings.error(format!("{path}.verifyCertificateHash[{index}]"), message, expected);
        }
    }
}
