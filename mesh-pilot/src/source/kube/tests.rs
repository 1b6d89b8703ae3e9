//! Stories: what an API server says in, events and endpoints out.

mod fake;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::core::Resource as _;
use mesh_proto::crd::{Kind, Labels, Object, ObjectRef};
use mesh_proto::model::HostPort;
use serde_json::{Value, json};

use super::kinds::Watched;
use super::merge::{LastGood, Merge};
use super::seen::{Configuration, Pods, Secrets, Seen, Shape, Slices};
use super::watch::Sighting;
use crate::cluster::last_good::Kept;
use crate::index::Index;
use crate::snapshot::{MeshOptions, MeshSettings, Outbound, Snapshot};
use crate::source::Event;

const POD: Watched = Watched::Object(Kind::Pod);
const SERVICE: Watched = Watched::Object(Kind::Service);
const ROUTE: Watched = Watched::Object(Kind::VirtualService);

fn mesh() -> MeshSettings {
    MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
    }
}

/// A merge and the index behind it.
struct Story {
    merge: Merge,
    index: Index,
    snapshot: Arc<Snapshot>,
}

impl Story {
    fn new(last_good: LastGood) -> Self {
        let mut index = Index::with_slices(mesh());
        let (snapshot, _) = index.snapshot();
        Self { merge: Merge::new(last_good, Kept::default()), index, snapshot }
    }

    /// What was told.
    fn see(&mut self, watched: Watched, sighting: Sighting) -> Vec<Event> {
        let mut events = Vec::new();
        self.merge.take(watched, sighting, &mut events);
        for event in &events {
            self.index.apply(event.clone());
        }
        self.snapshot = self.index.snapshot().0;
        events
    }

    fn apply(&mut self, watched: Watched, value: Value) -> Vec<Event> {
        self.see(watched, applied(value))
    }

    fn gone(&mut self, watched: Watched, name: &str) -> Vec<Event> {
        self.see(watched, Sighting::Gone { namespace: "default".into(), name: name.into() })
    }

    /// `uid address ready mtls?` of each endpoint of the service `a`, port 80.
    fn endpoints(&self) -> Vec<String> {
        let set = self.snapshot.endpoints.get(&HostPort::new("a.default.svc.cluster.local", 80));
        let text = |e: &crate::snapshot::EndpointView| {
            let mtls = if e.pod.injected { "mtls" } else { "plain" };
            format!("{} {} {} {mtls}", e.pod.uid, e.address, if e.ready { "ready" } else { "unready" })
        };
        set.map(|set| set.endpoints.iter().map(text).collect()).unwrap_or_default()
    }
}

