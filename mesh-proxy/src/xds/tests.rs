//! The client against a fake pilot, over real mTLS on loopback.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mesh_proto::discovery::TYPE_URL;
use mesh_proto::model::HostPort;
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
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::store::testing::*;
use crate::store::writer::Incoming;
use crate::store::{Demand, Store};

const A: &str = "a.test:80";
const B: &str = "b.test:80";
/// A test that waits that long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// One stream, in the test's hands.
struct Stream {
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>,
    nonces: u32,
}

impl Stream {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        let request = tokio::time::timeout(PATIENCE, self.requests.message()).await;
        request.expect("a request").unwrap().expect("not ended")
    }

    /// Sends, and gives the one answer to it.
    async fn send(&mut self, resources: Vec<Incoming>, removed: &[&str]) -> DeltaDiscoveryRequest {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let resources = resources.into_iter().map(|r| Resource {
            name: r.name.to_string(),
            version: r.version.to_string(),
            resource: Some(prost_types::Any {
                type_url: r.name.kind.type_url().to_owned(),
                value: r.body.to_vec(),
            }),
        });
        let response = DeltaDiscoveryResponse {
            type_url: TYPE_URL.to_owned(),
            nonce: nonce.clone(),
            resources: resources.collect(),
            removed_resources: removed.iter().map(|r| (*r).to_owned()).collect(),
            ..Default::default()
        };
        self.responses.send(Ok(response)).unwrap();
        let answer = self.request().await;
        assert_eq!((&*answer.type_url, answer.response_nonce.clone()), (TYPE_URL, nonce));
        answer
    }
}

struct Pilot(mpsc::UnboundedSender<Stream>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Pilot {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::unbounded_channel();
        let stream = Stream { requests: request.into_inner(), responses, nonces: 0 };
        self.0.send(stream).map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }
}

/// A pilot that can be stopped and started again at the same address.
struct FakePilot {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Stream>,
    server: JoinHandle<()>,
}

impl FakePilot {
    async fn start(ca: &TestCa, at: Option<SocketAddr>, account: &str) -> Self {
        let at = at.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(at).await.unwrap();
        let (sender, streams) = mpsc::unbounded_channel();
        let identity = Identity::new(ca.leaf("istio-system", account), ca.roots_handle());
        let config = server_config(&identity, ClientAuth::Required, &[b"h2"]);
        let routes = Routes::new(AggregatedDiscoveryServiceServer::new(Pilot(sender)));
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (_drain, watch) = drain::channel();
            grpc::serve(listener, config, routes, watch).await;
        });
        Self { address, streams, server }
    }

    async fn stream(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a stream").unwrap()
    }

    async fn stop(self) -> SocketAddr {
        self.server.abort();
        let _ = self.server.await;
        self.address
    }
}

