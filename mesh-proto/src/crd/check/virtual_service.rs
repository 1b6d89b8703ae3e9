//! VirtualService.

use std::collections::HashSet;

use super::super::problem::Findings;
use super::super::values::StringMatch;
use super::super::virtual_service::{
    Destination, DirectResponse, HeaderChanges, Headers, HttpMatch, HttpRoute, L4Destination, Retries,
    TcpRoute, TlsRoute, VirtualServiceSpec,
};
use super::host::{is_host, is_wildcard_host};
use super::text::Texts;
use super::{export_to, refuse_yet, tell_yet};
use crate::model::authorization::routed_claim;

/// The words that `retryOn` may have, beside status codes.
pub const RETRY_WORDS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "http3-post-connect-failure",
];
/// Words that Envoy knows and that mean nothing here.
const IDLE_WORDS: &[&str] = &["envoy-ratelimited", "retriable-headers", "http3-post-connect-failure"];

/// `retryOn` taken apart: words that mean something here, status codes, and what is neither (or means nothing here).
#[must_use]
pub fn retry_words(text: &str) -> (Vec<String>, Vec<u32>, Vec<String>) {
    let (mut words, mut codes, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ if RETRY_WORDS.contains(&word) && !IDLE_WORDS.contains(&word) => words.push(word.to_owned()),
            _ => unknown.push(word.to_owned()),
        }
    }
    (words, codes, unknown)
}

pub(super) fn check(spec: &VirtualServiceSpec, findings: &mut Findings) {
    hosts(spec, findings);
    export_to(&spec.export_to, "spec.exportTo", findings);
    gateways(&spec.gateways, "spec.gateways", findings);
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        findings.error("spec", "no routes", "http, tcp or tls");
    }
    let (mut caught, mut texts) = (None, Texts::new());
    for (index, route) in spec.http.iter().enumerate() {
        let path = format!("spec.http[{index}]");
        http_route(route, &path, &mut texts, findings);
        if let Some(first) = caught {
            findings.warning(path, format!("never reached: http[{first}] takes every request (IST0130)"), "");
        } else if route.r#match.is_empty() || route.r#match.contains(&HttpMatch::default()) {
            caught = Some(index);
        }
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        tcp_route(route, &format!("spec.tcp[{index}]"), findings);
    }
    for (index, route) in spec.tls.iter().enumerate() {
        tls_route(spec, route, &format!("spec.tls[{index}]"), findings);
    }
}

fn hosts(spec: &VirtualServiceSpec, findings: &mut Findings) {
    if spec.hosts.is_empty() {
        findings.error(
            "spec.hosts",
            "hosts are missing (delegates are not in force yet)",
            "names of services",
        );
    }
    let mut seen = HashSet::new();
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if !is_wildcard_host(host) {
            findings.error(path, format!("{host:?} is not a host"), "a DNS name, *.suffix or *");
        } else if !seen.insert(host.to_ascii_lowercase()) {
            findings.error(path, format!("{host} is there twice"), "");
        }
    }
}

fn gateways(list: &[String], path: &str, findings: &mut Findings) {
    for (index, gateway) in list.iter().enumerate() {
        let known = match gateway.split_once('/') {
            Some((namespace, name)) => !namespace.is_empty() && !name.is_empty() && !name.contains('/'),
            None => !gateway.is_empty(),
        };
        if !known {
            let expected = "mesh, the name of a Gateway, or namespace/name";
            findings.error(format!("{path}[{index}]"), format!("{gateway:?} is not a gateway"), expected);
        }
    }
}

fn http_route(route: &HttpRoute, path: &str, texts: &mut Texts, findings: &mut Findings) {
    actions(route, path, findings);
    not_yet(route, path, findings);
    for (index, one) in route.r#match.iter().enumerate() {
        http_match(one, &format!("{path}.match[{index}]"), texts, findings);
    }
    for (index, to) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        destination(&to.destination, &format!("{path}.destination"), findings);
        headers(to.headers.as_ref(), &path, findings);
    }
    let weights: Vec<Option<i32>> = route.route.iter().map(|to| to.weight).collect();
    check_weights(&weights, path, findings);
    if let Some(retries) = &route.retries {
        check_retries(retries, &format!("{path}.retries"), findings);
    }
    if let Some(response) = &route.direct_response {
        direct_response(response, &format!("{path}.directResponse"), findings);
    }
}

fn actions(route: &HttpRoute, path: &str, findings: &mut Findings) {
    let actions = usize::from(!route.route.is_empty())
        + usize::from(route.redirect.is_some())
        + usize::from(route.direct_response.is_some())
        + usize::from(route.delegate.is_some());
    if actions == 0 {
        findings.error(path, "the rule does nothing", "route, redirect or directResponse");
    } else if actions > 1 {
        let message = "more than one of route, redirect, directResponse and delegate is set";
        findings.error(path, message, "one of them");
    }
}

