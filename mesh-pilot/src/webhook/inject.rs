//! A pod with its sidecar. In: a pod (or a workload with a pod's template), settings, a token. Out: the same with sidecar,
//! and what the user should know.
//!
//! Works on JSON, so that nothing that this program does not know is lost. Pure, and injecting twice is injecting once.
//! What each part looks like: [`container`], [`probes`], [`volumes`]; what the pod wants: [`wishes`]; what stands in the way:
//! [`clash`]; whether the sidecar can program its rules itself: [`own_capture`].

mod clash;
mod container;
mod merge;
pub mod offline;
mod own_capture;
mod probes;
#[cfg(test)]
mod tests;
mod volumes;
mod wishes;

use serde_json::{Map, Value, json};

use self::container::Particular;
use self::wishes::Wishes;
use super::settings::{Programmer, Settings};
use super::validate;

/// Says what was injected; a pod that has it is left alone.
pub const STATUS: &str = "sidecar.istio.io/status";
/// The proxy's container.
pub const PROXY: &str = "istio-proxy";
/// The container that writes the rules of capture, where the sidecar doesn't.
pub const INIT: &str = "istio-init";

/// Why a pod cannot get its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct InjectError {
    /// The field.
    pub path: String,
    /// What is wrong, and what was expected.
    pub why: String,
}

/// A pod, or the workload around it, with its sidecar.
#[derive(Debug, Clone, PartialEq)]
pub struct Injected {
    /// The object.
    pub object: Value,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Where the pod's template is in an object of `kind`; `None` for kinds that make no pods. A Pod is its own.
#[must_use]
pub fn template_of(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            Some("/spec/template")
        }
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Gives `pod` (with `metadata` and `spec`) a sidecar. `workload`: the name of what made it, for telemetry. `token`: a
/// secret of the pod's own, of letters and digits.
///
/// # Errors
/// When an annotation has no meaning, or it is no pod.
pub fn inject(
    pod: &Value,
    workload: Option<&str>,
    settings: &Settings,
    token: &str,
) -> Result<Injected, InjectError> {
    let mut object = pod.clone();
    let mut warnings = Vec::new();
    let annotations = object_at(&object, "metadata").and_then(|m| m.get("annotations")?.as_object().cloned());
    let annotations = annotations.unwrap_or_default();
    if annotations.contains_key(STATUS) && has_proxy(&object) {
        return Ok(Injected { object, warnings });
    }
    let mut wishes = Wishes::read(&annotations, settings)?;
    warnings.extend(wishes.warnings.iter().cloned());
    let workload = workload.map(str::to_owned).or_else(|| owner(&object));
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return Err(InjectError { path: "spec".into(), why: "is missing: this is no pod".into() });
    };
    let over = take_own(spec)?;
    if wishes.gateway && over.is_none() {
        let why = "the gateway template needs a container istio-proxy with `image: auto`".to_owned();
        return Err(InjectError { path: "spec.containers".into(), why });
    }
    clash::names(spec, !wishes.gateway, &volumes::volumes(), &wishes.volumes)?;
    if !wishes.gateway {
        warnings.extend(clash::warnings(spec));
    }
    if wishes.captures_itself()
        && let Some(why) = own_capture::obstacle(spec, over.as_ref(), &wishes)
    {
        wishes.programmer = Programmer::Separate;
        warnings.push(format!("{INIT} programs the rules of capture, not the sidecar: {why}"));
    }
    let probers = if wishes.rewrite_probes && !wishes.gateway {
        probes::rewrite(spec, &[PROXY, INIT], &mut warnings)
    } else {
        Map::new()
    };
    let scrape = scrape(&annotations, wishes.merge_metrics);
    let particular = Particular {
        probers: &probers,
        drain_token: token,
        grace: spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64),
        scrape: scrape.clone().flatten(),
    };
    let mut proxy = container::proxy(&wishes, settings, &particular);
    add_metadata_variables(&mut proxy, &wishes);
    if let Some(over) = &over {
        merge::merge(&mut proxy, over);
    }
    if !wishes.gateway {
        hooks(spec, token);
    }
    let app = first_container(spec);
    let init = (!wishes.gateway && !wishes.captures_itself()).then(|| container::init(&wishes, settings));
    let mut status = place(spec, &wishes, settings, proxy, init);
    // Who makes pods is mostly a controller, which shows them to nobody; `meshctl describe pod` reads them here.
    if !warnings.is_empty() {
        status["warnings"] = validate::warnings(warnings.iter().cloned()).into();
    }
    metadata(&mut object, workload.as_deref(), settings, &status, app.as_deref(), scrape.is_some());
    Ok(Injected { object, warnings })
}

