//! Pods that have what their sidecar brings, or what does not go with it.

use super::*;

fn refused(pod: &Value) -> InjectError {
    inject(pod, None, &settings(json!({})), "t").unwrap_err()
}

fn told(pod: &Value) -> Vec<String> {
    inject(pod, None, &settings(json!({})), "t").unwrap().warnings
}

#[test]
fn a_volume_of_the_applications_is_never_replaced() {
    let claim = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}]);
    let mut pod = annotated("sidecar.istio.io/userVolume", r#"{"data":{"emptyDir":{}}}"#);
    pod["spec"]["volumes"] = claim;
    let error = refused(&pod);
    assert_eq!(error.path, "metadata.annotations[sidecar.istio.io/userVolume]");
    assert!(error.why.contains("another volume \"data\""), "{error}");
    pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    assert_eq!(injected(&pod)["spec"]["volumes"].as_array().unwrap().len(), 5, "it is the same one");
    let ours = annotated("sidecar.istio.io/userVolume", r#"{"istio-token":{"emptyDir":{}}}"#);
    assert!(refused(&ours).why.contains("istio-token"));
    let mut own = simple();
    own["spec"]["volumes"] = json!([{"name": "istio-token", "secret": {"secretName": "mine"}}]);
    let error = refused(&own);
    assert!(error.path == "spec.volumes" && error.why.contains("istio-token"), "{error}");
}

/// Somebody's copy of a pod out of the cluster, without its containers of ours.
#[test]
fn volumes_that_were_injected_before_are_no_others() {
    let mut pod = injected(&simple());
    pod["spec"]["initContainers"] = json!([]);
    for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
        if volume["name"] == "istio-token" {
            volume["projected"]["defaultMode"] = json!(420);
        }
    }
    let again = injected(&pod);
    assert_eq!(names(&again, "initContainers"), [INIT, PROXY]);
    assert_eq!(again["spec"]["volumes"].as_array().unwrap().len(), 4);
}

#[test]
fn a_container_of_our_name_is_refused() {
    for list in ["initContainers", "containers"] {
        let mut pod = simple();
        pod["spec"][list] = json!([{"name": INIT, "image": "x"}]);
        let error = refused(&pod);
        assert!(error.path == format!("spec.{list}") && error.why.contains("istio-init"), "{error}");
    }
}

#[test]
fn what_bypasses_the_mesh_is_told() {
    let mut pod = simple();
    assert_eq!(told(&pod), Vec::<String>::new());
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1337});
    assert!(told(&pod)[0].starts_with("container app: runAsUser 1337 is the proxy's"), "{:?}", told(&pod));
    pod["spec"]["securityContext"] = json!({"runAsUser": 1337, "runAsGroup": 1337});
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    let all = told(&pod);
    assert!(all.len() == 1 && all[0].starts_with("container app: runAsGroup 1337"), "{all:?}");
}

#[test]
fn ports_and_name_servers_that_do_not_go_with_a_sidecar_are_told() {
    let mut pod = simple();
    pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15020}, {"containerPort": 15022}]);
    pod["spec"]["dnsPolicy"] = "None".into();
    let all = told(&pod);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[0].starts_with("container app: port 15020 is the sidecar's"), "{all:?}");
    assert!(all[1].starts_with("dnsPolicy None"), "{all:?}");
    pod["spec"] = json!({"dnsPolicy": "ClusterFirst", "containers": [{"name": PROXY, "image": "auto",
        "securityContext": {"runAsUser": 1337}, "ports": [{"containerPort": 15021}]}]});
    pod["metadata"]["annotations"] = json!({"inject.istio.io/templates": "gateway"});
    assert_eq!(told(&pod), Vec::<String>::new(), "a gateway is the proxy itself");
}

#[test]
fn booleans_as_istio_reads_them() {
    for (text, native) in [("True", true), ("t", true), ("1", true), ("False", false), ("0", false)] {
        let pod = injected(&annotated("sidecar.istio.io/nativeSidecar", text));
        assert_eq!(names(&pod, "initContainers").contains(&PROXY.to_owned()), native, "{text}");
    }
}
