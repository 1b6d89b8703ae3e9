//! Pods of many forms, and what became of them.

mod clashes;
mod forms;
mod own_capture;
mod property;

use serde_json::{Value, json};

use super::*;
use crate::webhook::ControlPlane;

fn settings(values: Value) -> Settings {
    Settings::read(&values, &json!({}), ControlPlane::default()).unwrap()
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"app": "reviews", "version": "v2"}}, "spec": spec})
}

fn simple() -> Value {
    pod(
        json!({"containers": [{"name": "app", "image": "x", "ports": [{"name": "http", "containerPort": 8080}]}]}),
    )
}

fn injected_with(pod: &Value, values: Value) -> Value {
    inject(pod, None, &settings(values), "t0ken").unwrap().object
}

fn injected(pod: &Value) -> Value {
    injected_with(pod, json!({}))
}

/// `simple` with one annotation.
fn annotated(name: &str, value: &str) -> Value {
    let mut pod = simple();
    pod["metadata"]["annotations"] = json!({name: value});
    pod
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let all = pod["spec"][list].as_array().cloned().unwrap_or_default();
    all.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten().find(|c| c["name"] == name).unwrap()
}

fn variable(pod: &Value, name: &str) -> Option<String> {
    let all = container(pod, PROXY)["env"].as_array()?;
    let all: Vec<_> = all.iter().filter(|v| v["name"] == name).collect();
    assert!(all.len() < 2, "{name} twice");
    Some(all.first()?["value"].as_str()?.to_owned())
}

/// The value of a flag of `mesh-proxy capture`.
fn flag(pod: &Value, name: &str) -> Option<String> {
    let arguments = container(pod, INIT)["args"].as_array().unwrap();
    let at = arguments.iter().position(|a| a == name)?;
    Some(arguments[at + 1].as_str().unwrap().to_owned())
}

#[test]
fn a_native_sidecar() {
    let pod = injected(&simple());
    assert_eq!(names(&pod, "initContainers"), [INIT, PROXY]);
    assert_eq!(names(&pod, "containers"), ["app"]);
    let proxy = container(&pod, PROXY);
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["args"], json!(["sidecar"]));
    assert_eq!(proxy["image"], format!("mesh/proxy:{}", env!("CARGO_PKG_VERSION")));
    assert_eq!(
        proxy["lifecycle"],
        json!({"postStart": {"exec": {"command": ["/usr/local/bin/mesh-proxy", "wait"]}}}),
        "it holds the application"
    );
    assert!(proxy.get("startupProbe").is_none(), "which would hold it for seconds");
    let security = &proxy["securityContext"];
    assert_eq!((&security["runAsUser"], &security["runAsGroup"]), (&json!(1337), &json!(1337)));
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let hook = &container(&pod, "app")["lifecycle"]["preStop"]["httpGet"];
    assert_eq!(*hook, json!({"path": "/drain/t0ken", "port": 15020}));
    assert_eq!(variable(&pod, "MESH_DRAIN_TOKEN").unwrap(), "t0ken");
    assert_eq!(variable(&pod, "MESH_CLASSIC_SIDECAR"), None);
    assert_eq!(variable(&pod, "CA_ADDR").unwrap(), "mesh-ca.istio-system.svc:15012");
    assert!(pod["spec"].get("terminationGracePeriodSeconds").is_none());
    let token =
        pod["spec"]["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "istio-token").unwrap();
    assert_eq!(token["projected"]["sources"][0]["serviceAccountToken"]["audience"], "istio-ca");
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["security.istio.io/tlsMode"], "istio");
    assert_eq!(labels["service.istio.io/canonical-name"], "reviews");
    assert_eq!(labels["service.istio.io/canonical-revision"], "v2");
    let annotations = &pod["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "15020");
    assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "app");
    let status: Value = serde_json::from_str(annotations[STATUS].as_str().unwrap()).unwrap();
    assert_eq!(status["initContainers"], json!([INIT, PROXY]));
    assert_eq!(status["revision"], "default");
}

