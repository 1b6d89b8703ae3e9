//! A mesh to compile, written as YAML: it goes the way of every file, through the parser and the index.

use std::sync::Arc;

use mesh_proto::crd::{Document, Labels, parse};
use mesh_proto::model::HostPort;
use mesh_proto::wire::mesh::v1 as wire;

use crate::index::Index;
use crate::keys::{KeySource, Keys};
use crate::snapshot::{MeshOptions, MeshSettings, Note, Snapshot, Viewer};
use crate::source::{Event, Refusal};

/// What every story has: two versions of reviews, one service with two ports, one of another namespace.
pub(super) const SHOP: &str = "
{apiVersion: v1, kind: Service, metadata: {name: reviews}, spec: {clusterIP: 10.0.0.1, selector: {app: reviews}, ports: [{port: 9080, name: http}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: ratings}, spec: {clusterIP: 10.0.0.2, selector: {app: ratings}, ports: [{port: 80, name: http}, {port: 3306, name: tcp-db}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bank, namespace: money}, spec: {clusterIP: None, selector: {app: bank}, ports: [{port: 443, name: tls, targetPort: 8443}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: reviews-v1-0, uid: r1, labels: {app: reviews, version: v1, team: a}, annotations: {sidecar.istio.io/status: injected}}, spec: {serviceAccountName: reviews, containers: [{name: a, ports: [{containerPort: 9080}, {containerPort: 9999, name: tcp-extra}]}]}, status: {podIP: 10.1.0.1, phase: Running, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: reviews-v2-0, uid: r2, labels: {app: reviews, version: v2}}, spec: {containers: [{name: a}]}, status: {podIP: 10.1.0.2, phase: Running, conditions: [{type: Ready, status: 'False'}]}}
";

/// A compiled mesh.
pub(super) struct Mesh {
    pub(super) snapshot: Arc<Snapshot>,
}

/// A service's host.
pub(super) fn host(name: &str) -> String {
    format!("{name}.svc.cluster.local")
}

/// `default` services by their short name.
fn name(host: &str, port: u16) -> HostPort {
    let full = match host.matches('.').count() {
        0 if host != "*" => format!("{host}.default.svc.cluster.local"),
        1 if !host.starts_with('*') => format!("{host}.svc.cluster.local"),
        _ => host.to_owned(),
    };
    HostPort::new(&full, port)
}

pub(super) fn viewer(namespace: &str) -> Viewer {
    Viewer { namespace: Arc::from(namespace), router: false, labels: Arc::default() }
}

pub(super) fn labelled(namespace: &str, router: bool, labels: &[(&str, &str)]) -> Viewer {
    let labels: Labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Viewer { namespace: Arc::from(namespace), router, labels: Arc::new(labels) }
}

/// The workload that `up` always runs.
pub(super) fn gateway() -> Viewer {
    labelled("istio-system", true, &[("istio", "ingressgateway")])
}

impl Mesh {
    /// [`SHOP`] and what the story adds.
    pub(super) fn with(yaml: &str) -> Self {
        Self::with_options(MeshOptions::default(), yaml)
    }

    /// The same where MeshConfig says something.
    pub(super) fn with_options(options: MeshOptions, yaml: &str) -> Self {
        Self::after(Event::Options(Box::new(options)), yaml)
    }

    /// The same where an issuer's keys have been asked for.
    pub(super) fn with_keys(yaml: &str, source: KeySource, keys: Keys) -> Self {
        Self::after(Event::Keys { source, keys }, yaml)
    }

    fn after(first: Event, yaml: &str) -> Self {
        let mesh = MeshSettings {
            trust_domain: "cluster.local".parse().unwrap(),
            cluster_domain: Arc::from("cluster.local"),
            root_namespace: Arc::from("istio-system"),
        };
        let mut index = Index::new(mesh);
        index.apply(first);
        index.apply(Event::Init);
        for document in parse("mesh.yaml", &format!("{SHOP}\n---\n{yaml}")) {
            match document {
                Document::Accepted(resource) => index.apply(Event::Apply(Box::new(resource))),
                Document::Refused(refused) => {
                    let reference = refused.reference.clone().expect("a story's object has a name");
                    index.apply(Event::Refused(Box::new(Refusal {
                        reference,
                        generation: None,
                        refused,
                        last_good: false,
                    })));
                }
                Document::Ignored(problem) => panic!("{problem}"),
            }
        }
        index.apply(Event::InitDone);
        let (snapshot, _) = index.snapshot();
        Self { snapshot }
    }

    pub(super) fn destination(&self, from: &Viewer, to: &str, port: u16) -> Option<wire::Destination> {
        super::destination(&self.snapshot.config, from, &name(to, port)).map(|made| made.message)
    }

    /// The HTTP rules from `default`.
    pub(super) fn rules(&self, to: &str, port: u16) -> Vec<wire::Rule> {
        self.rules_from("default", to, port)
    }

    pub(super) fn rules_from(&self, namespace: &str, to: &str, port: u16) -> Vec<wire::Rule> {
        self.destination(&viewer(namespace), to, port).unwrap().http.unwrap().rules
    }

    /// `host:port/subset=weight` of each backend of each HTTP rule.
    pub(super) fn backends(&self, from: &str, to: &str, port: u16) -> Vec<Vec<String>> {
        self.rules_from(from, to, port).iter().map(backends).collect()
    }

    pub(super) fn cluster(&self, from: &Viewer, to: &str, port: u16) -> Option<wire::Cluster> {
        super::cluster(&self.snapshot.config, from, &name(to, port)).map(|made| made.message)
    }

    /// Seen from `default`.
    pub(super) fn policy(&self, to: &str, port: u16) -> wire::Policy {
        self.cluster(&viewer("default"), to, port).unwrap().policy.unwrap()
    }

    pub(super) fn endpoints(&self, to: &str, port: u16) -> Vec<wire::Endpoint> {
        let set = &self.snapshot.endpoints[&name(to, port)];
        super::endpoints(&self.snapshot.config, set).unwrap().message.endpoints
    }

    pub(super) fn catalogue(&self, from: &str, namespace: &str) -> Vec<wire::CatalogueEntry> {
        let made = super::catalogue(&self.snapshot.config, &viewer(from), namespace);
        made.map(|made| made.message.entries).unwrap_or_default()
    }

    pub(super) fn self_config(&self, pod: &str) -> wire::SelfConfig {
        let pod = &self.snapshot.pods[&(Arc::from("default"), Arc::from(pod))];
        super::self_config(&self.snapshot.config, pod).unwrap().message
    }

    pub(super) fn listener(&self, port: u16) -> Option<wire::Listener> {
        super::listener(&self.snapshot.config, &gateway(), port).map(|made| made.message)
    }

    pub(super) fn notes(&self) -> Vec<Note> {
        super::notes(&self.snapshot.config)
    }

    /// `name: text`, `!` in front where it is superseded.
    pub(super) fn told(&self) -> Vec<String> {
        let text =
            |n: Note| format!("{}{}: {}", if n.superseded { "!" } else { "" }, n.reference.name, n.text);
        self.notes().into_iter().map(text).collect()
    }
}

/// `host:port/subset=weight` of each backend.
pub(super) fn backends(rule: &wire::Rule) -> Vec<String> {
    let Some(wire::rule::Action::Route(route)) = &rule.action else { return Vec::new() };
    let text = |b: &wire::WeightedBackend| {
        let cluster = b.cluster.as_ref().unwrap();
        let host = cluster.host.trim_end_matches(".svc.cluster.local");
        format!("{host}:{}/{}={}", cluster.port, b.subset, b.weight)
    };
    route.backends.iter().map(text).collect()
}

/// An Istio object in one line.
pub(super) fn object(kind: &str, name: &str, spec: &str) -> String {
    let security = matches!(kind, "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication");
    let group = if security { "security" } else { "networking" };
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "---\n{{apiVersion: {group}.istio.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}

/// A VirtualService of one rule to `to`.
pub(super) fn routes(name: &str, hosts: &str, to: &str) -> String {
    object(
        "VirtualService",
        name,
        &format!("{{hosts: [{hosts}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}"),
    )
}
