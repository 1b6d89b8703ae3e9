//! Where objects come from. Each source emits the same events; [`file`] reads YAML files, a Kubernetes source would watch
//! an API server.
//!
//! What the source answers for: one event per object and change, the last good version of an object that turned bad,
//! stable addresses of services.

pub mod file;

use std::path::PathBuf;

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
    /// The listing is done.
    InitDone,
}

/// A refused version of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Which object.
    pub reference: ObjectRef,
    /// What is wrong, and whom it was to restrict.
    pub refused: Refused,
    /// An older, good version of it is in force (and was applied before this event).
    pub last_good: bool,
}
