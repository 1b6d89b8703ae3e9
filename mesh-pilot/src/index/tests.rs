//! Stories: objects as YAML in, endpoints and changes out.

use mesh_proto::crd::{Document, Kind, parse};
use mesh_proto::model::HostPort;

use super::*;
use crate::snapshot::Snapshot;

/// The name of every story's service.
const HOST: &str = "reviews.default.svc.cluster.local";

fn mesh() -> MeshSettings {
    MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
    }
}

struct Story {
    index: Index,
    snapshot: Arc<Snapshot>,
}

impl Story {
    fn new() -> Self {
        let mut index = Index::new(mesh());
        let (snapshot, _) = index.snapshot();
        Self { index, snapshot }
    }

    fn apply(&mut self, yaml: &str) -> Changes {
        for document in parse("test.yaml", yaml) {
            match document {
                Document::Accepted(resource) => self.index.apply(Event::Apply(Box::new(resource))),
                other => panic!("{other:?}"),
            }
        }
        self.take()
    }

    fn delete(&mut self, kind: Kind, name: &str) -> Changes {
        self.index.apply(Event::Delete(ObjectRef::new(kind, "default", name)));
        self.take()
    }

    fn take(&mut self) -> Changes {
        let (snapshot, changes) = self.index.snapshot();
        self.snapshot = snapshot;
        changes
    }

    /// `uid ip:port ready` of each endpoint.
    fn endpoints(&self, port: u16) -> Vec<String> {
        let set = self.snapshot.endpoints.get(&HostPort::new(HOST, port));
        let text = |e: &crate::snapshot::EndpointView| format!("{} {} {}", e.pod.uid, e.address, e.ready);
        set.map(|set| set.endpoints.iter().map(text).collect()).unwrap_or_default()
    }
}

fn service(ports: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: reviews}}\nspec: {{selector: {{app: reviews}}, ports: [{ports}]{more}}}\n"
    )
}

fn pod(name: &str, ip: u8, labels: &str, ready: bool, more: &str) -> String {
    let ready = if ready { "True" } else { "False" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: u-{name}, labels: {{{labels}}}, \
         annotations: {{sidecar.istio.io/status: injected}}{more}}}\n\
         spec: {{serviceAccountName: reviews, containers: [{{name: app, ports: [{{name: web, containerPort: 9080}}]}}]}}\n\
         status: {{podIP: 127.5.{ip}.1, phase: Running, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
    )
}

#[test]
fn endpoints_follow_selector_target_port_and_readiness() {
    let mut story = Story::new();
    story.apply(&pod("reviews-v1-0", 1, "app: reviews", true, ""));
    let changes = story.apply(&service(
        "{port: 80, name: http, targetPort: web}, {port: 81, name: b, targetPort: 7}, {port: 82, name: c}",
        "",
    ));
    assert!(changes.config);
    assert_eq!(story.endpoints(80), ["u-reviews-v1-0 127.5.1.1:9080 true"]);
    assert_eq!(story.endpoints(81), ["u-reviews-v1-0 127.5.1.1:7 true"]);
    assert_eq!(story.endpoints(82), ["u-reviews-v1-0 127.5.1.1:82 true"]);
    let found = &story.snapshot.pods.values().next().unwrap();
    let targets: Vec<_> = found.services.iter().map(|s| (s.port, s.target)).collect();
    assert_eq!(targets, [(80, 9080), (81, 7), (82, 82)]);
    assert_eq!(found.identity.as_str(), "spiffe://cluster.local/ns/default/sa/reviews");
    assert_eq!((&*found.workload, found.injected), ("reviews-v1", true));

    // One that is not ready is known, and gets nothing.
    story.apply(&pod("reviews-v2-0", 2, "app: reviews", false, ""));
    assert_eq!(story.endpoints(81), ["u-reviews-v1-0 127.5.1.1:7 true", "u-reviews-v2-0 127.5.2.1:7 false"]);
    // Another label is another matter.
    story.apply(&pod("reviews-v1-0", 1, "app: other", true, ""));
    assert_eq!(story.endpoints(80), ["u-reviews-v2-0 127.5.2.1:9080 false"]);
    // publishNotReadyAddresses; a named port that the pod does not have leads nowhere.
    story.apply(&service(
        "{port: 80, name: a, targetPort: nowhere}, {port: 81, name: b}",
        ", publishNotReadyAddresses: true",
    ));
    assert_eq!(story.endpoints(80), Vec::<String>::new());
    assert_eq!(story.endpoints(81), ["u-reviews-v2-0 127.5.2.1:81 true"]);
}

