//! Whatever a pod looks like: injected twice is injected once, and nothing of the user's is lost.

use proptest::prelude::*;

use super::*;

fn containers() -> impl Strategy<Value = Vec<Value>> {
    let probe = prop_oneof![
        Just(Value::Null),
        (1u16..).prop_map(|port| json!({"tcpSocket": {"port": port}})),
        (1u16..).prop_map(|port| json!({"httpGet": {"port": port, "path": "/x"}, "timeoutSeconds": 2})),
        Just(json!({"exec": {"command": ["x"]}})),
        Just(json!({"grpc": {"port": 1}})),
        Just(json!({"httpGet": {"port": "nowhere"}})),
    ];
    let one = ("[a-z]{1,8}", probe.clone(), probe, any::<bool>()).prop_map(|(name, live, ready, hook)| {
        let mut container = json!({"name": name, "image": "i", "unknown": {"kept": [1, 2]}});
        for (field, probe) in [("livenessProbe", live), ("readinessProbe", ready)] {
            if !probe.is_null() {
                container[field] = probe;
            }
        }
        if hook {
            container["lifecycle"] = json!({"preStop": {"exec": {"command": ["y"]}}});
        }
        container
    });
    prop::collection::vec(one, 0..4)
}

fn pods() -> impl Strategy<Value = Value> {
    let annotation = prop_oneof![
        Just(("sidecar.istio.io/nativeSidecar", "false")),
        Just(("inject.istio.io/templates", "sidecar")),
        Just(("traffic.sidecar.istio.io/excludeInboundPorts", "1,2")),
        Just(("sidecar.istio.io/interceptionMode", "TPROXY")),
        Just((mesh_proto::crd::meta::PROXY_INIT_CONTAINER, "sidecar")),
    ];
    (containers(), containers(), annotation, any::<bool>()).prop_map(|(init, apps, (name, value), own)| {
        let mut pod = json!({"metadata": {"annotations": {name: value}}, "spec": {"containers": apps, "serviceAccountName": "s"}});
        if !init.is_empty() {
            pod["spec"]["initContainers"] = init.into();
        }
        if own && let Some(apps) = pod["spec"]["containers"].as_array_mut() {
            apps.push(json!({"name": PROXY, "image": "auto", "env": [{"name": "A", "value": "b"}]}));
        }
        pod
    })
}

proptest! {
    #[test]
    fn twice_is_once_and_nothing_is_lost(pod in pods()) {
        let settings = settings(json!({}));
        let once = inject(&pod, None, &settings, "t0ken").unwrap().object;
        let twice = inject(&once, None, &settings, "other").unwrap().object;
        prop_assert_eq!(&once, &twice);
        for list in ["initContainers", "containers"] {
            for before in pod["spec"][list].as_array().into_iter().flatten().filter(|c| c["name"] != PROXY) {
                let after = once["spec"][list].as_array().unwrap();
                let after: Vec<_> = after.iter().filter(|c| c["name"] == before["name"]).collect();
                prop_assert!(after.iter().any(|a| a["unknown"] == before["unknown"] && a["image"] == before["image"]));
            }
        }
        let proxies = names(&once, "initContainers").into_iter().chain(names(&once, "containers"));
        prop_assert_eq!(proxies.filter(|name| name == PROXY).count(), 1);
        prop_assert_eq!(&once["spec"]["serviceAccountName"], "s");
    }
}
