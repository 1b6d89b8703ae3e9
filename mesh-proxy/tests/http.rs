//! Requests end to end through two sidecars.

use mesh_proto::wire::mesh::v1::Protocol;

use crate::support::client::{self, Connection};
use crate::support::mesh::{PORT, ServiceSpec, Spec};
use crate::support::origin::Origin;
use crate::support::{Mesh, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_through_two_sidecars() {
    let mesh = Mesh::start().await;
    let app = Origin::start("ratings").await;
    let ratings = mesh.pod(Spec::new("ratings", app.address)).await;
    let reviews = mesh.pod(Spec::new("reviews", "127.0.0.1:1".parse().unwrap())).await;
    mesh.service(&ServiceSpec {
        name: "ratings",
        port: PORT,
        vip: 2,
        protocol: Protocol::Http,
        pods: vec![&ratings],
    });
    let vip = reviews.vip(2, PORT);
    eventually("the listener opens", || async move { tokio::net::TcpStream::connect(vip).await.is_ok() })
        .await;

    let answer = client::get(vip, "ratings:9080", "/0?x=1").await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("ratings\nGET /0?x=1 HTTP/1.1"), "{answer:?}");
    assert!(answer.body.contains("By=spiffe://cluster.local/ns/default/sa/ratings;Hash="), "{answer:?}");
    assert!(answer.body.contains("URI=spiffe://cluster.local/ns/default/sa/reviews"), "{answer:?}");
    assert!(answer.body.contains("x-request-id: "), "{answer:?}");
    assert!(!answer.body.contains("x-mesh-peer"), "{answer:?}");
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert!(answer.header("x-envoy-upstream-service-time").is_some());

    // The HTTP proxy port: absolute-form, short and full names, with and without port.
    for url in [
        "http://ratings:9080/1",
        "http://ratings/1",
        "http://ratings.default/1",
        "http://ratings.default.svc.cluster.local:9080/1",
    ] {
        let answer = client::proxied(reviews.proxy(), url).await.unwrap();
        assert_eq!(answer.status, 200, "{url}: {answer:?}");
        assert!(answer.body.starts_with("ratings\nGET /1 HTTP/1.1"), "{answer:?}");
    }
    assert!(mesh.pilot.rejected().is_empty(), "{:?}", mesh.pilot.rejected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_kept_on_both_legs() {
    let mesh = Mesh::start().await;
    let app = Origin::start("ratings").await;
    let ratings = mesh.pod(Spec::new("ratings", app.address)).await;
    let reviews = mesh.pod(Spec::new("reviews", "127.0.0.1:1".parse().unwrap())).await;
    mesh.service(&ServiceSpec {
        name: "ratings",
        port: PORT,
        vip: 2,
        protocol: Protocol::Http,
        pods: vec![&ratings],
    });
    let vip = reviews.vip(2, PORT);
    eventually("the listener opens", || async move { tokio::net::TcpStream::connect(vip).await.is_ok() })
        .await;
    let mut connection = Connection::open(vip).await;
    for _ in 0..20 {
        assert_eq!(connection.get("ratings", "/").await.unwrap().status, 200);
    }
    assert_eq!(app.connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}
