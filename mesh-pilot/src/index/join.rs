//! Services x Pods: which pods a service selects, on which port, and whether they may get traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_proto::crd::Resource;
use mesh_proto::model::HostPort;

use super::{Index, Notice, entries, selects};
use crate::snapshot::{
    Changes, EndpointSet, EndpointView, Held, Pod, PodKey, PodService, Service, ServicePort, TargetPort,
};

impl Index {
    /// A pod came, changed or went; it concerns the services that select it, before or now.
    pub(super) fn set_pod(&mut self, key: PodKey, pod: Option<Pod>) {
        let before = self.pods.get(&key).cloned();
        let pod = pod.map(|mut pod| {
            pod.services = self.services_of(&pod);
            Arc::new(pod)
        });
        if before == pod {
            return;
        }
        for service in before.iter().chain(&pod).flat_map(|pod| &pod.services) {
            self.dirty_services.insert(service.host.clone());
        }
        for address in before.iter().chain(&pod).flat_map(|pod| pod.addresses()) {
            self.dirty_services.extend(self.sliced_services(address));
        }
        self.tell_readiness(before.as_ref(), pod.as_ref());
        self.dirty_pods.insert(key.clone());
        match pod {
            Some(pod) => self.pods.insert(key, pod),
            None => self.pods.remove(&key),
        };
    }

    /// The services of an object are these from now on.
    pub(super) fn set_services(&mut self, of: &Resource, services: Vec<Held<Service>>) {
        let age = of.object.metadata().creation_timestamp.clone();
        let changed = self.claims.take(&of.reference, age, services);
        self.settle_services(changed);
    }

    /// Services came, changed or went; it concerns the pods that they select, before or now.
    pub(super) fn settle_services(&mut self, hosts: BTreeSet<Arc<str>>) {
        for host in hosts {
            let now = self.claims.first(&host);
            let before = match now.clone() {
                Some(service) => self.services.insert(host.clone(), service),
                None => self.services.remove(&host),
            };
            self.dirty_services.insert(host);
            let selected = |pod: &Pod| {
                before
                    .iter()
                    .chain(&now)
                    .any(|s| s.spec.namespace == pod.namespace && selects(&s.spec.selector, &pod.labels))
            };
            let concerned: Vec<_> = self
                .pods
                .iter()
                .filter(|(_, pod)| selected(pod))
                .map(|(key, pod)| (key.clone(), (**pod).clone()))
                .collect();
            for (key, pod) in concerned {
                self.set_pod(key, Some(pod));
            }
        }
    }

    /// Brings endpoints, workloads and pods of the next snapshot up to date.
    pub(super) fn join(&mut self, changes: &mut Changes) {
        if !self.dirty_pods.is_empty() {
            self.join_pods(changes);
        }
        for host in std::mem::take(&mut self.dirty_services) {
            self.join_service(&host, changes);
        }
    }

