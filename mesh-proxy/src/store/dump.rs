//! What is in force as people want to see it: for `/config_dump`. Contents as the proxy uses them, after parsing, with what
//! the user wrote each in. Never a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::model::HostPort;
use serde_json::{Map, Value, json};

use super::{Destination, Listener, MtlsMode, SelfConfig, Store};
use crate::cluster::ClusterHandle;
use crate::route::dump_origin;

impl Store {
    /// This workload's settings, and the listeners, routes, clusters, endpoints and workloads that it holds.
    #[must_use]
    pub fn dump(&self) -> Map<String, Value> {
        let listeners = self.listeners();
        let mut destinations: Vec<Arc<Destination>> =
            self.destinations.all().values().filter_map(|cell| cell.peek()).collect();
        destinations.sort_by_key(|destination| destination.name.to_string());
        let mut clusters = BTreeMap::new();
        for destination in &destinations {
            let tcp = destination.tcp.iter().flat_map(|rule| rule.backends.as_slice());
            collect(destination.http.clusters().chain(tcp.map(|backend| &backend.cluster)), &mut clusters);
        }
        for listener in listeners.iter() {
            for host in listener.virtual_hosts() {
                collect(host.table.clusters(), &mut clusters);
            }
            let tcp = listener.tcp_rules().flat_map(|rule| rule.backends.as_slice());
            collect(tcp.map(|backend| &backend.cluster), &mut clusters);
        }
        let mut workloads: Vec<Value> =
            self.workloads.all().iter().filter_map(|(ip, cell)| Some(workload(ip, &*cell.peek()?))).collect();
        workloads.sort_by_key(|told| told["address"].to_string());
        let mut told = Map::new();
        told.insert("self".to_owned(), self.self_config().map_or(Value::Null, |own| own_settings(&own)));
        told.insert("listeners".to_owned(), listeners.iter().map(|l| listener(l)).collect());
        told.insert("routes".to_owned(), destinations.iter().map(|d| routes(d)).collect());
        told.insert("clusters".to_owned(), clusters.into_values().collect());
        told.insert("workloads".to_owned(), workloads.into());
        told
    }
}

fn collect<'a>(handles: impl Iterator<Item = &'a ClusterHandle>, into: &mut BTreeMap<String, Value>) {
    for handle in handles {
        let name: &HostPort = handle.name();
        into.entry(name.to_string()).or_insert_with(|| match handle.load_full() {
            Some(view) => view.dump(),
            None => json!({ "name": name.to_string(), "missing": true }),
        });
    }
}

fn own_settings(own: &SelfConfig) -> Value {
    let ports = own.ports.iter().map(|(port, inbound)| {
        json!({
            "port": port,
            "name": inbound.name,
            "protocol": format!("{:?}", inbound.protocol),
            "mtls": mode(own.mtls_of(*port)),
            "services": inbound.services.iter().map(|s| s.host.clone()).collect::<Vec<_>>(),
        })
    });
    json!({
        "identity": own.identity.to_string(),
        "labels": own.labels,
        "mtls": mode(own.mtls),
        "mtls_origin": own.mtls_origin.as_deref().map(dump_origin),
        "mtls_by_port": own.mtls_by_port.iter().map(|(port, of)| (port.to_string(), mode(*of))).collect::<BTreeMap<_, _>>(),
        "deny_all": own.deny_all.as_deref().map(dump_origin),
        "ports": ports.collect::<Vec<_>>(),
        "allow_any_outbound": own.allow_any_outbound,
        "access_log": own.access_log,
    })
}

fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::MtlsPermissive => "PERMISSIVE",
        MtlsMode::MtlsStrict => "STRICT",
        MtlsMode::MtlsDisable => "DISABLE",
    }
}

fn listener(listener: &Listener) -> Value {
    let hosts = listener.virtual_hosts().map(|host| {
        let mut told = host.table.dump();
        told["domains"] = json!(host.domains);
        told["https_redirect"] = host.https_redirect.into();
        told
    });
    let servers = listener.tls.iter().map(|server| {
        json!({
            "hosts": server.hosts,
            "origin": server.origin.as_ref().map(dump_origin),
            "terminated": server.settings().is_some(),
        })
    });
    json!({
        "port": listener.port,
        "target_port": listener.target_port,
        "tls_servers": servers.collect::<Vec<_>>(),
        "protocol": format!("{:?}", listener.protocol),
        "origins": listener.origins.iter().map(dump_origin).collect::<Vec<_>>(),
        "virtual_hosts": hosts.collect::<Vec<_>>(),
    })
}

fn routes(destination: &Destination) -> Value {
    let tcp = destination.tcp.iter().map(|rule| {
        json!({
            "origin": rule.origin.as_deref().map(dump_origin),
            "backends": rule.backends.as_slice().iter().map(crate::route::dump_backend).collect::<Vec<_>>(),
        })
    });
    let mut told = destination.http.dump();
    told["name"] = destination.name.to_string().into();
    told["protocol"] = format!("{:?}", destination.protocol).into();
    told["tcp"] = tcp.collect();
    told
}

fn workload(ip: &std::net::IpAddr, workload: &super::Workload) -> Value {
    json!({
        "address": ip.to_string(),
        "uid": &*workload.uid,
        "identity": workload.identity.as_ref().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use crate::store::testing::*;

    #[test]
    fn everything_in_force_is_told_and_nothing_else() {
        let mut world = world(false);
        world.want("a.test:80");
        let first = vec![
            destination("a.test:80", &["a.test:80"]),
            cluster("a.test:80"),
            endpoints("a.test:80", &["10.0.0.1:80"]),
            self_config(&[("app", "client")]),
        ];
        assert!(world.store.dump()["self"].is_null(), "nothing is known yet");
        world.apply(first, &[]);
        let told = world.store.dump();
        assert_eq!(told["self"]["mtls"], "PERMISSIVE");
        assert_eq!(told["self"]["identity"], "spiffe://cluster.local/ns/default/sa/client");
        assert_eq!(told["routes"][0]["name"], "a.test:80");
        assert_eq!(told["routes"][0]["rules"][0]["backends"][0]["cluster"], "a.test:80");
        assert_eq!(told["clusters"][0]["endpoints"][0]["address"], "10.0.0.1:80");
        assert_eq!(told["listeners"], serde_json::json!([]));
        // A gateway's routes belong to its listeners.
        let mut world = crate::store::testing::world(true);
        let first = vec![
            listener(80, &[(&["shop.example.com"], "a.test:80")]),
            cluster("a.test:80"),
            endpoints("a.test:80", &["10.0.0.1:80"]),
            self_config(&[]),
        ];
        world.apply(first, &[]);
        let told = world.store.dump();
        assert_eq!(told["listeners"][0]["virtual_hosts"][0]["domains"][0], "shop.example.com");
        assert_eq!(told["clusters"][0]["name"], "a.test:80");
    }
}
