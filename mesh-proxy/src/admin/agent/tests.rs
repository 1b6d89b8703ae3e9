//! Port 15020 over real sockets, with real applications behind the probes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::admin::{Addresses, Servers};
use crate::config::agent::Scrape;

#[derive(Default)]
struct Counted {
    drains: AtomicUsize,
    quits: AtomicUsize,
}

impl Termination for Arc<Counted> {
    fn drain(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        self.drains.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { true })
    }

    fn quit(&self) {
        self.quits.fetch_add(1, Ordering::Relaxed);
    }
}

struct Never;

impl crate::admin::Drain for Never {
    fn drain(&self, _: Option<std::time::Duration>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async { false })
    }
}

struct Fixture {
    at: SocketAddr,
    told: Arc<Counted>,
    _serving: JoinSet<()>,
}

async fn fixture(probes: &serde_json::Value, scrape: Option<Scrape>) -> Fixture {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let addresses = Addresses { status: any, metrics: any, admin: any, agent: Some(any) };
    let servers = Servers::bind(&addresses).await.unwrap();
    let at = servers.addresses().unwrap().agent.unwrap();
    let told = Arc::new(Counted::default());
    let config = agent::Agent {
        listen: at,
        drain_token: Some("s3cret".into()),
        probes: agent::probes(&probes.to_string()).unwrap(),
        scrape,
    };
    let agent = Agent { config, pod_ip: Ipv4Addr::LOCALHOST.into(), termination: Box::new(told.clone()) };
    let sources = Sources {
        ready: Box::new(|| Ok(())),
        metrics: Box::new(|| "ours 1\n".to_owned()),
        config_dump: Box::new(|| json!({})),
        certs: Box::new(|| json!({})),
        stats: Box::new(|| json!({})),
        clusters: Box::new(|| json!([])),
        drain: Box::new(Never),
        agent: Some(agent),
    };
    let mut serving = JoinSet::new();
    serving.spawn(servers.serve(Arc::new(sources)));
    Fixture { at, told, _serving: serving }
}

async fn ask(to: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/1\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// An application: answers by path, and shows the head that it was asked with.
async fn application(answers: BTreeMap<&'static str, String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            reply(stream, &answers).await;
        }
    });
    port
}

