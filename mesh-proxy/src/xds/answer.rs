//! What the pilot says, taken apart, and what it is told in return.
//!
//! In: a `DeltaDiscoveryResponse`. Out: resources for the store, and one ACK or NACK that names each refused resource.

use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::discovery::{MORE_FOLLOWS, REJECTED_TYPE_URL, TYPE_URL};
use mesh_proto::model::ResourceName;
use mesh_proto::wire::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use mesh_proto::wire::google::rpc::Status;
use mesh_proto::wire::mesh::v1::Rejected;
use prost::Message as _;
use prost_types::Any;

use crate::store::writer::{Incoming, Origin, Writer};

/// gRPC's INVALID_ARGUMENT, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// The most characters of one reason.
const REASON_LIMIT: usize = 2048;

/// Applies a response and gives the one answer to it.
pub(crate) fn apply(writer: &mut Writer, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    let mut rejected = Vec::new();
    let mut resources = Vec::with_capacity(response.resources.len());
    if response.type_url != TYPE_URL {
        // Not ours at all. A NACK that names nothing refuses the whole response.
        let message = format!("type {:?}, expected {TYPE_URL:?}", response.type_url);
        return answer(response.nonce, Some(Status { code: INVALID_ARGUMENT, message, details: Vec::new() }));
    }
    for resource in response.resources {
        match parse(&resource) {
            Ok(incoming) => resources.push(incoming),
            Err(reason) => {
                let Resource { name, version, .. } = resource;
                rejected.push(Rejected { resource: name, version, reason });
            }
        }
    }
    let names = response.removed_resources.iter().map(|name| name.parse::<ResourceName>());
    // A name that is none cannot be held.
    let removed: Vec<_> = names.filter_map(Result::ok).collect();
    let more = response.system_version_info == MORE_FOLLOWS;
    let origin = if more { Origin::Part } else { Origin::Stream };
    rejected.extend(writer.apply(origin, resources, &removed));
    for Rejected { resource, version, reason } in &rejected {
        tracing::warn!(%resource, %version, %reason, "resource refused");
    }
    answer(response.nonce, nack(rejected))
}

fn parse(resource: &Resource) -> Result<Incoming, String> {
    let name: ResourceName = resource.name.parse().map_err(|e| format!("{e}"))?;
    let any = resource.resource.as_ref().ok_or("without content")?;
    if any.type_url != name.kind.type_url() {
        return Err(format!("type {:?}, expected {:?}", any.type_url, name.kind.type_url()));
    }
    Ok(Incoming {
        version: Arc::from(resource.version.as_str()),
        body: Bytes::copy_from_slice(&any.value),
        name,
    })
}

fn nack(rejected: Vec<Rejected>) -> Option<Status> {
    let first = rejected.first()?;
    let message = format!("{} refused, the first: {}: {}", rejected.len(), first.resource, first.reason);
    let details = rejected.into_iter().map(|mut rejected| {
        if rejected.reason.len() > REASON_LIMIT {
            rejected.reason = rejected.reason.chars().take(REASON_LIMIT).collect();
        }
        Any { type_url: REJECTED_TYPE_URL.to_owned(), value: rejected.encode_to_vec() }
    });
    Some(Status { code: INVALID_ARGUMENT, message, details: details.collect() })
}

fn answer(nonce: String, error_detail: Option<Status>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: TYPE_URL.to_owned(),
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}
