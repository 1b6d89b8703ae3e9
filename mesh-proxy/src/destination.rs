//! Where a connection or request goes: one pure function over the catalogue.
//!
//! In: the address that was dialled, the port, and the Host (or SNI). Out: a service, one workload, the proxy's own
//! application, an outside address, or a refusal. Spec: design §3.2; names are Istio's (`svc`, `svc.ns`, `svc.ns.svc`, FQDN).

pub mod catalogue;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_proto::model::HostPort;

pub use catalogue::{Catalogue, EntryKind, InvalidCatalogue, Namespace, ServicePort};

/// What kind of bytes ask the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// A request: `host` is its authority.
    Http,
    /// Opaque TLS: `host` is the SNI.
    Tls,
    /// Opaque bytes: `host` is ignored.
    Tcp,
}

/// The question.
#[derive(Debug, Clone, Copy)]
pub struct Lookup<'a> {
    /// The address that was dialled, with a listener's own address already mapped to the VIP it stands for. `None` on
    /// the HTTP proxy port, where only the authority says where to.
    pub orig_dst: Option<SocketAddr>,
    /// The port that was dialled: of `orig_dst`, or of the authority (80 when it has none).
    pub port: u16,
    /// False when the authority on the HTTP proxy port named no port: then a service of one port is meant whatever
    /// that port is.
    pub port_given: bool,
    /// Host or SNI as it came: upper case, `:port` and one trailing dot are allowed.
    pub host: Option<&'a str>,
    /// What kind of bytes.
    pub traffic: Traffic,
}

/// What is known about a pod's address, on the port that was dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodAddress {
    /// This proxy's own.
    Own(Services),
    /// Another workload's.
    Workload(Services),
    /// Nobody's in the mesh.
    Absent,
    /// Never asked.
    Unknown,
}

/// The services (`host:service port`) whose target a pod's port is.
pub type Services = Option<Arc<[HostPort]>>;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// A service (or a route that stands for one): its routes decide.
    Service(Arc<ServicePort>, Via),
    /// One workload and no other, at the address dialled. With the service whose policy applies, because Host names
    /// it and the workload is one of its.
    Workload(SocketAddr, Option<HostPort>),
    /// This workload itself: straight to the application.
    Own(SocketAddr),
    /// Not known yet whose address this is: ask [`crate::store::Store::demand_workload`], then resolve again.
    AskWorkload(IpAddr),
    /// Outside the mesh, and the mesh allows that.
    Passthrough(Outside),
    /// Outside the mesh, and the mesh forbids that (REGISTRY_ONLY).
    Blocked,
}

/// Which step of the lookup found a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// 1: the VIP of a service that Gateway API routes are bound to; Host was ignored.
    Frontend,
    /// 2: Host or SNI.
    Host,
    /// 3: the VIP.
    Vip,
    /// 6: an address range of a ServiceEntry.
    Cidr,
}

/// Where a passthrough goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// The address that was dialled.
    Address(SocketAddr),
    /// A name that only DNS knows (HTTP proxy port).
    Name(HostPort),
}

