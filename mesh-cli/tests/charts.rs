//! The charts as Helm renders them, and `meshctl install --dry-run`. Without helm on PATH each test says so and is skipped.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{meshctl, text};

/// Whether there is a Helm.
pub fn helm() -> bool {
    let there = Command::new("helm").arg("version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: there is no helm on PATH");
    }
    there
}

pub fn chart(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").join(name).display().to_string()
}

/// What `helm template` makes of a chart, or its complaint.
pub fn try_render(release: &str, name: &str, values: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = Command::new("helm");
    command.args(["template", release, &chart(name), "--namespace", "istio-system"]);
    for value in values {
        command.args(["--set-json", value]);
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(objects(&String::from_utf8(output.stdout).unwrap()))
}

pub fn render(release: &str, name: &str, values: &[&str]) -> Vec<Value> {
    try_render(release, name, values).unwrap_or_else(|error| panic!("{error}"))
}

pub fn objects(text: &str) -> Vec<Value> {
    use mesh_proto::crd::yaml;
    let chunks = yaml::split(text).into_iter();
    chunks.filter_map(|chunk| yaml::read(chunk).expect("valid YAML")).map(|tree| tree.value).collect()
}

pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let of_kind = objects.iter().filter(|object| object["kind"] == kind);
    of_kind.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

pub fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

pub fn environment<'a>(container: &'a Value, name: &str) -> &'a Value {
    let all = container["env"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).map_or(&Value::Null, |one| &one["value"])
}

