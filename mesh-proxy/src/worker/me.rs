//! This workload, prepared for requests: labels for metrics, the greeting for peers.
//!
//! In: `self/self`. Out: [`Me`], made once for each version of it.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderName, HeaderValue};
use mesh_proto::model::SpiffeId;
use mesh_proto::wire::mesh::v1 as wire;
use prost::Message as _;

use crate::store::SelfConfig;
use crate::telemetry::{Party, Service};

/// The field in which a proxy tells its peer which workload it is, once a connection: base64 of a `mesh.v1.Workload`
/// with `identity` and `facts`.
pub const PEER: HeaderName = HeaderName::from_static("x-mesh-peer");

/// This workload.
pub struct Me {
    /// Its settings.
    pub config: Arc<SelfConfig>,
    /// Its labels in metrics and logs.
    pub party: Arc<Party>,
    /// Sent with the first request of each mesh connection.
    pub greeting: Option<(HeaderName, HeaderValue)>,
    services: HashMap<u16, Arc<Service>>,
    other: Arc<Service>,
}

impl Me {
    /// Prepares `config` of the workload with the certificate of `identity`.
    #[must_use]
    pub fn new(config: Arc<SelfConfig>, identity: &SpiffeId) -> Self {
        let services = config
            .ports
            .iter()
            .filter_map(|(port, p)| Some((*port, Arc::new(Service::new(p.services.first()?)))))
            .collect();
        Self {
            party: Arc::new(Party::new(Some(&config.facts), Some(identity))),
            greeting: greeting(identity, &config.facts),
            services,
            other: Arc::new(Service::named("InboundPassthroughCluster")),
            config,
        }
    }

    /// The service that a request to container port `port` is counted for.
    #[must_use]
    pub fn service(&self, port: u16) -> &Arc<Service> {
        self.services.get(&port).unwrap_or(&self.other)
    }
}

fn greeting(identity: &SpiffeId, facts: &wire::WorkloadFacts) -> Option<(HeaderName, HeaderValue)> {
    let told = wire::Workload {
        identity: identity.to_string(),
        facts: Some(facts.clone()),
        ..wire::Workload::default()
    };
    let text = STANDARD_NO_PAD.encode(told.encode_to_vec());
    Some((PEER, HeaderValue::from_str(&text).ok()?))
}

/// What a peer's greeting says, where it agrees with the verified certificate (namespace and account).
#[must_use]
pub fn believed(greeting: &HeaderValue, peer: &SpiffeId) -> Option<Arc<Party>> {
    let bytes = STANDARD_NO_PAD.decode(greeting.as_bytes()).ok()?;
    let told = wire::Workload::decode(&bytes[..]).ok()?;
    let facts = told.facts?;
    let agrees = told.identity == peer.as_str() && facts.namespace == peer.namespace();
    agrees.then(|| Arc::new(Party::new(Some(&facts), Some(peer))))
}

/// The most that is known about a peer from its certificate alone.
#[must_use]
pub fn from_certificate(peer: &SpiffeId) -> Arc<Party> {
    let facts = wire::WorkloadFacts { namespace: peer.namespace().to_owned(), ..Default::default() };
    Arc::new(Party::new(Some(&facts), Some(peer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(namespace: &str) -> wire::WorkloadFacts {
        wire::WorkloadFacts {
            workload: "reviews-v2".into(),
            namespace: namespace.into(),
            version: "v2".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_greeting_is_believed_only_where_the_certificate_agrees() {
        let reviews: SpiffeId = "spiffe://td/ns/default/sa/reviews".parse().unwrap();
        let other: SpiffeId = "spiffe://td/ns/default/sa/other".parse().unwrap();
        let (name, value) = greeting(&reviews, &facts("default")).unwrap();
        assert_eq!(name, "x-mesh-peer");
        let party = believed(&value, &reviews).unwrap();
        assert_eq!((&*party.workload, &*party.version), ("reviews-v2", "v2"));
        assert!(believed(&value, &other).is_none());
        let (_, foreign) = greeting(&reviews, &facts("elsewhere")).unwrap();
        assert!(believed(&foreign, &reviews).is_none());
        assert!(believed(&HeaderValue::from_static("%%"), &reviews).is_none());
        assert_eq!(&*from_certificate(&reviews).namespace, "default");
    }
}
