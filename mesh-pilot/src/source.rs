//! Where objects come from. Each source emits the same events; [`file`] reads YAML files, [`kube`] watches an API server.
//!
//! What the source answers for: one event per object and change, the last good version of an object that turned bad,
//! stable addresses of services.

pub mod file;
pub mod kube;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::keys::{KeySource, Keys};
use crate::snapshot::MeshOptions;
use mesh_proto::crd::{ObjectRef, Problem, Refused, Resource};

/// What happened, and thereby what the index must do.
#[derive(Debug, Clone)]
pub enum Event {
    /// A listing begins: what it does not name is gone when it is done.
    Init,
    /// This object is in force as it is here.
    Apply(Box<Resource>),
    /// This object is gone, and whatever was refused of it.
    Delete(ObjectRef),
    /// The newest version of an object is refused. What was applied of it before stays in force.
    Refused(Box<Refusal>),
    /// Everything that there is to say about a file beyond its objects; empty = all is well (again).
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// Some endpoints of a service, as a cluster says it; `None` = not any more. Only of a source whose index is told to
    /// take endpoints from these (`Index::with_slices`).
    Slice {
        /// Of the slice.
        name: ObjectName,
        /// What it says.
        slice: Option<Box<Slice>>,
    },
    /// What is known of an issuer's keys from now on.
    Keys {
        /// Where they come from.
        source: KeySource,
        /// What is known.
        keys: Keys,
    },
    /// Settings of the whole mesh are these from now on.
    Options(Box<MeshOptions>),
    /// The listing is done.
    InitDone,
}

/// `(namespace, name)`.
pub type ObjectName = (Arc<str>, Arc<str>);

/// A part of the endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Of the slice and the service.
    pub namespace: Arc<str>,
    /// The service's name.
    pub service: Arc<str>,
    /// The cluster itself keeps it, by its pods' readiness.
    pub managed: bool,
    /// TCP ports, by the service port's name.
    pub ports: Vec<SlicePort>,
    /// Who is there.
    pub endpoints: Vec<SliceEndpoint>,
}

/// Where a service port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The service port's name, may be empty.
    pub name: Arc<str>,
    /// At the endpoints.
    pub number: u16,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// The pod behind it, of the slice's namespace.
    pub pod: Option<Arc<str>>,
    /// It may get traffic.
    pub ready: bool,
    /// It is on its way out.
    pub terminating: bool,
}

/// A refused version of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Which object.
    pub reference: ObjectRef,
    /// Counted by the API server.
    pub generation: Option<i64>,
    /// What is wrong, and whom it was to restrict.
    pub refused: Refused,
    /// An older, good version of it is in force (and was applied before this event).
    pub last_good: bool,
}
