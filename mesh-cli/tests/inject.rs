//! `meshctl inject`, and that what the injector writes is what the proxy reads.

use std::collections::BTreeMap;

use mesh_pilot::webhook::{ControlPlane, Settings, inject};
use mesh_proxy::capture;
use mesh_proxy::capture::command::Flags;
use mesh_proxy::capture::rules::settings::{Ports, Ranges};
use mesh_proxy::config::{NodeKind, environment};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::support::meshctl;

const WORKLOADS: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: app, image: i, readinessProbe: {httpGet: {port: 8080, path: /ready}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn files_are_injected_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    std::fs::write(&first, WORKLOADS).unwrap();
    let once = meshctl(&["inject", "-f", first.to_str().unwrap(), "--revision", "canary"]);
    assert!(once.status.success(), "{}", text(&once.stderr));
    let once = text(&once.stdout);
    assert!(once.contains("name: istio-proxy") && once.contains("kind: Service"), "{once}");
    assert!(once.contains("mesh-pilot-canary.istio-system.svc:15012"), "{once}");
    std::fs::write(&second, &once).unwrap();
    let twice = meshctl(&["inject", "-f", second.to_str().unwrap()]);
    assert_eq!(text(&twice.stdout), once);
    std::fs::write(
        &first,
        WORKLOADS.replace("labels: {app: web}", "annotations: {sidecar.istio.io/logLevel: loud}"),
    )
    .unwrap();
    let bad = meshctl(&["inject", "-f", first.to_str().unwrap()]);
    assert_eq!((bad.status.code(), text(&bad.stdout).as_str()), (Some(1), ""));
    let told = text(&bad.stderr);
    assert!(told.contains("a.yaml:6:") && told.contains("sidecar.istio.io/logLevel"), "{told}");
}

/// A slip of the pen there would stop every new pod of the mesh.
#[test]
fn a_default_that_no_proxy_starts_with_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (pods, mesh) = (dir.path().join("a.yaml"), dir.path().join("mesh.yaml"));
    std::fs::write(&pods, WORKLOADS).unwrap();
    let run = |config: &str| {
        std::fs::write(&mesh, format!("defaultConfig: {config}\n")).unwrap();
        let (pods, mesh) = (pods.to_str().unwrap(), mesh.to_str().unwrap());
        let output = meshctl(&["inject", "-f", pods, "--mesh-config", mesh]);
        (output.status.success(), text(&output.stdout).is_empty(), text(&output.stderr))
    };
    for (config, field) in [
        ("{concurrency: many}", "meshConfig.defaultConfig.concurrency: \"many\""),
        ("{terminationDrainDuration: '5'}", "meshConfig.defaultConfig.terminationDrainDuration: \"5\""),
        ("{proxyMetadata: {A: true}}", "meshConfig.defaultConfig.proxyMetadata.A: true is no text"),
    ] {
        let (good, empty, told) = run(config);
        assert!(!good && empty && told.contains(field), "{config}: {told}");
    }
    let (good, empty, told) = run("{concurency: 2}");
    assert!(good && !empty && told.contains("warning: meshConfig.defaultConfig.concurency"), "{told}");
}

/// What a kubelet would put where the pod refers to itself.
fn field(path: &str) -> &'static str {
    match path {
        "metadata.name" => "web-0",
        "metadata.namespace" => "shop",
        "metadata.uid" => "u1",
        "status.podIP" => "10.0.0.7",
        "status.podIPs" => "10.0.0.7,fd00::7",
        "spec.serviceAccountName" => "web",
        other => panic!("nobody told what {other} is"),
    }
}

fn environment_of(container: &Value) -> BTreeMap<String, String> {
    let value = |variable: &Value| match &variable["valueFrom"] {
        Value::Null => variable["value"].as_str().unwrap().to_owned(),
        from if from["fieldRef"].is_object() => {
            field(from["fieldRef"]["fieldPath"].as_str().unwrap()).to_owned()
        }
        _ => "2".to_owned(),
    };
    let all = container["env"].as_array().unwrap();
    all.iter().map(|variable| (variable["name"].as_str().unwrap().to_owned(), value(variable))).collect()
}