fn applied(value: Value) -> Sighting {
    let text =
        |field: &str| value["metadata"].get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Sighting::Apply { namespace: text("namespace"), name: text("name"), value }
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "default"},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn pod(name: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("u-{name}"), "labels": {"app": "a"},
            "annotations": {"sidecar.istio.io/status": "{}"}},
        "spec": {"serviceAccountName": "a", "nodeName": "n1", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn endpoint(ip: &str, pod: Option<&str>, ready: bool, terminating: bool) -> Value {
    let target = pod.map(|name| json!({"kind": "Pod", "name": name, "namespace": "default"}));
    json!({"addresses": [ip], "targetRef": target,
        "conditions": {"ready": ready, "serving": ready, "terminating": terminating}})
}

fn slice(endpoints: &[Value]) -> Value {
    json!({"metadata": {"name": "a-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "a",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints})
}

fn route(value: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "a", "namespace": "default"}, "spec": value})
}

fn good_route() -> Value {
    route(&json!({"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}]}))
}

#[test]
fn slices_say_who_is_there_and_pods_say_who_that_is() {
    let mut story = Story::new(LastGood::new());
    story.apply(SERVICE, service());
    story.apply(Watched::EndpointSlice, slice(&[endpoint("10.1.0.1", Some("a-1"), true, false)]));
    assert_eq!(story.endpoints(), [""; 0], "a pod that is not known yet would be plaintext");
    story.apply(POD, pod("a-1", "10.1.0.1"));
    assert_eq!(story.endpoints(), ["u-a-1 10.1.0.1:8080 ready mtls"]);
    let both =
        [endpoint("10.1.0.1", Some("a-1"), false, false), endpoint("10.1.0.2", Some("a-2"), true, false)];
    story.apply(POD, pod("a-2", "10.1.0.2"));
    story.apply(Watched::EndpointSlice, slice(&both));
    assert_eq!(
        story.endpoints(),
        ["u-a-1 10.1.0.1:8080 unready mtls", "u-a-2 10.1.0.2:8080 ready mtls"],
        "the slice says that one is not ready"
    );
    story.gone(Watched::EndpointSlice, "a-x");
    assert_eq!(story.endpoints(), [""; 0], "selected, and yet in no slice");
}

/// Each pod is one endpoint, of the family that the service has, and its first address where it has both.
#[test]
fn a_pod_of_two_families_is_one_endpoint() {
    let mut story = Story::new(LastGood::new());
    let mut both = pod("a-1", "10.1.0.1");
    both["status"]["podIPs"] = json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]);
    story.apply(SERVICE, service());
    story.apply(POD, both);
    let mut six = slice(&[endpoint("fd00::1", Some("a-1"), true, false)]);
    (six["metadata"]["name"], six["addressType"]) = ("a-six".into(), "IPv6".into());
    story.apply(Watched::EndpointSlice, six.clone());
    assert_eq!(story.endpoints(), ["u-a-1 [fd00::1]:8080 ready mtls"], "a service of IPv6 alone");
    story.apply(Watched::EndpointSlice, slice(&[endpoint("10.1.0.1", Some("a-1"), true, false)]));
    assert_eq!(story.endpoints(), ["u-a-1 10.1.0.1:8080 ready mtls"]);
    // What another pod of that name had.
    six["endpoints"] = json!([endpoint("fd00::2", Some("a-1"), true, false)]);
    story.apply(Watched::EndpointSlice, six);
    story.gone(Watched::EndpointSlice, "a-x");
    assert_eq!(story.endpoints(), [""; 0]);
}

#[test]
fn whoever_says_first_that_an_endpoint_goes_is_believed() {
    let mut story = Story::new(LastGood::new());
    story.apply(SERVICE, service());
    story.apply(POD, pod("a-1", "10.1.0.1"));
    story.apply(POD, pod("a-2", "10.1.0.2"));
    let one = |terminating| endpoint("10.1.0.1", Some("a-1"), true, terminating);
    let two = endpoint("10.1.0.2", Some("a-2"), true, false);
    story.apply(Watched::EndpointSlice, slice(&[one(false), two.clone()]));
    assert_eq!(story.endpoints().len(), 2);
    story.apply(Watched::EndpointSlice, slice(&[one(true), two]));
    assert_eq!(story.endpoints(), ["u-a-2 10.1.0.2:8080 ready mtls"]);
    let mut going = pod("a-2", "10.1.0.2");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    story.apply(POD, going);
    assert_eq!(story.endpoints(), [""; 0]);
}

#[test]
fn a_pod_that_is_unready_before_its_slice_says_so_gets_nothing_more() {
    let mut story = Story::new(LastGood::new());
    story.apply(SERVICE, service());
    story.apply(Watched::EndpointSlice, slice(&[endpoint("10.1.0.1", Some("a-1"), true, false)]));
    let mut unready = pod("a-1", "10.1.0.1");
    unready["status"]["conditions"][0]["status"] = "False".into();
    story.apply(POD, unready);
    assert_eq!(story.endpoints(), ["u-a-1 10.1.0.1:8080 unready mtls"]);
}

#[test]
fn addresses_that_are_no_pods_are_endpoints_without_a_sidecar() {
    let mut story = Story::new(LastGood::new());
    let mut without_selector = service();
    without_selector["spec"].as_object_mut().unwrap().remove("selector");
    story.apply(SERVICE, without_selector);
    let mut manual =
        slice(&[endpoint("192.0.2.7", None, true, false), endpoint("10.1.0.1", None, true, false)]);
    manual["metadata"]["labels"] = json!({"kubernetes.io/service-name": "a"});
    story.apply(Watched::EndpointSlice, manual);
    story.apply(POD, pod("a-1", "10.1.0.1"));
    assert_eq!(
        story.endpoints(),
        ["default/a/192.0.2.7 192.0.2.7:8080 ready plain", "u-a-1 10.1.0.1:8080 ready mtls"],
        "the address of a pod is that pod, whoever wrote it down"
    );
}

#[test]
fn pods_in_their_nodes_network_are_endpoints_and_nobody_is_behind_the_address() {
    let mut story = Story::new(LastGood::new());
    story.apply(SERVICE, service());
    for name in ["a-1", "a-2"] {
        let mut host = pod(name, "172.18.0.2");
        host["spec"]["hostNetwork"] = true.into();
        host["metadata"]["annotations"] = json!({});
        story.apply(POD, host);
    }
    story.apply(Watched::EndpointSlice, slice(&[endpoint("172.18.0.2", Some("a-1"), true, false)]));
    assert_eq!(story.endpoints(), ["u-a-1 172.18.0.2:8080 ready plain"]);
    assert!(story.snapshot.workloads.is_empty());
    assert_eq!(story.snapshot.pods.len(), 2, "a gateway in the node's network may have a stream");
}

#[test]
fn a_pod_is_where_its_node_is() {
    let node = |zone: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1",
        "labels": {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone}}})
    };
    let zone = |story: &Story| {
        let labels: Vec<Labels> = story.snapshot.pods.values().map(|pod| pod.labels.clone()).collect();
        labels[0].get("topology.kubernetes.io/zone").cloned()
    };
    let mut story = Story::new(LastGood::new());
    story.apply(POD, pod("a-1", "10.1.0.1"));
    assert_eq!(zone(&story), None);
    story.apply(Watched::Node, node("z1"));
    assert_eq!(zone(&story).as_deref(), Some("z1"));
    assert_eq!(story.apply(Watched::Node, node("z1")).len(), 0, "the same");
    story.apply(Watched::Node, node("z2"));
    assert_eq!(zone(&story).as_deref(), Some("z2"));
    let mut own = pod("a-1", "10.1.0.1");
    own["metadata"]["labels"]["topology.kubernetes.io/zone"] = "own".into();
    story.apply(POD, own);
    assert_eq!(zone(&story).as_deref(), Some("own"));
}

