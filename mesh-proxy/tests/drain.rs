//! Ending a proxy loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1::Protocol;

use crate::support::client::{self, Connection};
use crate::support::mesh::{PORT, ServiceSpec, Spec, endpoints};
use crate::support::origin::Origin;
use crate::support::{Mesh, eventually};

/// Two instances; one is withdrawn, drained and stopped under load. Clients never retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_instance_loses_no_request() {
    let mesh = Mesh::start().await;
    let app = Origin::start("ratings").await;
    let one = mesh.pod(Spec { account: "ratings", ..Spec::new("ratings-1", app.address) }).await;
    let mut two = mesh.pod(Spec { account: "ratings", ..Spec::new("ratings-2", app.address) }).await;
    let reviews = mesh.pod(Spec::new("reviews", app.address)).await;
    mesh.service(&ServiceSpec {
        name: "ratings",
        port: PORT,
        vip: 2,
        protocol: Protocol::Http,
        pods: vec![&one, &two],
    });
    let vip = reviews.vip(2, PORT);
    eventually("the listener opens", || async move { tokio::net::TcpStream::connect(vip).await.is_ok() })
        .await;

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (stop, sent) = (stop.clone(), sent.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(vip).await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = connection.get("ratings", "/").await.expect("an answer");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let reached = |n: usize| {
        let sent = sent.clone();
        move || {
            let sent = sent.clone();
            async move { sent.load(Ordering::Relaxed) >= n }
        }
    };
    eventually("load", reached(200)).await;
    let name = format!("ratings.default.svc.cluster.local:{PORT}");
    mesh.pilot.publish(Kind::Endpoints, &name, &endpoints(&[&one]));
    let drain = format!(
        "POST /drain?timeout=10 HTTP/1.1\r\nhost: {}\r\nx-mesh-admin: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        two.admin()
    );
    let drained = client::send(two.admin(), &drain).await.unwrap();
    assert_eq!(drained.status, 200, "{drained:?}");
    two.stop();
    two.ended().await;
    let now = sent.load(Ordering::Relaxed);
    eventually("more load", reached(now + 200)).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

/// The counterpart: without the withdrawal's retry path nothing would be seen. An instance that is ended at once, with
/// its endpoint still published, is covered by safe repetition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_flight_is_answered_before_the_end() {
    let mesh = Mesh::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let mut pod = mesh.pod(Spec::new("ratings", app)).await;
    let mut connection = Connection::open(pod.inbound()).await;
    let asked = tokio::spawn(async move { connection.get("ratings", "/slow").await });
    let (mut held, _) = listener.accept().await.unwrap();
    read_head(&mut held).await;
    pod.stop();
    let at = pod.inbound();
    eventually("the port closes", || async move { tokio::net::TcpStream::connect(at).await.is_err() }).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    tokio::io::AsyncWriteExt::write_all(&mut held, answer).await.unwrap();
    let answer = asked.await.unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert_eq!(answer.header("connection"), Some("close"));
    pod.ended().await;
}

/// The preStop hook of a pod: until the endpoint's withdrawal has reached everybody, clients still come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_drain_goes_on_serving_and_waits_for_what_is_in_flight() {
    let mesh = Mesh::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let mut pod = mesh.pod(Spec { agent: true, ..Spec::new("ratings", app) }).await;
    let mut slow = Connection::open(pod.inbound()).await;
    let asked = tokio::spawn(async move { slow.get("ratings", "/slow").await });
    let (mut held, _) = listener.accept().await.unwrap();
    read_head(&mut held).await;
    let agent = pod.agent();
    assert_eq!(client::get(agent, "agent", "/drain/other").await.unwrap().status, 404);
    let hook = tokio::spawn(async move { client::get(agent, "agent", "/drain/token").await.unwrap() });
    eventually("not ready", || async move {
        client::get(agent, "agent", "/healthz/ready").await.is_ok_and(|a| a.status == 503)
    })
    .await;
    // Somebody who does not know yet.
    let mut late = Connection::open(pod.inbound()).await;
    let late = tokio::spawn(async move { late.get("ratings", "/late").await });
    let (mut other, _) = listener.accept().await.unwrap();
    read_head(&mut other).await;
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    tokio::io::AsyncWriteExt::write_all(&mut other, answer).await.unwrap();
    let late = late.await.unwrap().unwrap();
    assert_eq!((late.status, late.header("connection")), (200, Some("close")));
    assert!(!hook.is_finished(), "a request is in flight");
    tokio::io::AsyncWriteExt::write_all(&mut held, answer).await.unwrap();
    let slow = asked.await.unwrap().unwrap();
    assert_eq!((slow.status, slow.header("connection")), (200, Some("close")));
    assert_eq!(hook.await.unwrap().body, "drained\n");
    assert!(tokio::net::TcpStream::connect(pod.inbound()).await.is_ok(), "still open for whoever comes");
    pod.stop();
    pod.ended().await;
    assert!(tokio::net::TcpStream::connect(pod.inbound()).await.is_err());
}

async fn read_head(stream: &mut tokio::net::TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        tokio::io::AsyncReadExt::read_buf(stream, &mut head).await.unwrap();
    }
}
