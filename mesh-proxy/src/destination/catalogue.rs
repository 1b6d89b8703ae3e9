//! The names that this proxy may see, indexed for lookups that allocate nothing.
//!
//! In: `catalogue/<namespace>` resources. Out: name, VIP and address range → service port. Built whenever one changes.

use std::net::IpAddr;

use mesh_proto::model::{HostPort, Protocol};

/// One port of one catalogue entry: the name under which its routes are asked for, and what is known without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The destination's name.
    pub name: HostPort,
    /// Declared protocol.
    pub protocol: Protocol,
    /// Service, headless, external, or a route's host only.
    pub kind: mesh_proto::wire::mesh::v1::EntryKind,
    /// The namespace whose catalogue has it.
    pub namespace: String,
}

/// The index.
#[derive(Debug, Default)]
pub struct Catalogue {}

impl Catalogue {
    /// Every VIP with each of its ports: where a sidecar listens for its application.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, u16)> {
        std::iter::empty()
    }
}

/// Makes a [`Catalogue`] out of all namespaces' resources.
#[derive(Debug, Default)]
pub struct CatalogueBuilder {}
