//! The same decisions, slowly: written from the documentation, straight from what the pilot sends, with a loop for each
//! sentence and nothing prepared. Tests compare.

use std::net::IpAddr;

use http::request::Parts;
use mesh_proto::wire::mesh::v1 as wire;
use serde_json::Value;

use super::{Connection, Verdict};

/// What is asked.
pub(crate) struct Asked<'a> {
    pub(crate) connection: &'a Connection,
    /// None: bytes.
    pub(crate) head: Option<&'a Parts>,
    pub(crate) remote: IpAddr,
    /// What the valid token says; none: there is no valid one.
    pub(crate) token: Option<&'a Value>,
    /// `spaceDelimitedClaims` of the token's rule.
    pub(crate) space_delimited: &'a [String],
}

/// Whether it may pass; which rule denies it.
pub(crate) fn verdict(policies: &[wire::AuthorizationPolicy], asked: &Asked<'_>) -> Verdict {
    let port = u32::from(asked.connection.destination.port());
    let here = |policy: &&wire::AuthorizationPolicy| policy.ports.is_empty() || policy.ports.contains(&port);
    let of = |action: wire::AuthorizationAction| {
        policies.iter().filter(here).filter(move |policy| policy.action == i32::from(action))
    };
    // "If there are any DENY policies that match the request, deny the request."
    for policy in of(wire::AuthorizationAction::AuthorizationDeny) {
        if let Some(rule) = policy.rules.iter().position(|rule| matches(rule, policy, asked, true)) {
            let origin = policy.origin.as_ref().unwrap();
            let label = format!("ns[{}]-policy[{}]-rule[{rule}]", origin.namespace, origin.name);
            return Verdict::Denied(Some(label.into()));
        }
    }
    // "If there are no ALLOW policies for the workload, allow the request."
    let mut allows = of(wire::AuthorizationAction::AuthorizationAllow).peekable();
    if allows.peek().is_none() {
        return Verdict::Allowed;
    }
    // "If any of the ALLOW policies match the request, allow the request. Deny the request."
    match allows.any(|policy| policy.rules.iter().any(|rule| matches(rule, policy, asked, false))) {
        true => Verdict::Allowed,
        false => Verdict::Denied(None),
    }
}

fn matches(
    rule: &wire::AuthorizationRule,
    policy: &wire::AuthorizationPolicy,
    asked: &Asked<'_>,
    deny: bool,
) -> bool {
    let clauses = rule.from.iter().chain(&rule.to);
    let all = clauses.flat_map(|clause| &clause.matches).chain(&rule.when);
    let of_request = |matcher: &wire::AuthorizationMatch| matcher.attribute.starts_with("request.");
    if asked.head.is_none() && !deny && all.into_iter().any(of_request) {
        return false;
    }
    let namespace = &policy.origin.as_ref().unwrap().namespace;
    let holds = |matcher: &wire::AuthorizationMatch| {
        if asked.head.is_none() && of_request(matcher) {
            return true;
        }
        let wanted = matcher.values.is_empty()
            || matcher.values.iter().any(|value| fits(&matcher.attribute, value, namespace, asked, deny));
        let unwanted =
            matcher.not_values.iter().any(|value| fits(&matcher.attribute, value, namespace, asked, !deny));
        wanted && !unwanted
    };
    let one_of = |clauses: &[wire::AuthorizationClause]| {
        clauses.is_empty() || clauses.iter().any(|clause| clause.matches.iter().all(holds))
    };
    one_of(&rule.from) && one_of(&rule.to) && rule.when.iter().all(holds)
}

/// `any`: one reading is enough.
fn fits(attribute: &str, value: &str, namespace: &str, asked: &Asked<'_>, any: bool) -> bool {
    let connection = asked.connection;
    let peer = connection.peer.as_ref();
    let text = |text: &str| starred(value, text);
    match attribute {
        "source.principal" => peer.is_some_and(|p| {
            text(&format!("{}/ns/{}/sa/{}", p.trust_domain(), p.namespace(), p.service_account()))
        }),
        "source.trustDomain" => peer.is_some_and(|p| text(p.trust_domain().as_str())),
        "source.namespace" => peer.is_some_and(|p| glob(value, p.namespace())),
        "source.serviceAccount" => peer.is_some_and(|p| {
            let wanted = if value.contains('/') { value.to_owned() } else { format!("{namespace}/{value}") };
            wanted == format!("{}/{}", p.namespace(), p.service_account())
        }),
        "source.ip" => in_block(value, connection.source),
        "remote.ip" => in_block(value, asked.remote),
        "destination.ip" => in_block(value, connection.destination.ip()),
        "destination.port" => value == connection.destination.port().to_string(),
        "connection.sni" => {
            starred(&value.to_lowercase(), connection.sni.to_lowercase().trim_end_matches('.'))
        }
        _ if attribute.starts_with("request.auth.") => {
            asked.token.is_some_and(|token| of_token(attribute, value, token, asked.space_delimited))
        }
        _ => request(attribute, value, asked.head.unwrap(), any),
    }
}

