//! A gateway's listener: a port, and which host has which routes.
//!
//! In: `listener/<port>`. Out: [`Listener`]; hosts match exact, then the longest wildcard, then `*`.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_proto::model::{HostPort, Protocol};
use mesh_proto::wire::mesh::v1 as wire;

use crate::cluster::ClusterHandle;
use crate::route::{InvalidRoute, RouteTable, Source};

/// Why a listener cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidListener {
    /// Field `port`, or the resource's name.
    #[error("port: {port} in the resource of {resource}")]
    Port {
        /// What the message says.
        port: u32,
        /// What the resource is called.
        resource: String,
    },
    /// Field `protocol`.
    #[error("protocol: unknown value {0}")]
    Protocol(i32),
    /// Two hosts with one domain, or a domain that is none.
    #[error("virtual_hosts: domain {0:?} is empty, not lower case or used twice")]
    Domain(String),
    /// A rule.
    #[error("virtual_hosts[{0}]: {1}")]
    Route(usize, InvalidRoute),
}

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
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    /// Index by exact name, by `.suffix`, and by `` for `*`.
    hosts: HashMap<String, usize>,
}

/// The routes of some hosts.
#[derive(Debug)]
pub struct VirtualHost {
    /// Exact, `*.suffix` or `*`; lower case.
    pub domains: Vec<String>,
    /// Its rules.
    pub table: RouteTable,
}

impl Listener {
    /// Parses the resource called `resource`.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(
        wire: wire::Listener,
        resource: &str,
        source: &Source<'_>,
        mut resolve: impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidListener> {
        let wrong_port = || InvalidListener::Port { port: wire.port, resource: resource.to_owned() };
        let port = u16::try_from(wire.port).ok().filter(|p| *p != 0).ok_or_else(wrong_port)?;
        if port.to_string() != resource {
            return Err(wrong_port());
        }
        let mut hosts = HashMap::new();
        let mut virtual_hosts = Vec::with_capacity(wire.virtual_hosts.len());
        for (index, host) in wire.virtual_hosts.into_iter().enumerate() {
            for domain in &host.domains {
                // `*` is every name without a suffix in common: the empty key.
                let key = domain.strip_prefix('*').unwrap_or(domain);
                let lower = !domain.bytes().any(|b| b.is_ascii_uppercase());
                if domain.is_empty() || !lower || hosts.insert(key.to_owned(), index).is_some() {
                    return Err(InvalidListener::Domain(domain.clone()));
                }
            }
            let table = RouteTable::new(&host.table.unwrap_or_default(), source, &mut resolve);
            let table = table.map_err(|e| InvalidListener::Route(index, e))?;
            virtual_hosts.push(Arc::new(VirtualHost { domains: host.domains, table }));
        }
        Ok(Self {
            port,
            protocol: Protocol::try_from(wire.protocol).map_err(|e| InvalidListener::Protocol(e.0))?,
            origins: wire.origins,
            virtual_hosts,
            hosts,
        })
    }

    /// The routes of a Host as it came (upper case, port and trailing dot are allowed).
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        let name = crate::destination::normalise(host)?;
        let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &name[at..]);
        let found = std::iter::once(&*name).chain(suffixes).chain([""]).find_map(|key| self.hosts.get(key));
        found.map(|index| &self.virtual_hosts[*index])
    }
}
