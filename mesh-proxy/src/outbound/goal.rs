//! Where a request or connection of the application is meant to go.
//!
//! In: the address dialled and the name asked for. Out: [`Goal`], after the pilot has told what must be known first. A
//! name of the mesh never becomes plaintext because its answer is late: that is a failure (`discovery_timeout`).

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_proto::model::HostPort;

use crate::capture::Application;
use crate::destination::{Lookup, Outside, Resolved, ServicePort, Traffic};
use crate::respond::Failure;
use crate::store::{DestinationCell, Workload};
use crate::worker::Worker;

/// Ports of every sidecar that are for its own pod: admin, outbound and captured inbound.
const PROXY_PORTS: [u16; 3] = [15000, 15001, 15006];

/// Where to.
#[derive(Clone)]
pub enum Goal {
    /// A destination with routes.
    Destination(Arc<ServicePort>, Arc<DestinationCell>),
    /// One workload of the mesh and no other.
    Workload(SocketAddr, Arc<Workload>, Option<HostPort>),
    /// This workload's own application.
    Own(Application),
    /// Outside of the mesh.
    Address(SocketAddr),
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The VIP and port for which the listener stands; none on the HTTP proxy port.
    pub vip: Option<SocketAddr>,
    /// Host, authority or SNI.
    pub host: Option<&'a str>,
    /// What kind of bytes.
    pub traffic: Traffic,
}

/// How the lookup's question looks.
#[must_use]
pub fn lookup(asked: Asked<'_>) -> Lookup<'_> {
    let (port, port_given) = match (asked.vip, asked.host.and_then(port_of)) {
        (Some(vip), _) => (vip.port(), true),
        (None, Some(port)) => (port, true),
        (None, None) => (80, false),
    };
    Lookup { orig_dst: asked.vip, port, port_given, host: asked.host, traffic: asked.traffic }
}

/// The port of an authority.
#[must_use]
pub fn port_of(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    if host.contains(':') && !host.ends_with(']') {
        // An IPv6 address without brackets has colons of its own.
        return None;
    }
    port.parse().ok()
}

/// Finds the goal, asking the pilot where it must.
///
/// # Errors
/// When there is none, or the pilot has not told in time.
pub async fn find(worker: &Worker, asked: Asked<'_>) -> Result<Goal, Failure> {
    let lookup = lookup(asked);
    let mut resolved = worker.store.resolve(&lookup);
    if let Resolved::AskWorkload(ip) = resolved {
        // Absent is an answer too: the address is nobody's in the mesh.
        match worker.store.demand_workload(ip).await {
            Ok(_) | Err(crate::store::Demand::Absent(_)) => {}
            Err(late) => return Err(late.into()),
        }
        resolved = worker.store.resolve(&lookup);
    }
    match resolved {
        Resolved::Service(service, _) => {
            let cell = worker.store.demand(&service.name).await?;
            Ok(Goal::Destination(service, cell))
        }
        Resolved::Workload(address, service) => {
            let cell = worker.store.demand_workload(address.ip()).await?;
            let workload = cell.load_full().ok_or(Failure::Bug("a workload that is present is empty"))?;
            if PROXY_PORTS.contains(&address.port()) && !workload.ports.contains_key(&address.port()) {
                return Err(Failure::ProxyPort(address));
            }
            Ok(Goal::Workload(address, workload, service))
        }
        Resolved::Own(address) => {
            let own = worker.own_port(address);
            own.map(Goal::Own).ok_or(Failure::ProxyPort(address))
        }
        Resolved::AskWorkload(_) => Err(Failure::Bug("the pilot's answer about an address was not kept")),
        Resolved::Passthrough(Outside::Address(address)) => outside(worker, address),
        Resolved::Passthrough(Outside::Name(name)) => outside(worker, local_name(&name)?),
        Resolved::Blocked => Err(Failure::Blocked(name_of(asked))),
    }
}

/// What is sent outside must not come back to this proxy, or it would go round until nothing is left.
fn outside(worker: &Worker, address: SocketAddr) -> Result<Goal, Failure> {
    if worker.is_own_socket(address) {
        return Err(Failure::ProxyPort(address));
    }
    Ok(Goal::Address(address))
}

/// A name that only DNS knows: this proxy asks no DNS, but `localhost` needs none.
fn local_name(name: &HostPort) -> Result<SocketAddr, Failure> {
    match name.host() {
        "localhost" => Ok(SocketAddr::from(([127, 0, 0, 1], name.port()))),
        _ => Err(Failure::UnknownHost(name.to_string())),
    }
}

fn name_of(asked: Asked<'_>) -> String {
    match (asked.host, asked.vip) {
        (Some(host), _) => host.to_owned(),
        (None, Some(vip)) => vip.to_string(),
        (None, None) => "a request without a host".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_authorities() {
        let cases = [
            ("reviews", None),
            ("reviews:9080", Some(9080)),
            ("[::1]:80", Some(80)),
            ("::1", None),
            ("a:b", None),
            ("a:99999", None),
        ];
        for (authority, port) in cases {
            assert_eq!(port_of(authority), port, "{authority}");
        }
    }

    #[test]
    fn the_listener_says_the_port_and_the_proxy_port_asks_the_authority() {
        let vip = Some("127.9.255.2:9080".parse().unwrap());
        let ask = |vip, host| lookup(Asked { vip, host: Some(host), traffic: Traffic::Http });
        assert_eq!((ask(vip, "a:1").port, ask(vip, "a:1").port_given), (9080, true));
        assert_eq!((ask(None, "a:1").port, ask(None, "a:1").port_given), (1, true));
        assert_eq!((ask(None, "a").port, ask(None, "a").port_given), (80, false));
    }
}
