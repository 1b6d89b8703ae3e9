//! Annotations, overrides, gateways, owners.

use super::*;

#[test]
fn what_a_pod_says_of_its_sidecar() {
    let mut pod = simple();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(90);
    pod["metadata"]["annotations"] = json!({
        "sidecar.istio.io/proxyCPU": "50m",
        "sidecar.istio.io/proxyMemoryLimit": "1Gi",
        "sidecar.istio.io/proxyImage": "other/proxy:2",
        "sidecar.istio.io/logLevel": "warning",
        "sidecar.istio.io/userVolume": r#"{"certs":{"secret":{"secretName":"c"}}}"#,
        "sidecar.istio.io/userVolumeMount": r#"{"certs":{"mountPath":"/etc/certs"}}"#,
        "proxy.istio.io/config": "concurrency: 2\nproxyMetadata:\n  MINIMUM_DRAIN_DURATION: 8s\n",
        "prometheus.io/scrape": "true", "prometheus.io/port": "9000",
    });
    let pod = injected(&pod);
    let proxy = container(&pod, PROXY);
    assert_eq!(proxy["resources"], json!({"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}}));
    assert_eq!(proxy["image"], "other/proxy:2");
    assert_eq!(container(&pod, INIT)["image"], "other/proxy:2");
    assert_eq!(variable(&pod, "MESH_LOG").as_deref(), Some("warn"));
    assert_eq!(variable(&pod, "MINIMUM_DRAIN_DURATION").as_deref(), Some("8s"));
    assert_eq!(variable(&pod, "MESH_TERMINATION_GRACE_SECONDS").as_deref(), Some("90"));
    let config: Value = serde_json::from_str(&variable(&pod, "PROXY_CONFIG").unwrap()).unwrap();
    assert_eq!(config["concurrency"], 2);
    assert_eq!(
        variable(&pod, "ISTIO_PROMETHEUS_ANNOTATIONS").as_deref(),
        Some(r#"{"scrape":"true","port":"9000"}"#)
    );
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], "15020");
    let volume = json!({"secret": {"secretName": "c"}, "name": "certs"});
    assert!(pod["spec"]["volumes"].as_array().unwrap().contains(&volume));
    let mount = json!({"mountPath": "/etc/certs", "name": "certs"});
    assert!(proxy["volumeMounts"].as_array().unwrap().contains(&mount));
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 90);
}

#[test]
fn metrics_stay_where_they_are_if_the_pod_says_so() {
    let cases = [
        ("prometheus.istio.io/merge-metrics", "false"),
        ("prometheus.istio.io/merge-metrics", "False"),
        ("prometheus.io/scrape", "false"),
    ];
    for (name, value) in cases {
        let pod = injected(&annotated(name, value));
        assert!(pod["metadata"]["annotations"].get("prometheus.io/port").is_none(), "{name}");
    }
}

#[test]
fn tproxy_needs_its_capability() {
    let pod = injected(&annotated("sidecar.istio.io/interceptionMode", "TPROXY"));
    assert_eq!(flag(&pod, "-m").as_deref(), Some("TPROXY"));
    let security = &container(&pod, PROXY)["securityContext"];
    assert_eq!(security["capabilities"], json!({"add": ["NET_ADMIN"], "drop": ["ALL"]}));
    assert_eq!((&security["runAsUser"], &security["runAsGroup"]), (&json!(0), &json!(1337)));
    assert_eq!(variable(&pod, "ISTIO_META_INTERCEPTION_MODE").as_deref(), Some("TPROXY"));
}

#[test]
fn the_users_own_container_is_put_over_ours() {
    let mut pod = simple();
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({
        // The API server's default for an image without a tag.
        "name": PROXY, "image": "auto", "imagePullPolicy": "Always",
        "resources": {"limits": {"cpu": "1"}},
        "env": [{"name": "MESH_LOG", "value": "debug"}, {"name": "MORE", "value": "1"}],
        "volumeMounts": [{"name": "x", "mountPath": "/x"}],
    }));
    let pod = injected(&pod);
    assert_eq!(names(&pod, "containers"), ["app"]);
    assert_eq!(names(&pod, "initContainers"), [INIT, PROXY]);
    let proxy = container(&pod, PROXY);
    assert!(proxy["image"].as_str().unwrap().starts_with("mesh/proxy:"));
    assert!(proxy["imagePullPolicy"].is_null(), "{proxy}");
    assert_eq!(proxy["resources"]["limits"]["cpu"], "1");
    assert_eq!(proxy["resources"]["requests"]["cpu"], "10m");
    assert_eq!(variable(&pod, "MESH_LOG").as_deref(), Some("debug"));
    assert_eq!(variable(&pod, "MORE").as_deref(), Some("1"));
    assert_eq!(proxy["volumeMounts"].as_array().unwrap().len(), 5);
    let mut twice = simple();
    twice["spec"]["containers"] = json!([{"name": PROXY}]);
    twice["spec"]["initContainers"] = json!([{"name": PROXY}]);
    let error = inject(&twice, None, &settings(json!({})), "t").unwrap_err();
    assert!(error.why.contains("two containers"), "{error}");
}

