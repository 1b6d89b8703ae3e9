//! The proxy's client and the pilot's streams against each other: do both keep the rules of `mesh_proto::discovery`?

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mesh_pilot::push::{Compiler, Discovery, Hub, Message, Subject};
use mesh_pilot::snapshot::{Changes, Config, EndpointSet, EndpointView, Labels, MeshSettings, Pod, Snapshot};
use mesh_proto::model::{HostPort, Kind, ResourceName, SpiffeId};
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{drain, grpc};
use mesh_proto::wire::mesh::v1 as wire;
use mesh_proxy::store::writer::Writer;
use mesh_proxy::store::{Demand, Place, Store};
use mesh_proxy::xds::{self, Client, Disk};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinHandle;
use tonic::service::Routes;

const PATIENCE: Duration = Duration::from_secs(20);

/// name → encoded message and its clusters.
type World = Arc<Mutex<BTreeMap<String, (Vec<u8>, Vec<HostPort>)>>>;

struct Fake(World);

impl Compiler for Fake {
    fn compile(&self, snapshot: &Snapshot, _: &Subject, name: &ResourceName) -> Option<Message> {
        if name.kind == Kind::Endpoints {
            let set = snapshot.endpoints.get(&name.name().parse().ok()?)?;
            let endpoints = set.endpoints.iter().map(|e| wire::Endpoint {
                uid: e.pod.uid.to_string(),
                address: e.address.to_string(),
                ready: e.ready,
                ..Default::default()
            });
            let bytes = wire::Endpoints { endpoints: endpoints.collect() }.encode_to_vec();
            return Some(Message { bytes, ..Message::default() });
        }
        let (bytes, dependents) = self.0.lock().get(&name.to_string())?.clone();
        Some(Message { bytes, dependents, holds: Vec::new() })
    }

    fn implicit(&self, _: &Snapshot, _: &Subject) -> Vec<ResourceName> {
        let world = self.0.lock();
        let names = world.keys().map(|name| name.parse::<ResourceName>().unwrap());
        names.filter(|n| matches!(n.kind, Kind::Catalogue)).collect()
    }
}

fn pod(name: &str, ip: &str) -> Arc<Pod> {
    Arc::new(Pod {
        gateway: false,
        uid: Arc::from(format!("uid-{name}")),
        name: Arc::from(name),
        namespace: Arc::from("default"),
        service_account: Arc::from("app"),
        identity: SpiffeId::new(&"cluster.local".parse().unwrap(), "default", "app").unwrap(),
        address: ip.parse().unwrap(),
        more_addresses: Vec::new(),
        locality: Arc::from(""),
        labels: Labels::new(),
        annotations: Labels::new(),
        workload: Arc::from(name),
        ports: Vec::new(),
        ready: true,
        terminating: false,
        injected: true,
        host_network: false,
        services: Vec::new(),
    })
}

struct Pilot {
    hub: Arc<Hub>,
    world: World,
    snapshot: Snapshot,
    address: SocketAddr,
    /// Of its own, so that it can die with every connection.
    server: tokio::runtime::Runtime,
}

impl Pilot {
    async fn start(ca: &TestCa, at: Option<SocketAddr>, world: World) -> Self {
        let mesh = MeshSettings {
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_domain: Arc::from("cluster.local"),
            root_namespace: Arc::from("istio-system"),
        };
        let client = pod("client-0", "127.0.0.1");
        let snapshot = Snapshot {
            config: Arc::new(Config::empty(mesh)),
            endpoints: Arc::default(),
            workloads: Arc::default(),
            pods: Arc::new([((client.namespace.clone(), client.name.clone()), client)].into()),
            loaded: true,
        };
        let hub = Arc::new(Hub::new(Arc::new(snapshot.clone()), Box::new(Fake(world.clone()))));
        let bundle = mesh_proto::wire::mesh::v1::TrustBundle {
            trust_domain: "cluster.local".to_owned(),
            roots: vec![ca.root_der().to_vec().into()],
            ..Default::default()
        };
        hub.set_trust(vec![bundle]);
        let listener = std::net::TcpListener::bind(at.unwrap_or("127.0.0.1:0".parse().unwrap())).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let identity = Identity::new(ca.leaf("istio-system", "mesh-pilot"), ca.roots_handle());
        let config = server_config(&identity, ClientAuth::Required, &[b"h2"]);
        let routes = Routes::new(Discovery::service(hub.clone(), broadcast::channel(16).0));
        let server =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        server.spawn(async move {
            let (_drain, watch) = drain::channel();
            grpc::serve(TcpListener::from_std(listener).unwrap(), config, routes, watch).await;
        });
        Self { hub, world, snapshot, address, server }
    }

    fn configure(&mut self) {
        let revision = self.snapshot.config.revision + 1;
        self.snapshot.config = Arc::new(Config { revision, ..(*self.snapshot.config).clone() });
        let changes = Changes { config: true, ..Changes::default() };
        self.hub.publish(Arc::new(self.snapshot.clone()), &changes);
    }

