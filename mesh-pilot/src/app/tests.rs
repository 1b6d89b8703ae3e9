//! The whole pilot on real files and sockets, with a proxy that keeps what it is told. The authority is away all the
//! time: the leaf comes from disk, as after a restart.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mesh_proto::discovery::TYPE_URL;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};
use mesh_proto::wire::envoy::config::core::v3::Node;
use mesh_proto::wire::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::wire::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use mesh_proto::wire::mesh::v1 as wire;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;

mod replicas;
mod waiting;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

fn route(subset: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec:\n  \
         hosts: [reviews]\n  http: [{{route: [{{destination: {{host: reviews, subset: {subset}}}}}]}}]\n"
    )
}

fn pod(name: &str, ip: &str, ready: bool) -> String {
    let ready = if ready { "True" } else { "False" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: u-{name}, labels: {{app: reviews, version: v1}}, \
         annotations: {{sidecar.istio.io/status: injected}}}}\nspec: {{serviceAccountName: reviews, \
         containers: [{{name: app, ports: [{{containerPort: 9080}}]}}]}}\n\
         status: {{podIP: {ip}, phase: Running, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
    )
}

struct Pilot {
    dir: TempDir,
    ca: TestCa,
    running: Option<Running>,
}

struct Running {
    task: JoinHandle<anyhow::Result<()>>,
    discovery: String,
    admin: String,
}

impl Pilot {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["user", "pods", "state/certificates"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let ca = TestCa::new();
        fs::write(dir.path().join("root.pem"), ca.root_pem()).unwrap();
        store_leaf(&ca, &dir.path().join("state/certificates"));
        // The authority is away: what it said last is kept too.
        let bundle = mesh_proto::wire::mesh::v1::TrustBundle {
            trust_domain: "cluster.local".to_owned(),
            roots: vec![ca.root_der().to_vec().into()],
            ..Default::default()
        };
        let kept = mesh_proto::wire::mesh::v1::BundleState { sequence: 1, bundles: vec![bundle] };
        let kept = prost::Message::encode_to_vec(&kept);
        fs::write(dir.path().join("state/certificates").join(crate::trust::FILE), kept).unwrap();
        let mut pilot = Self { dir, ca, running: None };
        pilot.write("user/reviews.yaml", SERVICE);
        pilot.write("user/route.yaml", &route("v1"));
        pilot.write("pods/reviews-v1-0.yaml", &pod("reviews-v1-0", "127.5.1.1", true));
        pilot.restart().await;
        pilot
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        let new = path.with_extension("tmp");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            let _ = running.task.await;
        }
        let listeners = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let addresses = (listeners.0.local_addr().unwrap(), listeners.1.local_addr().unwrap());
        let at = |name: &str| self.dir.path().join(name);
        let config = Config {
            listen: addresses.0,
            admin: addresses.1,
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            source: crate::config::SourceConfig { user_paths: vec![at("user")], state_pods: at("pods") },
            state_dir: at("state"),
            // Port 1 on loopback: nobody is there.
            ca: crate::config::CaConfig { address: "127.0.0.1:1".into(), roots: at("root.pem"), token: None },
            vip_cidr: "127.5.255.0/24".parse().unwrap(),
            vip_cidr6: None,
            parent_pid: None,
        };
        let task = tokio::spawn(serve_files(config, listeners.0, listeners.1, watch::channel(false).1));
        self.running =
            Some(Running { task, discovery: addresses.0.to_string(), admin: addresses.1.to_string() });
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.running().admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: pilot\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn status(&self) -> Value {
        let (status, body) = self.get("/debug/status").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    }

