//! Small resources and a store to put them in, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::model::resource::version;
use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::wire::mesh::v1 as wire;
use prost::Message;
use tokio::sync::mpsc;

use super::writer::{Incoming, Origin, Writer};
use super::{Place, Store};

/// A store, its writer, and the names that its readers ask for.
pub(crate) struct World {
    pub store: Arc<Store>,
    pub writer: Writer,
    pub asked: mpsc::UnboundedReceiver<ResourceName>,
}

pub(crate) fn world(gateway: bool) -> World {
    world_of(gateway, &TestCa::new())
}

pub(crate) fn world_of(gateway: bool, ca: &TestCa) -> World {
    let place = Place {
        namespace: "default".into(),
        pod_ip: "10.1.0.9".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
        workers: 1,
        gateway,
        mounts: Vec::new(),
    };
    let (store, asked) = Store::new(place);
    World { writer: Writer::new(store.clone(), ca.roots_handle()), store, asked }
}

impl World {
    /// A response; gives the names refused.
    pub(crate) fn apply(&mut self, resources: Vec<Incoming>, removed: &[&str]) -> Vec<String> {
        let removed: Vec<_> = removed.iter().map(|name| name.parse().unwrap()).collect();
        let rejected = self.writer.apply(Origin::Stream, resources, &removed);
        rejected.into_iter().map(|r| r.resource).collect()
    }

    /// A worker asks; the writer hears it.
    pub(crate) fn want(&mut self, name: &str) {
        let host = name.parse().unwrap();
        self.store.destinations.find_or_make(&host, 100).unwrap();
        self.writer.subscribe(ResourceName::new(Kind::Destination, name));
    }

    /// The clusters that the routes in force lead to, in order.
    pub(crate) fn routes(&self, name: &str) -> Option<Vec<String>> {
        let cell = self.store.destination(&name.parse().unwrap())?;
        let destination = cell.load_full()?;
        Some(destination.http.clusters().map(|c| c.name().to_string()).collect())
    }
}

pub(crate) fn resource(name: &str, message: &impl Message) -> Incoming {
    let body = Bytes::from(message.encode_to_vec());
    Incoming { name: name.parse().unwrap(), version: Arc::from(version(&body)), body }
}

pub(crate) fn self_config(labels: &[(&str, &str)]) -> Incoming {
    let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    resource(
        "self/self",
        &wire::SelfConfig {
            identity: "spiffe://cluster.local/ns/default/sa/client".into(),
            labels,
            ..Default::default()
        },
    )
}

pub(crate) fn host_port(name: &str) -> Option<wire::HostPort> {
    Some((&name.parse::<HostPort>().unwrap()).into())
}

/// One rule after the other, each to one cluster.
pub(crate) fn table(clusters: &[&str]) -> wire::RouteTable {
    let rules = clusters.iter().map(|cluster| wire::Rule {
        name: "default".into(),
        action: Some(wire::rule::Action::Route(wire::RouteAction {
            backends: vec![wire::WeightedBackend {
                cluster: host_port(cluster),
                weight: 1,
                ..Default::default()
            }],
            ..Default::default()
        })),
        ..Default::default()
    });
    wire::RouteTable { rules: rules.collect(), origin: None }
}

pub(crate) fn destination_message(name: &str, clusters: &[&str]) -> wire::Destination {
    wire::Destination { name: host_port(name), http: Some(table(clusters)), ..Default::default() }
}

pub(crate) fn destination(name: &str, clusters: &[&str]) -> Incoming {
    resource(&format!("destination/{name}"), &destination_message(name, clusters))
}

pub(crate) fn listener(port: u32, hosts: &[(&[&str], &str)]) -> Incoming {
    let hosts = hosts.iter().map(|(domains, cluster)| wire::VirtualHost {
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        table: Some(table(&[cluster])),
        https_redirect: false,
    });
    let listener = wire::Listener { port, virtual_hosts: hosts.collect(), ..Default::default() };
    resource(&format!("listener/{port}"), &listener)
}

pub(crate) fn cluster_message(name: &str) -> wire::Cluster {
    let kind = Some(wire::load_balancer::Kind::RoundRobin(wire::Empty {}));
    let load_balancer = Some(wire::LoadBalancer { kind });
    let policy = Some(wire::Policy { load_balancer, ..Default::default() });
    wire::Cluster { name: host_port(name), policy, ..Default::default() }
}

pub(crate) fn cluster(name: &str) -> Incoming {
    resource(&format!("cluster/{name}"), &cluster_message(name))
}

pub(crate) fn endpoints(name: &str, addresses: &[&str]) -> Incoming {
    let endpoints = addresses.iter().map(|address| wire::Endpoint {
        uid: format!("pod-{address}"),
        address: (*address).to_owned(),
        ready: true,
        ..Default::default()
    });
    resource(&format!("endpoints/{name}"), &wire::Endpoints { endpoints: endpoints.collect() })
}

pub(crate) fn catalogue(namespace: &str, services: &[(&str, &str, u32)]) -> Incoming {
    let entries = services.iter().map(|(host, vip, port)| wire::CatalogueEntry {
        host: (*host).to_owned(),
        vips: vec![(*vip).to_owned()],
        ports: vec![wire::CataloguePort { number: *port, ..Default::default() }],
        ..Default::default()
    });
    resource(&format!("catalogue/{namespace}"), &wire::Catalogue { entries: entries.collect() })
}

pub(crate) fn bundle(ca: &TestCa) -> Incoming {
    let roots = vec![Bytes::from(ca.root_der().to_vec())];
    resource(
        "trust_bundle/cluster.local",
        &wire::TrustBundle { trust_domain: "cluster.local".into(), roots, ..Default::default() },
    )
}
