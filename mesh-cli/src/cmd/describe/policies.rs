//! Which policies and Gateways are for a pod, and why: pure, over JSON objects and the pilot's account.
//!
//! Istio's semantics, as in the pilot: AuthorizationPolicy and RequestAuthentication of the pod's namespace and of the root
//! namespace count, by selector or by `targetRefs`; a Gateway is for the gateways with its labels, wherever they are.

use std::collections::BTreeMap;

use mesh_proto::crd::target_ref::{GATEWAY_CLASS, GATEWAY_NAME, Target, TargetRef};
use serde_json::Value;

use super::applies::{self, Applies, matched, meta, strings};
use crate::local::pilot::PilotStatus;

/// A pod, as policies look at it.
#[derive(Debug, Clone, Copy)]
pub struct OfPod<'a> {
    pub namespace: &'a str,
    /// The root namespace.
    pub system: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// The Services of its namespace that select it.
    pub services: &'a [String],
    /// The ServiceEntries of its namespace that select it.
    pub entries: &'a [String],
}

/// The policies of `kind` that are for a pod, those that name it first, then those of its namespace and of the mesh. One that
/// is refused is for whom the pilot closes because of it.
pub fn to_pod(objects: &[Value], kind: &str, pod: OfPod<'_>, pilot: &PilotStatus) -> Vec<Applies> {
    let mut found: Vec<(u8, Applies)> = Vec::new();
    for object in objects {
        let of = meta(object, "namespace");
        if of != pod.namespace && of != pod.system {
            continue;
        }
        let targets = targets(object);
        let why = if let Some(closes) = applies::closes(object, kind, pilot) {
            applies::closed(&closes, of, pod.namespace, pod.labels).map(|why| (0, why))
        } else if targets.is_empty() {
            by_labels(object, of, pod)
        } else {
            targets.iter().find_map(|target| by_name(target, of, pod)).map(|why| (0, why))
        };
        if let Some((rank, why)) = why {
            found.push((rank, Applies::new(object, kind, format!("{why}{}", effect(object, kind)), pilot)));
        }
    }
    found.sort_by_key(|(rank, applies)| (*rank, applies.name.clone()));
    found.into_iter().map(|(_, applies)| applies).collect()
}

/// The policies of `kind` that name a Service.
pub fn to_service(
    objects: &[Value],
    kind: &str,
    (name, namespace): (&str, &str),
    pilot: &PilotStatus,
) -> Vec<Applies> {
    let names = |object: &&Value| {
        let mut targets = targets(object).into_iter();
        meta(object, "namespace") == namespace
            && targets.any(|target| target.target() == Some(Target::Service(name)))
    };
    let why = |object: &Value| format!("names Service {name}{}", effect(object, kind));
    objects.iter().filter(names).map(|object| Applies::new(object, kind, why(object), pilot)).collect()
}

/// The Gateways for a gateway's pod.
pub fn gateways(objects: &[Value], labels: &BTreeMap<String, String>, pilot: &PilotStatus) -> Vec<Applies> {
    let why = |object: &Value| match object["spec"]["selector"].as_object().filter(|s| !s.is_empty()) {
        Some(wanted) => matched(wanted, labels).map(|told| format!("selects {told}")),
        None => Some("for every gateway".to_owned()),
    };
    let found =
        objects.iter().filter_map(|object| Some(Applies::new(object, "Gateway", why(object)?, pilot)));
    found.collect()
}

/// The VirtualServices that are bound to one of these Gateways (`namespace/name`).
pub fn bound(routes: &[Value], gateways: &[Applies], pilot: &PilotStatus) -> Vec<Applies> {
    let names = |route: &Value, written: &str, gateway: &str| match written.split_once('/') {
        Some(_) => written == gateway,
        None => gateway.split_once('/') == Some((meta(route, "namespace"), written)),
    };
    let mut found = Vec::new();
    for route in routes {
        let mut written = strings(&route["spec"]["gateways"]);
        if written.any(|written| gateways.iter().any(|one| names(route, written, &one.name))) {
            let hosts: Vec<&str> = strings(&route["spec"]["hosts"]).collect();
            found.push(Applies::new(route, "VirtualService", format!("hosts {}", hosts.join(", ")), pilot));
        }
    }
    found
}

fn targets(object: &Value) -> Vec<TargetRef> {
    let spec = &object["spec"];
    let all = spec["targetRefs"].as_array().into_iter().flatten().chain(spec.get("targetRef"));
    all.filter_map(|target| serde_json::from_value(target.clone()).ok()).collect()
}

