//! A gateway's listener: a port, and which host has which routes.
//!
//! In: `listener/<port>`. Out: [`Listener`]; hosts match exact, then the longest wildcard, then `*`.

use mesh_proto::model::Protocol;
use mesh_proto::wire::mesh::v1 as wire;

/// One port of a gateway.
#[derive(Debug)]
pub struct Listener {
    /// As the Gateway says.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The Gateway servers that were merged into it.
    pub origins: Vec<wire::Origin>,
    /// In the pilot's order.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// The routes of some hosts.
#[derive(Debug)]
pub struct VirtualHost {
    /// Exact, `*.suffix` or `*`; lower case.
    pub domains: Vec<String>,
}
