//! The facts that become metric labels: who asked, who answered, for which service. Made once, at configuration or
//! connection time, and shared; empty means unknown.

use std::sync::Arc;

use mesh_proto::model::identity::SpiffeId;
use mesh_proto::wire::mesh::v1 as wire;

/// One side of a request. Equal content from different places is the same series; the same `Arc` is faster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Party {
    /// Deployment or the like.
    pub workload: Box<str>,
    /// Its namespace.
    pub namespace: Box<str>,
    /// `spiffe://...`, told only where the connection is mTLS.
    pub principal: Box<str>,
    /// Label `app`.
    pub app: Box<str>,
    /// Label `version`.
    pub version: Box<str>,
    /// Cluster's name.
    pub cluster: Box<str>,
    /// Canonical service.
    pub canonical_service: Box<str>,
    /// Canonical revision, `latest` where empty.
    pub canonical_revision: Box<str>,
    /// The pod's name, for logs only.
    pub instance: Box<str>,
}

impl Party {
    /// From facts on the wire and a verified (or, at the client, expected) identity.
    #[must_use]
    pub fn new(facts: Option<&wire::WorkloadFacts>, identity: Option<&SpiffeId>) -> Self {
        let text = |pick: fn(&wire::WorkloadFacts) -> &String| -> Box<str> {
            facts.map(|f| pick(f).as_str()).unwrap_or_default().into()
        };
        Self {
            workload: text(|f| &f.workload),
            namespace: text(|f| &f.namespace),
            principal: identity.map(SpiffeId::as_str).unwrap_or_default().into(),
            app: text(|f| &f.app),
            version: text(|f| &f.version),
            cluster: text(|f| &f.cluster_id),
            canonical_service: text(|f| &f.canonical_service),
            canonical_revision: text(|f| &f.canonical_revision),
            instance: text(|f| &f.instance),
        }
    }

    /// Nothing known.
    #[must_use]
    pub fn unknown() -> Arc<Self> {
        Arc::default()
    }
}

/// The service that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// `destination_service`: the FQDN.
    pub host: Box<str>,
    /// `destination_service_name`.
    pub name: Box<str>,
    /// `destination_service_namespace`.
    pub namespace: Box<str>,
}

impl Service {
    /// From the wire.
    #[must_use]
    pub fn new(service: &wire::ServiceRef) -> Self {
        Self {
            host: service.host.as_str().into(),
            name: service.name.as_str().into(),
            namespace: service.namespace.as_str().into(),
        }
    }

    /// What goes through unresolved: Istio's `PassthroughCluster`, `BlackHoleCluster`, `InboundPassthroughCluster`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { host: Box::default(), name: name.into(), namespace: Box::default() }
    }
}
