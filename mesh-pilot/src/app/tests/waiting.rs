//! What proxies wait for when a pilot starts, and for how long.

use mesh_proto::crd::{Document, parse};

use super::*;

/// An author whose issuers never answer does not keep a new pilot from everybody.
#[tokio::test(start_paused = true)]
async fn issuers_that_never_answer_are_waited_for_for_seconds() {
    let mesh = MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
    };
    let mut index = Index::new(mesh);
    let hub = Arc::new(Hub::new(index.snapshot().0, Box::new(Rules)));
    let (keys, _wanted) = watch::channel(Wanted::new());
    let (status, events) = (Arc::new(Status::new(hub.clone())), broadcast::channel(EVENTS).0);
    let (found, finds) = mpsc::channel(4);
    tokio::spawn(Stages { index, keys, hub: hub.clone(), status, events }.run(finds));
    let rule = "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a}, \
        spec: {jwtRules: [{issuer: i, jwksUri: 'http://0.test/k'}]}}";
    let object = parse("a.yaml", rule).into_iter().map(|document| match document {
        Document::Accepted(resource) => Event::Apply(resource.into()),
        other => panic!("{other:?}"),
    });
    found.send([Event::Init].into_iter().chain(object).chain([Event::InitDone]).collect()).await.unwrap();
    let begun = Instant::now();
    // What else comes makes the wait no longer.
    tokio::time::sleep(Duration::from_secs(4)).await;
    found.send(vec![Event::Options(Box::default())]).await.unwrap();
    let mut published = hub.published();
    while !hub.is_loaded() {
        published.changed().await.unwrap();
    }
    assert_eq!(begun.elapsed(), FIRST_KEYS);
}
