//! Proxies in threads of this process, each pod in a /24 of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

use mesh_proto::model::Kind;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::wire::mesh::v1 as wire;
use mesh_proxy::app;
use mesh_proxy::config::{Agent, Config};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use wire::{MtlsMode, Protocol};

use super::eventually;
use super::fake_ca::FakeCa;
use super::fake_pilot::FakePilot;

/// How long a proxy waits for a client's first byte before it takes it for one that has none. Nothing here may depend on that.
pub const DETECTION: std::time::Duration = std::time::Duration::from_secs(3600);

/// The container port of every pod's application.
pub const PORT: u16 = 9080;

static NEXT: AtomicU8 = AtomicU8::new(1);

/// A mesh without proxies yet.
pub struct Mesh {
    pub ca: TestCa,
    pub authority: FakeCa,
    pub pilot: FakePilot,
    /// For proxies that are started from now on; none: the machine's.
    pub name_servers: Vec<SocketAddr>,
    dir: TempDir,
    catalogue: Mutex<Vec<wire::CatalogueEntry>>,
}

/// A pod: its proxy runs.
pub struct Pod {
    pub name: String,
    pub account: String,
    pub ip: IpAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What a pod is like.
pub struct Spec<'a> {
    pub name: &'a str,
    pub account: &'a str,
    pub app: SocketAddr,
    pub protocol: Protocol,
    pub mtls: MtlsMode,
    pub workers: usize,
    pub gateway: bool,
    /// As in a Kubernetes pod: port 15020, with the drain token `token`.
    pub agent: bool,
}

impl<'a> Spec<'a> {
    pub fn new(name: &'a str, app: SocketAddr) -> Self {
        Self {
            name,
            account: name,
            app,
            protocol: Protocol::Http,
            mtls: MtlsMode::MtlsPermissive,
            workers: 1,
            gateway: false,
            agent: false,
        }
    }
}

/// A service as the catalogue shows it.
pub struct ServiceSpec<'a> {
    pub name: &'a str,
    pub port: u16,
    pub vip: u8,
    pub protocol: Protocol,
    pub pods: Vec<&'a Pod>,
}

