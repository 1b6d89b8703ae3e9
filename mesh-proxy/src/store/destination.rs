//! The routes of one `host:port`, parsed.
//!
//! In: `destination/<host>:<port>`. Out: [`Destination`], and the clusters that it names.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_proto::model::host_port::InvalidHostPort;
use mesh_proto::model::{HostPort, Protocol};
use mesh_proto::wire::mesh::v1 as wire;

use crate::cluster::ClusterHandle;
use crate::destination::normalise;
use crate::route::{InvalidRoute, RouteTable, Source, TcpRule};

/// The routes of one `host:port`, with everything that they name.
#[derive(Debug)]
pub struct Destination {
    /// The name.
    pub name: HostPort,
    /// Declared protocol.
    pub protocol: Protocol,
    /// For metric labels.
    pub service: Option<Arc<wire::ServiceRef>>,
    /// Rules for requests.
    pub http: RouteTable,
    /// Rules for bytes.
    pub tcp: Vec<TcpRule>,
    /// Rules for TLS of the application's own. Where there are some, `tcp` says nothing about TLS.
    pub tls: Vec<TlsRule>,
}

/// A rule for TLS of the application's own.
#[derive(Debug)]
pub struct TlsRule {
    hosts: Vec<String>,
    rule: TcpRule,
}

impl TlsRule {
    fn takes(&self, sni: &str) -> bool {
        self.hosts.iter().any(|host| match host.strip_prefix('*') {
            Some(suffix) => sni.len() > suffix.len() && sni.ends_with(suffix),
            None => host == sni,
        })
    }
}

/// Why routes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDestination {
    /// Field `name`.
    #[error("name: {0}")]
    Name(#[from] InvalidHostPort),
    /// Field `name`, and the resource's.
    #[error("name: {inside} in the resource of {resource}")]
    OtherName {
        /// What the message says.
        inside: HostPort,
        /// What the resource is called.
        resource: String,
    },
    /// Field `protocol`.
    #[error("protocol: unknown value {0}")]
    Protocol(i32),
    /// A rule.
    #[error(transparent)]
    Route(#[from] InvalidRoute),
}

impl Destination {
    /// Parses the resource called `resource`.
    ///
    /// # Errors
    /// Names the field.
    pub fn parse(
        wire: &wire::Destination,
        resource: &str,
        source: &Source<'_>,
        mut resolve: impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidDestination> {
        let name = HostPort::try_from(&wire.name.clone().unwrap_or_default())?;
        if name.to_string() != resource {
            return Err(InvalidDestination::OtherName { inside: name, resource: resource.to_owned() });
        }
        let table = wire.http.as_ref();
        let none = wire::RouteTable::default();
        Ok(Self {
            name,
            protocol: Protocol::try_from(wire.protocol).map_err(|e| InvalidDestination::Protocol(e.0))?,
            service: wire.service.clone().map(Arc::new),
            http: RouteTable::new(table.unwrap_or(&none), source, &mut resolve)?,
            tcp: TcpRule::parse_all(&wire.tcp, &mut resolve)?,
            tls: tls_rules(&wire.tls, &mut resolve)?,
        })
    }

    /// The rule for bytes of a client that asks for `sni`, if they are TLS.
    #[must_use]
    pub fn rule_for_bytes(&self, sni: Option<&str>) -> Option<&TcpRule> {
        match sni.filter(|_| !self.tls.is_empty()).and_then(normalise) {
            Some(sni) => self.tls.iter().find(|one| one.takes(&sni)).map(|one| &one.rule),
            None => self.tcp.first(),
        }
    }
}

fn tls_rules(
    wire: &[wire::TlsRule],
    resolve: &mut impl FnMut(&HostPort) -> ClusterHandle,
) -> Result<Vec<TlsRule>, InvalidRoute> {
    let mut rules = Vec::with_capacity(wire.len());
    for one in wire {
        let inner: Vec<_> = one.rule.iter().cloned().collect();
        let parsed = TcpRule::parse_all(&inner, &mut *resolve)?;
        rules.extend(parsed.into_iter().map(|rule| TlsRule { hosts: one.sni_hosts.clone(), rule }));
    }
    Ok(rules)
}

/// The clusters that a destination names: those of every rule, also of rules for other proxies, as the pilot counts.
pub(super) fn clusters_of(wire: &wire::Destination) -> BTreeSet<HostPort> {
    let tls = wire.tls.iter().filter_map(|one| one.rule.as_ref());
    let tcp = wire.tcp.iter().chain(tls).flat_map(|rule| &rule.backends);
    names(wire.http.iter().flat_map(backends).chain(tcp))
}

/// The clusters that a listener names.
pub(super) fn clusters_of_listener(wire: &wire::Listener) -> BTreeSet<HostPort> {
    names(wire.backends())
}

fn backends(table: &wire::RouteTable) -> impl Iterator<Item = &wire::WeightedBackend> {
    table.rules.iter().flat_map(|rule| match &rule.action {
        Some(wire::rule::Action::Route(route)) => route.backends.as_slice(),
        Some(wire::rule::Action::DirectResponse(_)) | None => &[],
    })
}

fn names<'a>(backends: impl Iterator<Item = &'a wire::WeightedBackend>) -> BTreeSet<HostPort> {
    backends.filter_map(|b| HostPort::try_from(b.cluster.as_ref()?).ok()).collect()
}
