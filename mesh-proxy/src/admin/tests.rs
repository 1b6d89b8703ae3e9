//! The three servers over real sockets, and who may ask.

use std::sync::atomic::{AtomicBool, Ordering};

use mesh_proto::runtime::log;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Never drains on its own: ends at the limit, or at once without one.
#[derive(Default)]
struct Drained(Arc<Mutex<Vec<Option<Duration>>>>);

impl Drain for Drained {
    fn drain(&self, limit: Option<Duration>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        self.0.lock().push(limit);
        Box::pin(async move {
            if let Some(limit) = limit {
                tokio::time::sleep(limit).await;
            }
            limit.is_none()
        })
    }
}

struct Fixture {
    at: Addresses,
    ready: Arc<AtomicBool>,
    drains: Arc<Mutex<Vec<Option<Duration>>>>,
    _serving: JoinSet<()>,
}

async fn fixture() -> Fixture {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let servers =
        Servers::bind(&Addresses { status: any, metrics: any, admin: any, agent: None }).await.unwrap();
    let at = servers.addresses().unwrap();
    let (ready, drained) = (Arc::new(AtomicBool::new(false)), Drained::default());
    let (is_ready, drains) = (ready.clone(), drained.0.clone());
    let sources = Sources {
        ready: Box::new(
            move || if is_ready.load(Ordering::Relaxed) { Ok(()) } else { Err("no certificate".into()) },
        ),
        metrics: Box::new(|| "up 1\n".to_owned()),
        config_dump: Box::new(|| json!({"routes": []})),
        certs: Box::new(|| json!([{"id": "spiffe://a"}])),
        stats: Box::new(|| json!({"workers": []})),
        clusters: Box::new(|| json!([])),
        drain: Box::new(drained),
        agent: None,
    };
    let mut serving = JoinSet::new();
    serving.spawn(servers.serve(Arc::new(sources)));
    Fixture { at, ready, drains, _serving: serving }
}

