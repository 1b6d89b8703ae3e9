//! The chart's values as they come, and what is refused.

use super::*;

#[test]
fn defaults_are_the_charts() {
    let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
    assert_eq!(settings.image, format!("mesh/proxy:{}", env!("CARGO_PKG_VERSION")));
    assert!(settings.native && settings.hold && settings.rewrite_probes && settings.merge_metrics);
    assert!(!settings.by_default);
    assert_eq!(settings.capture.include_outbound_ranges, "*");
    assert_eq!(settings.interception, Interception::Redirect);
    assert_eq!(settings.programmer, Programmer::Separate);
}

#[test]
fn who_programs_the_rules() {
    let read = |container| {
        let values = json!({"global": {"proxy_init": {"container": container}}});
        Settings::read(&values, &json!({}), ControlPlane::default()).map(|settings| settings.programmer)
    };
    assert_eq!(read("sidecar"), Ok(Programmer::Sidecar));
    assert_eq!(read("separate"), Ok(Programmer::Separate));
    let error = read("cni").unwrap_err();
    assert_eq!(error, "global.proxy_init.container: \"cni\" is not separate or sidecar");
}

#[test]
fn values_and_mesh_config() {
    let values = json!({
        "global": {"hub": "registry.example/mesh", "tag": "", "imagePullSecrets": ["pull"], "imagePullPolicy": "Always",
            "proxy": {"logLevel": "info", "resources": {"requests": {"cpu": "1"}}, "includeInboundPorts": 80,
                "nativeSidecar": false, "holdApplicationUntilProxyStarts": false}},
        "sidecarInjectorWebhook": {"enableNamespacesByDefault": true, "injectedAnnotations": {"a": "b"}},
        "pilot": {"cni": {"enabled": false}},
    });
    let mesh = json!({"defaultConfig": {"holdApplicationUntilProxyStarts": true, "interceptionMode": "TPROXY"},
        "enablePrometheusMerge": false});
    let control_plane = ControlPlane { version: "7".into(), ..ControlPlane::default() };
    let settings = Settings::read(&values, &mesh, control_plane).unwrap();
    assert_eq!(settings.image, "registry.example/mesh/proxy:7");
    assert_eq!(
        (settings.pull_policy.as_deref(), &settings.pull_secrets[..]),
        (Some("Always"), &["pull".to_owned()][..])
    );
    assert_eq!(settings.resources, json!({"requests": {"cpu": "1"}}));
    assert_eq!(settings.capture.include_inbound_ports, "80");
    assert!(settings.hold, "MeshConfig comes before the chart");
    assert!(!settings.native && settings.by_default && !settings.merge_metrics);
    assert_eq!(settings.interception, Interception::Tproxy);
    let whole = json!({"global": {"proxy": {"image": "other/proxy:1"}}});
    assert_eq!(Settings::read(&whole, &json!({}), ControlPlane::default()).unwrap().image, "other/proxy:1");
}

#[test]
fn a_value_of_another_kind_is_named() {
    let values = json!({"global": {"proxy": {"nativeSidecar": "yes"}}});
    let error = Settings::read(&values, &json!({}), ControlPlane::default()).unwrap_err();
    assert_eq!(error, "global.proxy.nativeSidecar: \"yes\" is not true or false");
}

#[test]
fn a_default_that_no_proxy_would_start_with_is_refused() {
    for (config, why) in [
        (json!({"concurrency": "many"}), "meshConfig.defaultConfig.concurrency: \"many\" is not a number"),
        (
            json!({"terminationDrainDuration": "5"}),
            "meshConfig.defaultConfig.terminationDrainDuration: \"5\"",
        ),
        (json!({"interceptionMode": "NONE"}), "meshConfig.defaultConfig.interceptionMode: \"NONE\""),
        (
            json!({"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": true}}),
            "meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE: true is no text",
        ),
    ] {
        let mesh = json!({"defaultConfig": config});
        let error = Settings::read(&json!({}), &mesh, ControlPlane::default()).unwrap_err();
        assert!(error.starts_with(why), "{error}");
    }
}

#[test]
fn values_that_no_pod_could_have_are_refused() {
    for (proxy, path) in [
        (json!({"excludeInboundPorts": "*"}), "global.proxy.excludeInboundPorts: \"*\" is not ports"),
        (json!({"includeOutboundPorts": "*"}), "global.proxy.includeOutboundPorts: \"*\" is not ports"),
        (json!({"includeInboundPorts": "*,80"}), "global.proxy.includeInboundPorts: \"*,80\" is not ports"),
        (json!({"includeIPRanges": "10.0.0.1"}), "global.proxy.includeIPRanges: \"10.0.0.1\" is not ranges"),
        (json!({"logLevel": "loud"}), "global.proxy.logLevel: \"loud\" is not trace"),
        (
            json!({"resources": {"requests": {"cpu": "lots"}}}),
            "global.proxy.resources.requests.cpu: \"lots\" is not an amount",
        ),
        (json!({"resources": {"limits": ["cpu"]}}), "global.proxy.resources.limits: [\"cpu\"] is not a map"),
    ] {
        let values = json!({"global": {"proxy": proxy}});
        let error = Settings::read(&values, &json!({}), ControlPlane::default()).unwrap_err();
        assert!(error.starts_with(path), "{error}");
    }
}

#[test]
fn amounts_as_kubernetes_has_them() {
    for good in ["1", "500m", "1.5", ".5", "64Mi", "2Gi", "1e3", "1E", "0", "128974848", "12e-3"] {
        assert!(is_quantity(good), "{good}");
    }
    for bad in ["", "lots", "-1", "1 Gi", "1GB", "m", "1.2.3", ".", "1mi", "1e", "0x1"] {
        assert!(!is_quantity(bad), "{bad}");
    }
}

#[test]
fn capture_by_a_cni_plugin_is_refused() {
    for values in [json!({"pilot": {"cni": {"enabled": true}}}), json!({"cni": {"enabled": true}})] {
        let error = Settings::read(&values, &json!({}), ControlPlane::default()).unwrap_err();
        assert!(
            error.contains("cni.enabled: true is not offered") && error.contains("istio-init"),
            "{error}"
        );
    }
}