impl Mesh {
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into()).await
    }

    /// With its authority and pilot at `ip`.
    pub async fn start_at(ip: IpAddr) -> Self {
        let ca = TestCa::new();
        let (authority, pilot) = (FakeCa::start(&ca, ip).await, FakePilot::start(&ca, ip).await);
        let bundle = wire::TrustBundle {
            trust_domain: "cluster.local".into(),
            roots: vec![ca.root_der().to_vec().into()],
            ..wire::TrustBundle::default()
        };
        pilot.publish(Kind::TrustBundle, "cluster.local", &bundle);
        pilot.publish(Kind::Catalogue, "default", &wire::Catalogue::default());
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("root.pem"), ca.root_pem()).unwrap();
        Self { ca, authority, pilot, name_servers: Vec::new(), dir, catalogue: Mutex::default() }
    }

    /// The settings of a pod as a test publishes them.
    pub fn self_config(spec: &Spec<'_>) -> wire::SelfConfig {
        wire::SelfConfig {
            identity: format!("spiffe://cluster.local/ns/default/sa/{}", spec.account),
            facts: Some(facts(spec.name)),
            service_account: spec.account.into(),
            mtls: spec.mtls.into(),
            ports: vec![wire::InboundPort {
                port: PORT.into(),
                protocol: spec.protocol.into(),
                name: String::new(),
                services: vec![service_ref(spec.name)],
            }],
            protocol_detection_timeout: prost_types::Duration::try_from(DETECTION).ok(),
            outbound_policy: wire::OutboundPolicy::OutboundAllowAny.into(),
            cluster_domain: "cluster.local".into(),
            ..Default::default()
        }
    }

    /// Starts a pod's proxy and waits until it is ready.
    pub async fn pod(&self, spec: Spec<'_>) -> Pod {
        self.pilot.publish_self(spec.name, &Self::self_config(&spec));
        let pod = self.launch(&spec);
        let status = SocketAddr::new(pod.ip, 15021);
        eventually("ready", || async move {
            super::client::get(status, "status", "/healthz/ready").await.is_ok_and(|a| a.status == 200)
        })
        .await;
        pod
    }

    /// Starts a pod's proxy.
    pub fn launch(&self, spec: &Spec<'_>) -> Pod {
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        let net = 100 + (std::process::id() % 100) as u8;
        let ip = Ipv4Addr::new(127, net, index, 1);
        let token = self.dir.path().join(format!("{}.token", spec.name));
        std::fs::write(&token, format!("spiffe://cluster.local/ns/default/sa/{}", spec.account)).unwrap();
        let state = self.dir.path().join(spec.name);
        let kind = if spec.gateway { "router" } else { "sidecar" };
        let mut config = serde_json::json!({
            "node": {"kind": kind, "name": spec.name, "namespace": "default",
                     "service_account": spec.account, "uid": spec.name},
            "trust_domain": "cluster.local", "cluster_domain": "cluster.local", "pod_ip": ip,
            "ca": {"address": self.authority.address, "roots": self.dir.path().join("root.pem"), "token": token},
            "pilot": {"address": self.pilot.address},
            "status": format!("{ip}:15021"), "metrics": format!("{ip}:15090"), "admin": format!("{ip}:15000"),
            "state_dir": state, "workers": spec.workers,
        });
        if spec.gateway {
            config["gateway"] = serde_json::json!({"listen_ip": ip, "port_offset": 8000});
        } else {
            config["inbound"] =
                serde_json::json!([{"listen": format!("{ip}:{PORT}"), "port": PORT, "target": spec.app}]);
            config["outbound"] = serde_json::json!({"http_proxy": format!("{ip}:15001"),
                "vips": {"from": "10.99.0.0/24", "to": format!("127.{net}.{index}.0/24")}});
        }
        let mut config: Config = serde_json::from_value(config).unwrap();
        config.name_servers.clone_from(&self.name_servers);
        config.agent = spec.agent.then(|| Agent {
            listen: SocketAddr::new(ip.into(), 15020),
            drain_token: Some("token".into()),
            probes: std::collections::BTreeMap::new(),
            scrape: None,
        });
        self.run(spec, ip.into(), config, || {})
    }

    /// Starts the proxy of a pod whose network namespace `enter` enters, and where the rules capture everything.
    pub fn launch_captured(
        &self,
        spec: &Spec<'_>,
        ip: IpAddr,
        tproxy: bool,
        enter: impl FnOnce() + Send + 'static,
    ) -> Pod {
        let token = self.dir.path().join(format!("{}.token", spec.name));
        std::fs::write(&token, format!("spiffe://cluster.local/ns/default/sa/{}", spec.account)).unwrap();
        let config = serde_json::json!({
            "node": {"kind": "sidecar", "name": spec.name, "namespace": "default",
                     "service_account": spec.account, "uid": spec.name},
            "trust_domain": "cluster.local", "cluster_domain": "cluster.local", "pod_ip": ip,
            "ca": {"address": self.authority.address, "roots": self.dir.path().join("root.pem"), "token": token},
            "pilot": {"address": self.pilot.address},
            "capture": {"outbound": "0.0.0.0:15001", "inbound": "0.0.0.0:15006", "tproxy": tproxy},
            "status": "0.0.0.0:15021", "metrics": "0.0.0.0:15090", "admin": "127.0.0.1:15000",
            "state_dir": self.dir.path().join(spec.name), "workers": spec.workers,
        });
        self.run(spec, ip, serde_json::from_value(config).unwrap(), enter)
    }

    /// The environment of a container `istio-proxy`, with files that are `user`'s: nobody else reads the token.
    pub fn container(&self, spec: &Spec<'_>, ips: &str, user: u32) -> Vec<(&'static str, String)> {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let path = |name: String| self.dir.path().join(name);
        let (token, state) = (path(format!("{}.token", spec.name)), self.state_of(spec.name));
        std::fs::write(&token, format!("spiffe://cluster.local/ns/default/sa/{}", spec.account)).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        for path in [&token, &state] {
            chown(path, Some(user), None).unwrap();
        }
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o400)).unwrap();
        vec![
            ("PATH", std::env::var("PATH").unwrap_or_default()),
            ("POD_NAME", spec.name.into()),
            ("POD_NAMESPACE", "default".into()),
            ("POD_UID", spec.name.into()),
            ("SERVICE_ACCOUNT", spec.account.into()),
            ("INSTANCE_IPS", ips.into()),
            ("CA_ADDR", self.authority.address.to_string()),
            ("PILOT_ADDR", self.pilot.address.to_string()),
            ("MESH_ROOTS", path("root.pem".into()).display().to_string()),
            ("MESH_TOKEN", token.display().to_string()),
            ("MESH_STATE", state.display().to_string()),
        ]
    }

    fn run(&self, spec: &Spec<'_>, ip: IpAddr, config: Config, enter: impl FnOnce() + Send + 'static) -> Pod {
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            enter();
            app::run_until(config, async move {
                let _ = stopped.await;
            })
        });
        Pod {
            name: spec.name.into(),
            account: spec.account.into(),
            ip,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where a pod's proxy keeps its state.
    pub fn state_of(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Publishes a service with its pods.
    pub fn service(&self, spec: &ServiceSpec<'_>) {
        self.routed_service(spec, default_route(spec.name, spec.port));
    }

    /// Publishes a service with routes of its own.
    pub fn routed_service(&self, spec: &ServiceSpec<'_>, http: wire::RouteTable) {
        let host = host(spec.name);
        let name = format!("{host}:{}", spec.port);
        let host_port = Some(wire::HostPort { host, port: spec.port.into() });
        let backend = wire::WeightedBackend { cluster: host_port.clone(), weight: 1, ..Default::default() };
        let destination = wire::Destination {
            name: host_port.clone(),
            http: Some(http),
            tcp: vec![wire::TcpRule { backends: vec![backend], ..Default::default() }],
            protocol: spec.protocol.into(),
            service: Some(service_ref(spec.name)),
            ..Default::default()
        };
        let cluster = wire::Cluster {
            name: host_port,
            policy: Some(policy()),
            protocol: spec.protocol.into(),
            service: Some(service_ref(spec.name)),
            ..Default::default()
        };
        self.pilot.publish(Kind::Endpoints, &name, &endpoints(&spec.pods));
        self.pilot.publish(Kind::Cluster, &name, &cluster);
        self.pilot.publish(Kind::Destination, &name, &destination);
        self.announce(spec);
    }

    /// Takes a service out of the catalogue.
    pub fn withdraw(&self, name: &str) {
        let mut entries = self.catalogue.lock();
        entries.retain(|e| e.host != host(name));
        let catalogue = wire::Catalogue { entries: entries.clone() };
        self.pilot.publish(Kind::Catalogue, "default", &catalogue);
    }

    /// Puts a service into the catalogue, without contents.
    pub fn announce(&self, spec: &ServiceSpec<'_>) {
        self.announce_entry(wire::CatalogueEntry {
            host: host(spec.name),
            vips: vec![format!("10.99.0.{}", spec.vip)],
            ports: vec![wire::CataloguePort {
                number: spec.port.into(),
                protocol: spec.protocol.into(),
                name: String::new(),
            }],
            ..Default::default()
        });
    }

    /// Puts a name into the catalogue.
    pub fn announce_entry(&self, entry: wire::CatalogueEntry) {
        let mut entries = self.catalogue.lock();
        entries.retain(|e| e.host != entry.host);
        entries.push(entry);
        entries.sort_by(|a, b| a.host.cmp(&b.host));
        let catalogue = wire::Catalogue { entries: entries.clone() };
        self.pilot.publish(Kind::Catalogue, "default", &catalogue);
    }
}

impl Pod {
    /// The HTTP proxy port.
    pub fn proxy(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 15001)
    }

    /// Where the mesh reaches its application.
    pub fn inbound(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT)
    }

    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 15000)
    }

    pub fn agent(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 15020)
    }

    pub fn metrics(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 15090)
    }

    /// This pod's own listener for the service with VIP 10.99.0.`vip`.
    pub fn vip(&self, vip: u8, port: u16) -> SocketAddr {
        let IpAddr::V4(ip) = self.ip else { panic!("an IPv4 address") };
        let [a, b, c, _] = ip.octets();
        SocketAddr::from((Ipv4Addr::new(a, b, c, vip), port))
    }

    /// As an endpoint.
    pub fn endpoint(&self) -> wire::Endpoint {
        wire::Endpoint {
            uid: self.name.clone(),
            address: self.inbound().to_string(),
            identity: format!("spiffe://cluster.local/ns/default/sa/{}", self.account),
            mtls: true,
            ready: true,
            weight: 1,
            facts: Some(facts(&self.name)),
            ..Default::default()
        }
    }

    /// Tells it to stop, as SIGTERM does.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(move || thread.join().unwrap().unwrap()).await.unwrap();
    }
}