async fn send(to: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn ask(to: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let answer = send(to, &format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nx-mesh-admin: 1")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn readiness_is_asked_each_time() {
    let fixture = fixture().await;
    for (to, path) in [(fixture.at.status, "/healthz/ready"), (fixture.at.admin, "/ready")] {
        fixture.ready.store(false, Ordering::Relaxed);
        assert_eq!(ask(to, "GET", path).await, (503, "not ready: no certificate\n".to_owned()));
        fixture.ready.store(true, Ordering::Relaxed);
        assert_eq!(ask(to, "GET", path).await, (200, "ready\n".to_owned()));
    }
}

#[tokio::test]
async fn readiness_is_waited_for() {
    let fixture = fixture().await;
    let status = fixture.at.status;
    let waiting = tokio::spawn(async move { ask(status, "GET", "/healthz/ready?wait=10").await });
    assert_eq!(ask(status, "GET", "/healthz/ready?wait=0.01").await.0, 503);
    assert_eq!(ask(status, "GET", "/healthz/ready?wait=soon").await.0, 503);
    assert!(!waiting.is_finished());
    fixture.ready.store(true, Ordering::Relaxed);
    assert_eq!(waiting.await.unwrap().0, 200);
}

#[tokio::test]
async fn each_server_has_its_own_pages() {
    let fixture = fixture().await;
    let at = fixture.at;
    assert_eq!(ask(at.metrics, "GET", "/stats/prometheus").await, (200, "up 1\n".to_owned()));
    assert_eq!(ask(at.admin, "GET", "/config_dump?x").await, (200, "{\n  \"routes\": []\n}\n".to_owned()));
    assert!(ask(at.admin, "GET", "/certs").await.1.contains("spiffe://a"));
    assert!(ask(at.admin, "GET", "/stats").await.1.contains("workers"));
    for (to, path) in
        [(at.metrics, "/config_dump"), (at.status, "/drain"), (at.metrics, "/drain"), (at.admin, "/")]
    {
        assert_eq!(ask(to, "POST", path).await.0, 404, "{path}");
    }
    assert_eq!(ask(at.admin, "HEAD", "/certs").await, (200, String::new()));
}

#[tokio::test]
async fn draining_takes_a_post() {
    let fixture = fixture().await;
    let admin = fixture.at.admin;
    assert_eq!(ask(admin, "GET", "/drain").await, (405, "POST /drain\n".to_owned()));
    assert_eq!(ask(admin, "POST", "/drain?timeout=x").await.0, 400);
    assert_eq!(ask(admin, "POST", "/drain?timeout=-1").await.0, 400);
    assert!(fixture.drains.lock().is_empty());
    assert_eq!(ask(admin, "POST", "/drain").await, (200, "{\n  \"drained\": true\n}\n".to_owned()));
    let (status, body) = ask(admin, "POST", "/drain?timeout=0.01").await;
    assert_eq!((status, body.contains("false")), (200, true));
    assert_eq!(*fixture.drains.lock(), [None, Some(Duration::from_millis(10))]);
}

/// C6: a web page that makes a browser post to loopback, or read it under a name of its own (DNS rebinding), and a program that
/// is made to ask for an address. Each request that changes something is tried as each of them would send it.
#[tokio::test]
async fn c6_web_pages_and_made_requests_change_nothing() {
    log::init("test");
    let fixture = fixture().await;
    let level = log::filter();
    let form = "Content-Type: application/x-www-form-urlencoded";
    let refused = [
        "Host: localhost:15000".to_owned(),
        format!("Host: 127.0.0.1\r\n{form}"),
        "Host: [::1]:15000\r\nContent-Type: text/plain\r\nSec-Fetch-Site: cross-site".to_owned(),
        "Host: evil.example\r\nx-mesh-admin: 1".to_owned(),
        "Host: 10.0.0.1\r\nx-mesh-admin: 1".to_owned(),
        "Host: 127.0.0.1\r\nOrigin: https://evil.example\r\nx-mesh-admin: 1".to_owned(),
        "Host: 127.0.0.1\r\nOrigin: null".to_owned(),
        "Host: a@b/c\r\nx-mesh-admin: 1".to_owned(),
    ];
    for changing in ["/drain", "/drain?timeout=1", "/logging?level=trace"] {
        for headers in &refused {
            let answer = send(fixture.at.admin, &format!("POST {changing} HTTP/1.1\r\n{headers}")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{changing} {headers}: {answer}");
        }
        let answer = send(fixture.at.admin, &format!("POST {changing} HTTP/1.1\r\n{}", refused[0])).await;
        assert!(answer.contains("add x-mesh-admin: 1"), "it says what to add: {answer}");
        // A browser asks first whether a page may add the header: nothing here says yes.
        let first =
            "Host: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Headers: x-mesh-admin";
        let answer = send(fixture.at.admin, &format!("OPTIONS {changing} HTTP/1.1\r\n{first}")).await;
        assert!(
            !answer.starts_with("HTTP/1.1 2") && !answer.to_lowercase().contains("access-control"),
            "{answer}"
        );
        // No change by GET.
        assert_eq!(ask(fixture.at.admin, "GET", changing).await.0, 405, "{changing}");
    }
    assert!(fixture.drains.lock().is_empty());
    assert_eq!(log::filter(), level);
    for host in ["localhost:15000", "[::1]:15000", "127.9.1.1"] {
        let answer = send(fixture.at.admin, &format!("GET /ready HTTP/1.1\r\nHost: {host}")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{host}: {answer}");
    }
}

#[tokio::test]
async fn only_loopback_may_administer() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let all = SocketAddr::from(([0, 0, 0, 0], 0));
    let error =
        Servers::bind(&Addresses { status: any, metrics: any, admin: all, agent: None }).await.unwrap_err();
    assert_eq!(error.to_string(), "admin address 0.0.0.0:0 is not on loopback");
}