fn by_name(target: &TargetRef, of: &str, pod: OfPod<'_>) -> Option<String> {
    let own = of == pod.namespace;
    let labelled = |label: &str, name: &str| pod.labels.get(label).is_some_and(|value| value == name);
    let is_for = match target.target()? {
        Target::Gateway(name) => own && labelled(GATEWAY_NAME, name),
        Target::GatewayClass(name) => labelled(GATEWAY_CLASS, name),
        Target::Service(name) => own && pod.services.iter().any(|one| one == name),
        Target::ServiceEntry(name) => own && pod.entries.iter().any(|one| one == name),
    };
    is_for.then(|| format!("names {} {}", target.kind, target.name))
}

fn by_labels(object: &Value, of: &str, pod: OfPod<'_>) -> Option<(u8, String)> {
    let wanted = object["spec"]["selector"]["matchLabels"].as_object().filter(|wanted| !wanted.is_empty());
    match wanted {
        Some(wanted) => matched(wanted, pod.labels).map(|told| (0, format!("selects {told}"))),
        None if of == pod.namespace => Some((1, "for its namespace".to_owned())),
        None => Some((2, "for the whole mesh".to_owned())),
    }
}

/// What a policy does with requests, as far as that fits into a line.
fn effect(object: &Value, kind: &str) -> String {
    let spec = &object["spec"];
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    if kind == "RequestAuthentication" {
        let issuers: Vec<&str> = spec["jwtRules"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|rule| rule["issuer"].as_str())
            .collect();
        return format!(
            ", tokens of {}",
            if issuers.is_empty() { "nobody".to_owned() } else { issuers.join(", ") }
        );
    }
    let action = spec["action"].as_str().unwrap_or("ALLOW");
    let rules = match (action, count(&spec["rules"])) {
        ("ALLOW", 0) => "no rules: lets nothing in".to_owned(),
        (_, 0) => "no rules: matches nothing".to_owned(),
        (_, 1) => "1 rule".to_owned(),
        (_, several) => format!("{several} rules"),
    };
    let dry = object["metadata"]["annotations"]["istio.io/dry-run"] == "true";
    format!(", {action}, {rules}{}", if dry { ", dry run: decides nothing" } else { "" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, spec: Value) -> Value {
        json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec })
    }

    fn told(found: &[Applies]) -> Vec<String> {
        found.iter().map(|one| format!("{} ({})", one.name, one.why)).collect()
    }

    #[test]
    fn policies_by_selector_by_name_of_the_namespace_and_of_the_mesh() {
        let selects = |app: &str| json!({ "matchLabels": { "app": app } });
        let names = |kind: &str, name: &str| json!([{ "group": "", "kind": kind, "name": name }]);
        let all = [
            object("istio-system", "mesh", json!({})),
            object(
                "istio-system",
                "everywhere",
                json!({ "selector": selects("web"), "action": "AUDIT", "rules": [{}, {}] }),
            ),
            object("shop", "all", json!({ "action": "DENY", "rules": [{}] })),
            object("shop", "web", json!({ "selector": selects("web"), "rules": [{}] })),
            object("shop", "api", json!({ "selector": selects("api") })),
            object("shop", "by-name", json!({ "targetRefs": names("Service", "web"), "action": "DENY" })),
            object("shop", "other-name", json!({ "targetRefs": names("Service", "api") })),
            object("other", "web", json!({ "selector": selects("web") })),
            object("istio-system", "no-service-of-its", json!({ "targetRefs": names("Service", "web") })),
        ];
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let services = ["web".to_owned()];
        let pod = OfPod {
            namespace: "shop",
            system: "istio-system",
            labels: &labels,
            services: &services,
            entries: &[],
        };
        let found = to_pod(&all, "AuthorizationPolicy", pod, &PilotStatus::default());
        assert_eq!(
            told(&found),
            [
                "istio-system/everywhere (selects app=web, AUDIT, 2 rules)",
                "shop/by-name (names Service web, DENY, no rules: matches nothing)",
                "shop/web (selects app=web, ALLOW, 1 rule)",
                "shop/all (for its namespace, DENY, 1 rule)",
                "istio-system/mesh (for the whole mesh, ALLOW, no rules: lets nothing in)",
            ]
        );
        let found = to_service(&all, "AuthorizationPolicy", ("web", "shop"), &PilotStatus::default());
        assert_eq!(told(&found), ["shop/by-name (names Service web, DENY, no rules: matches nothing)"]);
        let mut dry = object("shop", "dry", json!({ "rules": [{}] }));
        dry["metadata"]["annotations"] = json!({ "istio.io/dry-run": "true" });
        let found = to_pod(&[dry], "AuthorizationPolicy", pod, &PilotStatus::default());
        assert!(found[0].why.ends_with("dry run: decides nothing"), "{}", found[0].why);
        let tokens = object("shop", "jwt", json!({ "jwtRules": [{ "issuer": "a" }, { "issuer": "b" }] }));
        let found = to_pod(&[tokens], "RequestAuthentication", pod, &PilotStatus::default());
        assert_eq!(told(&found), ["shop/jwt (for its namespace, tokens of a, b)"]);
    }

    /// A slip in the selector closes more pods than it selects: each of them is told of it.
    #[test]
    fn a_refused_policy_is_shown_to_whom_it_closes() {
        use crate::local::pilot::ResourceStatus;
        let selects = |app: &str| json!({ "selector": { "matchLabels": { "app": app } }, "rules": [{}] });
        let all = [
            object("shop", "wildcard", selects("we*")),
            object("istio-system", "everywhere", selects("*")),
            object("shop", "own", selects("web")),
            object("shop", "other", selects("api")),
            object("shop", "kept", selects("we*")),
            object("elsewhere", "wildcard", selects("we*")),
        ];
        let refused = |object: &Value| ResourceStatus {
            kind: "AuthorizationPolicy".to_owned(),
            namespace: meta(object, "namespace").to_owned(),
            name: meta(object, "name").to_owned(),
            state: "refused".to_owned(),
            message: if meta(object, "name") == "kept" {
                "no; the last good version stays in force".to_owned()
            } else {
                "no".to_owned()
            },
            ..ResourceStatus::default()
        };
        let pilot = PilotStatus { resources: all.iter().map(refused).collect(), ..PilotStatus::default() };
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let pod =
            OfPod { namespace: "shop", system: "istio-system", labels: &labels, services: &[], entries: &[] };
        let found = to_pod(&all, "AuthorizationPolicy", pod, &pilot);
        assert_eq!(
            told(&found),
            [
                "istio-system/everywhere (closes the whole mesh, ALLOW, 1 rule)",
                "shop/own (closes app=web, ALLOW, 1 rule)",
                "shop/wildcard (closes its namespace, ALLOW, 1 rule)",
            ]
        );
        let warnings: Vec<String> = found.iter().flat_map(Applies::warnings).collect();
        assert_eq!(warnings.len(), 3);
        assert!(
            warnings.iter().all(|one| one.ends_with("is refused: its targets let nothing in")),
            "{warnings:?}"
        );
        // What only watches closes nobody.
        let mut watches = all[0].clone();
        watches["spec"]["action"] = json!("AUDIT");
        assert!(to_pod(&[watches], "AuthorizationPolicy", pod, &pilot).is_empty());
        // Of one that has a good version, the pilot goes by that.
        let selecting = object("shop", "kept", selects("web"));
        let found = to_pod(&[selecting], "AuthorizationPolicy", pod, &pilot);
        assert_eq!(
            found[0].warnings(),
            ["AuthorizationPolicy shop/kept is refused: it has no effect as written"]
        );
    }

    #[test]
    fn pods_of_a_gateway_are_named_by_their_labels() {
        let target = |kind: &str, name: &str| json!({ "targetRef": { "group": "gateway.networking.k8s.io", "kind": kind, "name": name } });
        let all = [
            object("shop", "gateway", target("Gateway", "edge")),
            object("istio-system", "not-its", target("Gateway", "edge")),
            object("istio-system", "class", target("GatewayClass", "istio")),
            object(
                "shop",
                "entry",
                json!({ "targetRefs": [{ "group": "networking.istio.io", "kind": "ServiceEntry", "name": "vm" }] }),
            ),
        ];
        let labels =
            [(GATEWAY_NAME, "edge"), (GATEWAY_CLASS, "istio")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let labels = BTreeMap::from(labels);
        let entries = ["vm".to_owned()];
        let pod = OfPod {
            namespace: "shop",
            system: "istio-system",
            labels: &labels,
            services: &[],
            entries: &entries,
        };
        let found = to_pod(&all, "RequestAuthentication", pod, &PilotStatus::default());
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["istio-system/class", "shop/entry", "shop/gateway"]);
    }

    #[test]
    fn gateways_and_what_is_bound_to_them() {
        let all = [
            object("shop", "public", json!({ "selector": { "istio": "edge" } })),
            object("other", "any", json!({ "selector": {} })),
            object("shop", "exit", json!({ "selector": { "istio": "exit" } })),
        ];
        let labels = BTreeMap::from([("istio".to_owned(), "edge".to_owned())]);
        let found = gateways(&all, &labels, &PilotStatus::default());
        assert_eq!(told(&found), ["shop/public (selects istio=edge)", "other/any (for every gateway)"]);
        let routes = [
            object("shop", "short", json!({ "hosts": ["a"], "gateways": ["public", "mesh"] })),
            object("web", "full", json!({ "hosts": ["b", "c"], "gateways": ["shop/public"] })),
            object("web", "elsewhere", json!({ "hosts": ["d"], "gateways": ["public"] })),
            object("shop", "sidecars", json!({ "hosts": ["e"] })),
        ];
        let bound = bound(&routes, &found, &PilotStatus::default());
        assert_eq!(told(&bound), ["shop/short (hosts a)", "web/full (hosts b, c)"]);
    }
}