pub fn host(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}

pub fn endpoints(pods: &[&Pod]) -> wire::Endpoints {
    wire::Endpoints { endpoints: pods.iter().map(|p| p.endpoint()).collect() }
}

pub fn backend(name: &str, port: u16) -> wire::WeightedBackend {
    let cluster = Some(wire::HostPort { host: host(name), port: port.into() });
    wire::WeightedBackend { cluster, weight: 1, ..Default::default() }
}

/// A gateway's port 80, where one table routes the requests to every host.
pub fn every_host(table: wire::RouteTable) -> wire::Listener {
    wire::Listener {
        port: 80,
        protocol: Protocol::Http.into(),
        virtual_hosts: vec![wire::VirtualHost {
            domains: vec!["*".into()],
            table: Some(table),
            https_redirect: false,
        }],
        ..Default::default()
    }
}

/// Istio's default: two retries, no timeout.
pub fn default_route(name: &str, port: u16) -> wire::RouteTable {
    route(wire::RouteAction {
        backends: vec![backend(name, port)],
        timeout: None,
        retry: Some(wire::RetryPolicy {
            attempts: 2,
            retry_on: ["connect-failure", "refused-stream", "unavailable", "cancelled"]
                .map(String::from)
                .to_vec(),
            ..Default::default()
        }),
    })
}

