//! Probes through the sidecar: the kubelet asks port 15020 of the pod, and the sidecar asks the application.
//!
//! In: the pod's containers. Out: their probes rewritten, the originals by path (Istio's `ISTIO_KUBE_APP_PROBERS`), and
//! what could not be rewritten. Hooks over the network go the same way. `exec` runs inside of the container and is left alone.

use serde_json::{Map, Value, json};

/// The sidecar's port for the kubelet.
pub const AGENT_PORT: u16 = 15020;
/// Ports of the sidecar that the kubelet reaches as they are.
const OWN_PORTS: [u16; 2] = [AGENT_PORT, 15021];

/// The probes of a container, and their names in paths.
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];

/// The hooks of a container's life, and their names in paths.
const HOOKS: [(&str, &str); 2] = [("preStop", "prestopz"), ("postStart", "poststartz")];
/// How long a hook may take: the kubelet gives them the grace period, and ends them itself.
const HOOK_SECONDS: u64 = 300;

/// Rewrites the probes of all application containers in `spec`.
pub fn rewrite(
    spec: &mut Map<String, Value>,
    own: &[&str],
    warnings: &mut Vec<String>,
) -> Map<String, Value> {
    let mut originals = Map::new();
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            if own.contains(&name.as_str()) {
                continue;
            }
            let ports = container.get("ports").cloned().unwrap_or_default();
            let probes = PROBES.map(|(field, path)| (field, format!("/app-health/{name}/{path}")));
            let hooks = HOOKS.map(|(field, path)| (field, format!("/app-lifecycle/{name}/{path}")));
            for (field, path) in probes.into_iter().chain(hooks) {
                let is_hook = path.starts_with("/app-lifecycle/");
                let place = if is_hook { container.get_mut("lifecycle") } else { container.get_mut(field) };
                let place = if is_hook { place.and_then(|hooks| hooks.get_mut(field)) } else { place };
                let Some(probe) = place.and_then(Value::as_object_mut) else { continue };
                match original(probe, &ports) {
                    Ok(Some(mut kept)) => {
                        if is_hook {
                            kept["timeoutSeconds"] = HOOK_SECONDS.into();
                        }
                        replace(probe, &path);
                        originals.insert(path, kept);
                    }
                    Ok(None) => {}
                    Err(why) => warnings.push(format!(
                        "container {name}: {field} is not rewritten: {why}; under STRICT it will fail"
                    )),
                }
            }
        }
    }
    originals
}

/// The probe as the sidecar performs it; `None` when the kubelet can.
fn original(probe: &Map<String, Value>, ports: &Value) -> Result<Option<Value>, String> {
    let mut kept = Map::new();
    if let Some(get) = probe.get("httpGet").and_then(Value::as_object) {
        let port = resolve(get.get("port"), ports)?;
        let mut told = json!({"port": port});
        for field in ["path", "scheme", "host", "httpHeaders"] {
            if let Some(value) = get.get(field).filter(|v| !v.is_null()) {
                told[field] = value.clone();
            }
        }
        kept.insert("httpGet".into(), told);
    } else if let Some(tcp) = probe.get("tcpSocket").and_then(Value::as_object) {
        let mut told = json!({"port": resolve(tcp.get("port"), ports)?});
        if let Some(host) = tcp.get("host").filter(|v| v.is_string()) {
            told["host"] = host.clone();
        }
        kept.insert("tcpSocket".into(), told);
    } else if let Some(grpc) = probe.get("grpc").and_then(Value::as_object) {
        let mut told = json!({"port": resolve(grpc.get("port"), ports)?});
        if let Some(service) = grpc.get("service").filter(|v| v.is_string()) {
            told["service"] = service.clone();
        }
        kept.insert("grpc".into(), told);
    } else {
        return Ok(None);
    }
    let port = kept.values().next().and_then(|told| told["port"].as_u64());
    if OWN_PORTS.iter().any(|own| port == Some(u64::from(*own))) {
        return Ok(None);
    }
    if let Some(seconds) = probe.get("timeoutSeconds").and_then(Value::as_u64) {
        kept.insert("timeoutSeconds".into(), seconds.into());
    }
    Ok(Some(kept.into()))
}

/// A number, or the name of one of the container's ports.
fn resolve(port: Option<&Value>, ports: &Value) -> Result<u16, String> {
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    match port {
        Some(Value::String(name)) => {
            if let Some(number) = name.parse::<u16>().ok().filter(|n| *n > 0) {
                return Ok(number);
            }
            let named = ports.as_array().into_iter().flatten();
            let named = named
                .filter(|port| port["name"].as_str() == Some(name))
                .find_map(|p| number(&p["containerPort"]));
            named.ok_or_else(|| format!("the container has no port named {name:?}"))
        }
        Some(value) => number(value).ok_or_else(|| format!("{value} is no port")),
        None => Err("it names no port".to_owned()),
    }
}

fn replace(probe: &mut Map<String, Value>, path: &str) {
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        probe.shift_remove(kind);
    }
    probe.insert("httpGet".into(), json!({"path": path, "port": AGENT_PORT}));
}
