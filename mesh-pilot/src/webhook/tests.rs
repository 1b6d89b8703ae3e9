//! The server over real TLS sockets, asked as an API server asks.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_proto::runtime::drain::{self, Drain};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

struct Fixture {
    at: SocketAddr,
    ca: TestCa,
    drain: Drain,
    settings: server::Current,
    task: tokio::task::JoinHandle<()>,
}

async fn fixture() -> Fixture {
    let ca = TestCa::new();
    let tls = server_config(
        &ca.identity("istio-system", "mesh-pilot"),
        ClientAuth::Optional,
        &[b"h2", b"http/1.1"],
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let settings = Settings::read(&json!({}), &json!({}), ControlPlane::default()).unwrap();
    let settings = Arc::new(ArcSwap::from_pointee(Ok(settings)));
    let (drain, watch) = drain::channel();
    let task = tokio::spawn(server::serve(listener, tls, settings.clone(), watch));
    Fixture { at, ca, drain, settings, task }
}

impl Fixture {
    async fn send(&self, bytes: &[u8]) -> (u16, String) {
        let expect = mesh_proto::runtime::tls::Expect::Exactly(
            self.ca.identity("istio-system", "mesh-pilot").id().clone(),
        );
        let show = mesh_proto::runtime::tls::ClientIdentity::None;
        let tls =
            mesh_proto::runtime::tls::client_config(show, self.ca.roots_handle(), expect, &[b"http/1.1"]);
        let stream = TcpStream::connect(self.at).await.unwrap();
        let name = ServerName::try_from("mesh-pilot.istio-system.svc").unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // The other side may close before it has read all.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.send(format!("{head}{body}").as_bytes()).await
    }
}

fn review(kind: &str, object: &Value) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u7", "operation": "CREATE",
        "namespace": "shop", "dryRun": true, "kind": {"group": "", "version": "v1", "kind": kind}, "object": object}})
    .to_string()
}

fn pod() -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn pods_get_a_patch() {
    let fixture = fixture().await;
    for path in ["/inject", "/inject/cluster/Kubernetes/net/a", "/inject?timeout=10s"] {
        let (status, body) = fixture.post(path, &review("Pod", &pod())).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200, "{path}");
        assert_eq!(
            (&body["response"]["uid"], &body["response"]["patchType"]),
            (&json!("u7"), &json!("JSONPatch"))
        );
    }
    // New settings are in force for the next pod.
    let values = json!({"sidecarInjectorWebhook": {"neverInjectSelector": [{"matchLabels": {"x": "y"}}]}});
    let other = Settings::read(&values, &json!({}), ControlPlane::default()).unwrap();
    fixture.settings.store(Arc::new(Ok(other)));
    let mut never = pod();
    never["metadata"]["labels"] = json!({"x": "y"});
    let (_, body) = fixture.post("/inject", &review("Pod", &never)).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["response"], json!({"allowed": true, "uid": "u7"}));
}

/// A slip in the chart's values keeps pods from being made without their sidecars; the pilot goes on, and so does all else
/// that the webhook judges.
#[tokio::test]
async fn settings_that_cannot_be_used_refuse_pods_and_nothing_else() {
    let fixture = fixture().await;
    let values = json!({"global": {"proxy": {"includeIPRanges": "10.0.0.1"}}});
    let bad = Settings::read(&values, &json!({}), ControlPlane::default());
    assert!(bad.is_err());
    fixture.settings.store(Arc::new(bad));
    let ask = async |path: &str, kind: &str, object: &Value| {
        let (status, body) = fixture.post(path, &review(kind, object)).await;
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&body).unwrap()["response"].clone()
    };
    let refused = ask("/inject", "Pod", &pod()).await;
    assert_eq!(refused["allowed"], false);
    let why = refused["status"]["message"].as_str().unwrap();
    assert!(why.contains("global.proxy.includeIPRanges: \"10.0.0.1\" is not"), "{why}");
    assert_eq!(ask("/inject", "Node", &pod()).await["allowed"], true);
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "d", "namespace": "shop"}, "spec": {"host": "a"}});
    assert_eq!(ask("/validate", "DestinationRule", &rule).await["allowed"], true);
}

#[tokio::test]
async fn resources_are_judged() {
    let fixture = fixture().await;
    let service = |spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "d", "namespace": "shop"}, "spec": spec});
    let ask = async |object: &Value| {
        let (status, body) = fixture.post("/validate", &review("DestinationRule", object)).await;
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&body).unwrap()["response"].clone()
    };
    assert_eq!(ask(&service(json!({"host": "a"}))).await, json!({"allowed": true, "uid": "u7"}));
    let refused =
        ask(&service(json!({"host": "a", "trafficPolicy": {"loadBalancer": {"simple": "BEST"}}}))).await;
    assert_eq!(refused["allowed"], false);
    let why = refused["status"]["message"].as_str().unwrap();
    assert!(why.contains("spec.trafficPolicy.loadBalancer.simple"), "{why}");
}

#[tokio::test]
async fn what_is_no_question_is_told_so() {
    let fixture = fixture().await;
    assert_eq!(fixture.post("/inject", "{").await.0, 400);
    assert_eq!(fixture.post("/validate", "").await.0, 400);
    assert_eq!(fixture.post("/other", "{}").await.0, 404);
    assert_eq!(fixture.send(b"GET /inject HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.0, 405);
    let large = b"POST /inject HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n";
    assert_eq!(fixture.send(large).await.0, 413);
}

#[tokio::test]
async fn plaintext_gets_nothing_and_the_end_is_orderly() {
    let fixture = fixture().await;
    let mut plain = TcpStream::connect(fixture.at).await.unwrap();
    plain.write_all(b"POST /inject HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(fixture.drain.finish(std::time::Duration::from_secs(20)).await);
    fixture.task.await.unwrap();
    assert!(TcpStream::connect(fixture.at).await.is_err());
}
