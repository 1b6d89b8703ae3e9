//! Where a sidecar cannot program its rules of capture itself, though it is asked to. In: the pod's spec, the user's own
//! `istio-proxy`, wishes. Out: why not; then `istio-init` does it, as everywhere else.

use serde_json::{Map, Value};

use super::PROXY;
use super::wishes::Wishes;

/// What is the sidecar's alone where it starts as root and has to be told the rules.
const OWN: [&str; 3] = ["command", "args", "securityContext"];

/// What stands in the way.
pub fn obstacle(
    spec: &Map<String, Value>,
    over: Option<&Map<String, Value>>,
    wishes: &Wishes,
) -> Option<String> {
    if !wishes.native {
        // A postStart hook that fails, or an image that does not come, holds nothing: the kubelet goes on to the next
        // container, whose traffic would be nobody's. After an init container that fails it starts no other.
        return Some(
            "a classic sidecar's failure does not keep the application from starting, which would be without rules then"
                .to_owned(),
        );
    }
    // Also if it says null, which would take ours away.
    let own = OWN.iter().find(|field| over.is_some_and(|over| over.contains_key(**field)));
    if let Some(field) = own {
        return Some(format!("the pod's own container {PROXY} has another {field}"));
    }
    only_roots(spec).then(|| {
        "all containers run as root by name, so that the kubelet would give the sidecar's token to root alone; \
         set securityContext.fsGroup, or leave runAsUser out where it is the image's own"
            .to_owned()
    })
}

/// A projected token is readable by everybody, except where there is an `fsGroup` (its group reads it), or where all
/// containers run as the same user by name: then that one alone reads it (KEP-1205). The sidecar would be one more root.
fn only_roots(spec: &Map<String, Value>) -> bool {
    let of_pod = spec.get("securityContext");
    if of_pod.is_some_and(|context| context["fsGroup"].as_i64().is_some()) {
        return false;
    }
    let user = |container: &Value| {
        let own = container["securityContext"]["runAsUser"].as_i64();
        own.or_else(|| of_pod?["runAsUser"].as_i64())
    };
    let lists = ["initContainers", "containers"].map(|list| spec.get(list).and_then(Value::as_array));
    lists.into_iter().flatten().flatten().all(|container| user(container) == Some(0))
}
