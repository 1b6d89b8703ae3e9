//! Values of the charts as people write them: empty keys, levels of logs, environment that the chart has too, and what is a
//! text whatever it looks like. Without helm on PATH each test says so and is skipped.

use std::process::Command;

use serde_json::{Value, json};

use crate::charts::{chart, container, environment, find, helm, objects, render, try_render};
use crate::support::{meshctl, text};

/// The keys of a chart whose default is an empty map or list.
fn empty_keys(name: &str) -> Vec<String> {
    fn walk(value: &Value, path: &str, found: &mut Vec<String>) {
        let Value::Object(map) = value else { return };
        for (key, value) in map {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if *value == json!({}) || *value == json!([]) {
                found.push(path);
            } else {
                walk(value, &path, found);
            }
        }
    }
    let text = std::fs::read_to_string(format!("{}/values.yaml", chart(name))).unwrap();
    let mut found = Vec::new();
    walk(&objects(&text)[0], "", &mut found);
    found
}

/// `podAnnotations:` with nothing behind it is what is left when somebody takes the last one out.
#[test]
fn a_key_without_a_value_is_an_empty_one() {
    if !helm() {
        return;
    }
    for (name, at_least) in [("control-plane", 25), ("gateway", 18)] {
        let keys = empty_keys(name);
        assert!(keys.len() >= at_least, "{keys:?}");
        let nothing: Vec<String> = keys.iter().map(|key| format!("{key}=null")).collect();
        let nothing: Vec<&str> = nothing.iter().map(String::as_str).collect();
        // What the injector reads has the values themselves.
        let rendered = |values: &[&str]| {
            let mut all = render("edge", name, values);
            all.retain(|object| {
                object["metadata"]["name"] != "istio-sidecar-injector" || object["kind"] != "ConfigMap"
            });
            all
        };
        assert_eq!(rendered(&nothing), rendered(&[]), "{name}");
    }
    // These have defaults that are taken away by it.
    let all = render("mesh", "control-plane", &["meshConfig=null", "pilot.resources=null"]);
    assert_eq!(find(&all, "ConfigMap", "istio")["data"]["mesh"], "{}");
    render("edge", "gateway", &["resources=null"]);
}

/// A level that the process does not know would be no logs at all.
#[test]
fn levels_of_logs_are_known_ones() {
    if !helm() {
        return;
    }
    let control_plane = |level: &str| {
        let level = format!("global.logging.level={}", json!(level));
        let all = try_render("mesh", "control-plane", &[&level])?;
        let told = ["mesh-pilot", "mesh-ca"]
            .map(|one| environment(container(find(&all, "Deployment", one)), "MESH_LOG").clone());
        assert_eq!(told[0], told[1]);
        Ok::<_, String>(told[0].as_str().unwrap().to_owned())
    };
    for (level, expected) in [
        ("info", "info"),
        ("warning", "warn"),
        ("default:info", "info"),
        ("all:fatal", "error"),
        ("default:none,mesh_pilot::push=debug", "off,mesh_pilot::push=debug"),
        ("info,mesh_pilot=warning", "info,mesh_pilot=warn"),
    ] {
        assert_eq!(control_plane(level).as_deref(), Ok(expected), "{level}");
    }
    for wrong in ["loud", "ads:debug", "info,loud", "mesh_pilot", "info,", ""] {
        let complaint = control_plane(wrong).unwrap_err();
        assert!(complaint.contains("level"), "{wrong}: {complaint}");
    }
    let gateway = |level: &str| {
        let all = try_render("edge", "gateway", &[&format!("logLevel={}", json!(level))])?;
        Ok::<_, String>(environment(container(find(&all, "Deployment", "edge")), "MESH_LOG").clone())
    };
    for (level, expected) in [("debug", "debug"), ("warning", "warn"), ("critical", "error"), ("off", "off")]
    {
        assert_eq!(gateway(level), Ok(json!(expected)), "{level}");
    }
    let complaint = gateway("loud").unwrap_err();
    assert!(complaint.contains("logLevel"), "{complaint}");
}

