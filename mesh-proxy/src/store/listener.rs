//! A gateway's listener: a port, and which host has which routes; of TLS, which server name has which certificate.
//!
//! In: `listener/<port>`. Out: [`Listener`]; names match exact, then the longest wildcard, then `*`.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_proto::model::{HostPort, Protocol};
use mesh_proto::wire::mesh::v1 as wire;
use prost::Message as _;

use crate::cluster::ClusterHandle;
use crate::route::{InvalidRoute, RouteTable, Source, TcpRule};

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
    /// Field `target_port`.
    #[error("target_port: {0} is no port")]
    TargetPort(u32),
    /// Field `protocol`.
    #[error("protocol: unknown value {0}")]
    Protocol(i32),
    /// Two hosts with one domain, or a domain that is none.
    #[error("domain {0:?} is empty, not lower case or used twice")]
    Domain(String),
    /// A rule.
    #[error("virtual_hosts[{0}]: {1}")]
    Route(usize, InvalidRoute),
    /// A rule for bytes.
    #[error("tcp: {0}")]
    Tcp(InvalidRoute),
    /// Plaintext and TLS on one port, or a server without an action or settings.
    #[error("tls_servers: {0}")]
    Tls(&'static str),
}

/// One port of a gateway.
#[derive(Debug)]
pub struct Listener {
    /// As the Gateway says.
    pub port: u16,
    /// What is bound, before the bootstrap moves it.
    pub target_port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The Gateway servers that were merged into it.
    pub origins: Vec<wire::Origin>,
    /// Requests in plaintext.
    pub hosts: Hosts,
    /// Bytes in plaintext.
    pub tcp: Vec<TcpRule>,
    /// Not empty: only TLS is spoken there.
    pub tls: Vec<Arc<TlsServer>>,
    names: Names,
}

/// One TLS server.
#[derive(Debug)]
pub struct TlsServer {
    /// Its server names.
    pub hosts: Vec<String>,
    /// The Gateway's server.
    pub origin: Option<wire::Origin>,
    /// What is done with it.
    pub action: TlsAction,
}

/// What is done with a TLS connection.
#[derive(Debug)]
pub enum TlsAction {
    /// Passed on as it is.
    Forward(TcpRule),
    /// Ended here.
    Terminate(Arc<TlsSettings>, Inside),
}

/// What is inside of TLS.
#[derive(Debug)]
pub enum Inside {
    /// Requests.
    Http(Hosts),
    /// Bytes.
    Tcp(Vec<TcpRule>),
}

/// How TLS is ended. Equal keys mean equal settings.
#[derive(Debug)]
pub struct TlsSettings {
    /// As the pilot says.
    pub wire: wire::TlsSettings,
    /// Bytes are inside: no protocol is agreed on.
    pub bytes: bool,
    /// For maps.
    pub key: Arc<[u8]>,
}

/// The routes of some hosts.
#[derive(Debug)]
pub struct VirtualHost {
    /// Exact, `*.suffix` or `*`; lower case.
    pub domains: Vec<String>,
    /// Its rules.
    pub table: RouteTable,
    /// Requests are sent to https.
    pub https_redirect: bool,
}

/// Virtual hosts by name.
#[derive(Debug, Default)]
pub struct Hosts {
    list: Vec<Arc<VirtualHost>>,
    names: Names,
}

/// Index by exact name, by `.suffix`, and by `` for `*`.
#[derive(Debug, Default)]
struct Names(HashMap<String, usize>);

impl Names {
    fn add(&mut self, domain: &str, index: usize) -> Result<(), InvalidListener> {
        // `*` is every name without a suffix in common: the empty key.
        let key = domain.strip_prefix('*').unwrap_or(domain);
        let lower = !domain.bytes().any(|b| b.is_ascii_uppercase());
        if domain.is_empty() || !lower || self.0.insert(key.to_owned(), index).is_some() {
            return Err(InvalidListener::Domain(domain.to_owned()));
        }
        Ok(())
    }

    /// Upper case, a port and a trailing dot are allowed. No name: only `*` has it.
    fn find(&self, name: Option<&str>) -> Option<usize> {
        let Some(name) = name else { return self.0.get("").copied() };
        let name = crate::destination::normalise(name)?;
        let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &name[at..]);
        std::iter::once(&*name).chain(suffixes).chain([""]).find_map(|key| self.0.get(key)).copied()
    }
}

/// What parsing needs: who we are, and the handles of clusters.
struct Parser<'a, R> {
    source: &'a Source<'a>,
    resolve: R,
}

