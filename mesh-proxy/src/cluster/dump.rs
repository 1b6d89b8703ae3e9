//! A cluster as people want to see it: for `/config_dump`.

use serde_json::{Value, json};

use super::{ClusterView, Endpoint, Policy};

impl ClusterView {
    /// Policy, subsets, and each endpoint with what is counted about it.
    #[must_use]
    pub fn dump(&self) -> Value {
        let subsets = self.subsets.iter().map(|(name, group)| {
            let mut told = policy(&group.policy);
            told["endpoints"] = group.known.into();
            (name.to_string(), told)
        });
        json!({
            "name": self.name.to_string(),
            "policy": policy(&self.whole.policy),
            "origin": self.origin.as_ref().map(crate::route::dump_origin),
            "subsets": subsets.collect::<serde_json::Map<_, _>>(),
            "endpoints": self.endpoints.iter().map(|e| endpoint(e)).collect::<Vec<_>>(),
        })
    }
}

fn policy(policy: &Policy) -> Value {
    json!({
        "load_balancer": format!("{:?}", policy.load_balancer),
        "connect_timeout_ms": policy.connect_timeout.as_millis(),
        "idle_timeout_ms": policy.idle_timeout.as_millis(),
        "tls": format!("{:?}", policy.tls),
        "max_requests_per_connection": policy.max_requests_per_connection,
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "uid": &*endpoint.uid,
        "address": endpoint.address.to_string(),
        "identity": endpoint.identity.as_ref().map(ToString::to_string),
        "mtls": endpoint.mtls,
        "ready": endpoint.ready,
        "weight": endpoint.weight,
        "labels": endpoint.labels,
        "active": endpoint.state.active(),
        "total": endpoint.state.total(),
    })
}
