//! Where a connection or request goes: one pure function over the catalogue.
//!
//! In: the address that was dialled, the port, and the Host (or SNI). Out: a service, one workload, the proxy's own
//! application, an outside address, or a refusal. Spec: design §3.2; names are Istio's (`svc`, `svc.ns`, `svc.ns.svc`, FQDN).

pub mod catalogue;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_proto::model::HostPort;

pub use catalogue::{Catalogue, CatalogueBuilder, ServicePort};

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

/// What is known about a pod's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodAddress<'a> {
    /// This proxy's own. With the services (`host:port`) that it belongs to.
    Own(&'a [HostPort]),
    /// Another workload's, with its services.
    Workload(&'a [HostPort]),
    /// Nobody's in the mesh.
    Absent,
    /// Never asked.
    Unknown,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// A service (or a route that stands for one): its routes decide.
    Service(Arc<ServicePort>, Via),
    /// One workload and no other, at the address dialled. With the headless or other service whose policy applies.
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