#[test]
fn pods_and_services_have_an_address_of_each_family() {
    let mut story = Story::new();
    let both = "podIP: 127.5.1.1, podIPs: [{ip: 127.5.1.1}, {ip: 'fd00::1'}]";
    story.apply(&pod("a", 1, "app: reviews", true, "").replace("podIP: 127.5.1.1", both));
    story.apply(&service("{port: 80}", ", clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::ff:1']"));
    let ips = ["127.5.1.1", "fd00::1"].map(|ip| ip.parse().unwrap());
    let named = |story: &Story, ip| story.snapshot.workloads.get(&ip).map(|pod| pod.name.to_string());
    assert_eq!(ips.map(|ip| named(&story, ip)), [Some("a".to_owned()), Some("a".to_owned())]);
    let held = story.index.services.values().next().unwrap();
    assert_eq!(held.spec.vips, ["10.0.0.1", "fd00::ff:1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    // One endpoint: the families lead to the same process.
    assert_eq!(story.endpoints(80).len(), 1);
    story.delete(Kind::Pod, "a");
    assert_eq!(ips.map(|ip| named(&story, ip)), [None, None]);
}

#[test]
fn a_flip_changes_its_endpoints_and_no_configuration() {
    let mut story = Story::new();
    story.apply(&service("{port: 80}", ""));
    story.apply(&service("{port: 80}", "").replace("reviews", "ratings"));
    story.apply(&pod("reviews-v1-0", 1, "app: reviews", true, ""));
    let config = story.snapshot.config.clone();
    let ratings = story.snapshot.endpoints[&HostPort::new("ratings.default.svc.cluster.local", 80)].clone();
    let changes = story.apply(&pod("reviews-v1-0", 1, "app: reviews", false, ""));
    assert!(!changes.config && Arc::ptr_eq(&config, &story.snapshot.config));
    assert_eq!(changes.endpoints, BTreeSet::from([HostPort::new(HOST, 80)]));
    assert_eq!((changes.workloads.len(), changes.pods.len()), (1, 1));
    let again = &story.snapshot.endpoints[&HostPort::new("ratings.default.svc.cluster.local", 80)];
    assert!(Arc::ptr_eq(&ratings, again));
    // The same once more is no change at all.
    assert!(story.apply(&pod("reviews-v1-0", 1, "app: reviews", false, "")).is_empty());
}

#[test]
fn a_pod_on_its_way_out_is_withdrawn_at_once() {
    let mut story = Story::new();
    story.apply(&service("{port: 80}", ", publishNotReadyAddresses: true"));
    story.apply(&pod("reviews-v1-0", 1, "app: reviews", true, ""));
    story.index.take_notices();
    let gone = pod("reviews-v1-0", 1, "app: reviews", true, ", deletionTimestamp: \"2026-01-01T00:00:00Z\"");
    story.apply(&gone);
    assert_eq!(story.endpoints(80), Vec::<String>::new());
    assert!(matches!(&story.index.take_notices()[..], [Notice::EndpointDown(_)]));
    assert_eq!(story.snapshot.pods.len(), 1, "its proxy keeps its stream while it drains");
    // Its address goes to the next pod.
    story.apply(&pod("reviews-v1-1", 1, "app: reviews", true, ""));
    assert_eq!(&*story.snapshot.workloads.values().next().unwrap().name, "reviews-v1-1");
    let changes = story.delete(Kind::Pod, "reviews-v1-0");
    assert_eq!((changes.endpoints.len(), changes.pods.len()), (0, 1));
    story.delete(Kind::Pod, "reviews-v1-1");
    assert!(story.snapshot.pods.is_empty() && story.snapshot.workloads.is_empty());
}

#[test]
fn a_service_that_goes_takes_its_endpoints_along_and_headless_ones_have_no_vip() {
    let mut story = Story::new();
    story.apply(&service("{port: 80}", ", clusterIP: None"));
    story.apply(&pod("reviews-v1-0", 1, "app: reviews", true, ""));
    let held = &story.snapshot.config.services[HOST];
    assert!(held.spec.headless && held.spec.vips.is_empty());
    let changes = story.delete(Kind::Service, "reviews");
    assert!(changes.config && story.snapshot.endpoints.is_empty());
    assert!(story.snapshot.pods.values().next().unwrap().services.is_empty());
}

#[test]
fn a_listing_is_an_exchange_not_a_storm_of_deletes() {
    let mut story = Story::new();
    story.index.apply(Event::Init);
    story.apply(&service("{port: 80}", ""));
    story.apply(&pod("reviews-v1-0", 1, "app: reviews", true, ""));
    story.apply(&pod("reviews-v1-1", 2, "app: reviews", true, ""));
    assert!(!story.snapshot.loaded);
    story.index.apply(Event::InitDone);
    assert!(story.take().is_empty() && story.snapshot.loaded);
    // Again, without the second pod and with another service.
    story.index.apply(Event::Init);
    story.apply(&service("{port: 80}", "").replace("reviews", "ratings"));
    story.apply(&pod("reviews-v1-0", 1, "app: reviews", true, ""));
    assert_eq!(story.endpoints(80).len(), 2, "nothing is gone before the listing is done");
    story.index.apply(Event::InitDone);
    story.take();
    assert_eq!((story.snapshot.pods.len(), story.snapshot.config.services.len()), (1, 1));
}

#[test]
fn objects_are_in_order_of_age() {
    let mut story = Story::new();
    for (name, created) in
        [("b", "2026-01-02T00:00:00Z"), ("c", "2026-01-01T00:00:00Z"), ("a", "2026-01-02T00:00:00Z")]
    {
        story.apply(&format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, creationTimestamp: \"{created}\"}}\nspec: {{mtls: {{mode: STRICT}}}}\n"
        ));
    }
    let names: Vec<_> = story
        .snapshot
        .config
        .peer_authentications
        .iter()
        .map(|held| held.reference.name.to_string())
        .collect();
    assert_eq!(names, ["c", "a", "b"]);
}

#[test]
fn what_restricts_and_was_never_good_is_a_restriction_until_it_is_good() {
    let mut story = Story::new();
    let bad = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: all}\nspec: {mtls: {mode: STRIKT}}\n";
    let refuse = |story: &mut Story, last_good| {
        let Some(Document::Refused(refused)) = parse("test.yaml", bad).pop() else { panic!("accepted") };
        let reference = refused.reference.clone().unwrap();
        let refusal = crate::source::Refusal { reference, generation: None, refused, last_good };
        story.index.apply(Event::Refused(Box::new(refusal)));
        story.take()
    };
    assert!(refuse(&mut story, false).config);
    assert_eq!(story.snapshot.config.restrictions.len(), 1);
    story.apply(&bad.replace("STRIKT", "STRICT"));
    assert!(story.snapshot.config.restrictions.is_empty());
    // Turned bad again: the good one stays, and that is enough.
    refuse(&mut story, true);
    assert_eq!(story.snapshot.config.peer_authentications.len(), 1);
    assert!(story.snapshot.config.restrictions.is_empty());
    story.delete(Kind::PeerAuthentication, "all");
    assert!(story.snapshot.config.peer_authentications.is_empty());
}

/// 10,000 endpoints: a flip costs its set, and what is derived stays as large as services x pods.
#[test]
fn bounded_by_services_and_pods() {
    let mut story = Story::new();
    story.apply(&service("{port: 80}", ""));
    for i in 0..2000 {
        let yaml = pod(&format!("reviews-v1-{i}"), 0, "app: reviews", true, "");
        let yaml = yaml.replace("127.5.0.1", &format!("127.5.{}.{}", i / 250, i % 250 + 1));
        for document in parse("pods.yaml", &yaml) {
            let Document::Accepted(resource) = document else { panic!() };
            story.index.apply(Event::Apply(Box::new(resource)));
        }
    }
    story.take();
    assert_eq!(story.endpoints(80).len(), 2000);
    for i in 0..2000 {
        story.index.apply(Event::Delete(ObjectRef::new(Kind::Pod, "default", &format!("reviews-v1-{i}"))));
    }
    story.take();
    assert!(story.endpoints(80).is_empty() && story.index.pods.is_empty() && story.snapshot.pods.is_empty());
    assert!(story.index.dirty_pods.is_empty() && story.index.dirty_services.is_empty());
}
