//! The rules of `mesh_proto::discovery`, each as a story with fake proxies on the hub.

mod large;
mod served;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_proto::discovery::REJECTED_TYPE_URL;
use mesh_proto::model::{HostPort, Kind, ResourceName, SpiffeId, TrustDomain};
use mesh_proto::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mesh_proto::wire::google::rpc::Status;
use mesh_proto::wire::mesh::v1::{self as wire, Rejected};
use parking_lot::Mutex;
use prost::Message as _;

use super::hub::{Admission, Hub, Refusal, StreamId};
use super::resources::{Compiler, Message};
use super::stream::{Outgoing, Subject};
use crate::snapshot::{Changes, Config, EndpointSet, EndpointView, Labels, MeshSettings, Pod, Snapshot};

/// Content of everything but endpoints: name → text; a destination's text lists its backends.
type World = Arc<Mutex<BTreeMap<String, String>>>;

struct Fake(World);

impl Compiler for Fake {
    fn compile(&self, snapshot: &Snapshot, subject: &Subject, name: &ResourceName) -> Option<Message> {
        if name.kind == Kind::SelfConfig {
            return Some(Message { bytes: format!("{:?}", subject.pod.labels).into(), ..Message::default() });
        }
        if name.kind == Kind::Endpoints {
            let set = snapshot.endpoints.get(&name.name().parse().unwrap())?;
            let text: Vec<_> = set.endpoints.iter().map(|e| format!("{} {}", e.address, e.ready)).collect();
            return Some(Message { bytes: text.join(",").into(), ..Message::default() });
        }
        if name.kind == Kind::Listener && !subject.viewer.router {
            return None;
        }
        let text = self.0.lock().get(&name.to_string())?.clone();
        // A Secret's text is the namespace that may have it.
        if name.kind == Kind::Secret && *text != *subject.viewer.namespace {
            return None;
        }
        let dependents = match name.kind {
            Kind::Destination | Kind::Listener => {
                text.split(' ').filter_map(|word| word.parse().ok()).collect()
            }
            _ => Vec::new(),
        };
        Some(Message { bytes: text.into(), dependents, holds: Vec::new() })
    }

    fn implicit(&self, _: &Snapshot, subject: &Subject) -> Vec<ResourceName> {
        let world = self.0.lock();
        let names = world.keys().map(|name| name.parse::<ResourceName>().unwrap());
        names
            .filter(|n| n.kind == Kind::Catalogue || (n.kind == Kind::Listener && subject.viewer.router))
            .collect()
    }
}

struct Mesh {
    hub: Arc<Hub>,
    world: World,
    snapshot: Snapshot,
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn pod(name: &str, ip: u32) -> Arc<Pod> {
    Arc::new(Pod {
        uid: Arc::from(format!("uid-{name}")),
        name: Arc::from(name),
        namespace: Arc::from("default"),
        service_account: Arc::from("app"),
        identity: SpiffeId::new(&trust_domain(), "default", "app").unwrap(),
        address: IpAddr::from((0x7f05_0000 + ip).to_be_bytes()),
        locality: Arc::from(""),
        labels: Labels::new(),
        annotations: Labels::new(),
        workload: Arc::from(name),
        ports: Vec::new(),
        ready: true,
        terminating: false,
        more_addresses: Vec::new(),
        host_network: false,
        gateway: false,
        injected: true,
        services: Vec::new(),
    })
}

fn set(name: &str, ready: &[bool]) -> (HostPort, Arc<EndpointSet>) {
    let name: HostPort = name.parse().unwrap();
    let endpoints = ready.iter().enumerate().map(|(i, ready)| EndpointView {
        name: None,
        weight: 1,
        pod: pod(&format!("{}-{i}", name.host()), 1000 + i as u32),
        address: SocketAddr::new(IpAddr::from([127, 5, (i / 250) as u8, (i % 250) as u8]), 9080),
        ready: *ready,
    });
    let endpoints = endpoints.collect();
    (name.clone(), Arc::new(EndpointSet { name, endpoints }))
}

impl Mesh {
    /// Pods client-0.., services a, b, c on port 80, each with a destination that leads to itself.
    fn new(clients: u32) -> Self {
        let world = World::default();
        let mesh = MeshSettings {
            trust_domain: trust_domain(),
            cluster_domain: Arc::from("cluster.local"),
            root_namespace: Arc::from("istio-system"),
        };
        let pods = (0..clients).map(|i| pod(&format!("client-{i}"), i));
        let pods = pods.map(|p| ((p.namespace.clone(), p.name.clone()), p)).collect();
        let sets = ["a:80", "b:80", "c:80"].map(|name| set(name, &[true, true]));
        let snapshot = Snapshot {
            config: Arc::new(Config::empty(mesh)),
            endpoints: Arc::new(sets.into_iter().collect()),
            workloads: Arc::default(),
            pods: Arc::new(pods),
            loaded: true,
        };
        let hub = Arc::new(Hub::new(Arc::new(snapshot.clone()), Box::new(Fake(world.clone()))));
        let mut mesh = Self { hub, world, snapshot };
        for name in ["a:80", "b:80", "c:80"] {
            mesh.set(&format!("destination/{name}"), name);
            mesh.set(&format!("cluster/{name}"), "policy");
        }
        mesh.set("catalogue/default", "a b c");
        mesh.configure();
        mesh
    }

