//! The source on a fake API server, whose clock is ours.

use std::time::Duration;

use tokio::sync::mpsc;

use super::fake::Fake;
use super::*;
use crate::source::kube::KubeSource;

struct Source {
    fake: Fake,
    finds: mpsc::Receiver<Vec<Event>>,
    index: Index,
    snapshot: Arc<Snapshot>,
    _task: tokio::task::JoinSet<()>,
}

impl Source {
    /// A server that serves routes in an older version alone, with one of them.
    fn start() -> Self {
        let fake = Fake::default();
        fake.serve("networking.istio.io/v1beta1", "VirtualService", "virtualservices");
        fake.put("virtualservices", old_route("a"));
        let (found, finds) = mpsc::channel(16);
        let source = KubeSource::new(fake.client(), Merge::new(LastGood::new(), Kept::default()));
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async { source.run(found).await.unwrap() });
        let mut index = Index::with_slices(mesh());
        let (snapshot, _) = index.snapshot();
        Self { fake, finds, index, snapshot, _task: task }
    }

    /// Takes events until it holds.
    async fn until(&mut self, what: &str, holds: impl Fn(&Snapshot, &Index) -> bool) {
        let reached = async {
            while !holds(&self.snapshot, &self.index) {
                for event in self.finds.recv().await.unwrap() {
                    self.index.apply(event);
                }
                self.snapshot = self.index.snapshot().0;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), reached).await.expect(what);
    }

    async fn until_routes(&mut self, names: &[&str]) {
        let routes = |snapshot: &Snapshot| -> Vec<String> {
            let mut names: Vec<_> =
                snapshot.config.virtual_services.iter().map(|held| held.reference.name.to_string()).collect();
            names.sort();
            names
        };
        self.until(&format!("{names:?}"), |snapshot, _| snapshot.loaded && routes(snapshot) == names).await;
    }
}

fn old_route(name: &str) -> Value {
    let mut route = good_route();
    route["apiVersion"] = "networking.istio.io/v1beta1".into();
    route["metadata"]["name"] = name.into();
    route["metadata"]["resourceVersion"] = "1".into();
    route
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

#[tokio::test(start_paused = true)]
async fn lists_in_the_version_that_is_served_then_watches() {
    let mut source = Source::start();
    source.until_routes(&["a"]).await;
    source.fake.tell("virtualservices", &event("ADDED", &old_route("b")));
    source.until_routes(&["a", "b"]).await;
    source.fake.tell("virtualservices", &event("DELETED", &old_route("a")));
    source.until_routes(&["b"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_resource_version_means_a_new_listing() {
    let mut source = Source::start();
    source.until_routes(&["a"]).await;
    source.fake.clear("virtualservices");
    source.fake.put("virtualservices", old_route("b"));
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
        "reason": "Expired", "message": "too old resource version"});
    source.fake.tell("virtualservices", &event("ERROR", &gone));
    source.until_routes(&["b"]).await;
    source.fake.put("virtualservices", old_route("c"));
    source.fake.refuse_watch("virtualservices", 410);
    source.until_routes(&["b", "c"]).await;
    assert_eq!(source.fake.lists("virtualservices"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_down_for_a_minute_takes_nothing_out_of_force() {
    let mut source = Source::start();
    source.until_routes(&["a"]).await;
    source.fake.set_down(true);
    let events = tokio::time::timeout(Duration::from_secs(60), source.finds.recv()).await;
    assert!(events.is_err(), "{events:?}");
    source.fake.set_down(false);
    // Where the watch was: what came meanwhile is told by the server.
    let told = async {
        loop {
            source.fake.tell("virtualservices", &event("ADDED", &old_route("b")));
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Ok(found) = source.finds.try_recv() {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(600), told).await.unwrap();
    assert!(matches!(&found[..], [Event::Apply(resource)] if *resource.reference.name == *"b"), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_down_at_the_start_is_waited_for() {
    let fake = Fake::default();
    fake.set_down(true);
    let (found, mut finds) = mpsc::channel(16);
    let source = KubeSource::new(fake.client(), Merge::new(LastGood::new(), Kept::default()));
    let waiting = source.waiting();
    let task = tokio::spawn(source.run(found));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(waiting.lock().iter().any(|line| line.starts_with("PeerAuthentication: ")), "{waiting:?}");
    while let Ok(events) = finds.try_recv() {
        assert!(!events.iter().any(|event| matches!(event, Event::InitDone)));
    }
    let error = task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("PeerAuthentication") && error.contains("rights"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn undecodable_objects_are_refused_by_name_and_the_rest_applies() {
    let mut source = Source::start();
    for number in 0..500 {
        let mut odd = old_route(&format!("odd-{number}"));
        odd["spec"] = json!({"hosts": {"not": "a list"}, "http": 7});
        source.fake.put("virtualservices", odd);
    }
    source.until_routes(&["a"]).await;
    let refused = |index: &Index| index.standings().0.iter().filter(|s| s.refused.is_some()).count();
    assert_eq!(refused(&source.index), 500);
    source.fake.tell(
        "virtualservices",
        &event(
            "MODIFIED",
            &json!({"metadata": {"name": "odd-0", "namespace": "default",
        "resourceVersion": "9", "labels": 7}, "spec": null}),
        ),
    );
    source.fake.tell("virtualservices", &event("MODIFIED", &old_route("odd-1")));
    source.until_routes(&["a", "odd-1"]).await;
    assert_eq!(refused(&source.index), 499);
}

#[tokio::test(start_paused = true)]
async fn a_missing_crd_is_told_and_looked_for_again() {
    let mut source = Source::start();
    source.until_routes(&["a"]).await;
    let missing = |index: &Index, kind: &str| {
        index.standings().1.keys().any(|path| path.display().to_string().contains(&format!(" {kind}.")))
    };
    assert!(missing(&source.index, "DestinationRule") && !missing(&source.index, "VirtualService"));
    assert!(!missing(&source.index, "HTTPRoute"), "not in force anyway");
    source.fake.serve("networking.istio.io/v1alpha3", "DestinationRule", "destinationrules");
    source.fake.put(
        "destinationrules",
        json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "DestinationRule",
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"host": "a"}}),
    );
    source
        .until("the CRD has come", |snapshot, index| {
            snapshot.config.destination_rules.len() == 1 && !missing(index, "DestinationRule")
        })
        .await;
}
