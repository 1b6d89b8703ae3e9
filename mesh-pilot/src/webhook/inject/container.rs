//! The two containers that a pod gets, or the one. In: wishes, settings, what the pod's own containers are. Out: JSON of
//! `istio-init` and `istio-proxy`. What `mesh-proxy sidecar` reads from the environment is said in its `config::environment`.

use serde_json::{Map, Value, json};

use super::probes::AGENT_PORT;
use super::volumes;
use super::wishes::Wishes;
use crate::webhook::settings::Settings;

/// User and group of the proxy; what they dial is not captured.
pub const UID: u64 = 1337;
/// Never captured on their way in: the kubelet's and Prometheus' ports.
const NOT_CAPTURED: &str = "15090,15021,15020";
const BINARY: &str = "/usr/local/bin/mesh-proxy";

/// What is particular to one pod.
pub struct Particular<'a> {
    /// Originals of rewritten probes.
    pub probers: &'a Map<String, Value>,
    /// `/drain/<token>`.
    pub drain_token: &'a str,
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<u64>,
    /// The application's `prometheus.io` annotations.
    pub scrape: Option<String>,
}

/// What `mesh-proxy capture` is told. Everything for the sidecar itself (`all`): it has an environment of its users', where
/// the same flags are read.
fn capture(wishes: &Wishes, all: bool) -> Vec<String> {
    let capture = &wishes.capture;
    let mode = if wishes.tproxy { "TPROXY" } else { "REDIRECT" };
    let excluded = match capture.exclude_inbound_ports.as_str() {
        "" => NOT_CAPTURED.to_owned(),
        more => format!("{NOT_CAPTURED},{more}"),
    };
    let uid = UID.to_string();
    let mut arguments = vec!["capture", "-p", "15001", "-z", "15006", "-u", &uid, "-m", mode];
    if all {
        arguments.extend(["-g", &uid, "-t", "1337", "-r", "133", "--backend", "auto"]);
    }
    let lists = [
        ("-i", &capture.include_outbound_ranges),
        ("-x", &capture.exclude_outbound_ranges),
        ("-b", &capture.include_inbound_ports),
        ("-d", &excluded),
        ("-q", &capture.include_outbound_ports),
        ("-o", &capture.exclude_outbound_ports),
        ("-c", &capture.exclude_interfaces),
        ("-k", &capture.virtual_interfaces),
    ];
    for (flag, value) in lists {
        // "Nothing" is a value of the lists of what is captured, and the default of all others.
        if all || !value.is_empty() || matches!(flag, "-i" | "-b") {
            arguments.extend([flag, value]);
        }
    }
    arguments.into_iter().map(str::to_owned).collect()
}

/// The container that writes the rules of capture.
pub fn init(wishes: &Wishes, settings: &Settings) -> Value {
    let mut container = json!({
        "name": "istio-init",
        "image": wishes.image,
        "command": [BINARY],
        "args": capture(wishes, false),
        // The lock of iptables is elsewhere on a root file system that cannot be written.
        "env": [{"name": "XTABLES_LOCKFILE", "value": "/dev/shm/xtables.lock"}],
        "resources": settings.init_resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    });
    pull_policy(&mut container, settings);
    container
}

/// The proxy.
pub fn proxy(wishes: &Wishes, settings: &Settings, particular: &Particular<'_>) -> Map<String, Value> {
    let mut arguments = vec![if wishes.gateway { "router" } else { "sidecar" }.to_owned()];
    if wishes.captures_itself() {
        arguments.extend(capture(wishes, true));
    }
    let mut mounts = volumes::mounts();
    mounts.extend(wishes.mounts.iter().cloned());
    let mut container = json!({
        "name": "istio-proxy",
        "image": wishes.image,
        "command": [BINARY],
        "args": arguments,
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "env": environment(wishes, settings, particular),
        "resources": wishes.resources,
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": 15, "timeoutSeconds": 3, "failureThreshold": 4},
        "securityContext": security(wishes),
        "volumeMounts": mounts,
    });
    pull_policy(&mut container, settings);
    start_and_end(&mut container, wishes, particular);
    match container {
        Value::Object(container) => container,
        _ => Map::new(),
    }
}