    fn set(&self, name: &str, text: &str) {
        self.world.lock().insert(name.to_owned(), text.to_owned());
    }

    fn configure(&mut self) {
        let config =
            Config { revision: self.snapshot.config.revision + 1, ..(*self.snapshot.config).clone() };
        self.snapshot.config = Arc::new(config);
        let changes = Changes { config: true, ..Changes::default() };
        self.hub.publish(Arc::new(self.snapshot.clone()), &changes);
    }

    fn flip(&mut self, name: &str, ready: &[bool]) {
        let (name, set) = set(name, ready);
        Arc::make_mut(&mut self.snapshot.endpoints).insert(name.clone(), set);
        let changes = Changes { endpoints: [name].into(), ..Changes::default() };
        self.hub.publish(Arc::new(self.snapshot.clone()), &changes);
    }

    fn mark_gateway(&mut self, i: u32, gateway: bool) {
        let pod = Arc::new(Pod { gateway, ..(*pod(&format!("client-{i}"), i)).clone() });
        let key = (pod.namespace.clone(), pod.name.clone());
        Arc::make_mut(&mut self.snapshot.pods).insert(key.clone(), pod);
        let changes = Changes { pods: BTreeSet::from([key]), ..Changes::default() };
        self.hub.publish(Arc::new(self.snapshot.clone()), &changes);
    }

    fn open(&self, kind: &str, i: u32) -> StreamId {
        let id = SpiffeId::new(&trust_domain(), "default", "app").unwrap();
        let node = format!("{kind}~127.5.0.1~client-{i}.default~default.svc.cluster.local");
        match self.hub.connect(node.parse().unwrap(), &id) {
            Admission::Open(id, _) => id,
            other => panic!("{other:?}"),
        }
    }

    fn proxy(&self, i: u32, wants: &[&str]) -> Proxy<'_> {
        let proxy = Proxy::new(self, self.open("sidecar", i), wants);
        proxy.start();
        proxy
    }
}

/// What a proxy does: holds versions, answers responses.
struct Proxy<'a> {
    mesh: &'a Mesh,
    id: StreamId,
    wants: Vec<String>,
    held: HashMap<String, Arc<str>>,
    bytes: usize,
}

impl<'a> Proxy<'a> {
    fn new(mesh: &'a Mesh, id: StreamId, wants: &[&str]) -> Self {
        let wants = wants.iter().map(ToString::to_string).collect();
        Self { mesh, id, wants, held: HashMap::new(), bytes: 0 }
    }

