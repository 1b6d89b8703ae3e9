//! `targetRefs`: policies that name whom they are for, in place of labels.
//!
//! Source: the Gateway API's policy attachment, as Istio's AuthorizationPolicy and RequestAuthentication have it. Pods of a Gateway
//! are those with its name as their label, as Istio's own controller labels them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{Labels, WorkloadSelector};

/// The label that pods of a Gateway of the Gateway API have.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label that says which GatewayClass such pods are of.
pub const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const NETWORKING: &str = "networking.istio.io";

strict! {
    /// Whom a policy is for.
    pub struct TargetRef {
        /// gateway.networking.k8s.io, networking.istio.io, or empty for a Service.
        pub group: String,
        /// Gateway, Service ...
        pub kind: String,
        /// Its name.
        pub name: String,
        /// Its namespace; the policy's when absent.
        pub namespace: Option<String>,
    }
}

/// What a reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The pods of a Gateway of the Gateway API, in the policy's namespace.
    Gateway(&'a str),
    /// The pods of all Gateways of a class; everywhere where the policy is in the root namespace.
    GatewayClass(&'a str),
    /// The pods that a Service selects, at the ports that it leads to.
    Service(&'a str),
    /// The same of a ServiceEntry; where it has no pods, nobody reaches its hosts.
    ServiceEntry(&'a str),
}

impl TargetRef {
    /// What it leads to; `None`: nothing that a policy may be for.
    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        let name = self.name.as_str();
        match (self.group.as_str(), self.kind.as_str()) {
            (GATEWAY_API, "Gateway") => Some(Target::Gateway(name)),
            (GATEWAY_API, "GatewayClass") => Some(Target::GatewayClass(name)),
            ("" | "core", "Service") => Some(Target::Service(name)),
            (NETWORKING, "ServiceEntry") => Some(Target::ServiceEntry(name)),
            _ => None,
        }
    }
}

/// Whom a policy is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whom<'a> {
    /// Labels; absent: everybody.
    pub selector: Option<&'a WorkloadSelector>,
    /// Where there are some, only those.
    pub targets: Vec<Target<'a>>,
}

impl<'a> Whom<'a> {
    pub(super) fn new(
        selector: Option<&'a WorkloadSelector>,
        one: Option<&'a TargetRef>,
        many: &'a [TargetRef],
    ) -> Self {
        // What leads nowhere has been refused.
        Self { selector, targets: one.into_iter().chain(many).filter_map(TargetRef::target).collect() }
    }
}

/// The labels of whom a refused policy with `targetRefs` is for: the pods of its Gateway. Of several, or of a kind whose pods
/// labels do not tell, anybody may be meant: no label at all. `None`: it goes by its selector.
#[must_use]
pub fn gateway_labels(policy: &Value) -> Option<Labels> {
    let one = policy.pointer("/spec/targetRef").filter(|target| target.is_object());
    let many = policy.pointer("/spec/targetRefs").and_then(Value::as_array);
    let all: Vec<&Value> = one.into_iter().chain(many.into_iter().flatten()).collect();
    let text = |target: &Value, field: &str| {
        target.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let label = |label: &str, name: String| Labels::from([(label.to_owned(), name)]);
    match &all[..] {
        [] => None,
        [gateway] if text(gateway, "kind") == "Gateway" && text(gateway, "group") == GATEWAY_API => {
            Some(label(GATEWAY_NAME, text(gateway, "name")))
        }
        [class] if text(class, "kind") == "GatewayClass" => Some(label(GATEWAY_CLASS, text(class, "name"))),
        _ => Some(Labels::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whom_refused_policies_were_for() {
        let of = |refs: Value| gateway_labels(&json!({"spec": {"targetRefs": refs}}));
        let named = |name: &str| Some(Labels::from([(GATEWAY_NAME.to_owned(), name.to_owned())]));
        let gateway = |name: &str| json!({"group": GATEWAY_API, "kind": "Gateway", "name": name});
        assert_eq!(of(json!([])), None);
        assert_eq!(of(json!([gateway("a")])), named("a"));
        assert_eq!(of(json!([{"kind": "Gateway", "name": "a"}])), Some(Labels::new()), "whatever that is");
        assert_eq!(of(json!([{"kind": "Service", "name": "b"}])), Some(Labels::new()));
        assert_eq!(of(json!([gateway("a"), gateway("b")])), Some(Labels::new()));
        let class = Labels::from([(GATEWAY_CLASS.to_owned(), "c".to_owned())]);
        assert_eq!(of(json!([{"kind": "GatewayClass", "name": "c"}])), Some(class));
        assert_eq!(gateway_labels(&json!({"spec": {"targetRef": gateway("a")}})), named("a"));
    }

    #[test]
    fn what_references_lead_to() {
        let of = |group: &str, kind: &str| {
            let target =
                TargetRef { group: group.into(), kind: kind.into(), name: "a".into(), namespace: None };
            target.target().map(|target| format!("{target:?}"))
        };
        assert_eq!(of(GATEWAY_API, "Gateway").as_deref(), Some("Gateway(\"a\")"));
        assert_eq!(of("", "Service").as_deref(), Some("Service(\"a\")"));
        assert_eq!(of("core", "Service"), of("", "Service"));
        assert_eq!(of(NETWORKING, "ServiceEntry").as_deref(), Some("ServiceEntry(\"a\")"));
        assert_eq!(of(NETWORKING, "Gateway"), None, "has a selector of its own");
        assert_eq!(of("", "Gateway"), None);
    }
}
