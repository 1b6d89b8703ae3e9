//! What of a pod stands in its sidecar's way. In: the pod's spec and what the sidecar brings. Out: the name that two would
//! have, which refuses the pod, or what its people should know.

use serde_json::{Map, Value};

use super::container::UID;
use super::{INIT, InjectError, PROXY};

/// The sidecar's own ports.
const PORTS: [u64; 6] = [15000, 15001, 15006, 15020, 15021, 15090];

/// The containers of a list of the spec.
fn containers<'a>(spec: &'a Map<String, Value>, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    spec.get(list).and_then(Value::as_array).into_iter().flatten()
}

/// Names that the sidecar's init container and volumes have (`ours`), or that an annotation gives (`told`), and the pod too.
///
/// # Errors
/// Which name; the API server would refuse the pod in other words, or the application would get another volume than its own.
pub fn names(
    spec: &Map<String, Value>,
    has_init: bool,
    ours: &[Value],
    told: &[Value],
) -> Result<(), InjectError> {
    for list in ["initContainers", "containers"].into_iter().filter(|_| has_init) {
        if containers(spec, list).any(|container| container["name"] == INIT) {
            let why =
                format!("there is a container {INIT}, which is what the sidecar's own is called; rename it");
            return Err(InjectError { path: format!("spec.{list}"), why });
        }
    }
    let volumes = || containers(spec, "volumes");
    for volume in ours {
        // Of a pod that was injected before, with the defaults that the API server has put in.
        if let Some(other) = volumes().find(|v| v["name"] == volume["name"] && !is_within(volume, v)) {
            let name = other["name"].as_str().unwrap_or_default();
            let why =
                format!("there is a volume {name}, which is what one of the sidecar's is called; rename it");
            return Err(InjectError { path: "spec.volumes".into(), why });
        }
    }
    for volume in told {
        let clash = |other: &Value| other["name"] == volume["name"];
        if ours.iter().any(clash) || volumes().any(|v| clash(v) && !is_within(volume, v)) {
            let name = volume["name"].as_str().unwrap_or_default();
            let why = format!("the pod has another volume {name:?} already; give this one another name");
            return Err(InjectError {
                path: "metadata.annotations[sidecar.istio.io/userVolume]".into(),
                why,
            });
        }
    }
    Ok(())
}

/// Whether `large` says all that `small` says.
fn is_within(small: &Value, large: &Value) -> bool {
    match (small, large) {
        (Value::Object(small), Value::Object(large)) => {
            small.iter().all(|(name, value)| large.get(name).is_some_and(|other| is_within(value, other)))
        }
        (Value::Array(small), Value::Array(large)) => {
            small.len() == large.len() && small.iter().zip(large).all(|(s, l)| is_within(s, l))
        }
        (small, large) => small == large,
    }
}

/// What keeps a pod's traffic out of the mesh, or its sidecar from starting.
pub fn warnings(spec: &Map<String, Value>) -> Vec<String> {
    let mut all = Vec::new();
    let of_pod = spec.get("securityContext");
    let apps = containers(spec, "initContainers").chain(containers(spec, "containers"));
    for container in apps.filter(|container| container["name"] != PROXY) {
        let name = container["name"].as_str().unwrap_or_default();
        for field in ["runAsUser", "runAsGroup"] {
            let own = container["securityContext"].get(field).filter(|id| !id.is_null());
            if own.or_else(|| of_pod?.get(field)).and_then(Value::as_u64) == Some(UID) {
                all.push(format!(
                    "container {name}: {field} {UID} is the proxy's: what it sends bypasses the mesh; choose another one"
                ));
            }
        }
        let ports = container["ports"].as_array().into_iter().flatten();
        for port in
            ports.filter_map(|port| port["containerPort"].as_u64()).filter(|port| PORTS.contains(port))
        {
            all.push(format!("container {name}: port {port} is the sidecar's: nobody else can listen there"));
        }
    }
    if let Some(policy @ ("None" | "Default")) = spec.get("dnsPolicy").and_then(Value::as_str) {
        all.push(format!(
            "dnsPolicy {policy}: the sidecar finds the control plane only if the pod's name servers know the cluster's names"
        ));
    }
    all
}
