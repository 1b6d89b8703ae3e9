//! EndpointSlices (discovery.k8s.io/v1), narrowed. In: JSON. Out: [`Slice`], or why there is none.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::source::{Slice, SliceEndpoint, SlicePort};

/// Whose slice it is.
const SERVICE: &str = "kubernetes.io/service-name";
/// Who keeps it.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Kubernetes' own controller: follows the pods' Ready condition.
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Wire {
    metadata: Metadata,
    address_type: String,
    ports: Option<Vec<Port>>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    namespace: String,
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    target_ref: Option<Target>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Target {
    kind: String,
    name: String,
    namespace: String,
}

/// A slice; `None` when it is of no service, or of no addresses (`FQDN`). Only TCP ports are kept.
///
/// # Errors
/// What is wrong with it.
pub fn slice(value: Value) -> Result<Option<Slice>, String> {
    let wire: Wire = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let Some(service) = wire.metadata.labels.get(SERVICE) else { return Ok(None) };
    if !matches!(wire.address_type.as_str(), "IPv4" | "IPv6") {
        return Ok(None);
    }
    let managed = wire.metadata.labels.get(MANAGED_BY).is_some_and(|by| by == CONTROLLER);
    let tcp = |port: &Port| matches!(port.protocol.as_deref(), None | Some("" | "TCP"));
    let ports = wire.ports.unwrap_or_default().into_iter().filter(tcp);
    let ports = ports.filter_map(|port| {
        Some(SlicePort { name: Arc::from(port.name.unwrap_or_default()), number: port.port? })
    });
    let namespace: Arc<str> = Arc::from(wire.metadata.namespace);
    let endpoints = wire.endpoints.unwrap_or_default().into_iter().filter_map(|endpoint| {
        // More addresses than one are the same endpoint; Kubernetes itself uses the first alone.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let pod = endpoint.target_ref.filter(|target| {
            target.kind == "Pod" && (target.namespace.is_empty() || *target.namespace == *namespace)
        });
        Some(SliceEndpoint {
            address,
            pod: pod.map(|target| Arc::from(target.name)),
            // Absent is "unknown", to be taken as ready.
            ready: endpoint.conditions.ready.unwrap_or(true),
            terminating: endpoint.conditions.terminating.unwrap_or(false),
        })
    });
    let endpoints = endpoints.collect();
    Ok(Some(Slice {
        service: Arc::from(service.as_str()),
        managed,
        ports: ports.collect(),
        endpoints,
        namespace,
    }))
}