/// Kubernetes refuses, or merges wrongly, a name that is there twice.
#[test]
fn environment_is_said_once_and_the_values_come_first() {
    if !helm() {
        return;
    }
    let said = |all: &[Value], deployment: &str, name: &str| -> Vec<Value> {
        let entries = container(find(all, "Deployment", deployment))["env"].as_array().unwrap();
        entries.iter().filter(|one| one["name"] == name).cloned().collect()
    };
    let all = render(
        "mesh",
        "control-plane",
        &[
            "pilot.env.MESH_LOG=\"debug\"",
            "pilot.env.CA_ADDR=\"ca.example:15012\"",
            "pilot.env.BYTES=1000000",
            "ca.env.CA_RATE_LIMIT=7",
            "ca.rateLimit.burst=3000000",
        ],
    );
    for (deployment, name, value) in [
        ("mesh-pilot", "MESH_LOG", "debug"),
        ("mesh-pilot", "CA_ADDR", "ca.example:15012"),
        ("mesh-pilot", "BYTES", "1000000"),
        ("mesh-ca", "MESH_LOG", "info"),
        ("mesh-ca", "CA_RATE_LIMIT", "7"),
        ("mesh-ca", "CA_RATE_BURST", "3000000"),
    ] {
        assert_eq!(said(&all, deployment, name), [json!({"name": name, "value": value})], "{deployment}");
    }
    for (wrong, instead) in [
        ("pilot.env.REVISION=\"canary\"", "`revision` says it"),
        ("ca.env.REVISION=\"canary\"", "`ca.revisions` says it"),
        ("pilot.env.POD_NAME=\"a\"", "the pod itself says it"),
    ] {
        let complaint = try_render("mesh", "control-plane", &[wrong]).unwrap_err();
        assert!(complaint.contains(instead), "{wrong}: {complaint}");
    }
    let whole = json!({"name": "INSTANCE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}});
    let all = render(
        "edge",
        "gateway",
        &[
            "env={\"MESH_LOG\":\"debug\",\"ISTIO_META_CLUSTER_ID\":\"one\"}",
            &format!("envVarFrom=[{whole},{{\"name\":\"MESH_LOG\",\"value\":\"trace\"}}]"),
        ],
    );
    assert_eq!(said(&all, "edge", "MESH_LOG"), [json!({"name": "MESH_LOG", "value": "trace"})]);
    assert_eq!(
        said(&all, "edge", "ISTIO_META_CLUSTER_ID"),
        [json!({"name": "ISTIO_META_CLUSTER_ID", "value": "one"})]
    );
    assert_eq!(said(&all, "edge", "INSTANCE_IP"), [whole]);
}

/// What Kubernetes wants as a text is one, as `--set a=true` and YAML without quotes give it.
#[test]
fn what_is_a_text_in_kubernetes_is_a_text() {
    if !helm() {
        return;
    }
    let map = r#"{"a":true,"b":1,"c":1000000,"d":1.5}"#;
    let texts = json!({"a": "true", "b": "1", "c": "1000000", "d": "1.5"});
    let value = |key: &str| format!("{key}={map}");
    let keys = ["global.defaultNodeSelector", "pilot.serviceAnnotations", "ca.serviceAccountAnnotations"];
    let values = keys.map(value);
    let all = render("mesh", "control-plane", &values.each_ref().map(String::as_str));
    for deployment in ["mesh-pilot", "mesh-ca"] {
        let pod = &find(&all, "Deployment", deployment)["spec"]["template"]["spec"];
        assert_eq!(pod["nodeSelector"], texts, "{deployment}");
    }
    assert_eq!(find(&all, "Service", "mesh-pilot")["metadata"]["annotations"], texts);
    assert_eq!(find(&all, "ServiceAccount", "mesh-ca")["metadata"]["annotations"], texts);
    let keys = ["nodeSelector", "annotations", "service.annotations", "serviceAccount.annotations"];
    let values = keys.map(value);
    let all = render("edge", "gateway", &values.each_ref().map(String::as_str));
    let gateway = find(&all, "Deployment", "edge");
    assert_eq!(gateway["spec"]["template"]["spec"]["nodeSelector"], texts);
    for kind in ["Deployment", "Service", "ServiceAccount"] {
        assert_eq!(find(&all, kind, "edge")["metadata"]["annotations"], texts, "{kind}");
    }
}

/// All of what stands there, and not only the name of the release.
#[test]
fn meshctl_install_reads_values_of_standard_input() {
    if !helm() {
        return;
    }
    let values = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(values.path(), "revision: canary\npilot: {replicaCount: 5}\n").unwrap();
    let piped = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.args(["install", "--dry-run"]).args(words).stdin(std::fs::File::open(values.path()).unwrap());
        command.output().unwrap()
    };
    let output = piped(&["-f", "-"]);
    assert!(output.status.success(), "{}", text(&output));
    let all = objects(&String::from_utf8(output.stdout).unwrap());
    let pilot = find(&all, "Deployment", "mesh-pilot-canary");
    assert_eq!(pilot["spec"]["replicas"], 5);
    assert_eq!(pilot["metadata"]["labels"]["app.kubernetes.io/instance"], "mesh-canary");
    let twice = piped(&["-f", "-", "-f", "-"]);
    assert!(!twice.status.success() && text(&twice).contains("can be read once"), "{}", text(&twice));
    let url = meshctl(&["install", "--dry-run", "-f", "https://values.example/a.yaml"]);
    assert!(!url.status.success() && text(&url).contains("values are read from files"), "{}", text(&url));
}

/// However it is said, chart and release have one revision.
#[test]
fn meshctl_install_names_the_release_as_the_chart_is_told() {
    if !helm() {
        return;
    }
    let brace = ["install", "--dry-run", "--set", "pilot.env.A=x{,revision=canary", "--gateway", "edge"];
    let output = meshctl(&brace);
    assert!(output.status.success(), "{}", text(&output));
    let all = objects(&String::from_utf8(output.stdout).unwrap());
    let pilot = find(&all, "Deployment", "mesh-pilot-canary");
    assert_eq!(pilot["metadata"]["labels"]["app.kubernetes.io/instance"], "mesh-canary");
    assert_eq!(environment(container(pilot), "A"), "x{");
    let gateway = container(find(&all, "Deployment", "edge"));
    assert_eq!(environment(gateway, "PILOT_ADDR"), "mesh-pilot-canary.istio-system.svc:15012");
}