#[test]
fn the_proxy_reads_what_the_injector_writes() {
    let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
    let mut pod: Value = json!({"metadata": {"annotations": {
            "proxy.istio.io/config": "concurrency: 3\nterminationDrainDuration: 12s\n",
            "prometheus.io/scrape": "true", "prometheus.io/port": "9000"}},
        "spec": {"terminationGracePeriodSeconds": 60, "containers": [{"name": "app", "ports": [{"name": "h", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": "h", "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}, "timeoutSeconds": 4},
            "readinessProbe": {"grpc": {"port": 9, "service": "s"}}, "startupProbe": {"tcpSocket": {"port": 8080}},
            "lifecycle": {"postStart": {"httpGet": {"port": 8080, "path": "/hello"}}}}]}});
    let injected = inject(&pod, Some("web"), &settings, "t0ken").unwrap().object;
    let read = |variables: &BTreeMap<String, String>, kind| {
        environment::config(kind, &|name| variables.get(name).cloned()).unwrap()
    };
    let config = read(&environment_of(&injected["spec"]["initContainers"][1]), NodeKind::Sidecar);
    assert_eq!(config.workers.get(), 3);
    assert_eq!((config.termination.drain.as_secs(), config.termination.with_application), (12, false));
    assert_eq!(config.identity().unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    let agent = config.agent.unwrap();
    assert_eq!(agent.drain_token.as_deref(), Some("t0ken"));
    assert_eq!(agent.scrape.unwrap().port, 9000);
    // Each path that the kubelet asks is one that the sidecar knows.
    let app = &injected["spec"]["containers"][0];
    let asked = ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart"];
    for probe in asked.map(|at| &app.pointer(at).unwrap()["httpGet"]) {
        assert_eq!(probe["port"], 15020);
        assert!(agent.probes.contains_key(probe["path"].as_str().unwrap()), "{probe}");
    }
    assert_eq!(agent.probes.len(), asked.len());
    // The same for a classic sidecar and for a gateway.
    pod["metadata"]["annotations"]["sidecar.istio.io/nativeSidecar"] = "false".into();
    let classic = inject(&pod, None, &settings, "t").unwrap().object;
    let config = read(&environment_of(&classic["spec"]["containers"][0]), NodeKind::Sidecar);
    assert!(config.termination.with_application);
    let gateway = json!({"metadata": {"annotations": {"inject.istio.io/templates": "gateway"}},
        "spec": {"containers": [{"name": "istio-proxy", "image": "auto"}]}});
    let gateway = inject(&gateway, None, &settings, "t").unwrap().object;
    let config = read(&environment_of(&gateway["spec"]["containers"][0]), NodeKind::Router);
    assert!(config.gateway.is_some() && config.capture.is_none());
}

/// `mesh-proxy capture`, as its own program reads it.
#[derive(clap::Parser)]
struct Capture {
    #[command(flatten)]
    flags: Flags,
}

/// What `mesh-proxy capture` makes of a pod's first init container: `istio-init`, or a sidecar that captures for itself.
fn captured(pod: &Value) -> Result<capture::rules::Settings, String> {
    let arguments = pod["spec"]["initContainers"][0]["args"].as_array().unwrap();
    let arguments =
        arguments.iter().map(|argument| argument.as_str().unwrap()).skip_while(|a| *a == "sidecar");
    let told = <Capture as clap::Parser>::try_parse_from(arguments).map_err(|error| error.to_string())?;
    told.flags.settings().map_err(|error| error.to_string())
}

const LISTS: [&str; 9] = [
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/excludeOutboundPorts",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "istio.io/reroute-virtual-interfaces",
];

/// Words that lists have, and words that look like them.
const WORDS: [&str; 24] = [
    "*",
    "",
    " ",
    "80",
    " 443 ",
    "0",
    "+80",
    "080",
    "65535",
    "65536",
    "-1",
    "10.0.0.0/8",
    "10.1.2.3/08",
    "10.0.0.0/33",
    "10.0.0.7",
    "::/0",
    "fd00::/8",
    "fd00::1",
    "/8",
    "eth0",
    "-c",
    "net+",
    "veth@if2",
    "an-interface-too-long",
];

proptest! {
    /// An annotation is refused where it is read, or its pod's init container does what it says.
    #[test]
    fn what_the_injector_takes_capture_takes(list in select(&LISTS[..]), words in vec(select(&WORDS[..]), 0..4)) {
        let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
        let pod = json!({"metadata": {"annotations": {list: words.join(",")}}, "spec": {"containers": [{"name": "app"}]}});
        if let Ok(done) = inject(&pod, None, &settings, "t") {
            prop_assert!(captured(&done.object).is_ok(), "{}: {:?}", list, captured(&done.object));
        }
    }
}

#[test]
fn capture_does_what_the_annotations_say() {
    let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
    let values = ["*", "10.1.0.0/16", "80,90", "22", "3306", "25, 53", "eth1", "net1"];
    let annotations: Value = LISTS.iter().zip(values).map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "app"}]}});
    let told = captured(&inject(&pod, None, &settings, "t").unwrap().object).unwrap();
    let values = json!({"global": {"proxy_init": {"container": "sidecar"}}});
    let own = Settings::read(&values, &json!({}), ControlPlane::default()).unwrap();
    let own = inject(&pod, None, &own, "t").unwrap().object;
    assert_eq!(own["spec"]["initContainers"].as_array().unwrap().len(), 1);
    assert_eq!(captured(&own).unwrap(), told, "whoever programs them, the rules are the same");
    let expected = capture::rules::Settings {
        include_outbound: Ranges::All,
        exclude_outbound: vec!["10.1.0.0/16".parse().unwrap()],
        include_inbound: Ports::These(vec![80, 90]),
        exclude_inbound_ports: vec![15090, 15021, 15020, 22],
        include_outbound_ports: vec![3306],
        exclude_outbound_ports: vec![25, 53],
        exclude_interfaces: vec!["eth1".into()],
        kubevirt_interfaces: vec!["net1".into()],
        ..capture::rules::Settings::default()
    };
    assert_eq!(told, expected);
}
