//! How a cluster or subset is to be reached: balancing, timeouts, TLS.

use std::num::NonZeroU32;
use std::time::Duration;

use super::hash::HashKey;

/// Complete: every default is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which algorithm.
    pub load_balancer: LoadBalancer,
    /// For one connection attempt.
    pub connect_timeout: Duration,
    /// Whether to originate TLS.
    pub tls: UpstreamTls,
    /// How long a connection may be idle in the pool. Zero: without limit.
    pub idle_timeout: Duration,
    /// After how many requests a connection is closed.
    pub max_requests_per_connection: Option<NonZeroU32>,
}

/// Which balancing algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadBalancer {
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two.
    LeastRequest,
    /// At random, by weight.
    Random,
    /// A ketama ring.
    RingHash {
        /// What is hashed.
        key: HashKey,
        /// Points on the ring, at least.
        minimum_ring_size: u64,
    },
    /// Maglev's table.
    Maglev {
        /// What is hashed.
        key: HashKey,
        /// Its length, a prime.
        table_size: u64,
    },
    /// Not balanced: to the original destination.
    Passthrough,
}

/// Whether TLS is originated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamTls {
    /// Mesh mTLS where the endpoint has it.
    Auto,
    /// Never.
    Disable,
    /// Always, with the mesh's certificates.
    IstioMutual,
}
