//! A pilot that says what the test says: all resources it holds to everybody, `self/self` by pod.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use mesh_proto::discovery::{TROUBLES_TYPE_URL, TYPE_URL};
use mesh_proto::model::{Kind, ResourceName, resource};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{drain, grpc};
use mesh_proto::wire::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use mesh_proto::wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// The running pilot. Cheap to clone.
#[derive(Clone)]
pub struct FakePilot {
    pub address: SocketAddr,
    state: Arc<State>,
    _drain: Arc<drain::Drain>,
}

struct State {
    held: Mutex<Held>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    resources: BTreeMap<ResourceName, Vec<u8>>,
    selves: BTreeMap<String, Vec<u8>>,
    /// Names about which nothing is said.
    mute: BTreeSet<String>,
    rejected: Vec<String>,
    /// What gateways told last that they cannot serve.
    troubles: Vec<String>,
    /// When each pod's proxy has acknowledged something last.
    acked: BTreeMap<String, Instant>,
}

impl FakePilot {
    pub async fn start(ca: &TestCa, ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let identity = ca.identity("istio-system", "mesh-pilot");
        let config = server_config(&identity, ClientAuth::Required, &[b"h2"]);
        let state = Arc::new(State { held: Mutex::default(), changed: watch::Sender::new(0) });
        let routes = Routes::new(AggregatedDiscoveryServiceServer::new(Streams(state.clone())));
        let (drain, watch) = drain::channel();
        tokio::spawn(grpc::serve(listener, config, routes, watch));
        Self { address, state, _drain: Arc::new(drain) }
    }

    /// Publishes a resource to everybody.
    pub fn publish(&self, kind: Kind, name: &str, message: &impl Message) {
        self.state.held.lock().resources.insert(ResourceName::new(kind, name), message.encode_to_vec());
        self.state.changed.send_modify(|n| *n += 1);
    }

    /// Publishes `self/self` of a pod.
    pub fn publish_self(&self, pod: &str, message: &wire::SelfConfig) {
        self.state.held.lock().selves.insert(pod.to_owned(), message.encode_to_vec());
        self.state.changed.send_modify(|n| *n += 1);
    }

    /// Says nothing any more about `host:port`.
    pub fn mute(&self, name: &str) {
        self.state.held.lock().mute.insert(name.to_owned());
    }

    /// Publishes a resource no more.
    pub fn withdraw(&self, kind: Kind, name: &str) {
        self.state.held.lock().resources.remove(&ResourceName::new(kind, name));
        self.state.changed.send_modify(|n| *n += 1);
    }

    /// What a gateway told last that it cannot serve.
    pub fn troubles(&self) -> Vec<String> {
        self.state.held.lock().troubles.clone()
    }

    /// When a pod's proxy has acknowledged something last.
    pub fn acked(&self, pod: &str) -> Option<Instant> {
        self.state.held.lock().acked.get(pod).copied()
    }

    /// What proxies have refused.
    pub fn rejected(&self) -> Vec<String> {
        self.state.held.lock().rejected.clone()
    }
}

struct Streams(Arc<State>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Streams {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (send, receive) = mpsc::unbounded_channel();
        tokio::spawn(follow(self.0.clone(), request.into_inner(), send));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receive))))
    }
}

/// One proxy's stream.
#[derive(Default)]
struct Follower {
    pod: String,
    /// A gateway: listeners, and what they name, are for these alone.
    router: bool,
    wanted: BTreeSet<ResourceName>,
    sent: BTreeMap<ResourceName, String>,
    absent: BTreeSet<ResourceName>,
    nonce: u64,
}

async fn follow(
    state: Arc<State>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    send: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
) {
    let mut changed = state.changed.subscribe();
    let mut follower = Follower::default();
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => follower.take(&state, request),
                Ok(None) | Err(_) => return,
            },
            _ = changed.changed() => {}
        }
        if let Some(response) = follower.respond(&state)
            && send.send(Ok(response)).is_err()
        {
            return;
        }
    }
}