/// An annotation alone, copied from another pod, is no sidecar.
fn has_proxy(pod: &Value) -> bool {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten().any(|container| container["name"] == PROXY)
}

fn object_at<'a>(value: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    value.get(name).and_then(Value::as_object)
}

/// Takes the user's own `istio-proxy` out: it is put over ours.
fn take_own(spec: &mut Map<String, Value>) -> Result<Option<Map<String, Value>>, InjectError> {
    let mut own = None;
    for list in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        let is_own = |container: &Value| container.get("name").and_then(Value::as_str) == Some(PROXY);
        if let Some(at) = containers.iter().position(is_own) {
            let Value::Object(container) = containers.remove(at) else { continue };
            if own.replace(container).is_some() {
                let why =
                    format!("there are two containers named {PROXY}; one may say what ours should be like");
                return Err(InjectError { path: format!("spec.{list}"), why });
            }
        }
        if containers.is_empty() && list == "initContainers" {
            spec.shift_remove(list);
        }
    }
    Ok(own)
}

/// `proxyMetadata` is the proxy's environment, as in Istio.
fn add_metadata_variables(proxy: &mut Map<String, Value>, wishes: &Wishes) {
    let metadata = wishes.proxy_config.get("proxyMetadata").and_then(Value::as_object);
    let Some(env) = proxy.get_mut("env").and_then(Value::as_array_mut) else { return };
    for (name, value) in metadata.into_iter().flatten() {
        if !env.iter().any(|known| known["name"] == name.as_str()) {
            env.push(json!({"name": name, "value": value}));
        }
    }
}

/// Each application container's SIGTERM waits for the drain, unless it has a hook of its own.
fn hooks(spec: &mut Map<String, Value>, token: &str) {
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
        let lifecycle = container.entry("lifecycle").or_insert_with(|| json!({}));
        if lifecycle.is_null() {
            *lifecycle = json!({});
        }
        if let Some(lifecycle) = lifecycle.as_object_mut()
            && lifecycle.get("preStop").is_none_or(Value::is_null)
        {
            lifecycle.insert("preStop".into(), container::drain(token));
        }
    }
}

fn first_container(spec: &Map<String, Value>) -> Option<String> {
    Some(spec.get("containers")?.as_array()?.first()?.get("name")?.as_str()?.to_owned())
}

/// Puts the containers and volumes in their places; says which there are.
fn place(
    spec: &mut Map<String, Value>,
    wishes: &Wishes,
    settings: &Settings,
    proxy: Map<String, Value>,
    init: Option<Value>,
) -> Value {
    let proxy = Value::Object(proxy);
    let (mut inits, mut containers) = (Vec::new(), Vec::new());
    if init.is_some() {
        inits.push(INIT);
    }
    if wishes.native && !wishes.gateway {
        inits.push(PROXY);
        // First of all: the user's init containers are in the mesh.
        let first = init.into_iter().chain([proxy]);
        list(spec, "initContainers").splice(0..0, first);
    } else {
        containers.push(PROXY);
        // Last of all: until the sidecar runs, the user's init containers need the network as it was.
        list(spec, "initContainers").extend(init);
        let place = list(spec, "containers");
        let at = if wishes.hold || wishes.gateway { 0 } else { place.len() };
        place.insert(at, proxy);
    }
    if list(spec, "initContainers").is_empty() {
        spec.shift_remove("initContainers");
    }
    let mut volumes = volumes::volumes();
    volumes.extend(wishes.volumes.iter().cloned());
    let names: Vec<Value> = volumes.iter().map(|volume| volume["name"].clone()).collect();
    let place = list(spec, "volumes");
    place.retain(|known| !names.contains(&known["name"]));
    place.extend(volumes);
    let secrets: Vec<Value> = settings.pull_secrets.iter().map(|name| json!({"name": name})).collect();
    let missing: Vec<Value> = match spec.get("imagePullSecrets").and_then(Value::as_array) {
        Some(known) => secrets.into_iter().filter(|secret| !known.contains(secret)).collect(),
        None => secrets,
    };
    if !missing.is_empty() {
        list(spec, "imagePullSecrets").extend(missing);
    }
    json!({
        "initContainers": inits,
        "containers": containers,
        "volumes": names,
        "imagePullSecrets": settings.pull_secrets,
        "revision": settings.control_plane.revision,
    })
}