#[test]
fn the_rules_of_capture() {
    let pod = injected(&simple());
    let init = container(&pod, INIT);
    assert_eq!(init["args"][0], "capture");
    assert_eq!(
        init["securityContext"]["capabilities"],
        json!({"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]})
    );
    assert_eq!(flag(&pod, "-p").unwrap(), "15001");
    assert_eq!(flag(&pod, "-z").unwrap(), "15006");
    assert_eq!(flag(&pod, "-u").unwrap(), "1337");
    assert_eq!(flag(&pod, "-m").unwrap(), "REDIRECT");
    assert_eq!((flag(&pod, "-i").unwrap(), flag(&pod, "-b").unwrap()), ("*".into(), "*".into()));
    assert_eq!(flag(&pod, "-d").unwrap(), "15090,15021,15020");
    assert_eq!(
        (flag(&pod, "-x"), flag(&pod, "-o"), flag(&pod, "-q"), flag(&pod, "-c")),
        (None, None, None, None)
    );
    let cases = [
        ("includeOutboundIPRanges", "10.0.0.0/8, fd00::/8", "-i", "10.0.0.0/8,fd00::/8"),
        ("includeOutboundIPRanges", "", "-i", ""),
        ("excludeOutboundIPRanges", "169.254.169.254/32", "-x", "169.254.169.254/32"),
        ("includeInboundPorts", "80,90", "-b", "80,90"),
        ("includeInboundPorts", "", "-b", ""),
        ("excludeInboundPorts", "22", "-d", "15090,15021,15020,22"),
        ("includeOutboundPorts", "3306", "-q", "3306"),
        ("excludeOutboundPorts", "25,53", "-o", "25,53"),
        ("excludeInterfaces", "eth1", "-c", "eth1"),
        ("kubevirtInterfaces", "net1", "-k", "net1"),
    ];
    for (name, value, option, expected) in cases {
        let pod = injected(&annotated(&format!("traffic.sidecar.istio.io/{name}"), value));
        assert_eq!(flag(&pod, option).as_deref(), Some(expected), "{name}: {value}");
    }
}

#[test]
fn annotations_with_a_slip_of_the_pen_are_refused_by_name() {
    let cases = [
        ("traffic.sidecar.istio.io/excludeInboundPorts", "80;90"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "*"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "0"),
        ("traffic.sidecar.istio.io/includeInboundPorts", "*,80"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "65536"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", "*"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "*,10.0.0.0/8"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "-c"),
        ("sidecar.istio.io/proxyCPU", "lots"),
        ("sidecar.istio.io/proxyMemoryLimit", "1GB"),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.0"),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.0/33"),
        ("traffic.sidecar.istio.io/excludeInterfaces", "eth0; reboot"),
        ("sidecar.istio.io/interceptionMode", "NONE"),
        ("sidecar.istio.io/nativeSidecar", "no"),
        ("prometheus.istio.io/merge-metrics", "maybe"),
        ("sidecar.istio.io/logLevel", "loud"),
        ("sidecar.istio.io/userVolume", "[1]"),
        ("inject.istio.io/templates", "grpc-agent"),
        ("proxy.istio.io/config", "concurrency: ["),
        ("proxy.istio.io/config", "proxyMetadata: {A: 1}"),
        ("proxy.istio.io/config", "concurrency: many"),
        ("proxy.istio.io/config", "terminationDrainDuration: 5"),
        ("proxy.istio.io/config", "interceptionMode: NONE"),
        ("proxy.istio.io/config", "concurrency: 1\n---\nconcurrency: 2"),
    ];
    for (name, value) in cases {
        let error = inject(&annotated(name, value), None, &settings(json!({})), "t").unwrap_err();
        assert_eq!(error.path, format!("metadata.annotations[{name}]"), "{value}");
        assert!(!error.why.is_empty());
    }
}

#[test]
fn a_classic_sidecar() {
    let mut pod = annotated("sidecar.istio.io/nativeSidecar", "false");
    pod["spec"]["initContainers"] = json!([{"name": "migrate"}]);
    let held = injected(&pod);
    assert_eq!(names(&held, "initContainers"), ["migrate", INIT]);
    assert_eq!(names(&held, "containers"), [PROXY, "app"], "first, so that its hook holds the others");
    let proxy = container(&held, PROXY);
    assert!(proxy.get("restartPolicy").is_none());
    assert_eq!(
        proxy["lifecycle"]["postStart"]["exec"]["command"],
        json!(["/usr/local/bin/mesh-proxy", "wait"])
    );
    assert_eq!(proxy["lifecycle"]["preStop"]["httpGet"]["path"], "/drain/t0ken");
    assert_eq!(variable(&held, "MESH_CLASSIC_SIDECAR").as_deref(), Some("true"));
    let free =
        json!({"global": {"proxy": {"nativeSidecar": false, "holdApplicationUntilProxyStarts": false}}});
    let free = injected_with(&simple(), free);
    assert_eq!(names(&free, "containers"), ["app", PROXY]);
    assert!(container(&free, PROXY)["lifecycle"].get("postStart").is_none());
    let probe = json!({"path": "/healthz/ready?wait=2", "port": 15021});
    assert_eq!(container(&free, PROXY)["startupProbe"]["httpGet"], probe);
}

#[test]
fn a_native_sidecar_that_holds_nothing_by_hook() {
    let pod =
        injected_with(&simple(), json!({"global": {"proxy": {"holdApplicationUntilProxyStarts": false}}}));
    let proxy = container(&pod, PROXY);
    assert!(proxy.get("lifecycle").is_none());
    assert_eq!(proxy["startupProbe"]["httpGet"]["path"], "/healthz/ready?wait=2");
}

#[test]
fn probes_of_every_kind() {
    let mut pod = simple();
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTPS",
        "httpHeaders": [{"name": "Host", "value": "a"}]}, "timeoutSeconds": 3, "periodSeconds": 7});
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 8080}});
    pod["spec"]["containers"][0]["startupProbe"] = json!({"exec": {"command": ["true"]}});
    pod["spec"]["containers"].as_array_mut().unwrap().extend([
        json!({"name": "rpc", "livenessProbe": {"grpc": {"port": 9000, "service": "s"}}}),
        json!({"name": "odd", "livenessProbe": {"httpGet": {"port": "missing"}}}),
        json!({"name": "ours", "readinessProbe": {"httpGet": {"port": 15021, "path": "/healthz/ready"}}}),
    ]);
    let told = inject(&pod, None, &settings(json!({})), "t").unwrap();
    let pod = told.object;
    let app = container(&pod, "app");
    let through = |path: &str| json!({"path": path, "port": 15020});
    assert_eq!(
        app["readinessProbe"],
        json!({"timeoutSeconds": 3, "periodSeconds": 7, "httpGet": through("/app-health/app/readyz")})
    );
    assert_eq!(app["livenessProbe"], json!({"httpGet": through("/app-health/app/livez")}));
    assert_eq!(app["startupProbe"], json!({"exec": {"command": ["true"]}}));
    assert_eq!(container(&pod, "rpc")["livenessProbe"], json!({"httpGet": through("/app-health/rpc/livez")}));
    assert_eq!(container(&pod, "odd")["livenessProbe"], json!({"httpGet": {"port": "missing"}}));
    assert_eq!(container(&pod, "ours")["readinessProbe"]["httpGet"]["port"], 15021);
    let probers: Value = serde_json::from_str(&variable(&pod, "ISTIO_KUBE_APP_PROBERS").unwrap()).unwrap();
    assert_eq!(
        probers,
        json!({
            "/app-health/app/livez": {"tcpSocket": {"port": 8080}},
            "/app-health/app/readyz": {"httpGet": {"port": 8080, "path": "/ready", "scheme": "HTTPS",
                "httpHeaders": [{"name": "Host", "value": "a"}]}, "timeoutSeconds": 3},
            "/app-health/rpc/livez": {"grpc": {"port": 9000, "service": "s"}},
        })
    );
    assert_eq!(told.warnings.len(), 1);
    assert!(
        told.warnings[0].contains("container odd: livenessProbe is not rewritten"),
        "{:?}",
        told.warnings
    );
    let mut hooked = simple();
    hooked["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"httpGet": {"port": "http", "path": "/bye"}}, "postStart": {"exec": {"command": ["x"]}}});
    let hooked = injected(&hooked);
    let lifecycle = &container(&hooked, "app")["lifecycle"];
    assert_eq!(lifecycle["preStop"], json!({"httpGet": through("/app-lifecycle/app/prestopz")}));
    assert_eq!(lifecycle["postStart"], json!({"exec": {"command": ["x"]}}));
    let probers: Value = serde_json::from_str(&variable(&hooked, "ISTIO_KUBE_APP_PROBERS").unwrap()).unwrap();
    assert_eq!(
        probers,
        json!({"/app-lifecycle/app/prestopz": {"httpGet": {"port": 8080, "path": "/bye"}, "timeoutSeconds": 300}})
    );
    let mut left = annotated("sidecar.istio.io/rewriteAppHTTPProbers", "false");
    left["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 8080}});
    let left = injected(&left);
    assert_eq!(container(&left, "app")["livenessProbe"], json!({"tcpSocket": {"port": 8080}}));
    assert_eq!(variable(&left, "ISTIO_KUBE_APP_PROBERS"), None);
}