async fn reply(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    answers: &BTreeMap<&'static str, String>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let answer = answers.get(path).cloned().unwrap_or_else(|| "404 x\r\n\r\n".to_owned());
    let text = format!("HTTP/1.1 {}", answer.replace("HEAD", &head));
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn the_applications_answer_is_the_probes() {
    let port = application(BTreeMap::from([
        ("/ok", "200 OK\r\n\r\nHEAD".to_owned()),
        ("/bad", "503 x\r\n\r\nnot yet".to_owned()),
        ("/moved", "302 x\r\nLocation: /ok\r\n\r\n".to_owned()),
        ("/away", "302 x\r\nLocation: https://login.example/\r\n\r\n".to_owned()),
        ("/round", "302 x\r\nLocation: /round\r\n\r\n".to_owned()),
        ("/long", format!("200 OK\r\n\r\n{}", "x".repeat(100_000))),
    ]))
    .await;
    let get = |path: &str| json!({"httpGet": {"path": path, "port": port}, "timeoutSeconds": 60});
    let named = json!({"httpGet": {"path": "ok", "port": port, "httpHeaders": [
        {"name": "host", "value": "shop.example"}, {"name": "X-Probe", "value": "1"}]}, "timeoutSeconds": 60});
    let fixture = fixture(
        &json!({
            "/app-health/a/readyz": get("/ok"), "/app-health/a/livez": get("/bad"), "/app-health/b/readyz": get("/moved"),
            "/app-health/c/readyz": get("/away"), "/app-health/d/readyz": get("/round"),
            "/app-health/e/readyz": get("/long"), "/app-health/f/startupz": named,
        }),
        None,
    )
    .await;
    let ask = |path: &'static str| ask(fixture.at, "GET", path);
    let (status, head) = ask("/app-health/a/readyz").await;
    assert_eq!(status, 200);
    assert!(head.contains(&format!("host: 127.0.0.1:{port}")) && head.contains("kube-probe/1"), "{head}");
    assert_eq!(ask("/app-health/a/livez").await, (503, "not yet".to_owned()));
    assert_eq!(ask("/app-health/b/readyz").await.0, 200);
    assert_eq!(ask("/app-health/c/readyz").await, (200, "redirected to another host\n".to_owned()));
    let (status, why) = ask("/app-health/d/readyz").await;
    assert!(status == 500 && why.contains("more than 10 redirects"), "{status} {why}");
    assert_eq!(ask("/app-health/e/readyz").await.1.len(), 10 << 10);
    let (_, head) = ask("/app-health/f/startupz").await;
    assert!(head.contains("host: shop.example") && head.contains("x-probe: 1"), "{head}");
    assert_eq!(ask("/app-health/x/readyz").await.0, 404);
    assert_eq!(ask("/app-health/a/startupz").await.0, 404);
    assert_eq!(super::tests::ask(fixture.at, "POST", "/app-health/a/readyz").await.0, 405);
}

#[tokio::test]
async fn https_without_a_certificate_that_anybody_trusts() {
    let ca = TestCa::new();
    let acceptor =
        TlsAcceptor::from(server_config(&ca.identity("a", "b"), ClientAuth::Optional, &[b"http/1.1"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            reply(stream, &BTreeMap::from([("/", "204 x\r\n\r\n".to_owned())])).await;
        }
    });
    let probe = json!({"httpGet": {"port": port, "scheme": "HTTPS"}, "timeoutSeconds": 60});
    let plain = json!({"httpGet": {"port": port, "scheme": "HTTP"}, "timeoutSeconds": 60});
    let probes = json!({"/app-health/a/livez": probe, "/app-health/b/livez": plain});
    let fixture = fixture(&probes, None).await;
    assert_eq!(ask(fixture.at, "GET", "/app-health/a/livez").await.0, 204);
    assert_eq!(ask(fixture.at, "GET", "/app-health/b/livez").await.0, 500, "plain HTTP to a TLS port");
}

#[tokio::test]
async fn tcp_and_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let fixture = fixture(
        &json!({
            "/app-health/a/livez": {"tcpSocket": {"port": port}, "timeoutSeconds": 60},
            "/app-health/b/livez": {"tcpSocket": {"port": closed}, "timeoutSeconds": 60},
            "/app-health/c/livez": {"httpGet": {"port": port}, "timeoutSeconds": 1},
        }),
        None,
    )
    .await;
    assert_eq!(ask(fixture.at, "GET", "/app-health/a/livez").await, (200, "connected\n".to_owned()));
    let (status, why) = ask(fixture.at, "GET", "/app-health/b/livez").await;
    assert!(status == 500 && why.contains("refused"), "{status} {why}");
    let (status, why) = ask(fixture.at, "GET", "/app-health/c/livez").await;
    assert!(status == 500 && why.contains("no answer within 1 s"), "{status} {why}");
}

#[tokio::test]
async fn grpc_health() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let probe = |service: &str| json!({"grpc": {"port": port, "service": service}, "timeoutSeconds": 60});
    let fixture = fixture(
        &json!({
            "/app-health/a/livez": probe("up"), "/app-health/b/livez": probe("down"),
            "/app-health/c/livez": probe("unknown"),
            "/app-health/d/livez": {"grpc": {"port": port}, "timeoutSeconds": 60},
        }),
        None,
    )
    .await;
    assert_eq!(ask(fixture.at, "GET", "/app-health/a/livez").await, (200, "serving\n".to_owned()));
    let (status, why) = ask(fixture.at, "GET", "/app-health/b/livez").await;
    assert!(status == 500 && why.contains("says 2, not SERVING"), "{status} {why}");
    let (status, why) = ask(fixture.at, "GET", "/app-health/c/livez").await;
    assert!(status == 500 && why.contains("NotFound"), "{status} {why}");
    assert_eq!(ask(fixture.at, "GET", "/app-health/d/livez").await.0, 200, "the whole server");
}

