//! A proxy's `/config_dump` and `/certs` as tables.

use serde_json::{Map, Value};

use crate::output::{span, table};

/// Some members of a document.
pub fn parts(told: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| ((*name).to_owned(), told[*name].clone())).collect::<Map<_, _>>().into()
}

pub fn listeners(told: &Value) -> String {
    let mut all = table(&["PORT", "PROTOCOL", "MTLS", "FOR", "WRITTEN IN"]);
    for port in list(&told["self"]["ports"]) {
        all.add_row([
            port["port"].to_string(),
            text(&port["protocol"]).to_lowercase(),
            text(&port["mtls"]).to_owned(),
            joined(&port["services"]),
            or(text(&told["self"]["mtls_origin"]), "the default").to_owned(),
        ]);
    }
    for listener in list(&told["listeners"]) {
        let hosts = list(&listener["virtual_hosts"]).iter().map(|host| joined(&host["domains"]));
        all.add_row([
            listener["port"].to_string(),
            text(&listener["protocol"]).to_lowercase(),
            String::new(),
            or(&hosts.collect::<Vec<_>>().join(","), "no host: everything gets 404").to_owned(),
            joined(&listener["origins"]),
        ]);
    }
    let closed = text(&told["self"]["deny_all"]);
    let note =
        if closed.is_empty() { String::new() } else { format!("\nnothing inbound is let through: {closed}") };
    let other = text(&told["self"]["mtls"]);
    let rest = if other.is_empty() { String::new() } else { format!("\nother ports: mTLS {other}") };
    format!("{}{rest}{note}", all.trim_fmt())
}

pub fn routes(told: &Value) -> String {
    let mut all = table(&["HOST", "RULE", "MATCH", "TO", "WRITTEN IN"]);
    for listener in list(&told["listeners"]) {
        for host in list(&listener["virtual_hosts"]) {
            rules(&mut all, &format!("{}:{}", joined(&host["domains"]), listener["port"]), host);
        }
    }
    for destination in list(&told["routes"]) {
        rules(&mut all, text(&destination["name"]), destination);
    }
    if all.is_empty() {
        return "no routes yet: a sidecar fetches a host's at its first request".to_owned();
    }
    all.trim_fmt()
}

fn rules(all: &mut comfy_table::Table, host: &str, of: &Value) {
    let default = text(&of["origin"]);
    let http = list(&of["rules"]).iter();
    let mut first = true;
    for rule in http.chain(list(&of["tcp"])) {
        let to = match rule["direct_response"].as_u64() {
            Some(status) => format!("answers {status}"),
            None => list(&rule["backends"]).iter().map(backend).collect::<Vec<_>>().join(", "),
        };
        all.add_row([
            if first { host.to_owned() } else { String::new() },
            text(&rule["name"]).to_owned(),
            or(text(&rule["match"]), "every connection").to_owned(),
            to,
            or(or(text(&rule["origin"]), default), "the Service itself").to_owned(),
        ]);
        first = false;
    }
}

fn backend(backend: &Value) -> String {
    let mut told = text(&backend["cluster"]).to_owned();
    if let Some(subset) = backend["subset"].as_str() {
        told = format!("{told} subset {subset}");
    }
    match backend["weight"].as_u64() {
        Some(weight) if weight != 1 => told = format!("{told} ({weight})"),
        _ => {}
    }
    if backend["present"] == Value::Bool(false) {
        told.push_str(" (not there)");
    }
    told
}

pub fn clusters(told: &Value) -> String {
    let mut all = table(&["HOST", "SUBSET", "BALANCING", "TLS", "ENDPOINTS", "WRITTEN IN"]);
    for cluster in list(&told["clusters"]) {
        let endpoints = list(&cluster["endpoints"]);
        let origin = or(text(&cluster["origin"]), "defaults").to_owned();
        if cluster["missing"] == Value::Bool(true) {
            all.add_row([text(&cluster["name"]), "", "", "", "", "not there: nothing has this name"]);
            continue;
        }
        let mut row = |name: &str, subset: &str, policy: &Value, endpoints: String, origin: &str| {
            all.add_row([
                name.to_owned(),
                subset.to_owned(),
                text(&policy["load_balancer"]).to_owned(),
                text(&policy["tls"]).to_owned(),
                endpoints,
                origin.to_owned(),
            ]);
        };
        row(text(&cluster["name"]), "", &cluster["policy"], endpoints.len().to_string(), &origin);
        for (name, subset) in cluster["subsets"].as_object().into_iter().flatten() {
            row("", name, subset, subset["endpoints"].to_string(), "");
        }
    }
    if all.is_empty() {
        return "no clusters yet: a sidecar fetches a host's at its first request".to_owned();
    }
    all.trim_fmt()
}

/// Each cluster's endpoints, without its policy.
pub fn endpoints_json(told: &Value) -> Value {
    list(&told["clusters"]).iter().map(|cluster| parts(cluster, &["name", "endpoints"])).collect()
}

