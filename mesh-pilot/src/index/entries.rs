//! ServiceEntries as services, and whose a host is where several objects have it: a Service's before a ServiceEntry's, of
//! these the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use mesh_proto::crd::service_entry::{self as crd, Resolution};
use mesh_proto::crd::{Kind, Labels, ObjectRef, ServiceEntry};
use mesh_proto::model::{Protocol, SpiffeId};

use crate::snapshot::{
    Addresses, EndpointView, Entry, EntryEndpoint, Held, MeshSettings, Pod, Service, ServicePort, Shadowed,
    TargetPort,
};

/// Istio's label of an endpoint that takes mTLS of the mesh.
const TLS_MODE: &str = "security.istio.io/tlsMode";
/// Where the addresses are that somebody gave to the hosts (Istio's form).
const GIVEN: &str = "/addresses";

/// One object's claim to a host. Ordered: the first one has it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_entry: bool,
    age: Option<String>,
    reference: ObjectRef,
}

/// A host that an object claims, and the object's age.
type Claim = (Arc<str>, Option<String>);

/// Who claims which host.
#[derive(Default)]
pub(super) struct Claims {
    by_host: BTreeMap<Arc<str>, BTreeMap<Rank, Arc<Held<Service>>>>,
    by_object: BTreeMap<ObjectRef, Vec<Claim>>,
}

impl Claims {
    /// The hosts of an object are these from now on. Gives those that it concerns.
    pub(super) fn take(
        &mut self,
        reference: &ObjectRef,
        age: Option<String>,
        services: Vec<Held<Service>>,
    ) -> BTreeSet<Arc<str>> {
        let rank = |age: Option<String>| Rank {
            is_entry: reference.kind == Kind::ServiceEntry,
            age,
            reference: reference.clone(),
        };
        let mut concerned = BTreeSet::new();
        for (host, age) in self.by_object.remove(reference).unwrap_or_default() {
            if let Some(claims) = self.by_host.get_mut(&host) {
                claims.remove(&rank(age));
                if claims.is_empty() {
                    self.by_host.remove(&host);
                }
            }
            concerned.insert(host);
        }
        for service in services {
            let host = service.spec.host.clone();
            self.by_host.entry(host.clone()).or_default().insert(rank(age.clone()), Arc::new(service));
            self.by_object.entry(reference.clone()).or_default().push((host.clone(), age.clone()));
            concerned.insert(host);
        }
        concerned
    }

    /// Whose a host is.
    pub(super) fn first(&self, host: &str) -> Option<Arc<Held<Service>>> {
        self.by_host.get(host).and_then(|claims| claims.values().next()).cloned()
    }

    /// Who claims a host in vain.
    pub(super) fn shadowed(&self) -> Vec<Shadowed> {
        let several = self.by_host.iter().filter(|(_, claims)| claims.len() > 1);
        let lost = several.flat_map(|(host, claims)| {
            let first = claims.keys().next();
            claims.keys().skip(1).filter_map(move |rank| {
                let (reference, by) = (rank.reference.clone(), first?.reference.clone());
                Some(Shadowed { reference, host: host.clone(), by })
            })
        });
        lost.collect()
    }
}

/// A service for each host of a ServiceEntry.
pub(super) fn services(entry: &ServiceEntry, mesh: &MeshSettings) -> Vec<Service> {
    let (metadata, spec) = (&entry.metadata, &entry.spec);
    let ports = spec.ports.iter().map(port).collect::<Vec<_>>();
    let endpoints: Vec<EntryEndpoint> = endpoints_of(entry, mesh);
    let selector = spec.workload_selector.as_ref().map(|selector| selector.labels.clone());
    let (vips, ranges): (Vec<_>, Vec<_>) =
        spec.addresses.iter().partition(|address| address.parse::<IpAddr>().is_ok());
    let mut annotations = Labels::new();
    if !spec.export_to.is_empty() {
        annotations.insert("networking.istio.io/exportTo".to_owned(), spec.export_to.join(","));
    }
    let service = |host: &String| {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let by_dns = matches!(spec.resolved_by(), Resolution::Dns | Resolution::DnsRoundRobin);
        let itself = (by_dns && endpoints.is_empty()).then(|| itself(entry, &host, mesh)).flatten();
        let vips = vips.iter().filter_map(|vip| vip.parse().ok()).chain(given(entry, &host)).collect();
        Service {
            name: Arc::from(host.as_str()),
            host: Arc::from(host),
            namespace: Arc::from(metadata.namespace.as_str()),
            vips,
            headless: false,
            ports: ports.clone(),
            selector: selector.clone().unwrap_or_default(),
            publish_not_ready: false,
            labels: metadata.labels.clone(),
            annotations: annotations.clone(),
            entry: Some(Entry {
                external: spec.is_external(),
                addresses: match spec.resolved_by() {
                    Resolution::None | Resolution::DynamicDns => Addresses::Dialled,
                    Resolution::DnsRoundRobin => Addresses::First,
                    Resolution::Static | Resolution::Dns => Addresses::All,
                },
                ranges: ranges
                    .iter()
                    .filter_map(|range| Some(range.parse::<IpNet>().ok()?.to_string()))
                    .collect(),
                subject_alt_names: spec.subject_alt_names.clone(),
                endpoints: itself.map_or_else(|| endpoints.clone(), |one| vec![one]),
            }),
        }
    };
    spec.hosts.iter().map(service).collect()
}