/// "The claim value is a string or a list of strings": of a list, one that fits is enough. Nothing else is a value.
fn of_token(attribute: &str, value: &str, token: &Value, space_delimited: &[String]) -> bool {
    let path: Vec<&str> = match attribute {
        "request.auth.principal" => return is_principal(value, token),
        "request.auth.audiences" => vec!["aud"],
        "request.auth.presenter" => vec!["azp"],
        claim => {
            let names = claim.strip_prefix("request.auth.claims[").unwrap().strip_suffix(']').unwrap();
            names.split("][").collect()
        }
    };
    let mut claim = Some(token);
    for name in &path {
        claim = claim.and_then(|object| object.get(name));
    }
    let words = match path[..] {
        // Of a whole text: `azp` and `aud` have names of their own.
        [_] if matches!(attribute, "request.auth.audiences" | "request.auth.presenter") => false,
        [name] => name == "scope" || name == "permission" || space_delimited.iter().any(|of| of == name),
        _ => false,
    };
    match claim {
        Some(Value::String(text)) if words => {
            text.split(' ').any(|word| !word.is_empty() && starred(value, word))
        }
        Some(Value::String(text)) => starred(value, text),
        Some(Value::Array(list)) => {
            list.iter().any(|one| matches!(one, Value::String(text) if starred(value, text)))
        }
        _ => false,
    }
}

/// "`<ISS>/<SUB>`", divided at the last slash; without both there is none.
fn is_principal(value: &str, token: &Value) -> bool {
    let text = |name: &str| token.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(issuer), Some(subject)) = (text("iss"), text("sub")) else { return false };
    if value == "*" {
        return true;
    }
    if let Some(of) = value.strip_suffix("/*") {
        return of == issuer;
    }
    if let Some(name) = value.strip_prefix("*/") {
        return name == subject;
    }
    if value.contains('*') {
        return starred(value, &format!("{issuer}/{subject}"));
    }
    value.rsplit_once('/') == Some((issuer, subject))
}

fn request(attribute: &str, value: &str, head: &Parts, any: bool) -> bool {
    let read = |readings: Vec<String>| {
        let mut fits = readings.iter().map(|reading| starred(value, reading));
        if any { fits.any(|f| f) } else { readings.iter().all(|reading| starred(value, reading)) }
    };
    match attribute {
        "request.method" => starred(value, head.method.as_str()),
        "request.host" => {
            let host = head.headers.get("host").map_or("", |h| h.to_str().unwrap()).to_lowercase();
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            let name = name.strip_suffix('.').unwrap_or(name);
            starred(&value.to_lowercase(), &host) || starred(&value.to_lowercase(), name)
        }
        "request.path" => {
            let path = head.uri.path();
            let names = path.split('/').map(|segment| segment.split(';').next().unwrap());
            let bare = names.collect::<Vec<_>>().join("/");
            let fits = [path, &bare].map(|path| path_fits(value, path));
            if any { fits[0] || fits[1] } else { fits[0] && fits[1] }
        }
        _ => {
            let Some(name) = attribute.strip_prefix("request.headers[") else { return false };
            let lines: Vec<String> = head
                .headers
                .get_all(name.trim_end_matches(']'))
                .iter()
                .map(|line| line.to_str().unwrap().to_owned())
                .collect();
            if lines.is_empty() {
                return false;
            }
            let joined = lines.join(",");
            let mut readings = lines;
            if any {
                readings.extend(joined.split(',').map(|part| part.trim().to_owned()));
            }
            readings.push(joined);
            read(readings)
        }
    }
}

fn path_fits(value: &str, path: &str) -> bool {
    if !value.contains('{') {
        return starred(value, path);
    }
    let expression = value.split('/').map(|segment| match segment {
        "{*}" => "[^/]+".to_owned(),
        "{**}" => ".*".to_owned(),
        literal => regex::escape(literal),
    });
    let expression = format!("^{}$", expression.collect::<Vec<_>>().join("/"));
    regex::Regex::new(&expression).unwrap().is_match(path)
}

fn starred(value: &str, text: &str) -> bool {
    if value == "*" {
        return !text.is_empty();
    }
    if let Some(begin) = value.strip_suffix('*') {
        return text.starts_with(begin);
    }
    match value.strip_prefix('*') {
        Some(end) => text.ends_with(end),
        None => value == text,
    }
}

fn glob(value: &str, text: &str) -> bool {
    let expression = value.split('*').map(regex::escape).collect::<Vec<_>>().join(".*");
    regex::Regex::new(&format!("^{expression}$")).unwrap().is_match(text)
}

fn in_block(value: &str, address: IpAddr) -> bool {
    match value.split_once('/') {
        None => value.parse::<IpAddr>().unwrap() == address,
        Some(_) => value.parse::<ipnet::IpNet>().unwrap().contains(&address),
    }
}
