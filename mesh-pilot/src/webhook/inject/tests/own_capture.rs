//! Sidecars that program their rules of capture themselves, and pods where they cannot.

use mesh_proto::crd::meta::PROXY_INIT_CONTAINER;

use super::*;

fn values() -> Value {
    json!({"global": {"proxy_init": {"container": "sidecar"}}})
}

fn asked() -> Value {
    annotated(PROXY_INIT_CONTAINER, "sidecar")
}

fn arguments(pod: &Value) -> Vec<&str> {
    container(pod, PROXY)["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect()
}

/// What stands in the way of a pod that asks; `None`: nothing.
fn obstacle(pod: &Value, values: Value) -> Option<String> {
    let done = inject(pod, None, &settings(values), "t").unwrap();
    let separate = names(&done.object, "initContainers").contains(&INIT.to_owned());
    assert_eq!(separate, arguments(&done.object) == ["sidecar"], "one of the two programs the rules");
    let user = if separate { 1337 } else { 0 };
    assert_eq!(container(&done.object, PROXY)["securityContext"]["runAsUser"], user);
    let why = done.warnings.into_iter().find_map(|warning| {
        Some(warning.strip_prefix("istio-init programs the rules of capture, not the sidecar: ")?.to_owned())
    });
    assert_eq!(why.is_some(), separate, "it is said why");
    why
}

#[test]
fn one_container_instead_of_two() {
    let pod = injected(&asked());
    assert_eq!(pod["spec"], injected_with(&simple(), values())["spec"], "by annotation or for all");
    assert_eq!(names(&pod, "initContainers"), [PROXY]);
    assert_eq!(names(&pod, "containers"), ["app"]);
    assert_eq!(
        arguments(&pod).join(" "),
        "sidecar capture -p 15001 -z 15006 -u 1337 -m REDIRECT -g 1337 -t 1337 -r 133 --backend auto -i * -x  -b * -d 15090,15021,15020 -q  -o  -c  -k "
    );
    let proxy = container(&pod, PROXY);
    assert_eq!(
        proxy["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "privileged": false,
            "capabilities": {"add": ["NET_ADMIN", "SETGID", "SETPCAP", "SETUID"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true, "runAsGroup": 1337, "runAsNonRoot": false, "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    // All else is as it would be.
    let (mut own, mut other) = (proxy.clone(), container(&injected(&simple()), PROXY).clone());
    for container in [&mut own, &mut other] {
        let container = container.as_object_mut().unwrap();
        container.remove("args");
        container.remove("securityContext");
    }
    assert_eq!(own, other);
    let status: Value =
        serde_json::from_str(pod["metadata"]["annotations"][STATUS].as_str().unwrap()).unwrap();
    assert_eq!(status["initContainers"], json!([PROXY]));
}

#[test]
fn a_pod_that_says_separate_has_it_separate() {
    let pod = injected_with(&annotated(PROXY_INIT_CONTAINER, "separate"), values());
    assert_eq!(pod["spec"], injected(&simple())["spec"]);
    let error =
        inject(&annotated(PROXY_INIT_CONTAINER, "none"), None, &settings(json!({})), "t").unwrap_err();
    assert_eq!(error.path, format!("metadata.annotations[{PROXY_INIT_CONTAINER}]"));
    assert_eq!(error.why, "\"none\": expected separate or sidecar");
}

#[test]
fn annotations_of_capture_reach_the_sidecar() {
    let mut pod = asked();
    pod["metadata"]["annotations"]["traffic.sidecar.istio.io/excludeOutboundPorts"] = "25,53".into();
    pod["metadata"]["annotations"]["traffic.sidecar.istio.io/includeInboundPorts"] = "".into();
    pod["metadata"]["annotations"]["sidecar.istio.io/interceptionMode"] = "TPROXY".into();
    let pod = injected(&pod);
    let told = arguments(&pod).join(" ");
    assert!(told.contains(" -o 25,53 ") && told.contains(" -b  ") && told.contains(" -m TPROXY "), "{told}");
    assert_eq!(variable(&pod, "ISTIO_META_INTERCEPTION_MODE").as_deref(), Some("TPROXY"));
    assert_eq!(obstacle(&asked(), json!({})), None);
}

/// The application would start without rules where the sidecar cannot.
#[test]
fn classic_sidecars_have_it_separate() {
    for hold in [true, false] {
        let proxy = json!({"nativeSidecar": false, "holdApplicationUntilProxyStarts": hold});
        let values = json!({"global": {"proxy": proxy, "proxy_init": {"container": "sidecar"}}});
        let why = obstacle(&simple(), values).expect("it is classic");
        assert!(why.contains("does not keep the application from starting"), "{why}");
    }
    let mut pod = asked();
    pod["metadata"]["annotations"]["sidecar.istio.io/nativeSidecar"] = "false".into();
    assert!(obstacle(&pod, json!({})).is_some());
}

/// Nothing of the user's may take the rules away, or root before they are programmed.
#[test]
fn an_own_container_that_says_how_it_starts_has_it_separate() {
    for (field, value) in [
        ("args", json!(["sidecar"])),
        ("command", json!(["x"])),
        ("securityContext", json!({"readOnlyRootFilesystem": false})),
        ("securityContext", json!(null)),
        ("lifecycle", json!({"postStart": {"exec": {"command": ["true"]}}})),
        ("startupProbe", json!({"exec": {"command": ["true"]}})),
        ("livenessProbe", json!({"exec": {"command": ["true"]}})),
        ("restartPolicy", json!(null)),
        ("envFrom", json!([{"configMapRef": {"name": "x"}}])),
    ] {
        let mut pod = asked();
        pod["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": PROXY, "image": "auto", field: value}));
        let done = inject(&pod, None, &settings(json!({})), "t").unwrap();
        assert_eq!(names(&done.object, "initContainers"), [INIT, PROXY], "{field}");
        assert!(done.warnings[0].ends_with(&format!("container istio-proxy has another {field}")), "{field}");
    }
    let mut pod = asked();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": PROXY, "image": "auto",
        "resources": {"limits": {"cpu": "1"}}}));
    assert_eq!(obstacle(&pod, json!({})), None, "of others it may say what it likes");
}

