//! Whether a proxy may have a stream. In: who it says that it is, its pod, its certificate. Out: why not, if not.

use std::sync::Arc;

use mesh_proto::model::SpiffeId;
use tokio::sync::Notify;

use super::StreamId;
use crate::push::node::{Node, NodeKind};
use crate::snapshot::Pod;

/// Whether a proxy may have a stream.
#[derive(Debug)]
pub enum Admission {
    /// It may; [`Notify`] tells that [`super::Hub::next`] may have something, or that the stream was replaced.
    Open(StreamId, Arc<Notify>),
    /// Its pod is not known (yet).
    UnknownPod,
    /// It will not be let in as it is.
    Refused(Refusal),
}

/// Why a proxy of a known pod has no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its certificate is not that of its pod.
    #[error("peer is {presented}, expected {expected}, the identity of pod {pod}")]
    Identity {
        /// What the certificate says.
        presented: SpiffeId,
        /// What the pod's would say.
        expected: SpiffeId,
        /// `namespace/name`.
        pod: String,
    },
    /// It is revoked by name. A connection made before may still be open: a handshake would have been refused.
    #[error("{0} is tainted")]
    Tainted(SpiffeId),
    /// It calls itself a gateway, and its pod is none: gateways are given private keys.
    #[error(
        "it calls itself a router, and pod {0} is no gateway: the pod's template needs the annotation \
         inject.istio.io/templates: gateway"
    )]
    NoGateway(String),
}

/// Whether what the proxy says fits its pod.
pub(super) fn check(node: &Node, pod: &Pod, identity: &SpiffeId) -> Result<(), Refusal> {
    let name = || format!("{}/{}", pod.namespace, pod.name);
    if pod.identity != *identity {
        let (presented, expected) = (identity.clone(), pod.identity.clone());
        return Err(Refusal::Identity { presented, expected, pod: name() });
    }
    if node.kind == NodeKind::Router && !pod.gateway {
        return Err(Refusal::NoGateway(name()));
    }
    Ok(())
}