#[test]
fn a_new_listing_tells_only_what_differs() {
    let mut story = Story::new(LastGood::new());
    story.see(ROUTE, Sighting::Init);
    let mut other = good_route();
    other["metadata"]["name"] = "b".into();
    story.apply(ROUTE, good_route());
    story.apply(ROUTE, other);
    story.see(ROUTE, Sighting::InitDone);
    story.see(ROUTE, Sighting::Init);
    assert_eq!(story.apply(ROUTE, good_route()).len(), 0);
    let events = story.see(ROUTE, Sighting::InitDone);
    let gone = ObjectRef::new(Kind::VirtualService, "default", "b");
    assert!(matches!(&events[..], [Event::Delete(reference)] if *reference == gone), "{events:?}");
}

#[test]
fn a_refused_object_keeps_its_last_good_version_and_hurts_nobody() {
    let bad = || route(&json!({"hosts": ["a"], "http": [{"rout": []}]}));
    let reference = ObjectRef::new(Kind::VirtualService, "default", "a");
    let last_good = |events: &[Event]| match events {
        [.., Event::Refused(refusal)] => {
            assert_eq!(refusal.reference, reference);
            refusal.last_good
        }
        other => panic!("{other:?}"),
    };
    let mut story = Story::new(LastGood::new());
    assert!(!last_good(&story.apply(ROUTE, bad())), "never seen good");
    story.apply(ROUTE, good_route());
    assert!(last_good(&story.apply(ROUTE, bad())));
    assert_eq!(story.snapshot.config.virtual_services.len(), 1);
    // Another process, which was told of the last good version.
    let mut story = Story::new(BTreeMap::from([(reference.clone(), good_route())]));
    let events = story.apply(ROUTE, bad());
    assert!(last_good(&events) && matches!(events[1], Event::Apply(_)), "{events:?}");
    assert_eq!(story.snapshot.config.virtual_services.len(), 1);
}

#[test]
fn the_first_listing_is_done_when_each_kind_is_listed_or_not_served() {
    let mut story = Story::new(LastGood::new());
    let all: Vec<_> = Watched::all().collect();
    let last = Watched::Object(Kind::PeerAuthentication);
    for watched in all.into_iter().filter(|watched| *watched != last) {
        story.see(watched, Sighting::Init);
        story.see(watched, Sighting::InitDone);
    }
    story.see(last, Sighting::Failing("forbidden".into()));
    assert_eq!(story.merge.waiting(), ["PeerAuthentication: forbidden"]);
    assert!(!story.snapshot.loaded);
    let events = story.see(last, Sighting::Missing("not served".into()));
    let told = |events: &[Event]| match events {
        [Event::File { path, problems }, ..] => {
            (path.display().to_string(), problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>())
        }
        other => panic!("{other:?}"),
    };
    let name = "CustomResourceDefinition PeerAuthentication.security.istio.io".to_owned();
    assert_eq!(told(&events), (name.clone(), vec!["not served".to_owned()]));
    assert!(story.snapshot.loaded && story.merge.is_listed());
    story.see(last, Sighting::Init);
    assert_eq!(told(&story.see(last, Sighting::InitDone)), (name, vec![]), "it has come");
    // A hiccup of the API server takes nothing out of force.
    story.apply(ROUTE, good_route());
    story.see(ROUTE, Sighting::Missing("404".into()));
    assert_eq!(story.snapshot.config.virtual_services.len(), 1);
}