    fn start(&self) {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: self.wants.clone(),
            initial_resource_versions: self.held.iter().map(|(k, v)| (k.clone(), v.to_string())).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.send(&request);
    }

    fn send(&self, request: &DeltaDiscoveryRequest) {
        assert!(self.mesh.hub.request(self.id, request).unwrap().is_some());
    }

    fn subscribe(&self, names: &[&str], and_not: &[&str]) {
        self.send(&DeltaDiscoveryRequest {
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            resource_names_unsubscribe: and_not.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        });
    }

    fn take(&mut self) -> Option<Outgoing> {
        let outgoing = self.mesh.hub.next(self.id)?;
        self.bytes += outgoing.resources.iter().map(|r| r.bytes.len()).sum::<usize>();
        for resource in &outgoing.resources {
            self.held.insert(resource.name.to_string(), resource.version.clone());
        }
        for name in &outgoing.removed {
            self.held.remove(name);
        }
        Some(outgoing)
    }

    fn ack(&self, outgoing: &Outgoing) {
        let response_nonce = outgoing.nonce.clone();
        self.send(&DeltaDiscoveryRequest { response_nonce, ..DeltaDiscoveryRequest::default() });
    }

    fn nack(&self, outgoing: &Outgoing, name: &str, reason: &str) {
        let rejected =
            Rejected { resource: name.to_owned(), version: String::new(), reason: reason.to_owned() };
        let detail = prost_types::Any { type_url: REJECTED_TYPE_URL.into(), value: rejected.encode_to_vec() };
        self.send(&DeltaDiscoveryRequest {
            response_nonce: outgoing.nonce.clone(),
            error_detail: Some(Status { code: 3, message: "refused".into(), details: vec![detail] }),
            ..DeltaDiscoveryRequest::default()
        });
    }

    /// Takes and acknowledges until there is nothing more; the names sent and removed, in order.
    fn settle(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut sent, mut removed) = (Vec::new(), Vec::new());
        while let Some(outgoing) = self.take() {
            sent.extend(outgoing.resources.iter().map(|r| r.name.to_string()));
            removed.extend(outgoing.removed.iter().cloned());
            self.ack(&outgoing);
        }
        (sent, removed)
    }
}

#[test]
fn one_response_brings_a_destination_with_all_that_it_names() {
    let mut mesh = Mesh::new(1);
    mesh.set("destination/a:80", "a:80 b:80 missing:80");
    mesh.configure();
    let mut proxy = mesh.proxy(0, &["destination/a:80"]);
    let outgoing = proxy.take().unwrap();
    let names: Vec<_> = outgoing.resources.iter().map(|r| r.name.to_string()).collect();
    let expected = [
        "self/self",
        "endpoints/a:80",
        "endpoints/b:80",
        "cluster/a:80",
        "cluster/b:80",
        "destination/a:80",
        "catalogue/default",
    ];
    assert_eq!(names, expected);
    assert_eq!(outgoing.removed, ["endpoints/missing:80", "cluster/missing:80"]);
    // Rule 9: at most one unanswered response.
    proxy.subscribe(&["destination/c:80"], &[]);
    assert!(proxy.take().is_none());
    proxy.ack(&outgoing);
    assert_eq!(proxy.settle().0, ["endpoints/c:80", "cluster/c:80", "destination/c:80"]);
}

#[test]
fn a_resumed_stream_that_has_everything_is_sent_nothing() {
    let mesh = Mesh::new(1);
    let mut proxy = mesh.proxy(0, &["destination/a:80", "destination/gone:80"]);
    proxy.settle();
    mesh.hub.disconnect(proxy.id);
    // Another replica, or this one after a restart.
    let again = Mesh::new(1);
    let mut resumed = Proxy::new(&again, again.open("sidecar", 0), &["destination/a:80"]);
    resumed.held = proxy.held.clone();
    resumed.start();
    assert_eq!(resumed.settle(), (vec![], vec![]));
    assert_eq!(resumed.bytes, 0);
    // And the resumed names are live: their endpoints' changes arrive.
    drop(resumed);
    let mut again = again;
    again.flip("a:80", &[true, false]);
    let mut resumed = Proxy::new(&again, again.open("sidecar", 0), &["destination/a:80"]);
    resumed.held = proxy.held;
    resumed.held.insert("catalogue/left".into(), Arc::from("1"));
    resumed.start();
    assert_eq!(resumed.settle(), (vec!["endpoints/a:80".into()], vec!["catalogue/left".into()]));
}