/// A proxy's control side.
struct Proxy {
    store: Arc<Store>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn client(ca: &TestCa, pilot: SocketAddr, disk: Option<Disk>) -> (Arc<Store>, Client) {
    let identity = Identity::new(ca.leaf("default", "client"), ca.roots_handle());
    let expected = ca.identity("istio-system", "mesh-pilot").id().clone();
    let channel = channel(&pilot.to_string().parse().unwrap(), expected, &identity);
    client_over(ca, channel.unwrap(), disk)
}

fn client_over(ca: &TestCa, channel: Channel, disk: Option<Disk>) -> (Arc<Store>, Client) {
    let World { store, writer, asked } = world_of(false, ca);
    let node = Node {
        gateway: false,
        ip: "10.1.0.9".parse().unwrap(),
        pod: "client-0".into(),
        namespace: "default".into(),
        cluster_domain: "cluster.local".into(),
    };
    (store, Client::new(channel, node, writer, asked, disk))
}

impl Proxy {
    fn start(ca: &TestCa, pilot: SocketAddr, disk: Option<Disk>) -> Self {
        let (store, client) = client(ca, pilot, disk);
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

    fn demand(&self, name: &str) -> JoinHandle<Result<(), Demand>> {
        let (store, name) = (self.store.clone(), name.parse::<HostPort>().unwrap());
        tokio::spawn(async move { store.demand(&name).await.map(|_| ()) })
    }
}

fn first(ca: &TestCa) -> Vec<Incoming> {
    vec![
        self_config(&[]),
        bundle(ca),
        catalogue("default", &[("a.default.svc.cluster.local", "10.0.0.1", 80)]),
    ]
}

fn serving(name: &str) -> Vec<Incoming> {
    vec![destination(name, &[name]), cluster(name), endpoints(name, &["10.0.0.1:80"])]
}

#[tokio::test]
async fn asks_answers_and_resumes_with_what_it_holds() {
    let ca = TestCa::new();
    let mut pilot = FakePilot::start(&ca, None, "mesh-pilot").await;
    let proxy = Proxy::start(&ca, pilot.address, None);
    let mut stream = pilot.stream().await;
    let hello = stream.request().await;
    let node = hello.node.unwrap();
    assert_eq!(node.id, "sidecar~10.1.0.9~client-0.default~default.svc.cluster.local");
    assert!(hello.resource_names_subscribe.is_empty() && hello.initial_resource_versions.is_empty());
    assert!(!proxy.store.ready());
    let answer = stream.send(first(&ca), &[]).await;
    assert_eq!(answer.error_detail, None);
    assert!(proxy.store.ready());

    // A worker asks; the answer wakes it.
    let demand = proxy.demand(A);
    let request = stream.request().await;
    assert_eq!(request.resource_names_subscribe, ["destination/a.test:80"]);
    assert_eq!(stream.send(serving(A), &[]).await.error_detail, None);
    assert_eq!(demand.await.unwrap(), Ok(()));
    // Asking again asks nobody: the next thing that the pilot hears is the answer below.
    assert_eq!(proxy.demand(A).await.unwrap(), Ok(()));
    let request = {
        let missing = proxy.demand(B);
        let request = stream.request().await;
        stream.send(vec![], &["destination/b.test:80"]).await;
        assert!(matches!(missing.await.unwrap(), Err(Demand::Absent(_))));
        request
    };
    assert_eq!(request.resource_names_subscribe, ["destination/b.test:80"]);

    // The stream breaks: the next one says what is held, so that nothing has to be sent again.
    drop(stream);
    let hello = pilot.stream().await.request().await;
    assert_eq!(hello.resource_names_subscribe, ["destination/a.test:80", "destination/b.test:80"]);
    let mut expected: Vec<_> = first(&ca).into_iter().chain(serving(A)).collect();
    expected.sort_by_key(|r| r.name.to_string());
    let expected: Vec<_> =
        expected.into_iter().map(|r| (r.name.to_string(), r.version.to_string())).collect();
    assert_eq!(hello.initial_resource_versions.into_iter().collect::<Vec<_>>(), expected);
    assert!(hello.node.is_some() && hello.response_nonce.is_empty());
    proxy.stop().await;
}

#[tokio::test]
async fn refuses_by_name_and_applies_the_rest() {
    let ca = TestCa::new();
    let mut pilot = FakePilot::start(&ca, None, "mesh-pilot").await;
    let proxy = Proxy::start(&ca, pilot.address, None);
    let mut stream = pilot.stream().await;
    stream.request().await;
    let mut resources = first(&ca);
    let newer = wire::Cluster { requires: vec!["quantum".into()], ..cluster_message(A) };
    resources.push(catalogue("bad", &[("x", "no address", 80)]));
    resources.push(resource("cluster/a.test:80", &newer));
    resources.push(Incoming { body: b"\xff".as_slice().into(), ..endpoints(B, &[]) });
    let answer = stream.send(resources, &[]).await;
    let status = answer.error_detail.unwrap();
    let rejected = status.details.iter().map(|any| {
        assert_eq!(any.type_url, mesh_proto::discovery::REJECTED_TYPE_URL);
        wire::Rejected::decode(any.value.as_slice()).unwrap()
    });
    let mut rejected: Vec<_> = rejected.map(|r| (r.resource, r.reason)).collect();
    rejected.sort();
    let names: Vec<_> = rejected.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["catalogue/bad", "cluster/a.test:80", "endpoints/b.test:80"]);
    assert!(rejected[1].1.contains("quantum"), "{}", rejected[1].1);
    assert!(proxy.store.ready(), "the rest is in force");
    // The stream goes on, and a clean response is a clean answer.
    assert_eq!(stream.send(vec![], &["catalogue/bad"]).await.error_detail, None);

    // Not our resources at all: refused as a whole.
    let strange = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        nonce: "x".into(),
        ..Default::default()
    };
    stream.responses.send(Ok(strange)).unwrap();
    let answer = stream.request().await;
    assert_eq!(answer.response_nonce, "x");
    assert!(answer.error_detail.unwrap().message.contains("envoy.config.cluster"));
    proxy.stop().await;
}