pub fn endpoints(told: &Value) -> String {
    let mut all = table(&["HOST", "ENDPOINT", "ADDRESS", "READY", "MTLS", "IDENTITY", "ACTIVE", "REQUESTS"]);
    for cluster in list(&told["clusters"]) {
        for (index, endpoint) in list(&cluster["endpoints"]).iter().enumerate() {
            all.add_row([
                if index == 0 { text(&cluster["name"]).to_owned() } else { String::new() },
                text(&endpoint["uid"]).to_owned(),
                text(&endpoint["address"]).to_owned(),
                yes(&endpoint["ready"]).to_owned(),
                yes(&endpoint["mtls"]).to_owned(),
                text(&endpoint["identity"]).to_owned(),
                endpoint["active"].to_string(),
                endpoint["total"].to_string(),
            ]);
        }
    }
    if all.is_empty() {
        return "no endpoints yet: a sidecar fetches a host's at its first request".to_owned();
    }
    all.trim_fmt()
}

pub fn secrets(told: &Value) -> String {
    if told["identity"].is_null() {
        return "no certificate yet".to_owned();
    }
    let mut all = table(&["WHAT", "WHOSE", "SERIAL", "VALID"]);
    let left = told["seconds_left"].as_u64().unwrap_or_default();
    let valid = if left == 0 { "expired".to_owned() } else { format!("{} left", span(left)) };
    all.add_row(["certificate", text(&told["identity"]), text(&told["serial"]), &valid]);
    let now = jiff::Timestamp::now().as_second();
    for root in list(&told["roots"]) {
        let left = root["not_after"].as_i64().unwrap_or_default().saturating_sub(now);
        let valid = match u64::try_from(left) {
            Ok(left) if left > 0 => format!("{} left", span(left)),
            _ => "expired".to_owned(),
        };
        let whose = format!("{} ({})", text(&root["trust_domain"]), text(&root["subject"]));
        all.add_row(["root", &whose, text(&root["serial"]), &valid]);
    }
    let error = text(&told["last_error"]);
    let note = if error.is_empty() { String::new() } else { format!("\nlast renewal failed: {error}") };
    format!("{}{note}", all.trim_fmt())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn joined(value: &Value) -> String {
    list(value).iter().map(text).collect::<Vec<_>>().join(",")
}

fn yes(value: &Value) -> &'static str {
    if value.as_bool().unwrap_or_default() { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dump_becomes_tables() {
        let told = json!({
            "self": {
                "mtls": "STRICT", "mtls_origin": "PeerAuthentication shop/default",
                "ports": [{ "port": 9080, "protocol": "Http", "mtls": "STRICT", "services": ["reviews.shop.svc"] }],
            },
            "listeners": [{ "port": 443, "protocol": "Http", "origins": ["Gateway shop/web"], "virtual_hosts": [] }],
            "routes": [{
                "name": "reviews.shop.svc:9080", "origin": "VirtualService shop/reviews",
                "rules": [
                    { "name": "jason", "match": "headers", "backends": [
                        { "cluster": "reviews.shop.svc:9080", "subset": "v2", "weight": 90, "present": true },
                        { "cluster": "gone.shop.svc:80", "weight": 10, "present": false },
                    ] },
                    { "name": "", "match": "every request", "direct_response": 503 },
                ],
                "tcp": [],
            }],
            "clusters": [
                { "name": "reviews.shop.svc:9080", "policy": { "load_balancer": "LeastRequest", "tls": "Mesh" },
                  "subsets": { "v2": { "load_balancer": "RoundRobin", "tls": "Mesh", "endpoints": 1 } },
                  "endpoints": [{ "uid": "u1", "address": "10.0.0.1:9080", "ready": true, "mtls": true,
                                  "identity": "spiffe://td/ns/shop/sa/reviews", "active": 1, "total": 7 }] },
                { "name": "gone.shop.svc:80", "missing": true },
            ],
        });
        let listeners = listeners(&told);
        assert!(
            listeners.contains("STRICT") && listeners.contains("PeerAuthentication shop/default"),
            "{listeners}"
        );
        assert!(listeners.contains("everything gets 404"), "{listeners}");
        let routes = routes(&told);
        assert!(routes.contains("subset v2 (90)") && routes.contains("(not there)"), "{routes}");
        assert!(routes.contains("answers 503") && routes.contains("VirtualService shop/reviews"), "{routes}");
        let clusters = clusters(&told);
        assert!(clusters.contains("RoundRobin") && clusters.contains("nothing has this name"), "{clusters}");
        let endpoints = endpoints(&told);
        assert!(
            endpoints.contains("10.0.0.1:9080") && endpoints.contains("spiffe://td/ns/shop/sa/reviews"),
            "{endpoints}"
        );
        assert!(super::routes(&json!({})).contains("first request"));
    }

    #[test]
    fn secrets_say_how_long_they_last() {
        let told = json!({
            "identity": "spiffe://td/ns/a/sa/b", "serial": "01", "seconds_left": 7200,
            "roots": [{ "trust_domain": "td", "subject": "CN=mesh root", "serial": "02", "not_after": 1 }],
            "last_error": "away",
        });
        let text = secrets(&told);
        assert!(text.contains("2 h left") && text.contains("expired") && text.contains("away"), "{text}");
        assert_eq!(secrets(&json!({ "identity": null })), "no certificate yet");
    }
}