fn not_yet(route: &HttpRoute, path: &str, findings: &mut Findings) {
    refuse_yet(findings, route.redirect.is_some(), path, "redirect");
    refuse_yet(findings, route.delegate.is_some(), path, "delegate");
    refuse_yet(findings, route.rewrite.is_some(), path, "rewrite");
    refuse_yet(findings, route.fault.is_some(), path, "fault");
    refuse_yet(findings, route.cors_policy.is_some(), path, "corsPolicy");
    headers(route.headers.as_ref(), path, findings);
    tell_yet(findings, route.mirror.is_some(), path, "mirror");
    tell_yet(findings, !route.mirrors.is_empty(), path, "mirrors");
}

fn headers(headers: Option<&Headers>, path: &str, findings: &mut Findings) {
    let changes =
        |changes: &Option<HeaderChanges>| changes.as_ref().is_some_and(|c| *c != HeaderChanges::default());
    let set = headers.is_some_and(|h| changes(&h.request) || changes(&h.response));
    refuse_yet(findings, set, path, "headers");
}

fn http_match(one: &HttpMatch, path: &str, texts: &mut Texts, findings: &mut Findings) {
    let fields =
        [("uri", &one.uri), ("scheme", &one.scheme), ("method", &one.method), ("authority", &one.authority)];
    for (field, value) in fields {
        if let Some(value) = value {
            let path = format!("{path}.{field}");
            if *value == (StringMatch::Present {}) {
                findings.error(path.clone(), format!("{field} matches nothing"), "exact, prefix or regex");
            }
            texts.check(value, &path, findings);
        }
    }
    let lists = [("headers", &one.headers), ("withoutHeaders", &one.without_headers)];
    for (field, list) in lists {
        for (name, value) in list {
            let path = format!("{path}.{field}.{name}");
            header_name(name, &path, findings);
            // Istio's "is there at all" for headers.
            if *value != StringMatch::Regex("*".to_owned()) {
                texts.check(value, &path, findings);
            }
        }
    }
    for (name, value) in &one.query_params {
        texts.check(value, &format!("{path}.queryParams.{name}"), findings);
    }
    if one.ignore_uri_case && matches!(one.uri, Some(StringMatch::Regex(_))) {
        let message = "ignoreUriCase means nothing for a regex";
        findings.warning(format!("{path}.ignoreUriCase"), message, "(?i) in the expression");
    }
    if one.port == Some(0) {
        findings.error(format!("{path}.port"), "0 is not a port", "1 to 65535");
    }
    gateways(&one.gateways, &format!("{path}.gateways"), findings);
    tell_yet(findings, !one.stat_prefix.is_empty(), path, "statPrefix");
}

fn header_name(name: &str, path: &str, findings: &mut Findings) {
    if name.starts_with('@') {
        if let Err(wrong) = routed_claim(name) {
            findings.error(
                path,
                wrong.to_string(),
                "@request.auth.claims.NAME or @request.auth.claims[NAME]",
            );
        }
    } else if !matches!(name, ":method" | ":scheme" | ":path" | ":authority")
        && http::HeaderName::from_bytes(name.as_bytes()).is_err()
    {
        findings.error(path, format!("{name:?} is not the name of a header"), "");
    } else if matches!(name, "uri" | "scheme" | "method" | "authority") {
        let message = format!("a header named {name:?} is looked at, not the request's {name}");
        findings.warning(path, message, format!("{name} beside headers"));
    }
}

fn destination(to: &Destination, path: &str, findings: &mut Findings) {
    if to.host.is_empty() {
        findings.error(path, "host is missing", "the name of a service");
    } else if !is_host(&to.host) {
        findings.error(
            format!("{path}.host"),
            format!("{:?} is not a host", to.host),
            "the name of a service",
        );
    }
    if to.port.as_ref().is_some_and(|port| port.number == 0) {
        findings.error(format!("{path}.port"), "port.number is missing or 0", "1 to 65535");
    }
}

fn check_weights(weights: &[Option<i32>], path: &str, findings: &mut Findings) {
    for (index, weight) in weights.iter().enumerate() {
        if weight.is_some_and(|weight| weight < 0) {
            findings.warning(
                format!("{path}.route[{index}].weight"),
                "a negative weight counts as 0",
                "0 or more",
            );
        }
    }
    if weights.len() < 2 {
        return;
    }
    if weights.iter().all(|weight| weight.unwrap_or(0) <= 0) {
        findings.error(format!("{path}.route"), "all weights are 0", "a weight above 0");
        return;
    }
    for index in weights.iter().enumerate().filter(|(_, weight)| weight.is_none()).map(|(index, _)| index) {
        findings.warning(format!("{path}.route[{index}]"), "no weight beside others counts as 0", "a weight");
    }
}

