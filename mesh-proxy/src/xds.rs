//! The proxy's end of the discovery stream: the one that writes the store.
//!
//! In: the pilot's responses, and the names that workers ask for. Out: the store, one answer per response, and the last
//! good resources on disk. Spec: `mesh_proto::discovery`. Never gives up, never hammers, and needs no pilot to start.

mod answer;
mod backoff;
mod client;
pub mod disk;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;

use mesh_proto::model::{HostPort, SpiffeId};
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientIdentity, Expect};
use mesh_proto::runtime::{grpc, tls};
use tonic::transport::Channel;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use answer::apply;
pub use client::{Client, Session};
pub use disk::Disk;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// A gateway, or else a sidecar.
    pub gateway: bool,
    /// The pod's address.
    pub ip: IpAddr,
    /// The pod's name.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// `cluster.local`.
    pub cluster_domain: String,
}

impl Node {
    /// Istio's node id.
    #[must_use]
    pub fn id(&self) -> String {
        let Self { gateway, ip, pod, namespace, cluster_domain } = self;
        let kind = if *gateway { "router" } else { "sidecar" };
        format!("{kind}~{ip}~{pod}.{namespace}~{namespace}.svc.{cluster_domain}")
    }
}

/// A channel to the pilot, which must prove that it is `expected`: nobody else may tell us anything.
///
/// # Errors
/// When the address is none.
pub fn channel(pilot: &HostPort, expected: SpiffeId, identity: &Identity) -> io::Result<Channel> {
    let config = tls::client_config(
        ClientIdentity::Mesh(identity),
        identity.roots_handle().clone(),
        Expect::Exactly(expected),
        &[b"h2"],
    );
    grpc::channel(&pilot.to_string(), config)
}