    fn join_pods(&mut self, changes: &mut Changes) {
        let published = Arc::make_mut(&mut self.published_pods);
        let mut addresses = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty_pods) {
            let before = match self.pods.get(&key) {
                Some(pod) => published.insert(key.clone(), pod.clone()),
                None => published.remove(&key),
            };
            addresses.extend(before.iter().chain(self.pods.get(&key)).flat_map(|pod| pod.addresses()));
            changes.pods.insert(key);
        }
        let workloads = Arc::make_mut(&mut self.workloads);
        for address in addresses {
            // An address is reused after its pod: the one that is not on its way out has it.
            // Nor is a node's address that of any one of the pods in its network.
            let pods = self
                .pods
                .values()
                .filter(|pod| pod.addresses().any(|own| own == address) && !pod.host_network);
            let pod = pods.min_by_key(|pod| (pod.terminating, !pod.ready)).cloned();
            let before = match pod.clone() {
                Some(pod) => workloads.insert(address, pod),
                None => workloads.remove(&address),
            };
            if before != pod {
                changes.workloads.insert(address);
            }
        }
    }

    fn join_service(&mut self, host: &Arc<str>, changes: &mut Changes) {
        let mut sets = BTreeMap::new();
        if let Some(service) = self.services.get(host) {
            let service = &service.spec;
            let by_selector = self.slices.is_none() || service.entry.is_some();
            let pods = if by_selector { self.selected(service) } else { Vec::new() };
            for port in &service.ports {
                let mut endpoints: Vec<_> = match &self.slices {
                    Some(slices) if !by_selector => self.sliced(slices, service, port),
                    _ => pods.iter().filter_map(|pod| endpoint(service, port, pod)).collect(),
                };
                endpoints.extend(service.entry.iter().flat_map(|entry| entries::endpoints(entry, port)));
                endpoints.sort_by(|a, b| (&a.pod.uid, a.address).cmp(&(&b.pod.uid, b.address)));
                endpoints.dedup_by(|a, b| (&a.pod.uid, a.address) == (&b.pod.uid, b.address));
                let name = HostPort::new(host, port.number);
                sets.insert(name.clone(), Arc::new(EndpointSet { name, endpoints }));
            }
        }
        let from = HostPort::new(host, 0);
        let old = self.endpoints.range(from..).take_while(|(name, _)| *name.host() == **host);
        let old: BTreeMap<_, _> = old.map(|(name, set)| (name.clone(), set.clone())).collect();
        if old == sets {
            return;
        }
        let endpoints = Arc::make_mut(&mut self.endpoints);
        for name in old.keys().filter(|name| !sets.contains_key(*name)) {
            endpoints.remove(name);
            changes.endpoints.insert(name.clone());
        }
        for (name, set) in sets {
            if old.get(&name) != Some(&set) {
                endpoints.insert(name.clone(), set);
                changes.endpoints.insert(name);
            }
        }
    }

    /// The pods that a service selects and that are not on their way out.
    fn selected(&self, service: &Service) -> Vec<&Arc<Pod>> {
        let from = (service.namespace.clone(), Arc::from(""));
        let pods = self.pods.range(from..).take_while(|((namespace, _), _)| *namespace == service.namespace);
        let pods = pods.map(|(_, pod)| pod).filter(|pod| selects(&service.selector, &pod.labels));
        pods.filter(|pod| !pod.terminating).collect()
    }

    fn services_of(&self, pod: &Pod) -> Vec<PodService> {
        let services = self.services.values().map(|held| &held.spec);
        let services = services.filter(|s| s.namespace == pod.namespace && selects(&s.selector, &pod.labels));
        let mut found: Vec<_> = services
            .flat_map(|service| {
                service.ports.iter().filter_map(|port| {
                    Some(PodService {
                        host: service.host.clone(),
                        name: service.name.clone(),
                        namespace: service.namespace.clone(),
                        port: port.number,
                        target: target(port, pod)?,
                        protocol: port.protocol,
                    })
                })
            })
            .collect();
        found.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        found
    }

    fn tell_readiness(&mut self, before: Option<&Arc<Pod>>, now: Option<&Arc<Pod>>) {
        let up = |pod: Option<&Arc<Pod>>| pod.is_some_and(|pod| pod.ready && !pod.terminating);
        match (up(before), up(now)) {
            (false, true) => self.notices.extend(now.cloned().map(Notice::EndpointUp)),
            (true, false) => self.notices.extend(before.cloned().map(Notice::EndpointDown)),
            _ => {}
        }
    }
}

fn endpoint(service: &Service, port: &ServicePort, pod: &Arc<Pod>) -> Option<EndpointView> {
    let address = SocketAddr::new(pod.address, target(port, pod)?);
    let ready = pod.ready || service.publish_not_ready;
    Some(EndpointView { pod: pod.clone(), address, ready, name: None, weight: 1 })
}

/// The container port that a service port leads to in a pod; by name, the pod may have none.
fn target(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => pod.ports.iter().find(|p| p.name == *name).map(|p| p.number),
    }
}
