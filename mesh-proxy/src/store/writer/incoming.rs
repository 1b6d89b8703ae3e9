//! One resource as it comes, and the reasons to refuse it.
//!
//! In: name, version, bytes. Out: a decoded message whose `requires` this build understands.

use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::discovery::FEATURES;
use mesh_proto::model::ResourceName;
use mesh_proto::wire::mesh::v1 as wire;
use prost::{DecodeError, Message};

use crate::cluster::InvalidCluster;
use crate::destination::InvalidCatalogue;
use crate::store::destination::InvalidDestination;
use crate::store::listener::InvalidListener;
use crate::store::secret::InvalidSecret;
use crate::store::self_config::InvalidSelf;
use crate::store::workload::InvalidWorkload;

/// A resource from the stream or the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// Its name.
    pub name: ResourceName,
    /// Its version.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

/// What is held about a resource in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Its version.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

/// Why a resource is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not the message that its name says.
    #[error("cannot be decoded: {0}")]
    Undecodable(#[from] DecodeError),
    /// It needs what this build has not.
    #[error("requires the feature {0:?}, which this proxy lacks")]
    Requires(String),
    /// `self`.
    #[error(transparent)]
    SelfConfig(#[from] InvalidSelf),
    /// `catalogue`.
    #[error(transparent)]
    Catalogue(#[from] InvalidCatalogue),
    /// `cluster` or `endpoints`.
    #[error(transparent)]
    Cluster(#[from] InvalidCluster),
    /// `destination`.
    #[error(transparent)]
    Destination(#[from] InvalidDestination),
    /// `listener`.
    #[error(transparent)]
    Listener(#[from] InvalidListener),
    /// `secret`.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
    /// `workload`.
    #[error(transparent)]
    Workload(#[from] InvalidWorkload),
    /// `workload`: of another address than its name says.
    #[error("address: not that of the resource's name")]
    OtherAddress,
    /// `cluster` or `endpoints` whose name is no `host:port`.
    #[error("name: not host:port")]
    Name,
    /// `cluster`: of another name than its resource's.
    #[error("name: not that of the resource")]
    OtherName,
    /// `trust_bundle`.
    #[error("trust domain or roots: {0}")]
    Trust(String),
}

/// Messages that may need features.
pub(super) trait Featured {
    /// The features without which it must be refused.
    fn requires(&self) -> &[String];
}

macro_rules! featured {
    ($($message:ident),*) => { $(impl Featured for wire::$message {
        fn requires(&self) -> &[String] { &self.requires }
    })* };
}
featured!(SelfConfig, Destination, Cluster, Listener);

macro_rules! plain {
    ($($message:ident),*) => { $(impl Featured for wire::$message {
        fn requires(&self) -> &[String] { &[] }
    })* };
}
plain!(Catalogue, TrustBundle, Endpoints, Workload, Secret);

/// Decodes, and refuses what this build would misunderstand.
pub(super) fn decode<M: Message + Default + Featured>(body: &Bytes) -> Result<M, Refusal> {
    let message = M::decode(body.clone())?;
    match message.requires().iter().find(|feature| !FEATURES.contains(&feature.as_str())) {
        Some(feature) => Err(Refusal::Requires(feature.clone())),
        None => Ok(message),
    }
}