#[tokio::test]
async fn only_the_token_drains() {
    let fixture = fixture(&json!({}), None).await;
    for path in ["/drain", "/drain/", "/drain/s3cre", "/drain/s3creT", "/drain/s3cret/", "/drain/s3cret%20"] {
        assert_eq!(ask(fixture.at, "GET", path).await.0, 404, "{path}");
        assert_eq!(ask(fixture.at, "POST", path).await.0, 404, "{path}");
    }
    assert_eq!(ask(fixture.at, "DELETE", "/drain/s3cret").await.0, 405);
    assert_eq!(fixture.told.drains.load(Ordering::Relaxed), 0);
    for method in ["GET", "POST"] {
        assert_eq!(ask(fixture.at, method, "/drain/s3cret").await, (200, "drained\n".to_owned()));
    }
    assert_eq!(fixture.told.drains.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_job_ends_its_sidecar_from_inside() {
    let fixture = fixture(&json!({}), None).await;
    assert_eq!(ask(fixture.at, "GET", "/quitquitquit").await.0, 405);
    assert_eq!(fixture.told.quits.load(Ordering::Relaxed), 0);
    assert_eq!(ask(fixture.at, "POST", "/quitquitquit").await.0, 200);
    assert_eq!(fixture.told.quits.load(Ordering::Relaxed), 1);
    // From outside of the pod there is no such path.
    let request = Request::post("/quitquitquit").header("host", "localhost:15020").body(()).unwrap();
    let agent = Agent {
        config: agent::Agent { listen: fixture.at, drain_token: None, probes: BTreeMap::new(), scrape: None },
        pod_ip: Ipv4Addr::LOCALHOST.into(),
        termination: Box::new(fixture.told.clone()),
    };
    let sources = Sources {
        ready: Box::new(|| Ok(())),
        metrics: Box::new(String::new),
        config_dump: Box::new(|| json!({})),
        certs: Box::new(|| json!({})),
        stats: Box::new(|| json!({})),
        clusters: Box::new(|| json!([])),
        drain: Box::new(Never),
        agent: None,
    };
    for (from, status) in [("10.1.2.3:4", 404), ("[::ffff:10.1.2.3]:4", 404), ("[::ffff:127.0.0.1]:4", 200)] {
        let answer = answer(&agent, from.parse().unwrap(), &request, &sources).await;
        assert_eq!(answer.status().as_u16(), status, "{from}");
    }
}

/// C6: as Istio's users type it, without a header of ours; a page in a browser beside it still ends nothing.
#[tokio::test]
async fn c6_no_web_page_ends_a_sidecar() {
    let fixture = fixture(&json!({}), None).await;
    let post = async |fields: &str| {
        let mut stream = TcpStream::connect(fixture.at).await.unwrap();
        let head = format!("POST /quitquitquit HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for fields in [
        "Host: localhost:15020\r\nOrigin: https://evil.example",
        "Host: localhost:15020\r\nOrigin: null",
        "Host: 127.0.0.1:15020\r\nSec-Fetch-Site: cross-site",
        "Host: evil.example:15020",
        "Host: 10.1.2.3:15020",
    ] {
        let answer = post(fields).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{fields}: {answer}");
    }
    assert_eq!(fixture.told.quits.load(Ordering::Relaxed), 0);
    let typed = "Host: localhost:15020\r\nUser-Agent: curl/8.1\r\nAccept: */*";
    assert!(post(typed).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(fixture.told.quits.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn metrics_of_both() {
    let port = application(BTreeMap::from([("/m", "200 OK\r\n\r\napp 2\n# EOF\n".to_owned())])).await;
    let both = fixture(&json!({}), Some(Scrape { port, path: "/m".into() })).await;
    assert_eq!(ask(both.at, "GET", "/stats/prometheus").await, (200, "app 2\nours 1\n".to_owned()));
    let missing = fixture(&json!({}), Some(Scrape { port, path: "/other".into() })).await;
    let (status, text) = ask(missing.at, "GET", "/stats/prometheus").await;
    assert_eq!(status, 200);
    assert!(
        text.starts_with(&format!("# metrics of the application at :{port}/other are missing: status 404\n")),
        "{text}"
    );
    assert!(text.ends_with("ours 1\n"));
    assert_eq!(ask(both.at, "GET", "/healthz/ready").await.0, 200);
}