    fn endpoints(&mut self, name: &str, ready: &[bool]) {
        let name: HostPort = name.parse().unwrap();
        let endpoints = ready.iter().enumerate().map(|(i, ready)| EndpointView {
            name: None,
            weight: 1,
            pod: pod(&format!("{}-{i}", name.host()), &format!("127.0.1.{i}")),
            address: SocketAddr::new(IpAddr::from([127, 0, 1, i as u8]), 80),
            ready: *ready,
        });
        let set = Arc::new(EndpointSet { name: name.clone(), endpoints: endpoints.collect() });
        Arc::make_mut(&mut self.snapshot.endpoints).insert(name.clone(), set);
        let changes = Changes { endpoints: [name].into(), ..Changes::default() };
        self.hub.publish(Arc::new(self.snapshot.clone()), &changes);
    }

    async fn synced(&self) {
        eventually("synced", || {
            let reports = self.hub.proxies();
            reports.len() == 1 && reports[0].pending == 0
        })
        .await;
    }

    async fn stop(self) -> SocketAddr {
        let server = self.server;
        tokio::task::spawn_blocking(move || server.shutdown_timeout(PATIENCE)).await.unwrap();
        self.address
    }
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let waiting = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect(what);
}

fn put(world: &World, name: &str, message: &impl prost::Message, dependents: &[&str]) {
    let dependents = dependents.iter().map(|d| d.parse().unwrap()).collect();
    world.lock().insert(name.to_owned(), (message.encode_to_vec(), dependents));
}

fn host(name: &str) -> Option<wire::HostPort> {
    Some((&name.parse::<HostPort>().unwrap()).into())
}

fn put_destination(world: &World, name: &str, backends: &[&str]) {
    let rules = backends.iter().map(|cluster| wire::Rule {
        action: Some(wire::rule::Action::Route(wire::RouteAction {
            backends: vec![wire::WeightedBackend { cluster: host(cluster), weight: 1, ..Default::default() }],
            ..Default::default()
        })),
        ..Default::default()
    });
    let table = wire::RouteTable { rules: rules.collect(), origin: None };
    let message = wire::Destination { name: host(name), http: Some(table), ..Default::default() };
    put(world, &format!("destination/{name}"), &message, backends);
}

fn put_cluster(world: &World, name: &str) {
    let message = wire::Cluster { name: host(name), ..Default::default() };
    put(world, &format!("cluster/{name}"), &message, &[]);
}

fn world() -> World {
    let world = World::default();
    let own = wire::SelfConfig {
        identity: "spiffe://cluster.local/ns/default/sa/app".into(),
        ..Default::default()
    };
    put(&world, "self/self", &own, &[]);
    put(&world, "catalogue/default", &wire::Catalogue::default(), &[]);
    for name in ["a:80", "b:80"] {
        put_destination(&world, name, &[name]);
        put_cluster(&world, name);
    }
    world
}

