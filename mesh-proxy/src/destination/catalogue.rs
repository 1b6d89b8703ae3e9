//! The names that this proxy may see, indexed for look-ups that allocate nothing.
//!
//! In: `catalogue/<namespace>` resources. Out: name, VIP and address range → service port. Built whenever one of them
//! changes. Names are Istio's: FQDN, `svc.ns.svc`, `svc.ns`, and `svc` in the proxy's own namespace; a headless service
//! has the names of its pods under each of these too.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_proto::model::{HostPort, Protocol};
use mesh_proto::wire::mesh::v1 as wire;
use smallvec::SmallVec;

pub use wire::EntryKind;

/// Why a namespace's catalogue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCatalogue {
    /// A host that is empty or has other characters than a name has.
    #[error("host {0:?} is no lower-case name, *.name or *")]
    Host(String),
    /// An address that is none.
    #[error("{host}: {value:?} is no address")]
    Address {
        /// The entry.
        host: String,
        /// What stands there.
        value: String,
    },
    /// A port that is none.
    #[error("{host}: {port} is no port from 1 to 65535")]
    Port {
        /// The entry.
        host: String,
        /// What stands there.
        port: u32,
    },
    /// A kind or protocol that this build does not know.
    #[error("{host}: unknown {field} {value}")]
    Unknown {
        /// The entry.
        host: String,
        /// The field.
        field: &'static str,
        /// Its number on the wire.
        value: i32,
    },
}

/// One port of one entry: the name under which its routes are asked for, and what is known without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The destination's name.
    pub name: HostPort,
    /// Declared protocol.
    pub protocol: Protocol,
    /// Service, headless, external, or only a route's host.
    pub kind: EntryKind,
    /// The namespace whose catalogue has it.
    pub namespace: Arc<str>,
    /// Gateway API routes are bound to its VIP.
    pub vip_routes: bool,
}

/// One parsed entry.
#[derive(Debug, Clone)]
struct Entry {
    host: String,
    kind: EntryKind,
    vips: Vec<IpAddr>,
    cidrs: Vec<IpNet>,
    ports: Vec<Arc<ServicePort>>,
    namespace: Arc<str>,
}

/// One namespace's resource, parsed.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    entries: Vec<Entry>,
}

impl Namespace {
    /// Parses `catalogue/<namespace>`.
    ///
    /// # Errors
    /// Names the entry and its field.
    pub fn parse(namespace: &str, wire: wire::Catalogue) -> Result<Self, InvalidCatalogue> {
        let namespace = Arc::from(namespace);
        let entries = wire.entries.into_iter().map(|e| Entry::parse(&namespace, e));
        Ok(Self { entries: entries.collect::<Result<_, _>>()? })
    }
}

impl Entry {
    fn parse(namespace: &Arc<str>, wire: wire::CatalogueEntry) -> Result<Self, InvalidCatalogue> {
        let host = wire.host;
        let name = host.strip_prefix("*.").unwrap_or(if host == "*" { "any" } else { &host });
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(InvalidCatalogue::Host(host));
        }
        let unknown = |field, value| InvalidCatalogue::Unknown { host: host.clone(), field, value };
        let address = |value: &str| InvalidCatalogue::Address { host: host.clone(), value: value.to_owned() };
        let kind = EntryKind::try_from(wire.kind).map_err(|e| unknown("kind", e.0))?;
        let vips = wire.vips.iter().map(|v| v.parse().map_err(|_| address(v)));
        let cidrs = wire.cidrs.iter().map(|c| range(c).ok_or_else(|| address(c)));
        let ports = wire.ports.iter().map(|port| {
            let number = u16::try_from(port.number).ok().filter(|p| *p != 0);
            let number =
                number.ok_or_else(|| InvalidCatalogue::Port { host: host.clone(), port: port.number })?;
            Ok(Arc::new(ServicePort {
                name: HostPort::new(&host, number),
                protocol: Protocol::try_from(port.protocol).map_err(|e| unknown("protocol", e.0))?,
                kind,
                namespace: namespace.clone(),
                vip_routes: wire.vip_routes,
            }))
        });
        Ok(Self {
            vips: vips.collect::<Result<_, _>>()?,
            cidrs: cidrs.collect::<Result<_, _>>()?,
            ports: ports.collect::<Result<_, _>>()?,
            kind,
            namespace: namespace.clone(),
            host,
        })
    }
}

/// A range, or one address as a range.
fn range(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|n| n.trunc())
}