/// One rule that takes everything.
pub fn route(action: wire::RouteAction) -> wire::RouteTable {
    let rule = wire::Rule {
        name: "default".into(),
        action: Some(wire::rule::Action::Route(action)),
        ..Default::default()
    };
    wire::RouteTable { rules: vec![rule], origin: None }
}

pub fn policy() -> wire::Policy {
    wire::Policy {
        load_balancer: Some(wire::LoadBalancer {
            kind: Some(wire::load_balancer::Kind::RoundRobin(wire::Empty {})),
        }),
        connect_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        tls: wire::UpstreamTls::Auto.into(),
        idle_timeout: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..Default::default()
    }
}

fn service_ref(name: &str) -> wire::ServiceRef {
    wire::ServiceRef { host: host(name), port: PORT.into(), name: name.into(), namespace: "default".into() }
}

fn facts(name: &str) -> wire::WorkloadFacts {
    wire::WorkloadFacts {
        workload: name.into(),
        namespace: "default".into(),
        app: name.into(),
        version: "v1".into(),
        canonical_service: name.into(),
        canonical_revision: "v1".into(),
        cluster_id: "Kubernetes".into(),
        instance: name.into(),
    }
}

/// A client pod `reviews` and a server pod `ratings` with a service on VIP .2.
pub struct Pair {
    pub mesh: Mesh,
    pub reviews: Pod,
    pub ratings: Pod,
}

impl Pair {
    /// `ratings` runs `app` behind a port of `protocol` under `mtls`.
    pub async fn start(app: SocketAddr, protocol: Protocol, mtls: MtlsMode) -> Self {
        let mesh = Mesh::start().await;
        let mut spec = Spec::new("ratings", app);
        (spec.protocol, spec.mtls) = (protocol, mtls);
        let ratings = mesh.pod(spec).await;
        let reviews = mesh.pod(Spec::new("reviews", SocketAddr::from(([127, 0, 0, 1], 1)))).await;
        mesh.service(&Self::service(protocol, &ratings));
        let pair = Self { mesh, reviews, ratings };
        let vip = pair.vip();
        eventually("the listener opens", || async move { TcpStream::connect(vip).await.is_ok() }).await;
        pair
    }

    /// The service of `pod`.
    pub fn service(protocol: Protocol, pod: &Pod) -> ServiceSpec<'_> {
        ServiceSpec { name: "ratings", port: PORT, vip: 2, protocol, pods: vec![pod] }
    }

    /// Where `reviews` reaches `ratings`.
    pub fn vip(&self) -> SocketAddr {
        self.reviews.vip(2, PORT)
    }

    /// Gives the service other routes.
    pub fn route(&self, protocol: Protocol, http: wire::RouteTable) {
        self.mesh.routed_service(&Self::service(protocol, &self.ratings), http);
    }

    /// Changes PeerAuthentication of `ratings`.
    pub fn authenticate(&self, protocol: Protocol, mtls: MtlsMode) {
        let mut spec = Spec::new("ratings", self.ratings.inbound());
        (spec.protocol, spec.mtls) = (protocol, mtls);
        self.mesh.pilot.publish_self("ratings", &Mesh::self_config(&spec));
    }
}