fn check_retries(retries: &Retries, path: &str, findings: &mut Findings) {
    match retries.attempts {
        Some(attempts) if attempts < 0 => {
            findings.error(format!("{path}.attempts"), "negative", "0 (none) or more");
        }
        None | Some(0) if retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() => {
            findings.error(
                path,
                "attempts is missing or 0 (never), which contradicts the other settings",
                "attempts: 1 or more",
            );
        }
        _ => {}
    }
    for (field, value) in [("perTryTimeout", retries.per_try_timeout), ("backoff", retries.backoff)] {
        if value.is_some_and(|v| v.0 < std::time::Duration::from_millis(1)) {
            findings.error(format!("{path}.{field}"), "too short", "at least 1ms");
        }
    }
    let (_, _, others) = retry_words(&retries.retry_on);
    let path_on = format!("{path}.retryOn");
    for word in others {
        if IDLE_WORDS.contains(&word.as_str()) {
            findings.warning(path_on.clone(), format!("{word} means nothing here"), "");
        } else {
            let expected = format!("status codes or {}", RETRY_WORDS.join(", "));
            findings.error(path_on.clone(), format!("unknown word {word:?}"), expected);
        }
    }
    tell_yet(findings, retries.retry_remote_localities.is_some(), path, "retryRemoteLocalities");
}

fn direct_response(response: &DirectResponse, path: &str, findings: &mut Findings) {
    if !(200..600).contains(&response.status) {
        findings.error(
            format!("{path}.status"),
            format!("{} is not a status", response.status),
            "200 to 599",
        );
    }
    let Some(body) = &response.body else { return };
    if body.string.is_some() == body.bytes.is_some() {
        findings.error(format!("{path}.body"), "not exactly one of string and bytes is set", "one of them");
    }
    if body.bytes.as_ref().is_some_and(|bytes| body_bytes(bytes).is_none()) {
        findings.error(format!("{path}.body.bytes"), "not base64", "");
    }
}

/// `directResponse.body.bytes` decoded.
#[must_use]
pub fn body_bytes(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

fn tcp_route(route: &TcpRoute, path: &str, findings: &mut Findings) {
    if route.route.is_empty() {
        findings.error(path, "the rule does nothing", "route");
    }
    for (index, one) in route.r#match.iter().enumerate() {
        let path = format!("{path}.match[{index}]");
        refuse_yet(findings, !one.destination_subnets.is_empty(), &path, "destinationSubnets");
        refuse_yet(findings, !one.source_subnet.is_empty(), &path, "sourceSubnet");
        refuse_yet(findings, !one.source_labels.is_empty(), &path, "sourceLabels");
        gateways(&one.gateways, &format!("{path}.gateways"), findings);
    }
    for (index, L4Destination { destination: to, .. }) in route.route.iter().enumerate() {
        destination(to, &format!("{path}.route[{index}].destination"), findings);
    }
    let weights: Vec<Option<i32>> = route.route.iter().map(|to| to.weight).collect();
    check_weights(&weights, path, findings);
}

fn tls_route(spec: &VirtualServiceSpec, route: &TlsRoute, path: &str, findings: &mut Findings) {
    if route.route.is_empty() {
        findings.error(path, "the rule does nothing", "route");
    }
    if route.r#match.is_empty() {
        findings.error(format!("{path}.match"), "match is missing", "sniHosts");
    }
    for (index, one) in route.r#match.iter().enumerate() {
        let path = format!("{path}.match[{index}]");
        if one.sni_hosts.is_empty() {
            findings.error(format!("{path}.sniHosts"), "sniHosts are missing", "names within spec.hosts");
        }
        for (i, host) in one.sni_hosts.iter().enumerate() {
            let path = format!("{path}.sniHosts[{i}]");
            let within = |wide: &String| {
                super::own_gateway::meet(wide, host).is_some_and(|narrow| narrow == host.to_ascii_lowercase())
            };
            if !is_wildcard_host(host) {
                findings.error(path, format!("{host:?} is not a host"), "a DNS name, *.suffix or *");
            } else if !spec.hosts.iter().any(within) {
                findings.error(path, format!("{host} is not within spec.hosts"), spec.hosts.join(", "));
            }
        }
        refuse_yet(findings, !one.destination_subnets.is_empty(), &path, "destinationSubnets");
        refuse_yet(findings, !one.source_labels.is_empty(), &path, "sourceLabels");
        gateways(&one.gateways, &format!("{path}.gateways"), findings);
    }
    for (index, L4Destination { destination: to, .. }) in route.route.iter().enumerate() {
        destination(to, &format!("{path}.route[{index}].destination"), findings);
    }
    let weights: Vec<Option<i32>> = route.route.iter().map(|to| to.weight).collect();
    check_weights(&weights, path, findings);
}