/// The container starts as root: no code of the user's is run in it then.
#[test]
fn an_own_container_that_brings_code_has_it_separate() {
    let with = |field: &str, value: Value| {
        let mut pod = asked();
        let own = json!({"name": PROXY, "image": "auto", field: value});
        pod["spec"]["containers"].as_array_mut().unwrap().push(own);
        obstacle(&pod, json!({}))
    };
    for name in ["LD_PRELOAD", "LD_AUDIT", "PATH"] {
        assert!(with("env", json!([{"name": name, "value": "/x"}])).unwrap().contains(name));
    }
    assert_eq!(with("env", json!([{"name": "ISTIO_META_A", "value": "/x"}])), None);
    let mount = |path: &str| with("volumeMounts", json!([{"name": "v", "mountPath": path}]));
    for path in ["/usr/sbin", "/usr", "/", "//usr/./lib", "/lib64/", "/etc/ld.so.preload", "/var/../usr"] {
        assert!(mount(path).unwrap().contains("over the sidecar's programs"), "{path}");
    }
    for path in ["/etcetera", "/var/run/own", "/usrs"] {
        assert_eq!(mount(path), None, "{path}");
    }
    let mut pod = asked();
    pod["metadata"]["annotations"]["sidecar.istio.io/userVolume"] = r#"{"v": {"emptyDir": {}}}"#.into();
    pod["metadata"]["annotations"]["sidecar.istio.io/userVolumeMount"] =
        r#"{"v": {"mountPath": "/usr/sbin"}}"#.into();
    assert!(obstacle(&pod, json!({})).unwrap().contains("/usr/sbin"));
}

/// The kubelet gives a token to the one user that all containers run as by name.
#[test]
fn a_token_that_only_root_could_read() {
    let of_pod = |context: Value| {
        let mut pod = asked();
        pod["spec"]["securityContext"] = context;
        pod
    };
    let why = obstacle(&of_pod(json!({"runAsUser": 0})), json!({})).expect("all are root");
    assert!(why.contains("fsGroup"), "{why}");
    assert_eq!(obstacle(&of_pod(json!({"runAsUser": 0, "fsGroup": 7})), json!({})), None);
    assert_eq!(obstacle(&of_pod(json!({"runAsUser": 7})), json!({})), None);
    let why = obstacle(&of_pod(json!({"runAsUser": 7, "fsGroup": 0})), json!({})).expect("root's group");
    assert!(why.contains("fsGroup is 0"), "{why}");
    let mut mixed = of_pod(json!({"runAsUser": 0}));
    mixed["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 7});
    assert_eq!(obstacle(&mixed, json!({})), None);
    mixed["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 0});
    mixed["spec"]["securityContext"] = json!({});
    assert!(obstacle(&mixed, json!({})).is_some());
    mixed["spec"]["initContainers"] = json!([{"name": "before", "image": "x"}]);
    assert_eq!(obstacle(&mixed, json!({})), None, "one runs as its image says");
}

#[test]
fn a_gateways_own_pod_captures_nothing() {
    let mut pod = asked();
    pod["metadata"]["annotations"]["inject.istio.io/templates"] = "gateway".into();
    pod["spec"]["containers"] = json!([{"name": PROXY, "image": "auto"}]);
    let done = inject(&pod, None, &settings(values()), "t").unwrap();
    assert_eq!(arguments(&done.object), ["router"]);
    assert_eq!(container(&done.object, PROXY)["securityContext"]["runAsUser"], 1337);
    assert_eq!(done.warnings, Vec::<String>::new());
}
