//! DNS as the machine has it: its hosts file and name servers, or the name servers of the bootstrap.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use parking_lot::Mutex;

use super::{Asking, Found, Source};

/// For one try at one name server.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Tries at each.
const ATTEMPTS: usize = 2;

/// The machine's resolver, made when it is needed first.
pub struct System {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    resolver: Arc<Mutex<Option<TokioResolver>>>,
}

impl System {
    /// With these name servers; none: the machine's.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, timeout: TIMEOUT, resolver: Arc::default() }
    }

    fn resolver(&self) -> Result<TokioResolver, String> {
        let mut made = self.resolver.lock();
        if let Some(resolver) = &*made {
            return Ok(resolver.clone());
        }
        let builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|why| format!("the system's settings: {why}"))?
        } else {
            let servers = self.servers.iter().map(|at| server(*at)).collect();
            let config = ResolverConfig::from_name_servers(servers);
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let mut builder = builder;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.timeout = self.timeout;
        options.attempts = ATTEMPTS;
        // Who asks keeps the answers.
        options.cache_size = 0;
        let resolver = builder.build().map_err(|why| why.to_string())?;
        Ok(made.insert(resolver).clone())
    }
}

fn server(at: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(at.ip());
    let ports = server.connections.iter_mut();
    ports.for_each(|connection: &mut ConnectionConfig| connection.port = at.port());
    server
}

impl Source for System {
    fn ask(&self, name: &str) -> Asking {
        // A full name: search domains are for names without a dot.
        let name = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
        let resolver = self.resolver();
        Box::pin(async move {
            let found = resolver?.lookup_ip(name).await.map_err(|why| why.to_string())?;
            let ttl = found.valid_until().saturating_duration_since(Instant::now());
            Ok(Found { addresses: found.iter().collect(), ttl })
        })
    }
}

#[cfg(test)]
mod tests;
