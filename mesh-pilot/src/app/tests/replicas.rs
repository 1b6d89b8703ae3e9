//! What one replica asks of another: how objects stand with its proxies.

use std::net::SocketAddr;

use mesh_proto::crd::{Document, parse};
use mesh_proto::wire::mesh::v1::StandingRequest;
use mesh_proto::wire::mesh::v1::replicas_client::ReplicasClient;

use super::*;
use crate::cluster::replicas::Replicas;

/// What the asking replica knows: itself, the other one (on loopback), and a pod that is no pilot.
fn snapshot() -> Arc<Snapshot> {
    let pod = |name: &str, account: &str, ip: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: istio-system, uid: {name}}}, \
             spec: {{serviceAccountName: {account}, containers: [{{name: a}}]}}, \
             status: {{podIP: {ip}, phase: Running, conditions: [{{type: Ready, status: 'True'}}]}}}}\n---\n"
        )
    };
    let yaml = pod("pilot-0", "mesh-pilot", "127.0.0.1")
        + &pod("pilot-1", "mesh-pilot", "127.0.0.2")
        + &pod("gateway", "gateway", "127.0.0.3");
    let mut index = Index::new(MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
    });
    index.apply(Event::Init);
    for document in parse("mesh.yaml", &yaml) {
        let Document::Accepted(resource) = document else { panic!("{document:?}") };
        index.apply(Event::Apply(Box::new(resource)));
    }
    index.apply(Event::InitDone);
    index.snapshot().0
}

#[tokio::test]
async fn the_leader_counts_the_proxies_of_another_replica() {
    let mut pilot = Pilot::start().await;
    let mut proxy = Proxy::default();
    let mut stream = proxy.connect(&pilot, &[DESTINATION]).await;
    proxy.take(&mut stream).await;
    let known = |s: &Value| resource(s, "VirtualService")["state"] == "in_force";
    pilot.until("in force there", known).await;
    let (_, identity) = watch::channel(Some(pilot.ca.identity("istio-system", "mesh-pilot")));
    let port = |pilot: &Pilot| pilot.running().discovery.parse::<SocketAddr>().unwrap().port();
    let mut leader = Replicas::new("pilot-1", "istio-system", port(&pilot), identity.clone());
    // A replica without proxies of its own, that knows the same objects.
    let counted = |others: &crate::status::Others, generation: Option<i64>| {
        let standing = crate::index::Standing {
            generation,
            reference: mesh_proto::crd::ObjectRef::new(
                mesh_proto::crd::Kind::VirtualService,
                "default",
                "reviews",
            ),
            location: String::new(),
            revision: Some(1),
            refused: None,
            warnings: Vec::new(),
        };
        others.observers(&standing)
    };
    let observers = |acked| crate::push::Observers { acked, subscribed: 1 };
    for round in 0..3 {
        let others = leader.ask(&snapshot()).await;
        assert_eq!(counted(&others, None), observers(1), "round {round}: told once, known from then on");
    }
    assert_eq!(counted(&leader.ask(&snapshot()).await, Some(9)), observers(0), "has another version");

    // It does not answer: what it told counts on, until its pod is gone.
    pilot.running.take().unwrap().task.abort();
    assert_eq!(counted(&leader.ask(&snapshot()).await, None), observers(1));
    let nobody = Snapshot { pods: Arc::default(), ..(*snapshot()).clone() };
    assert_eq!(counted(&leader.ask(&nobody).await, None), crate::push::Observers::default());
    // Nobody to ask with before there is a certificate.
    let mut early = Replicas::new("pilot-1", "istio-system", 1, watch::channel(None).1);
    assert_eq!(counted(&early.ask(&snapshot()).await, None), crate::push::Observers::default());
}

#[tokio::test]
async fn nobody_but_a_pilot_learns_how_objects_stand() {
    let pilot = Pilot::start().await;
    pilot.until("loaded", |status| status["loaded"] == true).await;
    for (namespace, account, admitted) in [
        ("istio-system", "mesh-pilot", true),
        ("default", "mesh-pilot", false),
        ("istio-system", "mesh-ca", false),
        ("default", "reviews", false),
    ] {
        let identity = pilot.ca.identity(namespace, account);
        let expected = certificates::pilot_id(&"cluster.local".parse().unwrap());
        let expect = Expect::Exactly(expected);
        let tls = client_config(ClientIdentity::Mesh(&identity), pilot.ca.roots_handle(), expect, &[b"h2"]);
        let mut client = ReplicasClient::new(grpc::channel(&pilot.running().discovery, tls).unwrap());
        let answer = client.standing(StandingRequest::default()).await;
        match answer {
            Ok(_) => assert!(admitted, "{namespace}/{account}"),
            Err(status) => {
                assert!(!admitted && status.code() == tonic::Code::PermissionDenied, "{status}");
            }
        }
    }
}