#[test]
fn fifty_streams_one_flip_is_one_encode_and_no_byte_to_the_others() {
    let mut mesh = Mesh::new(50);
    let ids: Vec<_> = {
        let mut proxies: Vec<_> = (0..50)
            .map(|i| mesh.proxy(i, if i == 7 { &["destination/b:80"] } else { &["destination/a:80"] }))
            .collect();
        for proxy in &mut proxies {
            proxy.settle();
        }
        proxies.into_iter().map(|proxy| proxy.id).collect()
    };
    let before = mesh.hub.encodes();
    mesh.flip("b:80", &[true, false]);
    let mut got = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        if let Some(outgoing) = mesh.hub.next(*id) {
            let names: Vec<_> = outgoing.resources.iter().map(|r| r.name.to_string()).collect();
            got.push((i, names));
        }
    }
    assert_eq!(got, [(7, vec!["endpoints/b:80".to_owned()])]);
    assert_eq!(mesh.hub.encodes() - before, 1);
}

#[test]
fn equal_variants_are_one_value_and_one_encode() {
    let mesh = Mesh::new(20);
    let mut first = None;
    let before = mesh.hub.encodes();
    for i in 0..20 {
        let mut proxy = mesh.proxy(i, &["destination/a:80"]);
        let outgoing = proxy.take().unwrap();
        let destination =
            outgoing.resources.iter().find(|r| r.name.kind == Kind::Destination).unwrap().clone();
        let first = first.get_or_insert_with(|| destination.clone());
        assert!(Arc::ptr_eq(first, &destination));
    }
    // The catalogue, the destination, its cluster and its endpoints, and each proxy's own self.
    assert_eq!(mesh.hub.encodes() - before, 4 + 20);
}

#[test]
fn a_flap_that_ends_where_it_began_while_unanswered_sends_nothing() {
    let mut mesh = Mesh::new(1);
    let id = {
        let mut proxy = mesh.proxy(0, &["destination/a:80"]);
        proxy.settle();
        proxy.id
    };
    mesh.flip("a:80", &[true, false]);
    mesh.flip("a:80", &[true, true]);
    assert!(mesh.hub.next(id).is_none());
}

#[test]
fn a_refused_version_is_not_sent_again_and_what_is_in_force_stays_fed() {
    let mut mesh = Mesh::new(1);
    let held;
    let id = {
        let mut proxy = mesh.proxy(0, &["destination/a:80"]);
        proxy.settle();
        held = proxy.held.clone();
        proxy.id
    };
    mesh.set("destination/a:80", "b:80");
    mesh.configure();
    {
        let mut proxy = Proxy::new(&mesh, id, &[]);
        let outgoing = proxy.take().unwrap();
        assert_eq!(outgoing.resources.len(), 3);
        proxy.nack(&outgoing, "destination/a:80", "too odd");
        assert!(proxy.take().is_none(), "not sent again");
        let report = &mesh.hub.proxies()[0];
        assert_eq!(report.rejected, [("destination/a:80".parse().unwrap(), Arc::from("too odd"))]);
    }
    // The proxy goes on with the old table: its endpoints (a) still come, those of b do not.
    mesh.flip("b:80", &[false, false]);
    assert!(mesh.hub.next(id).is_none());
    mesh.flip("a:80", &[false, true]);
    {
        let mut proxy = Proxy::new(&mesh, id, &[]);
        assert_eq!(proxy.settle().0, ["endpoints/a:80"]);
    }
    // A good version ends it, with b in the same response.
    mesh.set("destination/a:80", "b:80 b:80");
    mesh.configure();
    let mut proxy = Proxy::new(&mesh, id, &[]);
    proxy.held = held;
    assert_eq!(proxy.settle().0, ["endpoints/b:80", "cluster/b:80", "destination/a:80"]);
    assert!(mesh.hub.proxies()[0].rejected.is_empty());
}