/// When the kubelet goes on to the next container, and what a classic sidecar's end waits for.
fn start_and_end(container: &mut Value, wishes: &Wishes, particular: &Particular<'_>) {
    let mut lifecycle = json!({});
    if wishes.hold && !wishes.gateway {
        // A hook holds the containers after it just as a startup probe does, and sooner lets them go: a probe's answer waits
        // for the prober's next second and then for the kubelet's next look at its containers.
        lifecycle["postStart"] = json!({"exec": {"command": [BINARY, "wait"]}});
    } else {
        // The proxy answers as soon as it is ready: nothing is held for a whole period.
        container["startupProbe"] = json!({"httpGet": {"path": "/healthz/ready?wait=2", "port": 15021},
            "periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 600});
    }
    if wishes.gateway {
        return;
    }
    if wishes.native {
        container["restartPolicy"] = "Always".into();
    } else {
        // Both ends come at the same time: the sidecar's waits for what the application still serves.
        lifecycle["preStop"] = drain(particular.drain_token);
    }
    if lifecycle.as_object().is_some_and(|hooks| !hooks.is_empty()) {
        container["lifecycle"] = lifecycle;
    }
}

/// The hook of each application container: the sidecar answers when nothing is in flight any more.
pub fn drain(token: &str) -> Value {
    json!({"httpGet": {"path": format!("/drain/{token}"), "port": AGENT_PORT}})
}

fn pull_policy(container: &mut Value, settings: &Settings) {
    if let Some(policy) = &settings.pull_policy {
        container["imagePullPolicy"] = policy.as_str().into();
    }
}

fn security(wishes: &Wishes) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsGroup": UID,
        "runAsNonRoot": true,
        "runAsUser": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if wishes.captures_itself() {
        // The kernel's rules and no raw socket (which iptables wants where it is of the old kind; nft is in the image); and
        // what it takes to become user 1337 and leave nothing behind. Of all this TPROXY's NET_ADMIN stays.
        context["capabilities"] =
            json!({"add": ["NET_ADMIN", "SETGID", "SETPCAP", "SETUID"], "drop": ["ALL"]});
        context["runAsUser"] = 0.into();
        context["runAsNonRoot"] = false.into();
    } else if wishes.tproxy && !wishes.gateway {
        // Transparent sockets need the capability, which only root is given; the rules know the group.
        context["capabilities"] = json!({"add": ["NET_ADMIN"], "drop": ["ALL"]});
        context["runAsUser"] = 0.into();
        context["runAsNonRoot"] = false.into();
    }
    context
}

fn environment(wishes: &Wishes, settings: &Settings, particular: &Particular<'_>) -> Vec<Value> {
    let control_plane = &settings.control_plane;
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let value = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut all = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("INSTANCE_IP", "status.podIP"),
        field("INSTANCE_IPS", "status.podIPs"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        json!({"name": "ISTIO_CPU_LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}),
        value("TRUST_DOMAIN", &control_plane.trust_domain),
        value("CLUSTER_DOMAIN", &control_plane.cluster_domain),
        value("CA_ADDR", &control_plane.ca_address),
        value("PILOT_ADDR", &control_plane.pilot_address),
        value("MESH_CONTROL_PLANE_NAMESPACE", &control_plane.namespace),
        value("ISTIO_META_CLUSTER_ID", &control_plane.cluster_id),
        value("MESH_DRAIN_TOKEN", particular.drain_token),
        value("MESH_LOG", &wishes.log_level),
        value("PROXY_CONFIG", &Value::Object(wishes.proxy_config.clone()).to_string()),
    ];
    if !wishes.gateway {
        let mode = if wishes.tproxy { "TPROXY" } else { "REDIRECT" };
        all.push(value("ISTIO_META_INTERCEPTION_MODE", mode));
    }
    if !wishes.gateway && !wishes.native {
        all.push(value("MESH_CLASSIC_SIDECAR", "true"));
    }
    if let Some(grace) = particular.grace {
        all.push(value("MESH_TERMINATION_GRACE_SECONDS", &grace.to_string()));
    }
    if !particular.probers.is_empty() {
        let probers = Value::Object(particular.probers.clone()).to_string();
        all.push(value("ISTIO_KUBE_APP_PROBERS", &probers));
    }
    if let Some(scrape) = &particular.scrape {
        all.push(value("ISTIO_PROMETHEUS_ANNOTATIONS", scrape));
    }
    all
}