/// The addresses that were given to a host which brought none.
fn given(entry: &ServiceEntry, host: &str) -> Vec<IpAddr> {
    let list = entry.status.pointer(GIVEN).and_then(serde_json::Value::as_array);
    let of_host = list.into_iter().flatten().filter(|one| one["host"] == host);
    let addresses = of_host.filter_map(|one| one["value"].as_str()?.parse().ok());
    if entry.spec.addresses.is_empty() { addresses.collect() } else { Vec::new() }
}

fn port(port: &crd::EntryPort) -> ServicePort {
    let declared = Some(port.protocol.as_str()).filter(|word| !word.is_empty());
    ServicePort {
        number: port.number,
        name: Arc::from(port.name.as_str()),
        protocol: Protocol::of_port(declared, Some(&port.name), port.number),
        target: TargetPort::Number(port.target_port.unwrap_or(port.number)),
    }
}

fn endpoints_of(entry: &ServiceEntry, mesh: &MeshSettings) -> Vec<EntryEndpoint> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let endpoint = |endpoint: &'_ crd::EntryEndpoint, nth: usize| {
        let ip: Option<IpAddr> = endpoint.address.parse().ok();
        let pod = stranger(entry, endpoint, ip, nth, mesh)?;
        Some(EntryEndpoint {
            pod: Arc::new(pod),
            name: ip.is_none().then(|| Arc::from(endpoint.address.to_ascii_lowercase())),
            ports: endpoint.ports.clone(),
            weight: endpoint.weight.unwrap_or(1).max(1),
        })
    };
    let mut all = Vec::new();
    for one in &entry.spec.endpoints {
        let nth = seen.entry(one.address.as_str()).or_default();
        all.extend(endpoint(one, *nth));
        *nth += 1;
    }
    all
}

/// The host as its own endpoint.
fn itself(entry: &ServiceEntry, host: &str, mesh: &MeshSettings) -> Option<EntryEndpoint> {
    let written = crd::EntryEndpoint { address: host.to_owned(), ..crd::EntryEndpoint::default() };
    let pod = Arc::new(stranger(entry, &written, None, 0, mesh)?);
    Some(EntryEndpoint { pod, name: Some(Arc::from(host)), ports: BTreeMap::new(), weight: 1 })
}

/// Who an endpoint is, told as of a pod. `nth`: how many before it have the same address.
fn stranger(
    entry: &ServiceEntry,
    endpoint: &crd::EntryEndpoint,
    ip: Option<IpAddr>,
    nth: usize,
    mesh: &MeshSettings,
) -> Option<Pod> {
    let (namespace, name) = (&entry.metadata.namespace, &entry.metadata.name);
    let account = Some(endpoint.service_account.as_str()).filter(|account| !account.is_empty());
    let speaks = endpoint.labels.get(TLS_MODE).is_some_and(|mode| mode == "istio");
    let again = if nth == 0 { String::new() } else { format!("~{nth}") };
    Some(Pod {
        uid: Arc::from(format!("{namespace}/{name}/{}{again}", endpoint.address)),
        name: Arc::from(endpoint.address.as_str()),
        namespace: Arc::from(namespace.as_str()),
        service_account: Arc::from(account.unwrap_or_default()),
        identity: SpiffeId::new(&mesh.trust_domain, namespace, account.unwrap_or("default")).ok()?,
        address: ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        more_addresses: Vec::new(),
        locality: Arc::from(endpoint.locality.as_str()),
        labels: endpoint.labels.clone(),
        annotations: Labels::new(),
        workload: Arc::from("unknown"),
        ports: Vec::new(),
        ready: true,
        terminating: false,
        host_network: false,
        injected: speaks && account.is_some() && !entry.spec.is_external(),
        gateway: false,
        services: Vec::new(),
    })
}

/// The endpoints that a ServiceEntry names, on one of its ports.
pub(super) fn endpoints(entry: &Entry, port: &ServicePort) -> Vec<EndpointView> {
    let view = |endpoint: &EntryEndpoint| {
        let target = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(_) => port.number,
        };
        let number = endpoint.ports.get(&*port.name).copied().unwrap_or(target);
        EndpointView {
            pod: endpoint.pod.clone(),
            address: SocketAddr::new(endpoint.pod.address, number),
            ready: true,
            name: endpoint.name.clone(),
            weight: endpoint.weight,
        }
    };
    entry.endpoints.iter().map(view).collect()
}