#[test]
fn what_nothing_implies_any_more_is_forgotten_without_a_message() {
    let mut mesh = Mesh::new(1);
    let id = {
        let mut proxy = mesh.proxy(0, &["destination/a:80"]);
        proxy.settle();
        proxy.subscribe(&[], &["destination/a:80"]);
        assert_eq!(proxy.settle(), (vec![], vec![]));
        proxy.id
    };
    mesh.flip("a:80", &[false]);
    assert!(mesh.hub.next(id).is_none());
    let mut proxy = Proxy::new(&mesh, id, &[]);
    proxy.subscribe(&["destination/a:80"], &[]);
    assert_eq!(proxy.settle().0, ["endpoints/a:80", "cluster/a:80", "destination/a:80"]);
}

#[test]
fn deletions_and_things_that_come_to_exist() {
    let mut mesh = Mesh::new(1);
    let id = {
        let mut proxy = mesh.proxy(0, &["destination/a:80", "destination/new:80", "nonsense"]);
        assert_eq!(proxy.settle().1, ["destination/new:80", "nonsense"]);
        proxy.id
    };
    mesh.world.lock().remove("destination/a:80");
    mesh.world.lock().remove("catalogue/default");
    mesh.set("destination/new:80", "c:80");
    mesh.configure();
    let mut proxy = Proxy::new(&mesh, id, &[]);
    let (sent, removed) = proxy.settle();
    assert_eq!(sent, ["endpoints/c:80", "cluster/c:80", "destination/new:80"]);
    assert_eq!(removed, ["catalogue/default", "destination/a:80"]);
}

#[test]
fn gateways_get_their_listeners_and_all_that_these_name_unasked() {
    let mut mesh = Mesh::new(2);
    mesh.set("listener/80", "a:80 c:80");
    mesh.mark_gateway(0, true);
    mesh.configure();
    let mut gateway = Proxy::new(&mesh, mesh.open("router", 0), &[]);
    gateway.start();
    let (sent, _) = gateway.settle();
    for name in ["listener/80", "cluster/a:80", "endpoints/a:80", "cluster/c:80", "endpoints/c:80"] {
        assert!(sent.iter().any(|s| s == name), "{name} in {sent:?}");
    }
    let mut sidecar = mesh.proxy(1, &[]);
    assert_eq!(sidecar.settle().0, ["self/self", "catalogue/default"]);
}

/// A sidecar that calls itself a gateway would be given the private keys of the gateways in its namespace.
#[test]
fn only_the_pod_of_a_gateway_is_served_as_one() {
    let mut mesh = Mesh::new(1);
    mesh.set("listener/80", "a:80");
    mesh.configure();
    let id = SpiffeId::new(&trust_domain(), "default", "app").unwrap();
    let node = || "router~127.5.0.1~client-0.default~default.svc.cluster.local".parse().unwrap();
    let refused = mesh.hub.connect(node(), &id);
    let Admission::Refused(refusal @ Refusal::NoGateway(_)) = refused else { panic!("{refused:?}") };
    assert!(refusal.to_string().contains("default/client-0 is no gateway"), "{refusal}");
    mesh.mark_gateway(0, true);
    let stream = {
        let mut gateway = Proxy::new(&mesh, mesh.open("router", 0), &[]);
        gateway.start();
        assert!(gateway.settle().0.contains(&"listener/80".to_owned()));
        gateway.id
    };
    mesh.mark_gateway(0, false);
    let mut gateway = Proxy::new(&mesh, stream, &[]);
    assert_eq!(gateway.settle().1, ["listener/80"], "what it was given as a gateway is taken back");
}