#[test]
fn lint_is_content() {
    if !helm() {
        return;
    }
    for name in ["base", "control-plane", "gateway"] {
        let output = Command::new("helm").args(["lint", "--strict", &chart(name)]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// The names and ports that proxies, injector and users rely on.
#[test]
fn the_control_plane_is_what_proxies_expect() {
    if !helm() {
        return;
    }
    let all = render("mesh", "control-plane", &["global.tag=\"9\""]);
    let pilot = find(&all, "Deployment", "mesh-pilot");
    assert_eq!(pilot["spec"]["replicas"], 2);
    assert_eq!(container(pilot)["image"], "mesh/pilot:9");
    assert_eq!(container(pilot)["args"], json!(["kubernetes"]));
    assert_eq!(environment(container(pilot), "CA_ADDR"), "mesh-ca.istio-system.svc:15012");
    assert_eq!(environment(container(pilot), "REVISION"), "default");
    assert_eq!(container(find(&all, "Deployment", "mesh-ca"))["image"], "mesh/ca:9");
    let ports = |service: &str| {
        let ports = find(&all, "Service", service)["spec"]["ports"].as_array().unwrap();
        ports
            .iter()
            .map(|port| (port["port"].as_u64().unwrap(), port["name"].as_str().unwrap().to_owned()))
            .collect::<Vec<_>>()
    };
    let named = |list: &[(u64, &str)]| {
        list.iter().map(|(port, name)| (*port, (*name).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        ports("mesh-pilot"),
        named(&[(15012, "tls-xds"), (443, "https-webhook"), (15014, "http-monitoring")])
    );
    assert_eq!(ports("mesh-ca"), named(&[(15012, "tls-ca"), (15014, "http-monitoring")]));
    let config = find(&all, "ConfigMap", "istio")["data"]["mesh"].as_str().unwrap();
    assert_eq!(objects(config)[0]["trustDomain"], "cluster.local");
    let values = find(&all, "ConfigMap", "istio-sidecar-injector")["data"]["values"].as_str().unwrap();
    let values: Value = serde_json::from_str(values).unwrap();
    assert_eq!(values["global"]["tag"], "9");
    assert_eq!(values["global"]["proxy"]["resources"]["requests"]["cpu"], "10m");
    // The authority may read three Secrets, by name.
    let role = find(&all, "Role", "mesh-ca");
    assert_eq!(role["rules"][0]["resourceNames"], json!(["istio-ca-secret", "cacerts", "mesh-ca-state"]));
}

/// The restricted Pod Security Standard, and nothing written outside of volumes.
#[test]
fn every_pod_is_restricted() {
    if !helm() {
        return;
    }
    let mut pods = render("mesh", "control-plane", &[]);
    pods.extend(render("istio-ingressgateway", "gateway", &[]));
    pods.retain(|object| object["kind"] == "Deployment" || object["kind"] == "Pod");
    assert_eq!(pods.len(), 5, "pilot, ca, gateway, and two tests");
    for pod in &pods {
        let name = &pod["metadata"]["name"];
        let spec = if pod["kind"] == "Pod" { &pod["spec"] } else { &pod["spec"]["template"]["spec"] };
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        let container = &spec["containers"][0];
        let security = &container["securityContext"];
        assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
        assert!(container["resources"]["requests"]["memory"].is_string(), "{name}");
    }
}

/// What the pilot writes into our objects no template names: an upgrade would undo it, or fail in a conflict.
#[test]
fn an_upgrade_leaves_alone_what_others_write() {
    if !helm() {
        return;
    }
    let all = render("mesh", "control-plane", &["pilot.autoscaleEnabled=true"]);
    // The pilot closes the validating one; the template takes over what it finds, and nothing is found here.
    for (kind, policy) in
        [("MutatingWebhookConfiguration", "Fail"), ("ValidatingWebhookConfiguration", "Ignore")]
    {
        for object in all.iter().filter(|object| object["kind"] == kind) {
            for webhook in object["webhooks"].as_array().unwrap() {
                assert!(webhook["clientConfig"].get("caBundle").is_none());
                assert_eq!(webhook["failurePolicy"], policy);
            }
        }
    }
    assert!(find(&all, "Deployment", "mesh-pilot")["spec"].get("replicas").is_none());
    assert_eq!(names(&all, "HorizontalPodAutoscaler"), ["mesh-pilot"]);
}

#[test]
fn webhooks_keep_away_from_the_system_and_from_the_mesh() {
    if !helm() {
        return;
    }
    let all = render("mesh", "control-plane", &["sidecarInjectorWebhook.enableNamespacesByDefault=true"]);
    let injector = find(&all, "MutatingWebhookConfiguration", "istio-sidecar-injector");
    let webhooks = injector["webhooks"].as_array().unwrap();
    let called: Vec<_> = webhooks.iter().map(|webhook| webhook["name"].as_str().unwrap()).collect();
    let expected = ["rev.namespace", "rev.object", "namespace", "object", "auto"]
        .map(|n| format!("{n}.sidecar-injector.istio.io"));
    assert_eq!(called, expected);
    for webhook in webhooks {
        let rules = webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        let away =
            rules.iter().find(|rule| rule["operator"] == "NotIn").expect("some namespaces are left alone");
        let away = away["values"].as_array().unwrap();
        assert!(away.contains(&json!("kube-system")));
        // A pod that asks for itself may be beside the control plane: Istio's gateways are; but not its own pods.
        let asks = webhook["name"].as_str().unwrap().contains("object.");
        assert_eq!(away.contains(&json!("istio-system")), !asks, "{webhook}");
        let own = json!({"key": "app", "operator": "NotIn", "values": ["mesh-pilot", "mesh-ca"]});
        let pods = webhook["objectSelector"]["matchExpressions"].as_array().unwrap();
        assert_eq!(pods.contains(&own), asks, "{webhook}");
        assert_eq!(webhook["clientConfig"]["service"]["path"], "/inject");
    }
    let validator = find(&all, "ValidatingWebhookConfiguration", "istio-validator-istio-system");
    assert_eq!(validator["webhooks"].as_array().unwrap().len(), 2);
    // Row C9: with the pilot away, what is not ours is written as ever, and ours is still deleted; nobody waits for long.
    for webhook in webhooks.iter().chain(validator["webhooks"].as_array().unwrap()) {
        assert!(
            webhook["timeoutSeconds"].as_u64().is_some_and(|seconds| (1..=10).contains(&seconds)),
            "{webhook}"
        );
        for rule in webhook["rules"].as_array().unwrap() {
            let groups = rule["apiGroups"].as_array().unwrap();
            let ours = groups.iter().all(|group| group.as_str().unwrap().ends_with(".istio.io"));
            let pods = rule["resources"] == json!(["pods"]) && rule["operations"] == json!(["CREATE"]);
            assert!(!groups.is_empty() && (ours || pods), "{rule}");
            assert!(
                !rule["operations"].as_array().unwrap().iter().any(|o| o == "DELETE" || o == "*"),
                "{rule}"
            );
        }
    }
}

#[test]
fn a_revision_stands_beside_the_first_one() {
    if !helm() {
        return;
    }
    let first = render("mesh", "control-plane", &["base.enabled=false"]);
    let second = render("mesh-canary", "control-plane", &["base.enabled=false", "revision=\"canary\""]);
    let key = |object: &Value| (object["kind"].to_string(), object["metadata"]["name"].to_string());
    for object in &second {
        assert!(first.iter().all(|other| key(other) != key(object)), "both have {:?}", key(object));
    }
    let pilot = find(&second, "Deployment", "mesh-pilot-canary");
    assert_eq!(pilot["spec"]["template"]["spec"]["serviceAccountName"], "mesh-pilot");
    assert_eq!(environment(container(pilot), "REVISION"), "canary");
    assert!(
        names(&second, "ServiceAccount").is_empty()
            && !names(&second, "Deployment").contains(&"mesh-ca".to_owned())
    );
    let injector = find(&second, "MutatingWebhookConfiguration", "istio-sidecar-injector-canary");
    assert_eq!(injector["webhooks"].as_array().unwrap().len(), 2, "only by revision");
    let named = render("mesh", "control-plane", &["base.enabled=false", "ca.revisions=[\"canary\"]"]);
    assert_eq!(environment(container(find(&named, "Deployment", "mesh-ca")), "REVISION"), "default,canary");
}

#[test]
fn a_gateway_is_called_by_its_release() {
    if !helm() {
        return;
    }
    let all = render("istio-ingressgateway", "gateway", &["global.hub=\"h\"", "global.tag=\"t\""]);
    let gateway = find(&all, "Deployment", "istio-ingressgateway");
    let pod = &gateway["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["istio"], "ingressgateway");
    assert_eq!(pod["metadata"]["labels"]["app"], "istio-ingressgateway");
    assert_eq!(pod["spec"]["securityContext"]["sysctls"][0]["name"], "net.ipv4.ip_unprivileged_port_start");
    let proxy = container(gateway);
    assert_eq!((&proxy["image"], &proxy["args"]), (&json!("h/proxy:t"), &json!(["router"])));
    assert_eq!(environment(proxy, "PILOT_ADDR"), "mesh-pilot.istio-system.svc:15012");
    let mounts: Vec<_> =
        proxy["volumeMounts"].as_array().unwrap().iter().map(|m| m["mountPath"].as_str().unwrap()).collect();
    for path in [
        "/var/run/secrets/tokens",
        "/var/run/secrets/istio",
        "/etc/istio/proxy",
        "/etc/istio/ingressgateway-certs",
    ] {
        assert!(mounts.contains(&path), "{path}");
    }
    let service = &find(&all, "Service", "istio-ingressgateway")["spec"];
    assert_eq!(service["type"], "LoadBalancer");
    let ports: Vec<_> =
        service["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect();
    assert_eq!(ports, [15021, 80, 443]);
}

#[test]
fn a_gateway_may_be_an_egress_or_a_daemon() {
    if !helm() {
        return;
    }
    let egress = render(
        "istio-egressgateway",
        "gateway",
        &[
            "service.type=\"ClusterIP\"",
            "revision=\"canary\"",
            "controlPlane.namespace=\"mesh\"",
            "proxyConfig={\"concurrency\":2}",
        ],
    );
    let proxy = container(find(&egress, "Deployment", "istio-egressgateway"));
    assert_eq!(environment(proxy, "PILOT_ADDR"), "mesh-pilot-canary.mesh.svc:15012");
    assert_eq!(environment(proxy, "PROXY_CONFIG"), r#"{"concurrency":2}"#);
    let daemon = render(
        "edge",
        "gateway",
        &["kind=\"DaemonSet\"", "service.type=\"None\"", "podDisruptionBudget=null"],
    );
    assert_eq!(names(&daemon, "DaemonSet"), ["edge"]);
    assert!(find(&daemon, "DaemonSet", "edge")["spec"].get("replicas").is_none());
    for none in ["Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Deployment"] {
        assert!(names(&daemon, none).is_empty(), "{none}");
    }
}

/// What Kubernetes would refuse: both bounds of a budget, and a key that is there twice.
#[test]
fn values_take_the_place_of_defaults() {
    if !helm() {
        return;
    }
    let budget = |values: &[&str]| {
        let all = render("edge", "gateway", values);
        let found = all.iter().find(|object| object["kind"] == "PodDisruptionBudget");
        found.map(|budget| {
            let mut spec = budget["spec"].clone();
            spec.as_object_mut().unwrap().remove("selector");
            spec
        })
    };
    assert_eq!(budget(&[]), Some(json!({"maxUnavailable": 1})));
    assert_eq!(budget(&["podDisruptionBudget.minAvailable=1"]), Some(json!({"minAvailable": 1})));
    assert_eq!(
        budget(&["podDisruptionBudget={\"minAvailable\":\"50%\"}"]),
        Some(json!({"minAvailable": "50%"}))
    );
    assert_eq!(budget(&["podDisruptionBudget.maxUnavailable=0"]), Some(json!({"maxUnavailable": 0})));
    for none in ["podDisruptionBudget=null", "podDisruptionBudget.maxUnavailable=null"] {
        assert_eq!(budget(&[none]), None, "{none}");
    }
    // `objects` refuses YAML in which a key is there twice.
    let labelled = [
        r#"labels={"app.kubernetes.io/name":"q","istio.io/rev":"other"}"#,
        r#"podAnnotations={"prometheus.io/port":15090}"#,
    ];
    let all = render("edge", "gateway", &labelled);
    let pod = &find(&all, "Deployment", "edge")["spec"]["template"]["metadata"];
    assert_eq!(pod["labels"]["app.kubernetes.io/name"], "q");
    assert_eq!(pod["labels"]["istio.io/rev"], "other");
    assert_eq!(pod["annotations"]["prometheus.io/port"], "15090");
    let more = [
        r#"pilot.podLabels={"app.kubernetes.io/name":"q","app":"other"}"#,
        r#"ca.podAnnotations={"prometheus.io/scrape":false}"#,
    ];
    let all = render("mesh", "control-plane", &more);
    let pilot = &find(&all, "Deployment", "mesh-pilot")["spec"];
    assert_eq!(pilot["template"]["metadata"]["labels"]["app.kubernetes.io/name"], "q");
    assert_eq!(pilot["template"]["metadata"]["labels"]["app"], pilot["selector"]["matchLabels"]["app"]);
    let ca = find(&all, "Deployment", "mesh-ca");
    assert_eq!(ca["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scrape"], "false");
}

/// Values that an Istio installation has are taken where there is the same thing.
#[test]
fn istios_names_are_taken() {
    if !helm() {
        return;
    }
    let secrets = r#"[{"name":"a"},"b"]"#;
    let references = json!([{"name": "a"}, {"name": "b"}]);
    let all = render(
        "edge",
        "gateway",
        &[
            &format!("imagePullSecrets={secrets}"),
            r#"strategy={"rollingUpdate":{"maxSurge":"50%"}}"#,
            r#"securityContext={"runAsUser":9}"#,
            "autoscaling.enabled=true",
            "autoscaling.targetMemoryUtilizationPercentage=70",
            r#"additionalContainers=[{"name":"more","image":"i"}]"#,
        ],
    );
    let spec = &find(&all, "Deployment", "edge")["spec"];
    assert_eq!(spec["strategy"], json!({"rollingUpdate": {"maxSurge": "50%"}}));
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["imagePullSecrets"], references);
    assert_eq!(find(&all, "Pod", "edge-check")["spec"]["imagePullSecrets"], references);
    assert_eq!(pod["securityContext"], json!({"runAsUser": 9}));
    assert_eq!(
        (&pod["containers"][0]["name"], &pod["containers"][1]["name"]),
        (&json!("istio-proxy"), &json!("more"))
    );
    let metrics = &find(&all, "HorizontalPodAutoscaler", "edge")["spec"]["metrics"];
    assert_eq!(metrics[1]["resource"]["target"]["averageUtilization"], 70);
    let all = render(
        "mesh",
        "control-plane",
        &[
            &format!("global.imagePullSecrets={secrets}"),
            "global.istioNamespace=\"istio-system\"",
            r#"global.defaultNodeSelector={"disk":"ssd"}"#,
            "pilot.rollingMaxSurge=\"100%\"",
            r#"ca.nodeSelector={"disk":"any"}"#,
            "pilot.ipFamilyPolicy=\"PreferDualStack\"",
        ],
    );
    let spec = &find(&all, "Deployment", "mesh-pilot")["spec"];
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": "100%", "maxUnavailable": 0}));
    let pod = &spec["template"]["spec"];
    assert_eq!((&pod["imagePullSecrets"], &pod["nodeSelector"]["disk"]), (&references, &json!("ssd")));
    let ca = &find(&all, "Deployment", "mesh-ca")["spec"]["template"]["spec"];
    assert_eq!(ca["nodeSelector"]["disk"], "any");
    assert_eq!(find(&all, "Service", "mesh-pilot")["spec"]["ipFamilyPolicy"], "PreferDualStack");
    // The injector reads names.
    let values = find(&all, "ConfigMap", "istio-sidecar-injector")["data"]["values"].as_str().unwrap();
    let values: Value = serde_json::from_str(values).unwrap();
    assert_eq!(values["global"]["imagePullSecrets"], json!(["a", "b"]));
    let elsewhere = try_render("mesh", "control-plane", &["global.istioNamespace=\"other\""]).unwrap_err();
    assert!(elsewhere.contains("global.istioNamespace other"), "{elsewhere}");
}

#[test]
fn the_custom_resources_stay_and_can_be_left_out() {
    if !helm() {
        return;
    }
    let all = render("mesh", "control-plane", &[]);
    let definitions: Vec<_> =
        all.iter().filter(|object| object["kind"] == "CustomResourceDefinition").collect();
    assert_eq!(definitions.len(), 15);
    for definition in definitions {
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    let fewer = render("base", "base", &["base.excludedCRDs=[\"wasmplugins.extensions.istio.io\"]"]);
    assert_eq!(names(&fewer, "CustomResourceDefinition").len(), 14);
    assert!(
        names(&render("mesh", "control-plane", &["base.enabled=false"]), "CustomResourceDefinition")
            .is_empty()
    );
}

/// The bundle endpoint is reached where it listens, and the authority understands what values say of other trust domains.
#[test]
fn the_authority_federates_as_values_say() {
    use mesh_ca::federation::{Federated, Source, Spiffe, Web};
    use mesh_ca::kubernetes::Settings;
    if !helm() {
        return;
    }
    let policy = "global.networkPolicy.enabled=true";
    let ports = |all: &[Value]| {
        let number = |ports: &Value, key: &str| -> Vec<u64> {
            ports.as_array().unwrap().iter().map(|port| port[key].as_u64().unwrap()).collect()
        };
        let inside = container(find(all, "Deployment", "mesh-ca"))["ports"].clone();
        let policy = find(all, "NetworkPolicy", "mesh-ca")["spec"]["ingress"][0]["ports"].clone();
        let service = find(all, "Service", "mesh-ca")["spec"]["ports"].clone();
        [number(&inside, "containerPort"), number(&policy, "port"), number(&service, "port")]
    };
    let closed = render("mesh", "control-plane", &[policy]);
    assert!(ports(&closed).iter().flatten().all(|port| *port != 8443), "nothing listens there");
    assert!(!names(&closed, "ConfigMap").contains(&"mesh-ca-federation".to_owned()));
    let settings = |all: &[Value]| {
        let ca = container(find(all, "Deployment", "mesh-ca")).clone();
        Settings::from_lookup(|name| environment(&ca, name).as_str().map(str::to_owned)).unwrap()
    };
    assert_eq!((settings(&closed).bundle, settings(&closed).federation), (None, Vec::new()));

    let spiffe = r#"{"trustDomain":"c.test","bundle":"C","httpsSpiffe":{"url":"https://c/","endpointSpiffeId":"spiffe://c.test/ns/a/sa/b"}}"#;
    let web = r#"{"trustDomain":"d.test","httpsWeb":{"url":"https://d/","roots":"D"}}"#;
    let federation = format!(r#"ca.federation=[{{"trustDomain":"b.test","bundle":"B\nB"}},{spiffe},{web}]"#);
    let open = render("mesh", "control-plane", &[policy, "ca.bundleEndpoint.enabled=true", &federation]);
    assert!(ports(&open).iter().all(|ports| ports.contains(&8443)), "{:?}", ports(&open));
    let file = |name: &str| std::path::PathBuf::from(format!("/etc/mesh/federation/{name}"));
    let of = |domain: &str, bundle| Federated { trust_domain: domain.parse().unwrap(), bundle };
    let first = Spiffe {
        url: "https://c/".into(),
        endpoint_spiffe_id: "spiffe://c.test/ns/a/sa/b".parse().unwrap(),
        bundle: file("c.test.bundle"),
    };
    let expected = [
        of("b.test", Source::File(file("b.test.bundle"))),
        of("c.test", Source::HttpsSpiffe(first)),
        of("d.test", Source::HttpsWeb(Web { url: "https://d/".into(), roots: Some(file("d.test.web")) })),
    ];
    let settings = settings(&open);
    assert_eq!((settings.bundle.map(|at| at.port()), &settings.federation[..]), (Some(8443), &expected[..]));
    // The files are where it looks for them.
    let texts = &find(&open, "ConfigMap", "mesh-ca-federation")["data"];
    assert_eq!(texts, &json!({"b.test.bundle": "B\nB", "c.test.bundle": "C", "d.test.web": "D"}));
    let deployment = find(&open, "Deployment", "mesh-ca");
    let volume = &deployment["spec"]["template"]["spec"]["volumes"][0];
    let mount = &container(deployment)["volumeMounts"][0];
    assert_eq!((&mount["name"], &mount["mountPath"]), (&volume["name"], &json!("/etc/mesh/federation")));
    assert_eq!(volume["configMap"]["name"], "mesh-ca-federation");
}

/// One way to a bundle for each trust domain, as a whole.
#[test]
fn what_is_no_federation_is_refused() {
    if !helm() {
        return;
    }
    for wrong in [
        r#"[{"trustDomain":"b.test"}]"#,
        r#"[{"trustDomain":"B test","bundle":"B"}]"#,
        r#"[{"trustDomain":"b.test","httpsSpiffe":{"url":"https://b/","endpointSpiffeId":"spiffe://b.test/a"}}]"#,
        r#"[{"trustDomain":"b.test","bundle":"B","httpsWeb":{"url":"https://b/"}}]"#,
        r#"[{"trustDomain":"b.test","httpsWeb":{"url":"http://b/"}}]"#,
        r#"[{"trustDomain":"b.test","file":"/b"}]"#,
    ] {
        let complaint =
            try_render("mesh", "control-plane", &[&format!("ca.federation={wrong}")]).unwrap_err();
        assert!(complaint.contains("federation"), "{wrong}: {complaint}");
    }
}

/// A value that nobody reads is a mistake, not a wish that is forgotten.
#[test]
fn unknown_values_are_refused_by_name() {
    if !helm() {
        return;
    }
    let wrong = [
        ("control-plane", "pilot.replicas=3", "replicas"),
        ("control-plane", "pilot.replicaCount=\"two\"", "replicaCount"),
        ("control-plane", "global.proxy.excludeInboundPorts=\"80;81\"", "excludeInboundPorts"),
        ("gateway", "service.type=\"Loadbalancer\"", "type"),
        ("control-plane", "meshConfig.defaultConfig.concurrency=\"many\"", "concurrency"),
        (
            "control-plane",
            "meshConfig.defaultConfig.terminationDrainDuration=\"5\"",
            "terminationDrainDuration",
        ),
        ("control-plane", "meshConfig.defaultConfig.proxyMetadata={\"A\":true}", "proxyMetadata"),
        ("gateway", "proxyConfig.concurrency=\"many\"", "concurrency"),
        ("control-plane", "global.proxy.excludeInboundPorts=\"*\"", "excludeInboundPorts"),
        ("control-plane", "global.proxy.includeOutboundPorts=\"*\"", "includeOutboundPorts"),
        ("control-plane", "global.proxy.logLevel=\"loud\"", "logLevel"),
        ("control-plane", "global.proxy.resources.requests.cpu=\"lots\"", "cpu"),
        ("control-plane", "pilot.cni.enabled=true", "enabled"),
        ("control-plane", "global.proxy_init.container=\"cni\"", "container"),
        ("base", "base.excludedCRDs=[\"wasmplugins\"]", "excludedCRDs"),
    ];
    for (name, value, field) in wrong {
        let complaint = try_render("mesh", name, &[value]).unwrap_err();
        assert!(complaint.contains(field), "{value}: {complaint}");
    }
}

/// The charts inside meshctl are the charts of the checkout; a dry run needs no cluster.
#[test]
fn meshctl_install_renders_what_helm_renders() {
    if !helm() {
        return;
    }
    let output = meshctl(&[
        "install",
        "--dry-run",
        "--tag",
        "9",
        "--set",
        "pilot.replicaCount=3",
        "--gateway",
        "istio-ingressgateway",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    let mut rendered = objects(&String::from_utf8(output.stdout).unwrap());
    let mut expected = render("mesh", "control-plane", &["global.tag=\"9\"", "pilot.replicaCount=3"]);
    expected.extend(render("istio-ingressgateway", "gateway", &["global.tag=\"9\""]));
    expected.retain(|object| object["kind"] != "Pod");
    let key = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    rendered.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(rendered, expected);
}

/// A revision is a release of its own, however it is said: else Helm would take the first control plane away.
#[test]
fn meshctl_install_takes_a_revision_from_the_values() {
    if !helm() {
        return;
    }
    let values = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(values.path(), "revision: canary\n").unwrap();
    let file = ["--values", values.path().to_str().unwrap()];
    for how in
        [["--revision", "canary"], ["--set", "revision=canary"], ["--set-string", "revision=canary"], file]
    {
        let words = [&["install", "--dry-run", "--gateway", "edge"], &how[..]].concat();
        let output = meshctl(&words);
        assert!(output.status.success(), "{}", text(&output));
        let all = objects(&String::from_utf8(output.stdout).unwrap());
        let pilot = find(&all, "Deployment", "mesh-pilot-canary");
        assert_eq!(pilot["metadata"]["labels"]["app.kubernetes.io/instance"], "mesh-canary", "{how:?}");
        let gateway = container(find(&all, "Deployment", "edge"));
        assert_eq!(environment(gateway, "PILOT_ADDR"), "mesh-pilot-canary.istio-system.svc:15012", "{how:?}");
    }
    let two = meshctl(&["install", "--dry-run", "--revision", "next", "--set", "revision=canary"]);
    assert!(!two.status.success() && text(&two).contains("two control planes"), "{}", text(&two));
}

#[test]
fn meshctl_install_says_what_is_wrong() {
    let none = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(["install", "--dry-run"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert!(!none.status.success() && text(&none).contains("there is no helm on PATH"), "{}", text(&none));
    if !helm() {
        return;
    }
    let wrong = meshctl(&["install", "--dry-run", "--set", "pilot.replicas=3"]);
    assert!(!wrong.status.success() && text(&wrong).contains("replicas"), "{}", text(&wrong));
}
