//! Environments as the injector writes them, and what is refused.

use std::collections::BTreeMap;

use super::*;

const POD: [(&str, &str); 8] = [
    ("POD_NAME", "reviews-v1-5d8"),
    ("POD_NAMESPACE", "shop"),
    ("POD_UID", "0a1b"),
    ("INSTANCE_IP", "10.244.1.7"),
    ("INSTANCE_IPS", "10.244.1.7"),
    ("SERVICE_ACCOUNT", "reviews"),
    ("TRUST_DOMAIN", "cluster.local"),
    ("MESH_DRAIN_TOKEN", "abc123"),
];

fn parse(kind: NodeKind, more: &[(&str, &str)]) -> Result<Config, InvalidEnvironment> {
    let all: BTreeMap<&str, &str> = POD.iter().chain(more).copied().collect();
    config(kind, &|name| all.get(name).map(|text| (*text).to_owned()))
}

fn sidecar(more: &[(&str, &str)]) -> Config {
    parse(NodeKind::Sidecar, more).unwrap()
}

#[test]
fn a_sidecar() {
    let config = sidecar(&[]);
    assert_eq!(config.identity().unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/reviews");
    assert_eq!(config.ca.address.to_string(), "mesh-ca.istio-system.svc:15012");
    assert_eq!(config.pilot.address.to_string(), "mesh-pilot.istio-system.svc:15012");
    assert_eq!(config.pilot_identity().unwrap().namespace(), "istio-system");
    let capture = config.capture.unwrap();
    assert_eq!(capture.outbound.to_string(), "0.0.0.0:15001");
    assert_eq!(capture.inbound.to_string(), "0.0.0.0:15006");
    assert!(!capture.tproxy && config.gateway.is_none());
    let agent = config.agent.as_ref().unwrap();
    assert_eq!(agent.listen.to_string(), "0.0.0.0:15020");
    assert_eq!(agent.drain_token.as_deref(), Some("abc123"));
    assert_eq!(config.admin.to_string(), "127.0.0.1:15000");
    assert_eq!(config.status.to_string(), "0.0.0.0:15021");
    assert_eq!(config.workers.get(), 1);
    assert!(config.is_own_socket("10.244.1.7:15020".parse().unwrap()));
    let seconds = |d: Duration| d.as_secs();
    let t = config.termination;
    assert_eq!((seconds(t.minimum), seconds(t.drain), seconds(t.shutdown)), (5, 20, 5));
    assert_eq!(t.lift_after, Some(Duration::from_secs(45)));
}

#[test]
fn a_gateway_in_another_control_plane() {
    let cpus = std::thread::available_parallelism().unwrap();
    let config = parse(NodeKind::Router, &[("MESH_CONTROL_PLANE_NAMESPACE", "mesh")]).unwrap();
    assert_eq!(config.pilot.address.to_string(), "mesh-pilot.mesh.svc:15012");
    assert_eq!(config.ca_identity().unwrap().as_str(), "spiffe://cluster.local/ns/mesh/sa/mesh-ca");
    assert!(config.capture.is_none());
    assert_eq!(config.gateway.unwrap().listen_ip.to_string(), "0.0.0.0");
    assert_eq!(config.workers, cpus);
    let one = parse(NodeKind::Router, &[("ISTIO_CPU_LIMIT", "1")]).unwrap();
    assert_eq!(one.workers.get(), 1);
}

#[test]
fn addresses_of_either_family() {
    let six = sidecar(&[("INSTANCE_IP", "fd00::7"), ("INSTANCE_IPS", "fd00::7")]);
    assert_eq!(six.pod_ip.to_string(), "fd00::7");
    assert_eq!(six.capture.unwrap().inbound.to_string(), "[::]:15006");
    let both = sidecar(&[("INSTANCE_IPS", "10.244.1.7,fd00::7")]);
    assert_eq!(both.pod_ip.to_string(), "10.244.1.7");
    assert_eq!(both.agent.unwrap().listen.to_string(), "[::]:15020");
}

#[test]
fn settings_of_the_proxy() {
    let config = sidecar(&[
        (
            "PROXY_CONFIG",
            r#"{"concurrency":3,"terminationDrainDuration":"2m","interceptionMode":"TPROXY",
            "proxyMetadata":{"MINIMUM_DRAIN_DURATION":"8s","SECRET_TTL":"1h"},"statNameLength":12}"#,
        ),
        ("MESH_TERMINATION_GRACE_SECONDS", "180"),
        ("MESH_CLASSIC_SIDECAR", "true"),
    ]);
    assert_eq!(config.workers.get(), 3);
    assert!(config.capture.unwrap().tproxy);
    let t = config.termination;
    assert_eq!((t.minimum.as_secs(), t.drain.as_secs(), t.shutdown.as_secs()), (8, 120, 120));
    assert!(t.with_application);
    assert_eq!(config.ca.life, Some(Duration::from_secs(3600)));
    assert_eq!(sidecar(&[("SECRET_TTL", "90s")]).ca.life, Some(Duration::from_secs(90)));
    assert_eq!(sidecar(&[]).ca.life, None);
    assert_eq!(config.notices, ["proxy configuration: statNameLength has no effect here"]);
    // A short grace period leaves no time for the usual minimum.
    let short = sidecar(&[("MESH_TERMINATION_GRACE_SECONDS", "3")]).termination;
    assert_eq!((short.minimum.as_secs(), short.drain.as_secs()), (2, 2));
}

