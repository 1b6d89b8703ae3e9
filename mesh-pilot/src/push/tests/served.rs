//! The same over real mTLS on loopback: who gets a stream, and that a slow proxy holds back nobody.

use std::time::Duration;

use mesh_proto::discovery::TYPE_URL;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, ClientIdentity, Expect, client_config, server_config};
use mesh_proto::runtime::{drain, grpc};
use mesh_proto::wire::envoy::config::core::v3::Node;
use mesh_proto::wire::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use mesh_proto::wire::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::push::Discovery;

/// Longer than anything here takes; a test that needs it has failed.
const LIMIT: Duration = Duration::from_secs(20);

struct Served {
    ca: TestCa,
    mesh: Mesh,
    address: String,
    _drain: drain::Drain,
}

async fn served(clients: u32) -> Served {
    let ca = TestCa::new();
    let mesh = Mesh::new(clients);
    let hub = mesh.hub.clone();
    let (events, _) = broadcast::channel(16);
    let routes = tonic::service::Routes::new(Discovery::service(hub, events));
    let tls = server_config(&ca.identity("istio-system", "mesh-pilot"), ClientAuth::Required, &[b"h2"]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (drain, watch) = drain::channel();
    tokio::spawn(grpc::serve(listener, tls, routes, watch));
    Served { ca, mesh, address, _drain: drain }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Served {
    async fn client(&self, account: &str, pod: &str, wants: &[&str]) -> Result<Client, Status> {
        let identity = self.ca.identity("default", account);
        let pilot = SpiffeId::new(&trust_domain(), "istio-system", "mesh-pilot").unwrap();
        let tls = client_config(
            ClientIdentity::Mesh(&identity),
            self.ca.roots_handle(),
            Expect::Exactly(pilot),
            &[b"h2"],
        );
        let channel = grpc::channel(&self.address, tls).unwrap();
        let (requests, stream) = mpsc::channel(16);
        let first = DeltaDiscoveryRequest {
            node: Some(Node {
                id: format!("sidecar~127.5.0.1~{pod}.default~default.svc.cluster.local"),
                ..Node::default()
            }),
            type_url: TYPE_URL.to_owned(),
            resource_names_subscribe: wants.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Client { requests, responses })
    }
}

impl Client {
    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        let message = tokio::time::timeout(LIMIT, self.responses.message()).await.expect("in time")?;
        Ok(message.expect("a response"))
    }

    async fn ack(&self, nonce: &str) {
        let request =
            DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..DeltaDiscoveryRequest::default() };
        self.requests.send(request).await.unwrap();
    }
}

#[tokio::test]
async fn another_account_is_refused_with_both_names() {
    let served = served(1).await;
    let refused = match served.client("other", "client-0", &[]).await {
        Ok(mut client) => client.next().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), Code::PermissionDenied);
    for name in ["spiffe://cluster.local/ns/default/sa/other", "spiffe://cluster.local/ns/default/sa/app"] {
        assert!(refused.message().contains(name), "{}", refused.message());
    }
}

#[tokio::test]
async fn a_pod_that_becomes_known_a_little_later_is_waited_for() {
    let mut served = served(1).await;
    let mut client = served.client("app", "late", &[]).await.unwrap();
    let pod = pod("late", 99);
    let key = (pod.namespace.clone(), pod.name.clone());
    Arc::make_mut(&mut served.mesh.snapshot.pods).insert(key.clone(), pod);
    let changes = Changes { pods: BTreeSet::from([key]), ..Changes::default() };
    served.mesh.hub.publish(Arc::new(served.mesh.snapshot.clone()), &changes);
    let first = client.next().await.unwrap();
    assert_eq!(first.resources[0].name, "self/self");
    assert_eq!(first.type_url, TYPE_URL);
}

#[tokio::test]
async fn a_proxy_that_does_not_read_delays_nobody() {
    let mut served = served(2).await;
    // Large enough that it cannot all be under way.
    served.mesh.flip("a:80", &vec![true; 50_000]);
    let slow = served.client("app", "client-0", &["destination/a:80"]).await.unwrap();
    let mut quick = served.client("app", "client-1", &["destination/a:80"]).await.unwrap();
    let first = quick.next().await.unwrap();
    quick.ack(&first.nonce).await;
    for round in 0..5 {
        let ready: Vec<bool> = (0..50_000).map(|i| i != round).collect();
        served.mesh.flip("a:80", &ready);
        let change = quick.next().await.unwrap();
        assert_eq!(change.resources.len(), 1);
        quick.ack(&change.nonce).await;
    }
    // The slow one has cost one response and its dirty set, and catches up with the newest in one step.
    let mut slow = slow;
    let first = slow.next().await.unwrap();
    slow.ack(&first.nonce).await;
    let second = slow.next().await.unwrap();
    assert_eq!(second.resources.len(), 1);
    slow.ack(&second.nonce).await;
    let newest = served.mesh.hub.snapshot();
    assert_eq!(newest.endpoints[&"a:80".parse().unwrap()].endpoints.len(), 50_000);
}

#[tokio::test]
async fn a_new_stream_of_the_same_pod_ends_the_old_one() {
    let served = served(1).await;
    let mut old = served.client("app", "client-0", &[]).await.unwrap();
    old.next().await.unwrap();
    let mut new = served.client("app", "client-0", &[]).await.unwrap();
    new.next().await.unwrap();
    assert_eq!(old.next().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(served.mesh.hub.proxies().len(), 1);
}
