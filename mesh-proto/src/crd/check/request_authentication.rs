//! RequestAuthentication. A refused one lets nothing in: what was to be verified would not be.

use http::HeaderName;

use super::super::problem::Findings;
use super::super::request_authentication::{JwtRule, RequestAuthentication};
use super::target_refs;

/// Istio's bound on keys written into the resource is that of the resource; ours is that of the wire.
const MAX_JWKS: usize = 256 * 1024;
/// More issuers than that are a mistake, and cost every request with a token.
const MAX_RULES: usize = 128;

pub(super) fn check(authentication: &RequestAuthentication, findings: &mut Findings) {
    let spec = &authentication.spec;
    let (one, many) = (spec.target_ref.as_ref(), &spec.target_refs);
    target_refs::check(&authentication.metadata, spec.selector.as_ref(), one, many, findings);
    if spec.jwt_rules.len() > MAX_RULES {
        findings.error(
            "spec.jwtRules",
            format!("{} rules", spec.jwt_rules.len()),
            format!("at most {MAX_RULES}"),
        );
    }
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        jwt_rule(rule, &format!("spec.jwtRules[{index}]"), findings);
    }
}

fn jwt_rule(rule: &JwtRule, path: &str, findings: &mut Findings) {
    if rule.issuer.is_empty() {
        findings.error(format!("{path}.issuer"), "issuer is missing", "the iss of its tokens");
    }
    if rule.audiences.iter().any(String::is_empty) {
        findings.error(format!("{path}.audiences"), "an audience is empty", "");
    }
    keys(rule, path, findings);
    timeout(rule, &format!("{path}.timeout"), findings);
    for (index, header) in rule.from_headers.iter().enumerate() {
        field(&header.name, &format!("{path}.fromHeaders[{index}].name"), findings);
    }
    for (name, list) in [("fromParams", &rule.from_params), ("fromCookies", &rule.from_cookies)] {
        for (index, text) in list.iter().enumerate() {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"&".contains(&b)) {
                findings.error(format!("{path}.{name}[{index}]"), format!("{text:?} is not a name"), "");
            }
        }
    }
    if let Some(name) = &rule.output_payload_to_header {
        output(name, &format!("{path}.outputPayloadToHeader"), findings);
    }
    for (index, told) in rule.output_claim_to_headers.iter().enumerate() {
        let path = format!("{path}.outputClaimToHeaders[{index}]");
        output(&told.header, &format!("{path}.header"), findings);
        if told.claim.is_empty() {
            findings.error(format!("{path}.claim"), "claim is missing", "");
        }
    }
}

fn keys(rule: &JwtRule, path: &str, findings: &mut Findings) {
    match (&rule.jwks, &rule.jwks_uri) {
        (Some(_), Some(_)) => findings.error(path, "both jwks and jwksUri", "one of them"),
        (Some(jwks), None) if jwks.len() > MAX_JWKS => {
            findings.error(
                format!("{path}.jwks"),
                format!("{} bytes", jwks.len()),
                format!("at most {MAX_JWKS}"),
            );
        }
        (Some(jwks), None) => {
            if let Err(why) = crate::model::jwks::usable(jwks.as_bytes()) {
                let expected = "{\"keys\": [ ... ]} with a public key for signatures";
                findings.error(format!("{path}.jwks"), format!("is no JWKS: {why}"), expected);
            }
        }
        (None, Some(uri)) => fetched(uri, &format!("{path}.jwksUri"), findings),
        // The issuer's discovery document says where they are.
        (None, None) => fetched(&rule.issuer, &format!("{path}.issuer"), findings),
    }
}

fn timeout(rule: &JwtRule, path: &str, findings: &mut Findings) {
    let Some(timeout) = rule.timeout else { return };
    if timeout.0.is_zero() {
        findings.error(path, "nothing is fetched within no time", "more than 0s; 5s if it is left out");
    } else if timeout.0 > JwtRule::MAX_TIMEOUT {
        let most = JwtRule::MAX_TIMEOUT.as_secs();
        findings.warning(path, format!("a fetch takes {most}s at most"), "");
    }
}

/// What is fetched by the pilot.
fn fetched(uri: &str, path: &str, findings: &mut Findings) {
    let read = uri.parse::<http::Uri>().ok();
    if read.as_ref().and_then(http::Uri::authority).is_some_and(|authority| authority.as_str().contains('@'))
    {
        // Not told again: whoever reads the status need not know them.
        let wrong = "credentials in a URI are sent to nobody";
        return findings.error(path, wrong, "a URI without them: public keys need none");
    }
    let good = read.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if !good {
        findings.error(
            path,
            format!("{uri:?} is no http or https URI"),
            "a URI, or jwks with the keys themselves",
        );
    }
}

/// A field that a token's content may be written to: none that proxies of the mesh write and believe.
fn output(name: &str, path: &str, findings: &mut Findings) {
    field(name, path, findings);
    let lower = name.to_ascii_lowercase();
    if ["x-forwarded-", "x-envoy-", "x-mesh-"].iter().any(|ours| lower.starts_with(ours)) {
        findings.error(path, format!("{lower} is written by proxies of the mesh"), "another name");
    }
}

/// A field that may be read and written: none that makes up the message itself.
fn field(name: &str, path: &str, findings: &mut Findings) {
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
        return findings.error(path, format!("{name:?} is not the name of a field"), "");
    };
    let of_message = ["host", "content-length", "transfer-encoding", "connection", "te", "upgrade"];
    if of_message.contains(&name.as_str()) {
        findings.error(path, format!("{name} is part of the message itself"), "another name");
    }
}