#[test]
fn probes_as_the_injector_writes_them() {
    let probes = r#"{"/app-health/app/readyz":{"httpGet":{"path":"/ready","port":8080,"scheme":"HTTPS",
        "httpHeaders":[{"name":"Host","value":"a"}]},"timeoutSeconds":3},
        "/app-health/db/livez":{"tcpSocket":{"port":3306}},"/app-health/g/startupz":{"grpc":{"port":9,"service":null}}}"#;
    let scrape = r#"{"scrape":"true","path":"stats","port":"9000"}"#;
    let agent = sidecar(&[("ISTIO_KUBE_APP_PROBERS", probes), ("ISTIO_PROMETHEUS_ANNOTATIONS", scrape)]);
    let agent = agent.agent.unwrap();
    let http = agent.probes["/app-health/app/readyz"].http_get.as_ref().unwrap();
    assert_eq!((http.path.as_str(), http.port, http.scheme.as_str()), ("/ready", 8080, "HTTPS"));
    assert_eq!(http.headers[0].value, "a");
    assert_eq!(agent.probes.len(), 3);
    assert_eq!(agent.scrape.unwrap().path, "/stats");
    // Wrong annotations of the application are said, and keep nothing from starting.
    let odd = sidecar(&[("ISTIO_PROMETHEUS_ANNOTATIONS", r#"{"scrape":"true","port":"http"}"#)]);
    assert!(odd.agent.unwrap().scrape.is_none());
    assert!(odd.notices[0].contains("port \"http\""), "{:?}", odd.notices);
}

#[test]
fn what_is_refused() {
    let cases: &[(&str, &str, &str)] = &[
        ("POD_NAME", "", "POD_NAME is not set; the pod needs a fieldRef to metadata.name"),
        ("INSTANCE_IPS", "10.0.0.300", "INSTANCE_IPS=\"10.0.0.300\": invalid IP address syntax"),
        ("TRUST_DOMAIN", "A B", "TRUST_DOMAIN=\"A B\""),
        ("SERVICE_ACCOUNT", "a/b", "is not a Kubernetes name"),
        ("CA_ADDR", "mesh-ca", "CA_ADDR=\"mesh-ca\": \"mesh-ca\" is not host:port"),
        ("PROXY_CONFIG", "{", "PROXY_CONFIG"),
        ("PROXY_CONFIG", r#"{"concurrency":-1}"#, "concurrency: -1 is not a number from 0"),
        ("PROXY_CONFIG", r#"{"terminationDrainDuration":"soon"}"#, "is no duration"),
        ("MINIMUM_DRAIN_DURATION", "5", "MINIMUM_DRAIN_DURATION=\"5\""),
        ("SECRET_TTL", "a day", "SECRET_TTL=\"a day\": \"a day\" is no duration"),
        ("MESH_DRAIN_TOKEN", "a/b", "MESH_DRAIN_TOKEN=\"...\": expected letters"),
        ("ISTIO_META_INTERCEPTION_MODE", "NONE", "expected REDIRECT or TPROXY"),
        ("ISTIO_KUBE_APP_PROBERS", r#"{"/x":{"tcpSocket":{"port":1}}}"#, "begins with neither /app-health/"),
        ("ISTIO_KUBE_APP_PROBERS", r#"{"/app-health/a/livez":{}}"#, "exactly one of"),
        ("ISTIO_CPU_LIMIT", "0", "ISTIO_CPU_LIMIT=\"0\""),
        ("MESH_CONTROL_PLANE_NAMESPACE", "Mesh", "is not a Kubernetes name"),
    ];
    for (name, value, expected) in cases {
        let error = parse(NodeKind::Sidecar, &[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}