struct Proxy {
    store: Arc<Store>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Proxy {
    fn start(ca: &TestCa, pilot: SocketAddr, dir: &Path) -> Self {
        let identity = Identity::new(ca.leaf("default", "app"), ca.roots_handle());
        let (store, asked) = Store::new(Place {
            mounts: Vec::new(),
            namespace: "default".into(),
            pod_ip: "127.0.0.1".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            workers: 1,
            gateway: false,
        });
        let writer = Writer::new(store.clone(), identity.roots_handle().clone());
        let node = xds::Node {
            gateway: false,
            ip: "127.0.0.1".parse().unwrap(),
            pod: "client-0".into(),
            namespace: "default".into(),
            cluster_domain: "cluster.local".into(),
        };
        let expected = mesh_proto::runtime::certificates::pilot_id(identity.id().trust_domain());
        let channel = xds::channel(&pilot.to_string().parse().unwrap(), expected, &identity).unwrap();
        let disk = Disk::open(dir, "uid-client-0").unwrap();
        let client = Client::new(channel, node, writer, asked, Some(disk));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(client.run(async {
            let _ = stopped.await;
        }));
        Self { store, stop, task }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }

    async fn ready(&self) {
        let mut readiness = self.store.readiness();
        let ready = readiness.wait_for(|r| r.ready());
        tokio::time::timeout(PATIENCE, ready).await.expect("ready").unwrap();
    }

    async fn demand(&self, name: &str) -> Result<(), Demand> {
        self.store.demand(&name.parse().unwrap()).await.map(|_| ())
    }

    /// The clusters that a destination leads to, and how many ready endpoints each has.
    fn routes(&self, name: &str) -> Vec<(String, usize)> {
        let cell = self.store.destination(&name.parse().unwrap()).unwrap();
        let Some(destination) = cell.load_full() else { return Vec::new() };
        let ready = |c: &mesh_proxy::cluster::ClusterHandle| {
            c.load_full().map_or(999, |view| view.endpoints().iter().filter(|e| e.ready).count())
        };
        destination.http.clusters().map(|c| (c.name().to_string(), ready(c))).collect()
    }

    async fn leads(&self, name: &str, to: &[(&str, usize)]) {
        let to: Vec<_> = to.iter().map(|(c, n)| ((*c).to_owned(), *n)).collect();
        let what = format!("{name} leads to {to:?}");
        let done = tokio::time::timeout(PATIENCE, async {
            while self.routes(name) != to {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(done.await.is_ok(), "{what}, not {:?}", self.routes(name));
    }
}

#[allow(clippy::too_many_lines)] // one story, told in its order
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_keep_the_rules() {
    let ca = TestCa::new();
    let dir = tempfile::tempdir().unwrap();
    let mut pilot = Pilot::start(&ca, None, world()).await;
    pilot.endpoints("a:80", &[true, true]);
    pilot.endpoints("b:80", &[true]);
    let proxy = Proxy::start(&ca, pilot.address, dir.path());
    proxy.ready().await;
    pilot.synced().await;

    // On demand, with everything implied.
    assert_eq!(proxy.demand("a:80").await, Ok(()));
    proxy.leads("a:80", &[("a:80", 2)]).await;
    assert!(matches!(proxy.demand("nothing:80").await, Err(Demand::Absent(_))));
    // One endpoint's flip.
    pilot.endpoints("a:80", &[true, false]);
    proxy.leads("a:80", &[("a:80", 1)]).await;
    // To another cluster, and back: what was forgotten comes again.
    for _ in 0..3 {
        put_destination(&pilot.world, "a:80", &["b:80"]);
        pilot.configure();
        proxy.leads("a:80", &[("b:80", 1)]).await;
        put_destination(&pilot.world, "a:80", &["a:80", "b:80"]);
        pilot.configure();
        proxy.leads("a:80", &[("a:80", 1), ("b:80", 1)]).await;
    }
    // A backend that does not exist, and then does.
    put_destination(&pilot.world, "a:80", &["c:80"]);
    pilot.configure();
    proxy.leads("a:80", &[("c:80", 999)]).await;
    put_cluster(&pilot.world, "c:80");
    pilot.endpoints("c:80", &[true, true, true]);
    pilot.configure();
    proxy.leads("a:80", &[("c:80", 3)]).await;
    // Refused: the old one serves, also with its endpoints' changes.
    let newer =
        wire::Destination { name: host("a:80"), requires: vec!["quantum".into()], ..Default::default() };
    put(&pilot.world, "destination/a:80", &newer, &[]);
    pilot.configure();
    eventually("rejected", || pilot.hub.proxies()[0].rejected.len() == 1).await;
    pilot.endpoints("c:80", &[true]);
    proxy.leads("a:80", &[("c:80", 1)]).await;
    // Gone, and there again.
    pilot.world.lock().remove("destination/a:80");
    pilot.configure();
    eventually("absent", || proxy.routes("a:80").is_empty()).await;
    assert!(matches!(proxy.demand("a:80").await, Err(Demand::Absent(_))));
    put_destination(&pilot.world, "a:80", &["c:80"]);
    pilot.configure();
    proxy.leads("a:80", &[("c:80", 1)]).await;
    // The name that did not exist.
    put_destination(&pilot.world, "nothing:80", &["b:80"]);
    pilot.configure();
    proxy.leads("nothing:80", &[("b:80", 1)]).await;
    pilot.synced().await;

    // The proxy is restarted: it is served what it had, and sent nothing.
    proxy.stop().await;
    let before = pilot.hub.encodes();
    let proxy = Proxy::start(&ca, pilot.address, dir.path());
    proxy.leads("a:80", &[("c:80", 1)]).await;
    eventually("connected", || pilot.hub.proxies().len() == 1).await;
    pilot.synced().await;
    assert_eq!(pilot.hub.encodes(), before);
    // And hears of the next change.
    pilot.endpoints("c:80", &[true, true]);
    proxy.leads("a:80", &[("c:80", 2)]).await;

    // The pilot is away; it comes back with a change.
    let (world, endpoints) = (pilot.world.clone(), pilot.snapshot.endpoints.clone());
    let address = pilot.stop().await;
    assert!(matches!(proxy.demand("b:80").await, Err(Demand::Timeout(_))));
    proxy.leads("a:80", &[("c:80", 2)]).await;
    put_destination(&world, "a:80", &["b:80"]);
    let mut pilot = Pilot::start(&ca, Some(address), world).await;
    pilot.snapshot.endpoints = endpoints;
    pilot.endpoints("b:80", &[true, true]);
    pilot.configure();
    proxy.leads("a:80", &[("b:80", 2)]).await;
    proxy.leads("b:80", &[("b:80", 2)]).await;
    pilot.synced().await;
    proxy.stop().await;
    pilot.stop().await;
}