fn narrowed<S: Shape>(value: &Value) -> Value {
    let seen: Seen<S> = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(seen.meta().resource_version.as_deref(), Some("7"));
    seen.value
}

#[test]
fn only_what_is_used_stays_in_memory() {
    let metadata = json!({"name": "x", "namespace": "default", "resourceVersion": "7", "generation": 3,
        "managedFields": [{"manager": "kubectl"}], "ownerReferences": [{}],
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "1"}});
    let kept = json!({"name": "x", "namespace": "default", "generation": 3, "annotations": {"kept": "1"}});
    let object =
        json!({"metadata": metadata, "spec": {"hosts": ["a"]}, "status": {"conditions": []}, "speck": 1});
    assert_eq!(
        narrowed::<Configuration>(&object),
        json!({"metadata": kept, "spec": {"hosts": ["a"]}, "speck": 1})
    );
    let pod = json!({"metadata": metadata,
        "spec": {"volumes": [], "nodeName": "n", "containers": [{"name": "c", "env": [], "ports": [{"containerPort": 1}]}]},
        "status": {"podIP": "10.0.0.1", "containerStatuses": [],
            "conditions": [{"type": "Initialized"}, {"type": "Ready", "status": "True", "lastTransitionTime": "t"}]}});
    assert_eq!(
        narrowed::<Pods>(&pod),
        json!({"metadata": kept, "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"containerPort": 1}]}]},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}})
    );
    let secret =
        json!({"metadata": metadata, "type": "Opaque", "data": {"password": "eA==", "ca-key.pem": "eA=="}});
    assert!(
        !Secrets::matters(&narrowed::<Secrets>(&secret)),
        "passwords and authorities' keys are never held"
    );
    let secret =
        json!({"metadata": metadata, "type": "Opaque", "data": {"password": "eA==", "tls.key": "eA=="}});
    assert_eq!(narrowed::<Secrets>(&secret)["data"], json!({"tls.key": "eA=="}));
    let odd: Seen<Slices> = serde_json::from_value(json!({"metadata": "?", "endpoints": {"a": 1}})).unwrap();
    assert_eq!(odd.meta().name, None, "an odd object is no error of the page");
}

#[test]
fn an_unreadable_slice_costs_only_itself() {
    let mut story = Story::new(LastGood::new());
    story.apply(SERVICE, service());
    story.apply(POD, pod("a-1", "10.1.0.1"));
    story.apply(Watched::EndpointSlice, slice(&[endpoint("10.1.0.1", Some("a-1"), true, false)]));
    let mut odd = slice(&[]);
    odd["metadata"]["name"] = "a-y".into();
    odd["ports"] = "?".into();
    assert_eq!(story.apply(Watched::EndpointSlice, odd).len(), 0);
    assert_eq!(story.endpoints().len(), 1);
}

#[test]
fn a_secret_is_an_object_as_from_a_file() {
    let mut story = Story::new(LastGood::new());
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default"},
        "type": "kubernetes.io/tls", "data": {"tls.crt": "eA==", "tls.key": "eA=="}});
    let events = story.apply(Watched::Object(Kind::Secret), secret);
    let [_, Event::Apply(resource)] = &events[..] else { panic!("{events:?}") };
    assert!(matches!(&resource.object, Object::Secret(secret) if secret.data["tls.key"] == "eA=="));
    assert!(resource.value.is_null(), "not held twice");
}

#[test]
fn mesh_config_reaches_every_proxy() {
    use mesh_proto::wire::mesh::v1::OutboundPolicy;
    let mut story = Story::new(LastGood::new());
    story.apply(POD, pod("a-1", "10.1.0.1"));
    let told = |story: &Story| {
        let pod = story.snapshot.pods.values().next().unwrap();
        let message = crate::compile::self_config(&story.snapshot.config, pod).unwrap().message;
        let timeout: std::time::Duration = message.protocol_detection_timeout.unwrap().try_into().unwrap();
        (message.outbound_policy(), message.access_log, timeout.as_millis())
    };
    assert_eq!(told(&story), (OutboundPolicy::OutboundAllowAny, false, 2000));
    let options = MeshOptions {
        outbound: Outbound::RegistryOnly,
        access_log: true,
        detection_timeout: Some(std::time::Duration::from_millis(300)),
        ..MeshOptions::default()
    };
    story.index.apply(Event::Options(Box::new(options.clone())));
    let (snapshot, changes) = story.index.snapshot();
    assert!(changes.config);
    story.snapshot = snapshot;
    assert_eq!(told(&story), (OutboundPolicy::OutboundRegistryOnly, true, 300));
    story.index.apply(Event::Options(Box::new(options)));
    assert!(!story.index.snapshot().1.config, "the same");
}