    /// Asks until it is so.
    async fn until(&self, what: &str, mut so: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let asked = tokio::time::timeout(LIMIT, async {
            loop {
                last = self.status().await;
                if so(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if asked.await.is_err() {
            panic!("{what}: {last:#}");
        }
        last
    }
}

fn store_leaf(ca: &TestCa, dir: &Path) {
    let key = rcgen::KeyPair::from_pem(&ca.root_key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&ca.root_pem(), key).unwrap();
    let params =
        ca.leaf_params("spiffe://cluster.local/ns/istio-system/sa/mesh-pilot", Duration::from_secs(86_400));
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let path = dir.join("identity.pem");
    fs::write(&path, leaf.pem() + &key.serialize_pem()).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn resource<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let all = status["resources"].as_array().unwrap();
    all.iter().find(|r| r["kind"] == kind).unwrap_or(&Value::Null)
}

/// Keeps versions and messages, acknowledges everything.
#[derive(Default)]
struct Proxy {
    held: BTreeMap<String, (String, Vec<u8>)>,
}

struct Stream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Proxy {
    async fn connect(&self, pilot: &Pilot, wants: &[&str]) -> Stream {
        let identity = pilot.ca.identity("default", "reviews");
        let expected = certificates::pilot_id(&"cluster.local".parse().unwrap());
        let tls = client_config(
            ClientIdentity::Mesh(&identity),
            pilot.ca.roots_handle(),
            Expect::Exactly(expected),
            &[b"h2"],
        );
        let channel = grpc::channel(&pilot.running().discovery, tls).unwrap();
        let (requests, stream) = mpsc::channel(16);
        let id = "sidecar~127.5.1.1~reviews-v1-0.default~default.svc.cluster.local".to_owned();
        let first = DeltaDiscoveryRequest {
            node: Some(Node { id, ..Node::default() }),
            type_url: TYPE_URL.to_owned(),
            resource_names_subscribe: wants.iter().map(ToString::to_string).collect(),
            initial_resource_versions: self.held.iter().map(|(n, (v, _))| (n.clone(), v.clone())).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(stream)).await.unwrap();
        Stream { requests, responses: responses.into_inner() }
    }

    /// The names of the next response.
    async fn take(&mut self, stream: &mut Stream) -> Vec<String> {
        let next = tokio::time::timeout(LIMIT, stream.responses.message()).await;
        let response = next.expect("in time").unwrap().unwrap();
        let mut names = Vec::new();
        for resource in response.resources {
            names.push(resource.name.clone());
            self.held.insert(resource.name, (resource.version, resource.resource.unwrap().value));
        }
        for name in response.removed_resources {
            self.held.remove(&name);
            names.push(format!("-{name}"));
        }
        let nonce =
            DeltaDiscoveryRequest { response_nonce: response.nonce, ..DeltaDiscoveryRequest::default() };
        stream.requests.send(nonce).await.unwrap();
        names
    }

    fn message<T: prost::Message + Default>(&self, name: &str) -> T {
        T::decode(self.held[name].1.as_slice()).unwrap()
    }
}

const DESTINATION: &str = "destination/reviews.default.svc.cluster.local:9080";
const ENDPOINTS: &str = "endpoints/reviews.default.svc.cluster.local:9080";

#[tokio::test]
async fn files_reach_the_proxy_and_its_acknowledgement_reaches_the_status() {
    let pilot = Pilot::start().await;
    let status = pilot.until("loaded", |status| status["loaded"] == true).await;
    assert_eq!(resource(&status, "VirtualService")["state"], "accepted", "no proxy wants it yet");
    assert_eq!(status["proxies"][0]["connected"], false);
    assert_eq!(status["services"][0]["vip"], "127.5.255.2");
    assert_eq!(status["services"][0]["endpoints"][0]["address"], "127.5.1.1:9080");
    let mut proxy = Proxy::default();
    let mut stream = proxy.connect(&pilot, &[DESTINATION]).await;
    let names = proxy.take(&mut stream).await;
    for name in [DESTINATION, ENDPOINTS, "self/self", "catalogue/default", "trust_bundle/cluster.local"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
    let status = pilot.until("in force", |s| resource(s, "VirtualService")["state"] == "in_force").await;
    assert_eq!(
        resource(&status, "VirtualService")["observers"],
        serde_json::json!({"acked": 1, "subscribed": 1})
    );
    assert!(resource(&status, "VirtualService")["location"].as_str().unwrap().ends_with("route.yaml:1"));
    assert_eq!(status["proxies"][0]["synced"], true);

    // A changed file.
    pilot.write("user/route.yaml", &route("v2"));
    assert_eq!(proxy.take(&mut stream).await, [DESTINATION]);
    let destination: wire::Destination = proxy.message(DESTINATION);
    let Some(wire::rule::Action::Route(action)) = &destination.http.unwrap().rules[0].action else {
        panic!()
    };
    assert_eq!(action.backends[0].subset, "v2");

    // A refused one: the last good version stays, and the status says where and why.
    pilot.write("user/route.yaml", &route("v1").replace("http:", "htpp:"));
    let status = pilot.until("refused", |s| resource(s, "VirtualService")["state"] == "refused").await;
    let message = resource(&status, "VirtualService")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("route.yaml:6:3") && message.contains("htpp"), "{message}");
    assert!(message.ends_with("the last good version stays in force"), "{message}");

    // A pod that is no longer ready.
    pilot.write("pods/reviews-v1-0.yaml", &pod("reviews-v1-0", "127.5.1.1", false));
    assert_eq!(proxy.take(&mut stream).await, [ENDPOINTS]);
    let endpoints: wire::Endpoints = proxy.message(ENDPOINTS);
    assert!(!endpoints.endpoints[0].ready && endpoints.endpoints[0].mtls);
    let (status, metrics) = pilot.get("/metrics").await;
    assert_eq!((status, pilot.get("/healthz/ready").await.0), (200, 200));
    assert!(metrics.is_empty() || metrics.contains("pilot_services"), "{metrics}");
}

#[tokio::test]
async fn a_restart_loses_nothing_and_sends_nothing_again() {
    let mut pilot = Pilot::start().await;
    let mut proxy = Proxy::default();
    let mut stream = proxy.connect(&pilot, &[DESTINATION]).await;
    proxy.take(&mut stream).await;
    // Broken before and over the restart.
    pilot.write("user/route.yaml", "apiVersion: [");
    pilot.until("told", |s| resource(s, "File")["state"] == "refused").await;
    pilot.restart().await;
    let mut stream = proxy.connect(&pilot, &[DESTINATION]).await;
    pilot.until("resumed", |s| s["proxies"][0]["synced"] == true).await;
    // The next thing that comes is the next thing that changes: nothing was sent again.
    pilot.write("pods/reviews-v1-1.yaml", &pod("reviews-v1-1", "127.5.2.1", true));
    assert_eq!(proxy.take(&mut stream).await, [ENDPOINTS]);
    let endpoints: wire::Endpoints = proxy.message(ENDPOINTS);
    assert_eq!(endpoints.endpoints.len(), 2);
}

#[tokio::test]
async fn what_happens_is_told_line_by_line() {
    let pilot = Pilot::start().await;
    pilot.until("loaded", |status| status["loaded"] == true).await;
    let mut stream = TcpStream::connect(&pilot.running().admin).await.unwrap();
    stream.write_all(b"GET /debug/events HTTP/1.1\r\nhost: pilot\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    // The head of the answer: from here on nothing is missed.
    while !lines.next_line().await.unwrap().unwrap().is_empty() {}
    let mut next = async |kind: &str| {
        let line = tokio::time::timeout(LIMIT, async {
            loop {
                let line = lines.next_line().await.unwrap().unwrap();
                if line.contains(&format!("\"kind\":\"{kind}\"")) {
                    return line;
                }
            }
        });
        line.await.expect("in time")
    };
    pilot.write("pods/reviews-v1-1.yaml", &pod("reviews-v1-1", "127.5.2.1", true));
    assert!(next("endpoint_up").await.contains("default/reviews-v1-1 (127.5.2.1)"));
    pilot.write("user/route.yaml", &route("v2"));
    assert!(next("applied").await.contains("VirtualService default/reviews"));
    fs::remove_file(pilot.dir.path().join("user/route.yaml")).unwrap();
    assert!(next("removed").await.contains("VirtualService default/reviews"));
}