/// Where a connection or request goes. `allow_any`: whether outside is allowed. `pod`: what is known about an address
/// and port.
///
/// The numbers are those of design §3.2. Host wins over a pod's address where it names something that the pod is no part
/// of; where the pod is part of it, the pod was meant. An address as Host says no more than the address dialled, so `*`
/// takes it only when nothing else does.
pub fn resolve(
    catalogue: &Catalogue,
    lookup: &Lookup<'_>,
    allow_any: bool,
    pod: impl Fn(SocketAddr) -> PodAddress,
) -> Resolved {
    let name = lookup.host.filter(|_| lookup.traffic != Traffic::Tcp).and_then(normalise);
    let literal = name.as_deref().and_then(literal);
    let dialled = lookup.orig_dst.map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
    let orig_dst = dialled.or_else(|| literal.map(|ip| SocketAddr::new(ip, lookup.port)));
    let name = name.filter(|_| literal.is_none());

    // 1: only Gateway API routes of a dialled VIP come before Host.
    let vip = orig_dst.and_then(|at| catalogue.by_vip(at.ip(), at.port()));
    if let Some(frontend) = vip.as_ref().filter(|v| v.vip_routes) {
        return Resolved::Service(frontend.clone(), Via::Frontend);
    }
    // 2
    let named = name.as_deref().and_then(|name| by_host(catalogue, lookup, name));
    if let Some(service) = named {
        let in_mesh = matches!(service.kind, EntryKind::EntryService | EntryKind::EntryHeadless);
        let dialled = orig_dst.filter(|at| in_mesh && !catalogue.is_vip(at.ip()));
        return match dialled {
            Some(at) => by_host_at(service, at, &pod),
            // The HTTP proxy port: the authority's VIP is what was dialled.
            None if orig_dst.is_none() && service.vip_routes => Resolved::Service(service, Via::Frontend),
            None => Resolved::Service(service, Via::Host),
        };
    }
    // 3
    if let Some(service) = vip {
        return Resolved::Service(service, Via::Vip);
    }
    if let Some(at) = orig_dst {
        // 4, 5
        match pod(at) {
            PodAddress::Own(_) => return Resolved::Own(at),
            PodAddress::Workload(services) => {
                let host = name.as_deref().and_then(|name| catalogue.full_host(name));
                return Resolved::Workload(at, host.and_then(|host| policy(&services, host)));
            }
            PodAddress::Unknown => return Resolved::AskWorkload(at.ip()),
            PodAddress::Absent => {}
        }
        // 6
        if let Some(service) = catalogue.by_range(at.ip(), at.port()) {
            return Resolved::Service(service, Via::Cidr);
        }
    }
    // 7
    if let Some(any) = catalogue.by_any_name(lookup.port).filter(|_| lookup.traffic == Traffic::Http) {
        return Resolved::Service(any, Via::Host);
    }
    let named = || name.map(|name| Outside::Name(HostPort::new(&name, lookup.port)));
    match orig_dst.map(Outside::Address).or_else(named) {
        Some(outside) if allow_any => Resolved::Passthrough(outside),
        _ => Resolved::Blocked,
    }
}

/// Step 2: exact, the longest wildcard, `*`.
fn by_host(catalogue: &Catalogue, lookup: &Lookup<'_>, name: &str) -> Option<Arc<ServicePort>> {
    let http = lookup.traffic == Traffic::Http;
    // Hosts that only routes have are HTTP's: a VirtualService's http rules say nothing about TLS.
    let found = catalogue.by_name(name, lookup.port, http, lookup.orig_dst.is_some());
    // Outside of the mesh, no port means the usual one.
    let inside = |only: &Arc<ServicePort>| !lookup.port_given && only.kind != EntryKind::EntryExternal;
    let only = || catalogue.only_port(name).filter(inside);
    found.or_else(only).or_else(|| catalogue.by_any_name(lookup.port).filter(|_| http))
}

/// A service of the mesh was named, but what was dialled is not its VIP: perhaps one of its pods.
fn by_host_at(service: Arc<ServicePort>, at: SocketAddr, pod: impl Fn(SocketAddr) -> PodAddress) -> Resolved {
    match pod(at) {
        PodAddress::Own(services) if policy(&services, service.name.host()).is_some() => Resolved::Own(at),
        PodAddress::Workload(services) => match policy(&services, service.name.host()) {
            Some(policy) => Resolved::Workload(at, Some(policy)),
            None => Resolved::Service(service, Via::Host),
        },
        PodAddress::Unknown => Resolved::AskWorkload(at.ip()),
        PodAddress::Own(_) | PodAddress::Absent => Resolved::Service(service, Via::Host),
    }
}

/// The one among a pod's services that has this host.
fn policy(services: &Services, host: &str) -> Option<HostPort> {
    services.as_deref()?.iter().find(|s| s.host() == host).cloned()
}

/// Lower case, without `:port`, one trailing dot and an address's brackets. `None`: there is no name in it.
pub(crate) fn normalise(host: &str) -> Option<Cow<'_, str>> {
    let name = bare_name(host)?;
    let upper = name.bytes().any(|b| b.is_ascii_uppercase());
    Some(if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) })
}

/// The same in whatever case it has.
pub(crate) fn bare_name(host: &str) -> Option<&str> {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // More than one colon: a bare IPv6 address.
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// An address in place of a name.
fn literal(name: &str) -> Option<IpAddr> {
    // Cheaper than trying: a name's last label has a letter, as a rule its last byte is one.
    let last = name.as_bytes().last()?;
    let address: IpAddr =
        if last.is_ascii_digit() || name.contains(':') { name.parse().ok()? } else { return None };
    // `::ffff:10.0.0.1` reaches what 10.0.0.1 does, and must be known as that.
    Some(address.to_canonical())
}
