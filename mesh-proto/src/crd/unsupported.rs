//! Kinds that are known by name and not in force: each is refused with the reason and, where there is one, the way to the
//! same effect that does exist. Nothing is ignored in silence.

use serde_json::Value;

use super::meta::{Kind, Labels, leaves_open};
use super::object::Targets;

/// Why objects of a kind are not in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported {
    /// The reason, and what to do instead. Whether its targets fail closed is a matter of the object: [`targets`].
    pub reason: &'static str,
}

/// Whether a kind is not in force, and why.
#[must_use]
pub fn unsupported(kind: Kind) -> Option<Unsupported> {
    let reason = match kind {
        Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::Deployment
        | Kind::Pod
        | Kind::Secret
        | Kind::ConfigMap
        | Kind::VirtualService
        | Kind::DestinationRule
        | Kind::Gateway
        | Kind::AuthorizationPolicy
        | Kind::RequestAuthentication
        | Kind::PeerAuthentication
        | Kind::ServiceEntry => return None,
        Kind::EnvoyFilter => {
            "patches Envoy's configuration and there is no Envoy here; use VirtualService retries and timeout for routes, \
             DestinationRule for connections and balancing, PeerAuthentication for mTLS; VirtualService headers, outlier \
             detection, Telemetry and AuthorizationPolicy take the rest as they come in force"
        }
        Kind::WasmPlugin | Kind::TrafficExtension => {
            "runs code inside Envoy and there is no Envoy here; use VirtualService or an AuthorizationPolicy with a CUSTOM action"
        }
        Kind::BackendTLSPolicy
        | Kind::Sidecar
        | Kind::WorkloadEntry
        | Kind::WorkloadGroup
        | Kind::ProxyConfig
        | Kind::Telemetry
        | Kind::KubernetesGateway
        | Kind::GatewayClass
        | Kind::HTTPRoute
        | Kind::GRPCRoute
        | Kind::TLSRoute
        | Kind::TCPRoute
        | Kind::UDPRoute
        | Kind::ReferenceGrant => "is not in force yet",
    };
    Some(Unsupported { reason })
}

/// Whom a refused object of a restricting kind selects. What cannot be read selects everybody in its namespace: that is
/// the safe side.
#[must_use]
pub fn targets(kind: Kind, value: &Value) -> Option<Targets> {
    match kind {
        Kind::AuthorizationPolicy if only_watches(value) => None,
        Kind::WasmPlugin | Kind::TrafficExtension if !guards(value) => None,
        Kind::AuthorizationPolicy
        | Kind::RequestAuthentication
        | Kind::PeerAuthentication
        | Kind::WasmPlugin
        | Kind::TrafficExtension => {
            let of_gateway = crate::crd::target_ref::gateway_labels(value);
            let refers = matches!(kind, Kind::AuthorizationPolicy | Kind::RequestAuthentication);
            if refers && of_gateway.is_some() {
                return of_gateway.map(Targets::Workloads);
            }
            let selector = value.pointer("/spec/selector/matchLabels");
            let labels = selector.and_then(|labels| serde_json::from_value::<Labels>(labels.clone()).ok());
            let mut labels = labels.unwrap_or_default();
            // Such a pair says nothing about whom was meant.
            labels.retain(|name, value| !leaves_open(name, value));
            Some(Targets::Workloads(labels))
        }
        Kind::DestinationRule => {
            let host = value.pointer("/spec/host")?.as_str()?;
            secures(value).then(|| Targets::Host(host.to_owned()))
        }
        _ => None,
    }
}

/// AUDIT and dry runs never decide: in Istio neither.
fn only_watches(policy: &Value) -> bool {
    let text = |path: &str| policy.pointer(path).and_then(Value::as_str);
    text("/spec/action") == Some("AUDIT") || text("/metadata/annotations/istio.io~1dry-run") == Some("true")
}

/// A plugin that stands where requests are let in or kept out.
fn guards(plugin: &Value) -> bool {
    let phase = plugin.pointer("/spec/phase").and_then(Value::as_str);
    matches!(phase, Some("AUTHN" | "AUTHZ"))
}

/// Whether a DestinationRule asks anywhere for connections to be secured.
fn secures(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(key, value)| {
            let open = value.get("mode").and_then(Value::as_str).is_some_and(|mode| mode == "DISABLE");
            (key == "tls" && !open) || secures(value)
        }),
        Value::Array(items) => items.iter().any(secures),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whom_a_refused_policy_restricts() {
        let policy = json!({"spec": {"selector": {"matchLabels": {"app": "a"}}}});
        let one = Targets::Workloads(Labels::from([("app".into(), "a".into())]));
        assert_eq!(targets(Kind::AuthorizationPolicy, &policy), Some(one));
        let odd = json!({"spec": {"selector": {"matchLabels": {"app": 1}}}});
        assert_eq!(targets(Kind::AuthorizationPolicy, &odd), Some(Targets::Workloads(Labels::new())));
        assert_eq!(targets(Kind::EnvoyFilter, &policy), None);
        let nobody = json!({"spec": {"selector": {"matchLabels": {"app": "p*", "version": "v1", "": "b"}}}});
        let all_of_v1 = Targets::Workloads(Labels::from([("version".into(), "v1".into())]));
        assert_eq!(targets(Kind::PeerAuthentication, &nobody), Some(all_of_v1));
        // Inert in Istio: a slip of one is not to close the mesh.
        let inert = json!({"spec": {"selector": {"matchLabels": {"app": "my app"}}}});
        let none = Targets::Workloads(Labels::from([("app".into(), "my app".into())]));
        assert_eq!(targets(Kind::AuthorizationPolicy, &inert), Some(none));
    }

    #[test]
    fn what_never_keeps_anybody_out_restricts_nobody() {
        let all = Some(Targets::Workloads(Labels::new()));
        let action = |action: &str| json!({"spec": {"action": action}});
        assert_eq!(targets(Kind::AuthorizationPolicy, &action("DENY")), all);
        assert_eq!(targets(Kind::AuthorizationPolicy, &action("AUDIT")), None);
        let dry = |text: &str| json!({"metadata": {"annotations": {"istio.io/dry-run": text}}, "spec": {}});
        assert_eq!(targets(Kind::AuthorizationPolicy, &dry("true")), None);
        assert_eq!(targets(Kind::AuthorizationPolicy, &dry("false")), all);
        let phase = |phase: &str| json!({"spec": {"phase": phase}});
        assert_eq!(targets(Kind::WasmPlugin, &phase("AUTHZ")), all);
        assert_eq!(targets(Kind::WasmPlugin, &phase("STATS")), None);
    }

    #[test]
    fn a_rule_that_was_to_secure_connections_restricts() {
        let tls = |mode: &str| json!({"spec": {"host": "a", "subsets": [{"trafficPolicy": {"tls": {"mode": mode}}}]}});
        assert_eq!(targets(Kind::DestinationRule, &tls("SIMPLE")), Some(Targets::Host("a".into())));
        assert_eq!(targets(Kind::DestinationRule, &tls("DISABLE")), None);
        assert_eq!(targets(Kind::DestinationRule, &json!({"spec": {"host": "a"}})), None);
    }
}
