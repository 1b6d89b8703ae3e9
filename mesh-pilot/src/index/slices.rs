//! Endpoints as a cluster says them: EndpointSlices x pods. The slice says who is there, on which port and whether it is
//! ready; the pod says what it is. An address that is no pod's is an endpoint without a sidecar.
//!
//! A pod that is on its way out is withdrawn as soon as either says so. A slice that names a pod which is not known (yet)
//! waits for it: sent without its identity it would be plaintext to a mesh workload.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_proto::model::SpiffeId;

use super::Index;
use crate::snapshot::{EndpointView, Labels, Pod, Service, ServicePort};
use crate::source::{ObjectName, Slice, SliceEndpoint};

/// All slices.
#[derive(Default)]
pub struct Slices {
    by_name: BTreeMap<ObjectName, Slice>,
    /// The slices of a service.
    by_service: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    /// The services that have an address in a slice.
    by_address: HashMap<IpAddr, BTreeSet<ObjectName>>,
}

impl Slices {
    /// The services that it concerns.
    fn set(&mut self, name: ObjectName, slice: Option<Slice>) -> BTreeSet<ObjectName> {
        let mut concerned = BTreeSet::new();
        if self.by_name.get(&name) == slice.as_ref() {
            return concerned;
        }
        if let Some(before) = self.by_name.remove(&name) {
            let service = (before.namespace.clone(), before.service.clone());
            if let Some(slices) = self.by_service.get_mut(&service) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            self.forget_addresses(&service, &before);
            concerned.insert(service);
        }
        if let Some(slice) = slice {
            let service = (slice.namespace.clone(), slice.service.clone());
            for endpoint in &slice.endpoints {
                self.by_address.entry(endpoint.address).or_default().insert(service.clone());
            }
            self.by_service.entry(service.clone()).or_default().insert(name.clone());
            self.by_name.insert(name, slice);
            concerned.insert(service);
        }
        concerned
    }

    /// Addresses that no other slice of the service has.
    fn forget_addresses(&mut self, service: &ObjectName, gone: &Slice) {
        let left: BTreeSet<IpAddr> =
            self.of(service).flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address).collect();
        for endpoint in gone.endpoints.iter().filter(|endpoint| !left.contains(&endpoint.address)) {
            if let Some(services) = self.by_address.get_mut(&endpoint.address) {
                services.remove(service);
                if services.is_empty() {
                    self.by_address.remove(&endpoint.address);
                }
            }
        }
    }

    fn of(&self, service: &ObjectName) -> impl Iterator<Item = &Slice> {
        let names = self.by_service.get(service).into_iter().flatten();
        names.filter_map(|name| self.by_name.get(name))
    }
}

/// A service of both families has each pod in a slice of each: its first address is enough. Where there is only the other
/// one, that is how it is reached.
fn once(found: &mut Vec<EndpointView>) {
    let is_first = |view: &EndpointView| view.address.ip() == view.pod.address;
    if found.iter().all(is_first) {
        return;
    }
    let first: BTreeSet<Arc<str>> =
        found.iter().filter(|view| is_first(view)).map(|view| view.pod.uid.clone()).collect();
    found.retain(|view| is_first(view) || !first.contains(&view.pod.uid));
}

impl Index {
    /// A slice came, changed or went.
    pub(super) fn set_slice(&mut self, name: ObjectName, slice: Option<Slice>) {
        let Some(slices) = &mut self.slices else { return };
        let concerned = slices.set(name, slice);
        let hosts: Vec<_> = concerned.iter().map(|service| self.host(service)).collect();
        self.dirty_services.extend(hosts);
    }

    /// The services that have an address in a slice.
    pub(super) fn sliced_services(&self, address: IpAddr) -> Vec<Arc<str>> {
        let services = self.slices.as_ref().and_then(|slices| slices.by_address.get(&address));
        services.into_iter().flatten().map(|service| self.host(service)).collect()
    }

    /// The endpoints of a service port.
    pub(super) fn sliced(&self, slices: &Slices, service: &Service, port: &ServicePort) -> Vec<EndpointView> {
        let of = (service.namespace.clone(), service.name.clone());
        let mut found = Vec::new();
        for slice in slices.of(&of) {
            let ports = slice.ports.iter().filter(|to| to.name == port.name);
            for to in ports {
                let views = slice.endpoints.iter().filter(|endpoint| !endpoint.terminating);
                found.extend(views.filter_map(|endpoint| self.view(service, slice, endpoint, to.number)));
            }
        }
        once(&mut found);
        found
    }

    fn view(
        &self,
        service: &Service,
        slice: &Slice,
        endpoint: &SliceEndpoint,
        port: u16,
    ) -> Option<EndpointView> {
        let pod = match &endpoint.pod {
            Some(name) => {
                let pod = self.pods.get(&(slice.namespace.clone(), name.clone()))?;
                // Another address: an older pod of the same name.
                pod.addresses().any(|own| own == endpoint.address).then(|| pod.clone())?
            }
            None => match self.published_at(endpoint.address) {
                Some(pod) => pod,
                None => Arc::new(self.stranger(service, endpoint.address)?),
            },
        };
        if pod.terminating {
            return None;
        }
        // The cluster's own slices follow the pod; where the pod is known to be unready earlier, that counts.
        let known = pod.ready || service.publish_not_ready || !slice.managed;
        let address = SocketAddr::new(endpoint.address, port);
        Some(EndpointView { pod, address, ready: endpoint.ready && known, name: None, weight: 1 })
    }

    fn published_at(&self, address: IpAddr) -> Option<Arc<Pod>> {
        self.workloads.get(&address).cloned()
    }

    /// Somebody who is no pod: without sidecar, so without identity.
    fn stranger(&self, service: &Service, address: IpAddr) -> Option<Pod> {
        Some(Pod {
            uid: Arc::from(format!("{}/{}/{address}", service.namespace, service.name)),
            name: Arc::from(address.to_string()),
            namespace: service.namespace.clone(),
            service_account: Arc::from(""),
            identity: SpiffeId::new(&self.mesh.trust_domain, &service.namespace, "default").ok()?,
            address,
            locality: Arc::from(""),
            labels: Labels::new(),
            annotations: Labels::new(),
            workload: Arc::from("unknown"),
            ports: Vec::new(),
            ready: true,
            terminating: false,
            more_addresses: Vec::new(),
            host_network: false,
            injected: false,
            gateway: false,
            services: Vec::new(),
        })
    }

    fn host(&self, (namespace, service): &ObjectName) -> Arc<str> {
        let host = format!("{service}.{namespace}.svc.{}", self.mesh.cluster_domain);
        Arc::from(host.to_ascii_lowercase())
    }
}