/// What a name or address means, by port.
#[derive(Debug, Default)]
struct Ports {
    ports: SmallVec<[Arc<ServicePort>; 1]>,
    /// A route's host without a service: any port.
    any: Option<Arc<ServicePort>>,
}

impl Ports {
    /// Who came first stays.
    fn add(&mut self, entry: &Entry) {
        for port in &entry.ports {
            if !self.ports.iter().any(|p| p.name.port() == port.name.port()) {
                self.ports.push(port.clone());
            }
        }
        if entry.kind == EntryKind::EntryRouteOnly && entry.ports.is_empty() && self.any.is_none() {
            self.any = Some(Arc::new(ServicePort {
                // A template: the port is filled in when it is known.
                name: HostPort::new(&entry.host, 0),
                protocol: Protocol::Http,
                kind: entry.kind,
                namespace: entry.namespace.clone(),
                vip_routes: false,
            }));
        }
    }

    fn find(&self, port: u16, routes: bool) -> Option<Arc<ServicePort>> {
        let visible = |p: &&Arc<ServicePort>| routes || p.kind != EntryKind::EntryRouteOnly;
        let found = self.ports.iter().filter(visible).find(|p| p.name.port() == port).cloned();
        found.or_else(|| {
            let any = self.any.as_ref().filter(|_| routes)?;
            let name = HostPort::new(any.name.host(), port);
            Some(Arc::new(ServicePort { name, ..ServicePort::clone(any) }))
        })
    }

    /// The one port of a service that has only one.
    fn only(&self) -> Option<Arc<ServicePort>> {
        match &self.ports[..] {
            [one] if self.any.is_none() => Some(one.clone()),
            _ => None,
        }
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Catalogue {
    names: HashMap<Box<str>, Ports>,
    /// By `.suffix`.
    wildcards: HashMap<Box<str>, Ports>,
    /// `pod.<headless service>`, by `.suffix`: one pod of it, so that only the address dialled says which.
    pod_names: HashMap<Box<str>, Ports>,
    any_name: Ports,
    vips: HashMap<IpAddr, Ports>,
    /// Longest prefix first.
    ranges: Vec<(IpNet, Ports)>,
    /// What the names on a port speak.
    spoken: HashMap<u16, Protocol>,
    /// Some name is only a route's, on any port.
    routes_only: bool,
    entries: usize,
}

impl Catalogue {
    /// Indexes all namespaces. `own` is the proxy's namespace: short names mean it, and where two namespaces have the
    /// same host, its own one counts, then the first in the order of names.
    pub fn build<'a>(
        own: &str,
        cluster_domain: &str,
        namespaces: impl IntoIterator<Item = &'a Namespace>,
    ) -> Self {
        let mut entries: Vec<&Entry> = namespaces.into_iter().flat_map(|n| &n.entries).collect();
        let rank = |e: &Entry| match e.kind {
            EntryKind::EntryService | EntryKind::EntryHeadless => 0,
            EntryKind::EntryExternal => 1,
            EntryKind::EntryRouteOnly => 2,
        };
        entries.sort_by_cached_key(|e| (rank(e), *e.namespace != *own, e.namespace.clone()));
        let mut index = Self { entries: entries.len(), ..Self::default() };
        for entry in &entries {
            index.add_names(entry);
            index.add_addresses(entry);
        }
        // After all names that somebody wrote: an alias takes no name away.
        for entry in &entries {
            index.add_aliases(entry, own, cluster_domain);
        }
        index.ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
        index
    }

    fn add_names(&mut self, entry: &Entry) {
        let ports = match entry.host.strip_prefix('*') {
            Some("") => &mut self.any_name,
            Some(suffix) => self.wildcards.entry(suffix.into()).or_default(),
            None => self.names.entry(entry.host.as_str().into()).or_default(),
        };
        ports.add(entry);
        self.routes_only |= ports.any.is_some();
        for port in &entry.ports {
            let spoken = self.spoken.entry(port.name.port()).or_insert(port.protocol);
            *spoken = both(*spoken, port.protocol);
        }
        if entry.kind == EntryKind::EntryHeadless {
            self.pod_names.entry(format!(".{}", entry.host).into()).or_default().add(entry);
        }
    }

    fn add_addresses(&mut self, entry: &Entry) {
        for vip in &entry.vips {
            self.vips.entry(*vip).or_default().add(entry);
        }
        for range in &entry.cidrs {
            match self.ranges.iter_mut().find(|(r, _)| r == range) {
                Some((_, ports)) => ports.add(entry),
                None => {
                    let mut ports = Ports::default();
                    ports.add(entry);
                    self.ranges.push((*range, ports));
                }
            }
        }
    }

    fn add_aliases(&mut self, entry: &Entry, own: &str, cluster_domain: &str) {
        if !matches!(entry.kind, EntryKind::EntryService | EntryKind::EntryHeadless) {
            return;
        }
        let in_cluster = entry.host.strip_suffix(cluster_domain).and_then(|h| h.strip_suffix(".svc."));
        let Some((service, namespace)) = in_cluster.and_then(|h| h.split_once('.')) else {
            return;
        };
        let mut aliases = vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}")];
        if namespace == own {
            aliases.push(service.to_owned());
        }
        for alias in aliases {
            if entry.kind == EntryKind::EntryHeadless {
                self.pod_names.entry(format!(".{alias}").into()).or_default().add(entry);
            }
            self.names.entry(alias.into()).or_default().add(entry);
        }
    }