impl<R: FnMut(&HostPort) -> ClusterHandle> Parser<'_, R> {
    fn hosts(&mut self, wire: Vec<wire::VirtualHost>) -> Result<Hosts, InvalidListener> {
        let mut hosts = Hosts::default();
        for (index, host) in wire.into_iter().enumerate() {
            for domain in &host.domains {
                hosts.names.add(domain, index)?;
            }
            let table = RouteTable::new(&host.table.unwrap_or_default(), self.source, &mut self.resolve);
            let table = table.map_err(|e| InvalidListener::Route(index, e))?;
            let https_redirect = host.https_redirect;
            hosts.list.push(Arc::new(VirtualHost { domains: host.domains, table, https_redirect }));
        }
        Ok(hosts)
    }

    fn tcp(&mut self, wire: &[wire::TcpRule]) -> Result<Vec<TcpRule>, InvalidListener> {
        TcpRule::parse_all(wire, &mut self.resolve).map_err(InvalidListener::Tcp)
    }

    fn server(&mut self, wire: wire::TlsServer) -> Result<TlsServer, InvalidListener> {
        let action = match wire.action.ok_or(InvalidListener::Tls("a server without an action"))? {
            wire::tls_server::Action::Forward(rule) => {
                let rule = self.tcp(std::slice::from_ref(&rule))?.pop();
                TlsAction::Forward(rule.ok_or(InvalidListener::Tls("a server without a rule"))?)
            }
            wire::tls_server::Action::Terminate(inside) => {
                let settings = inside.settings.ok_or(InvalidListener::Tls("a server without settings"))?;
                let (bytes, http) = (!inside.tcp.is_empty(), !inside.virtual_hosts.is_empty());
                let inside = match (bytes, http) {
                    (true, true) => return Err(InvalidListener::Tls("both requests and bytes in a server")),
                    (true, false) => Inside::Tcp(self.tcp(&inside.tcp)?),
                    (false, _) => Inside::Http(self.hosts(inside.virtual_hosts)?),
                };
                TlsAction::Terminate(Arc::new(TlsSettings::new(settings, bytes)), inside)
            }
        };
        Ok(TlsServer { hosts: wire.hosts, origin: wire.origin, action })
    }
}

impl TlsSettings {
    fn new(wire: wire::TlsSettings, bytes: bool) -> Self {
        let mut key = vec![u8::from(bytes)];
        key.extend(wire.encode_to_vec());
        Self { wire, bytes, key: key.into() }
    }
}

impl TlsServer {
    /// How it ends TLS, if it does.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<TlsSettings>> {
        match &self.action {
            TlsAction::Terminate(settings, _) => Some(settings),
            TlsAction::Forward(_) => None,
        }
    }
}

impl Hosts {
    /// The routes of a Host as it came (upper case, port and trailing dot are allowed).
    #[must_use]
    pub fn find(&self, host: &str) -> Option<&Arc<VirtualHost>> {
        self.names.find(Some(host)).map(|index| &self.list[index])
    }
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
        resolve: impl FnMut(&HostPort) -> ClusterHandle,
    ) -> Result<Self, InvalidListener> {
        let wrong_port = || InvalidListener::Port { port: wire.port, resource: resource.to_owned() };
        let port = u16::try_from(wire.port).ok().filter(|p| *p != 0).ok_or_else(wrong_port)?;
        if port.to_string() != resource {
            return Err(wrong_port());
        }
        let target_port = match wire.target_port {
            0 => port,
            other => u16::try_from(other).map_err(|_| InvalidListener::TargetPort(other))?,
        };
        let plain = !wire.virtual_hosts.is_empty() || !wire.tcp.is_empty();
        if plain && !wire.tls_servers.is_empty() {
            return Err(InvalidListener::Tls("plaintext on the same port"));
        }
        let mut parser = Parser { source, resolve };
        let mut names = Names::default();
        let mut tls = Vec::with_capacity(wire.tls_servers.len());
        for (index, server) in wire.tls_servers.into_iter().enumerate() {
            for host in &server.hosts {
                names.add(host, index)?;
            }
            tls.push(Arc::new(parser.server(server)?));
        }
        Ok(Self {
            port,
            target_port,
            protocol: Protocol::try_from(wire.protocol).map_err(|e| InvalidListener::Protocol(e.0))?,
            origins: wire.origins,
            hosts: parser.hosts(wire.virtual_hosts)?,
            tcp: parser.tcp(&wire.tcp)?,
            tls,
            names,
        })
    }

    /// The hosts of requests, in plaintext and inside of TLS.
    pub fn virtual_hosts(&self) -> impl Iterator<Item = &Arc<VirtualHost>> {
        let inside = self.tls.iter().filter_map(|server| match &server.action {
            TlsAction::Terminate(_, Inside::Http(hosts)) => Some(&hosts.list),
            TlsAction::Terminate(_, Inside::Tcp(_)) | TlsAction::Forward(_) => None,
        });
        self.hosts.list.iter().chain(inside.flatten())
    }

    /// The rules for bytes, in plaintext, inside of TLS and of TLS that is passed on.
    pub fn tcp_rules(&self) -> impl Iterator<Item = &TcpRule> {
        let inside = self.tls.iter().flat_map(|server| match &server.action {
            TlsAction::Terminate(_, Inside::Tcp(rules)) => &rules[..],
            TlsAction::Forward(rule) => std::slice::from_ref(rule),
            TlsAction::Terminate(_, Inside::Http(_)) => &[],
        });
        self.tcp.iter().chain(inside)
    }

    /// The TLS server of a name; of clients that send none, that of `*`.
    #[must_use]
    pub fn tls_server(&self, name: Option<&str>) -> Option<&Arc<TlsServer>> {
        self.names.find(name).map(|index| &self.tls[index])
    }

    /// Whether only TLS is spoken there. Also where all servers of the port are gone but their port is not.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.protocol == Protocol::Tls
    }
}