/// A list of the spec; made if it isn't there.
fn list<'a>(spec: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let value = spec.entry(name).or_insert_with(|| json!([]));
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("made an array just now")
}

/// Labels and annotations.
fn metadata(
    object: &mut Value,
    workload: Option<&str>,
    settings: &Settings,
    status: &Value,
    app: Option<&str>,
    scraped: bool,
) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = map(object, "metadata");
    let labels = map(metadata, "labels");
    let first = |names: &[&str]| names.iter().find_map(|n| Some(labels.get(*n)?.as_str()?.to_owned()));
    let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let name = name.or_else(|| workload.map(str::to_owned));
    let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    let revision = revision.unwrap_or_else(|| "latest".into());
    absent(labels, "security.istio.io/tlsMode", "istio");
    // A label's value has at most 63 characters.
    if let Some(name) = name.filter(|name| name.len() <= 63) {
        absent(labels, "service.istio.io/canonical-name", &name);
    }
    absent(labels, "service.istio.io/canonical-revision", &revision);
    let annotations = map(metadata, "annotations");
    annotations.insert(STATUS.into(), status.to_string().into());
    absent(annotations, "istio.io/rev", &settings.control_plane.revision);
    if let Some(app) = app {
        absent(annotations, "kubectl.kubernetes.io/default-container", app);
        absent(annotations, "kubectl.kubernetes.io/default-logs-container", app);
    }
    if scraped {
        for (name, value) in [("scrape", "true"), ("port", "15020"), ("path", "/stats/prometheus")] {
            annotations.insert(format!("prometheus.io/{name}"), value.into());
        }
    }
    for (name, value) in &settings.annotations {
        annotations.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn map<'a>(of: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = of.entry(name).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("made a map just now")
}

fn absent(map: &mut Map<String, Value>, name: &str, value: &str) {
    map.entry(name.to_owned()).or_insert_with(|| value.into());
}

/// `None`: Prometheus goes where the pod says. `Some(None)`: it comes to the sidecar, which has nothing to add.
#[expect(clippy::option_option, reason = "whether, and what else")]
fn scrape(annotations: &Map<String, Value>, merge: bool) -> Option<Option<String>> {
    let text = |name: &str| annotations.get(name).and_then(Value::as_str);
    if !merge || text("prometheus.io/scrape") == Some("false") {
        return None;
    }
    if text("prometheus.io/scrape") != Some("true") {
        return Some(None);
    }
    let mut told = json!({"scrape": "true"});
    for field in ["path", "port"] {
        if let Some(value) = text(&format!("prometheus.io/{field}")) {
            told[field] = value.into();
        }
    }
    Some(Some(told.to_string()))
}

/// The name of the workload that made the pod: of its controller, without what a ReplicaSet's or CronJob's name ends with.
fn owner(pod: &Value) -> Option<String> {
    let metadata = pod.get("metadata")?;
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"].as_bool() == Some(true));
    let Some(controller) = controller else {
        let generated = metadata.get("generateName").and_then(Value::as_str).map(|n| n.trim_end_matches('-'));
        return metadata.get("name").and_then(Value::as_str).or(generated).map(str::to_owned);
    };
    let name = controller["name"].as_str()?;
    let shortened = match controller["kind"].as_str() {
        Some("ReplicaSet") => {
            let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
            hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
        }
        Some("Job") => {
            // A CronJob's jobs are named <cronjob>-<minutes since 1970>.
            let cut = name.rsplit_once('-');
            cut.filter(|(_, tail)| tail.len() >= 8 && tail.bytes().all(|b| b.is_ascii_digit()))
                .map(|(name, _)| name)
        }
        _ => None,
    };
    Some(shortened.unwrap_or(name).to_owned())
}