    /// Every VIP with each of its ports: where a sidecar listens for its application.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        self.vips.iter().flat_map(|(ip, ports)| ports.ports.iter().map(|p| (*ip, p.name.port())))
    }

    /// How bytes to an address that nobody knows are to be taken on this port: opaque, unless a name could be meant.
    #[must_use]
    pub fn spoken_on(&self, port: u16) -> Protocol {
        match self.spoken.get(&port) {
            Some(Protocol::Tcp) => Protocol::Tcp,
            Some(Protocol::Tls) => Protocol::Tls,
            Some(_) => Protocol::Auto,
            // Hosts that only a VirtualService has are asked for on HTTP's own port.
            None if self.routes_only && port == 80 => Protocol::Auto,
            None => Protocol::Tcp,
        }
    }

    /// How many names there are, without aliases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether nothing is visible.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Exact name, then the longest wildcard (a headless service's pods count as one) visible on this port.
    /// `routes`: whether hosts that only HTTP routes have count. `dialled`: whether an address was dialled, which says
    /// which pod of a headless service is meant.
    pub(super) fn by_name(
        &self,
        name: &str,
        port: u16,
        routes: bool,
        dialled: bool,
    ) -> Option<Arc<ServicePort>> {
        let exact = self.names.get(name).and_then(|p| p.find(port, routes));
        exact.or_else(|| {
            suffixes(name).find_map(|suffix| {
                let pods = self.pod_names.get(suffix).filter(|_| dialled);
                let pods = pods.and_then(|p| p.find(port, routes));
                pods.or_else(|| self.wildcards.get(suffix).and_then(|p| p.find(port, routes)))
            })
        })
    }

    /// The service of that exact name, if it has a single port.
    pub(super) fn only_port(&self, name: &str) -> Option<Arc<ServicePort>> {
        self.names.get(name).and_then(Ports::only)
    }

    /// `*` on this port.
    pub(super) fn by_any_name(&self, port: u16) -> Option<Arc<ServicePort>> {
        self.any_name.find(port, true)
    }

    /// The full host that a name means, on whatever port: of a service, or of the headless service whose pod it is.
    pub(super) fn full_host(&self, name: &str) -> Option<&str> {
        let pods = || suffixes(name).find_map(|suffix| self.pod_names.get(suffix));
        let ports = self.names.get(name).or_else(pods)?;
        ports.ports.first().map(|p| p.name.host())
    }

    /// The service with this VIP, on this port.
    pub(super) fn by_vip(&self, ip: IpAddr, port: u16) -> Option<Arc<ServicePort>> {
        self.vips.get(&ip).and_then(|p| p.find(port, true))
    }

    /// Whether this is some service's VIP.
    pub(super) fn is_vip(&self, ip: IpAddr) -> bool {
        self.vips.contains_key(&ip)
    }

    /// The service with the longest range that holds this address, on this port.
    pub(super) fn by_range(&self, ip: IpAddr, port: u16) -> Option<Arc<ServicePort>> {
        let holding = self.ranges.iter().filter(|(range, _)| range.contains(&ip));
        holding.filter_map(|(_, ports)| ports.find(port, true)).next()
    }
}

/// What covers both: bytes have no name, so that they say nothing about another's address.
fn both(one: Protocol, other: Protocol) -> Protocol {
    match (one, other) {
        (Protocol::Tcp, same) | (same, Protocol::Tcp) => same,
        (one, other) if one == other => one,
        _ => Protocol::Auto,
    }
}

/// `.b.c` and `.c` of `a.b.c`.
fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &name[at..])
}