#[test]
fn what_is_not_followed_is_said() {
    let told =
        |name: &str| inject(&annotated(name, "true"), None, &settings(json!({})), "t").unwrap().warnings;
    for name in [
        "proxy.istio.io/overrides",
        "sidecar.istio.io/bootstrapOverride",
        "status.sidecar.istio.io/port",
        "traffic.sidecar.istio.io/excludeInboundPort",
    ] {
        assert_eq!(told(name), [format!("annotation {name} is not followed")]);
    }
    for name in ["sidecar.istio.io/nativeSidecar", "other.example/x", "mysidecar.istio.io/x", STATUS] {
        assert!(told(name).is_empty(), "{name}");
    }
}

#[test]
fn fields_of_proxy_config_without_effect_are_said() {
    let pod =
        annotated("proxy.istio.io/config", "concurency: 2\ntracing: {sampling: 1}\nproxyMetadata: {A: b}\n");
    let told = inject(&pod, None, &settings(json!({})), "t").unwrap();
    let line = |field| {
        format!("annotation proxy.istio.io/config: {field} has no effect here, or is no field of ProxyConfig")
    };
    assert_eq!(told.warnings, ["concurency", "tracing"].map(line));
    assert_eq!(variable(&told.object, "A").as_deref(), Some("b"));
}

#[test]
fn a_copied_annotation_is_no_sidecar() {
    let mut pod = annotated(STATUS, "{}");
    assert_eq!(names(&injected(&pod), "initContainers"), [INIT, PROXY]);
    pod["spec"]["initContainers"] = json!([{"name": PROXY, "image": "x"}]);
    assert_eq!(injected(&pod), pod);
}

#[test]
fn a_gateways_own_pod() {
    let mut pod = annotated("inject.istio.io/templates", "gateway");
    pod["spec"]["containers"] = json!([{"name": PROXY, "image": "auto", "ports": [{"containerPort": 80}]}]);
    let pod = injected(&pod);
    assert!(pod["spec"].get("initContainers").is_none());
    let proxy = container(&pod, PROXY);
    assert_eq!(proxy["args"], json!(["router"]));
    assert!(proxy["image"].as_str().unwrap().starts_with("mesh/proxy:"));
    assert_eq!(proxy["ports"].as_array().unwrap().len(), 2);
    assert!(proxy.get("lifecycle").is_none());
    let none = annotated("inject.istio.io/templates", "gateway");
    let error = inject(&none, None, &settings(json!({})), "t").unwrap_err();
    assert!(error.why.contains("image: auto"), "{error}");
}

#[test]
fn a_hook_of_the_applications_own_stays() {
    let mut pod = simple();
    let own = json!({"exec": {"command": ["sleep", "3"]}});
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": own});
    pod["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "other", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}}));
    let pod = injected(&pod);
    assert_eq!(container(&pod, "app")["lifecycle"], json!({"preStop": own}));
    let other = &container(&pod, "other")["lifecycle"];
    assert_eq!(other["preStop"]["httpGet"]["path"], "/drain/t0ken");
    assert!(other.get("postStart").is_some());
}

#[test]
fn the_workload_behind_a_pod() {
    let of = |metadata: Value| owner(&json!({"metadata": metadata})).unwrap();
    let controller = |kind: &str, name: &str| json!([{"controller": true, "kind": kind, "name": name}]);
    assert_eq!(
        of(
            json!({"labels": {"pod-template-hash": "5d8"}, "ownerReferences": controller("ReplicaSet", "web-5d8")})
        ),
        "web"
    );
    assert_eq!(of(json!({"ownerReferences": controller("StatefulSet", "db")})), "db");
    assert_eq!(of(json!({"ownerReferences": controller("Job", "backup-28421230")})), "backup");
    assert_eq!(of(json!({"ownerReferences": controller("Job", "once-2024")})), "once-2024");
    assert_eq!(of(json!({"generateName": "x-"})), "x");
    let mut bare = simple();
    bare["metadata"]["labels"] = json!({});
    let told = inject(&bare, Some("web"), &settings(json!({})), "t").unwrap().object;
    assert_eq!(told["metadata"]["labels"]["service.istio.io/canonical-name"], "web");
    assert_eq!(told["metadata"]["labels"]["service.istio.io/canonical-revision"], "latest");
}

#[test]
fn where_each_kind_keeps_its_pods() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"] {
        assert_eq!(template_of(kind), Some("/spec/template"), "{kind}");
    }
    assert_eq!(template_of("CronJob"), Some("/spec/jobTemplate/spec/template"));
    assert_eq!(template_of("Pod"), Some(""));
    assert_eq!(template_of("Service"), None);
    let error = inject(&json!({"metadata": {}}), None, &settings(json!({})), "t").unwrap_err();
    assert_eq!(error.path, "spec");
}
