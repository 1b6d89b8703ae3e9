//! Which connections may carry which requests.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mesh_proto::model::host_port::HostPort;
use mesh_proto::model::identity::SpiffeId;

use crate::http::Protocol;

/// Everything that two requests must have in common to share a connection. Hashed once, when made.
#[derive(Debug, Clone)]
pub struct PoolKey {
    parts: Arc<Parts>,
    hash: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    cluster: HostPort,
    endpoint: Arc<str>,
    protocol: Protocol,
    tls: u64,
    identities: Box<[SpiffeId]>,
    /// Whose limits count: with limits, each subset has its own connections, as in Envoy.
    limited: Option<Box<str>>,
}

impl PoolKey {
    /// `endpoint` is its uid, `tls` the generation of its TLS settings (0 for none), `identities` those of which one is
    /// expected.
    #[must_use]
    pub fn new(
        cluster: HostPort,
        endpoint: Arc<str>,
        protocol: Protocol,
        tls: u64,
        identities: &[SpiffeId],
    ) -> Self {
        let identities = identities.into();
        Self::of(Parts { cluster, endpoint, protocol, tls, identities, limited: None })
    }

    /// The same for connections that count for a subset (`""`: the whole).
    #[must_use]
    pub fn limited(self, subset: &str) -> Self {
        let Parts { cluster, endpoint, protocol, tls, identities, .. } = &*self.parts;
        Self::of(Parts {
            cluster: cluster.clone(),
            endpoint: endpoint.clone(),
            protocol: *protocol,
            tls: *tls,
            identities: identities.clone(),
            limited: Some(subset.into()),
        })
    }

    fn of(parts: Parts) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        parts.hash(&mut hasher);
        Self { parts: Arc::new(parts), hash: hasher.finish() }
    }

    /// The protocol of the connections.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.parts.protocol
    }

    /// The endpoint's uid.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<str> {
        &self.parts.endpoint
    }
}

impl PartialEq for PoolKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && (Arc::ptr_eq(&self.parts, &other.parts) || self.parts == other.parts)
    }
}

impl Eq for PoolKey {}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}