impl Follower {
    fn take(&mut self, state: &State, request: DeltaDiscoveryRequest) {
        if let Some(node) = request.node {
            let name = node.id.split('~').nth(2).unwrap_or_default();
            self.pod = name.split('.').next().unwrap_or_default().to_owned();
            self.router = node.id.starts_with("router~");
        }
        for name in request.resource_names_subscribe {
            self.wanted.insert(name.parse().unwrap());
        }
        for name in request.resource_names_unsubscribe {
            self.wanted.remove(&name.parse().unwrap());
        }
        if !request.response_nonce.is_empty() && request.error_detail.is_none() {
            state.held.lock().acked.insert(self.pod.clone(), Instant::now());
        }
        if let Some(told) =
            request.error_detail.iter().flat_map(|e| &e.details).find(|d| d.type_url == TROUBLES_TYPE_URL)
        {
            let troubles = wire::Troubles::decode(&told.value[..]).unwrap().troubles;
            state.held.lock().troubles = troubles.into_iter().map(|t| t.message).collect();
        } else if let Some(error) = request.error_detail {
            state.held.lock().rejected.push(format!("{}: {} {:?}", self.pod, error.message, error.details));
        }
    }

    fn respond(&mut self, state: &State) -> Option<DeltaDiscoveryResponse> {
        if self.pod.is_empty() {
            return None;
        }
        let held = state.held.lock();
        let implied = self.implied(&held);
        let mut all: BTreeMap<ResourceName, &Vec<u8>> = held
            .resources
            .iter()
            .filter(|(name, _)| self.gets(name, &implied))
            .map(|(name, body)| (name.clone(), body))
            .collect();
        if let Some(own) = held.selves.get(&self.pod) {
            all.insert(ResourceName::new(Kind::SelfConfig, "self"), own);
        }
        let mut resources = Vec::new();
        for (name, body) in &all {
            let version = resource::version(body);
            if held.mute.contains(name.name()) || self.sent.get(name) == Some(&version) {
                continue;
            }
            let any = prost_types::Any { type_url: name.kind.type_url().into(), value: (*body).clone() };
            let message = Resource { version: version.clone(), resource: Some(any), name: name.to_string() };
            resources.push(message);
            self.sent.insert(name.clone(), version);
            self.absent.remove(name);
        }
        let gone: Vec<_> = self.sent.keys().filter(|n| !all.contains_key(*n)).cloned().collect();
        let never = self.wanted.iter().filter(|n| !all.contains_key(*n) && !held.mute.contains(n.name()));
        let mut removed: Vec<String> = gone.iter().map(ToString::to_string).collect();
        for name in never {
            if self.absent.insert(name.clone()) {
                removed.push(name.to_string());
            }
        }
        for name in gone {
            self.sent.remove(&name);
        }
        if resources.is_empty() && removed.is_empty() && self.nonce > 0 {
            return None;
        }
        self.nonce += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: TYPE_URL.to_owned(),
            nonce: self.nonce.to_string(),
            removed_resources: removed,
        })
    }

    /// What is pushed unasked, what is wanted, and what both imply.
    fn gets(&self, name: &ResourceName, implied: &BTreeSet<String>) -> bool {
        match name.kind {
            Kind::Destination | Kind::Workload => self.wanted.contains(name),
            Kind::Cluster | Kind::Endpoints => implied.contains(name.name()),
            Kind::Listener => self.router,
            _ => true,
        }
    }

    /// The clusters that wanted destinations and listeners name.
    fn implied(&self, held: &Held) -> BTreeSet<String> {
        let mut backends = Vec::new();
        for (name, body) in &held.resources {
            match name.kind {
                Kind::Destination if self.wanted.contains(name) => {
                    let destination = wire::Destination::decode(&body[..]).unwrap();
                    let tls = destination.tls.into_iter().filter_map(|one| one.rule);
                    backends.extend(destination.tcp.into_iter().chain(tls).flat_map(|t| t.backends));
                    backends.extend(destination.http.into_iter().flat_map(in_table));
                }
                Kind::Listener if self.router => {
                    let listener = wire::Listener::decode(&body[..]).unwrap();
                    backends.extend(listener.backends().cloned());
                }
                _ => {}
            }
        }
        let own = held.selves.get(&self.pod).map(|own| wire::SelfConfig::decode(&own[..]).unwrap());
        let asked = own.and_then(|own| own.external_authorization?.cluster);
        let names = backends.into_iter().filter_map(|b| b.cluster).chain(asked);
        names.map(|c| format!("{}:{}", c.host, c.port)).collect()
    }
}

fn in_table(table: wire::RouteTable) -> Vec<wire::WeightedBackend> {
    let rules = table.rules.into_iter();
    rules
        .flat_map(|rule| match rule.action {
            Some(wire::rule::Action::Route(route)) => route.backends,
            _ => Vec::new(),
        })
        .collect()
}
