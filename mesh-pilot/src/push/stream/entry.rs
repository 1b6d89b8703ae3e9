//! One name on one stream: what the proxy was told about it and what has come of it; and what a NACK says.

use std::collections::HashMap;
use std::sync::Arc;

use mesh_proto::discovery::REJECTED_TYPE_URL;
use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::wire::google::rpc::Status;
use mesh_proto::wire::mesh::v1::Rejected;
use prost::Message as _;

use crate::push::cache::Encoded;

/// What the proxy was told last about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Absent,
    Version(Arc<str>),
}

/// What has come of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Pending,
    Acked,
    Rejected(Arc<str>),
}

/// A name that the proxy wants.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) told: Told,
    pub(super) answer: Answer,
    /// What it was told.
    pub(super) current: Option<Arc<Encoded>>,
    /// What it is known to have in force.
    pub(super) applied: Option<Arc<Encoded>>,
}

impl Entry {
    pub(super) fn new(told: Told) -> Self {
        Self { told, answer: Answer::Pending, current: None, applied: None }
    }

    /// The clusters that this entry implies. What is in force implies until the new version is; a refused one never.
    pub(super) fn dependents(&self) -> impl Iterator<Item = &HostPort> {
        let current = self.current.as_ref().filter(|_| !matches!(self.answer, Answer::Rejected(_)));
        self.applied.iter().chain(current).flat_map(|encoded| encoded.dependents.iter())
    }
}

/// Which resources a NACK refuses. One that names none refuses the whole response.
pub(super) fn reasons(error: &Status, names: &[ResourceName]) -> HashMap<ResourceName, Arc<str>> {
    let details = error.details.iter().filter(|any| any.type_url == REJECTED_TYPE_URL);
    let named: HashMap<_, _> = details
        .filter_map(|any| Rejected::decode(any.value.as_slice()).ok())
        .filter_map(|rejected| Some((rejected.resource.parse().ok()?, Arc::from(rejected.reason))))
        .collect();
    if named.is_empty() {
        let message: Arc<str> = Arc::from(error.message.as_str());
        return names.iter().map(|name| (name.clone(), message.clone())).collect();
    }
    named
}

/// The place of a kind in [`Kind::ALL`].
pub(super) fn order(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).unwrap_or(Kind::ALL.len())
}