#[tokio::test]
async fn serves_from_disk_while_the_pilot_is_away_and_catches_up() {
    let ca = TestCa::new();
    let dir = tempfile::tempdir().unwrap();
    let mut pilot = FakePilot::start(&ca, None, "mesh-pilot").await;
    let proxy = Proxy::start(&ca, pilot.address, Some(Disk::open(dir.path(), "uid").unwrap()));
    let mut stream = pilot.stream().await;
    stream.request().await;
    stream.send(first(&ca), &[]).await;
    let demand = proxy.demand(A);
    stream.request().await;
    stream.send(serving(A), &[]).await;
    demand.await.unwrap().unwrap();
    drop(stream);
    let address = pilot.stop().await;
    proxy.stop().await;

    // Started again, without a pilot.
    let proxy = Proxy::start(&ca, address, Some(Disk::open(dir.path(), "uid").unwrap()));
    assert!(proxy.store.ready());
    assert_eq!(proxy.store.catalogue().len(), 1);
    assert_eq!(proxy.demand(A).await.unwrap(), Ok(()), "used before");
    let cold = proxy.demand(B).await.unwrap();
    assert!(matches!(cold, Err(Demand::Timeout(_))), "never used: {cold:?}");

    // The pilot comes back: it hears of both, and of what is held.
    let mut pilot = FakePilot::start(&ca, Some(address), "mesh-pilot").await;
    let mut stream = pilot.stream().await;
    let hello = stream.request().await;
    assert_eq!(hello.resource_names_subscribe, ["destination/a.test:80", "destination/b.test:80"]);
    assert_eq!(hello.initial_resource_versions.len(), 6);
    let demand = proxy.demand(B);
    stream.send(serving(B), &[]).await;
    assert_eq!(demand.await.unwrap(), Ok(()));
    proxy.stop().await;

    // Another instance at the same place starts with nothing.
    let other = Proxy::start(&ca, address, Some(Disk::open(dir.path(), "other").unwrap()));
    assert!(!other.store.ready());
    assert!(other.store.catalogue().is_empty());
    other.stop().await;
}

/// A pilot that is killed is started again by its kubelet: a name that was never used waits for it, longer than for a silent one.
#[tokio::test]
async fn a_new_name_waits_for_a_pilot_that_restarts() {
    let ca = TestCa::new();
    let mut pilot = FakePilot::start(&ca, None, "mesh-pilot").await;
    let proxy = Proxy::start(&ca, pilot.address, None);
    let mut stream = pilot.stream().await;
    stream.request().await;
    stream.send(first(&ca), &[]).await;
    drop(stream);
    let address = pilot.stop().await;
    let demand = proxy.demand(A);
    tokio::time::sleep(crate::store::FIRST_ANSWER + Duration::from_millis(500)).await;
    assert!(!demand.is_finished(), "it has just gone");
    let mut pilot = FakePilot::start(&ca, Some(address), "mesh-pilot").await;
    let mut stream = pilot.stream().await;
    assert_eq!(stream.request().await.resource_names_subscribe, ["destination/a.test:80"]);
    stream.send(serving(A), &[]).await;
    assert_eq!(demand.await.unwrap(), Ok(()));
    proxy.stop().await;
}

#[tokio::test]
async fn only_the_pilot_may_be_the_pilot() {
    let ca = TestCa::new();
    let impostor = FakePilot::start(&ca, None, "mesh-ca").await;
    let (_store, mut client) = client(&ca, impostor.address, None);
    let session = client.session().await;
    assert!(!session.answered);
    let why = super::client::explain(&session.why);
    for identity in [
        "spiffe://cluster.local/ns/istio-system/sa/mesh-ca",
        "spiffe://cluster.local/ns/istio-system/sa/mesh-pilot",
    ] {
        assert!(why.contains(identity), "{why}");
    }
}

/// Nobody is there; counts who asks.
#[derive(Clone, Default)]
struct Nobody(Arc<AtomicUsize>);

impl tonic::codegen::Service<http::Uri> for Nobody {
    type Response = TokioIo<tokio::io::DuplexStream>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn never_hammers_and_hurries_only_for_somebody_who_waits() {
    let ca = TestCa::new();
    let nobody = Nobody::default();
    let channel = tonic::transport::Endpoint::from_static("http://pilot:1");
    let (store, client) = client_over(&ca, channel.connect_with_connector_lazy(nobody.clone()), None);
    let (_stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(client.run(async {
        let _ = stopped.await;
    }));
    let tries = || nobody.0.swap(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let first = tries();
    assert!((20..=46).contains(&first), "{first} tries in the first minute");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let later = tries();
    assert!((19..=42).contains(&later), "{later} tries in the second minute");
    // Somebody waits two seconds: it is tried at least once in that time.
    for number in 0..5 {
        let name = HostPort::new("cold.test", 80 + number);
        assert!(matches!(store.demand(&name).await, Err(Demand::Timeout(_))));
        let hurried = tries();
        assert!((1..=4).contains(&hurried), "{hurried} tries in two seconds");
        tokio::time::sleep(Duration::from_secs(20)).await;
        tries();
    }
}