#[test]
fn nothing_is_sent_before_the_first_listing_is_done() {
    let mut mesh = Mesh::new(1);
    mesh.snapshot.loaded = false;
    mesh.configure();
    let id = {
        let mut proxy = mesh.proxy(0, &["destination/a:80"]);
        assert!(proxy.take().is_none());
        proxy.id
    };
    mesh.snapshot.loaded = true;
    mesh.hub.publish(Arc::new(mesh.snapshot.clone()), &Changes::default());
    assert!(mesh.hub.next(id).is_some());
}

#[test]
fn only_the_certificate_of_the_pod_opens_its_stream() {
    let mesh = Mesh::new(1);
    let node =
        |pod: &str| format!("sidecar~127.5.0.1~{pod}.default~default.svc.cluster.local").parse().unwrap();
    let other = SpiffeId::new(&trust_domain(), "default", "other").unwrap();
    assert!(matches!(
        mesh.hub.connect(node("client-0"), &other),
        Admission::Refused(Refusal::Identity { .. })
    ));
    assert!(matches!(mesh.hub.connect(node("nobody"), &other), Admission::UnknownPod));
    let first = mesh.open("sidecar", 0);
    let second = mesh.open("sidecar", 0);
    assert!(!mesh.hub.is_open(first) && mesh.hub.is_open(second), "a new stream replaces the old one");
}

/// C1: what one proxy has been sent is nobody else's, whoever has asked first.
#[test]
fn c1_a_secret_that_is_known_already_is_still_not_everybodys() {
    const NAME: &str = "secret/default/c";
    let mut mesh = Mesh::new(1);
    let stranger = SpiffeId::new(&trust_domain(), "money", "app").unwrap();
    let other = Pod {
        namespace: Arc::from("money"),
        name: Arc::from("edge"),
        uid: Arc::from("uid-edge"),
        identity: stranger.clone(),
        gateway: true,
        ..(*pod("edge", 7)).clone()
    };
    mesh.mark_gateway(0, true);
    let key = (other.namespace.clone(), other.name.clone());
    Arc::make_mut(&mut mesh.snapshot.pods).insert(key, Arc::new(other));
    mesh.set("secret/default/c", "default");
    mesh.configure();
    let theirs = || {
        let node = "router~127.5.0.8~edge.money~money.svc.cluster.local".parse().unwrap();
        let Admission::Open(id, _) = mesh.hub.connect(node, &stranger) else { panic!("it is let in") };
        let mut proxy = Proxy::new(&mesh, id, &[NAME]);
        proxy.start();
        proxy.settle();
        proxy.held.contains_key(NAME)
    };
    let ours = || {
        let mut proxy = Proxy::new(&mesh, mesh.open("router", 0), &[NAME]);
        proxy.start();
        proxy.settle();
        proxy.held.contains_key(NAME)
    };
    assert_eq!([theirs(), ours(), theirs(), ours()], [false, true, false, true]);
}

#[test]
fn a_changed_label_is_a_new_self_and_a_new_bundle_goes_to_everyone() {
    let mut mesh = Mesh::new(1);
    let id = {
        let mut proxy = mesh.proxy(0, &[]);
        proxy.settle();
        proxy.id
    };
    let mut pod = (*pod("client-0", 0)).clone();
    pod.labels.insert("version".into(), "v2".into());
    let key = (pod.namespace.clone(), pod.name.clone());
    Arc::make_mut(&mut mesh.snapshot.pods).insert(key.clone(), Arc::new(pod));
    let changes = Changes { pods: BTreeSet::from([key]), ..Changes::default() };
    mesh.hub.publish(Arc::new(mesh.snapshot.clone()), &changes);
    mesh.hub.set_trust(vec![bundle(&[])]);
    assert_eq!(mesh.hub.trust_coverage().1.len(), 1, "told, not acknowledged");
    let mut proxy = Proxy::new(&mesh, id, &[]);
    assert_eq!(proxy.settle().0, ["trust_bundle/cluster.local", "self/self"]);
    assert_eq!(mesh.hub.trust_coverage(), (1, Vec::new()));
}

fn bundle(tainted: &[&str]) -> wire::TrustBundle {
    wire::TrustBundle {
        trust_domain: "cluster.local".into(),
        roots: vec![bytes::Bytes::from_static(&[1, 2, 3])],
        tainted: tainted.iter().map(|id| (*id).to_owned()).collect(),
        ..wire::TrustBundle::default()
    }
}

/// T11: who is revoked by name learns nothing more, and everybody else hears of it.
#[test]
fn a_tainted_identity_loses_its_stream_and_a_bundle_that_is_gone_is_taken_back() {
    let mut mesh = Mesh::new(2);
    let identity = SpiffeId::new(&trust_domain(), "default", "stolen").unwrap();
    let stolen = Arc::new(Pod { identity: identity.clone(), ..(*pod("client-0", 0)).clone() });
    let key = (stolen.namespace.clone(), stolen.name.clone());
    Arc::make_mut(&mut mesh.snapshot.pods).insert(key.clone(), stolen);
    let changes = Changes { pods: BTreeSet::from([key]), ..Changes::default() };
    mesh.hub.publish(Arc::new(mesh.snapshot.clone()), &changes);
    mesh.hub.set_trust(vec![bundle(&[])]);
    let node = || "sidecar~127.5.0.1~client-0.default~default.svc.cluster.local".parse().unwrap();
    let Admission::Open(one, _) = mesh.hub.connect(node(), &identity) else { panic!("its own pod") };
    let other = mesh.open("sidecar", 1);
    let foreign = wire::TrustBundle { trust_domain: "b.test".into(), ..bundle(&[]) };
    mesh.hub.set_trust(vec![bundle(&["spiffe://cluster.local/ns/x/sa/y"]), foreign]);
    assert!(mesh.hub.is_open(one) && mesh.hub.is_open(other));
    let mut proxy = Proxy::new(&mesh, other, &[]);
    proxy.start();
    assert!(proxy.settle().0.contains(&"trust_bundle/b.test".to_owned()));
    mesh.hub.set_trust(vec![bundle(&[identity.as_str()])]);
    assert!(!mesh.hub.is_open(one), "its identity is refused");
    assert!(
        matches!(mesh.hub.connect(node(), &identity), Admission::Refused(Refusal::Tainted(_))),
        "nor opens another"
    );
    let (changed, removed) = proxy.settle();
    assert_eq!(
        (changed, removed),
        (vec!["trust_bundle/cluster.local".into()], vec!["trust_bundle/b.test".into()])
    );
    mesh.hub.set_trust(vec![bundle(&[])]);
    assert!(matches!(mesh.hub.connect(node(), &identity), Admission::Open(..)), "until it is not any more");
}

/// Design §8: 1,000 streams, 2 % subscribed, 10,000 endpoints: one flip is one encode and nothing to the other 98 %.
#[test]
fn a_thousand_streams_and_ten_thousand_endpoints() {
    let mut mesh = Mesh::new(1000);
    let mut ready = vec![true; 10_000];
    mesh.flip("b:80", &ready);
    let ids: Vec<_> = (0..1000)
        .map(|i| {
            let mut proxy =
                mesh.proxy(i, if i % 50 == 0 { &["destination/b:80"] } else { &["destination/a:80"] });
            proxy.settle();
            proxy.id
        })
        .collect();
    let before = mesh.hub.encodes();
    ready[77] = false;
    mesh.flip("b:80", &ready);
    let sent: Vec<_> = ids.iter().filter_map(|id| mesh.hub.next(*id)).collect();
    assert_eq!((sent.len(), mesh.hub.encodes() - before), (20, 1));
    let one = &sent[0].resources[0];
    assert!(sent.iter().all(|out| out.resources.len() == 1 && Arc::ptr_eq(one, &out.resources[0])));
}
