//! From a resource's name to its encoded message: which compile function, for which viewer, valid for how long.
//!
//! In: the snapshot, who asks, the name. Out: the bytes, the names that it implies and the objects that it holds.

use std::sync::Arc;

use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::wire::mesh::v1 as wire;

use super::stream::Subject;
use crate::snapshot::{Compiled, Snapshot, Viewer};

/// An encoded resource, before it has a version.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The message, deterministically encoded.
    pub bytes: Vec<u8>,
    /// The clusters that its rules lead to: `cluster/X` and `endpoints/X` are implied for each.
    pub dependents: Vec<HostPort>,
    /// The revisions of the objects that it holds.
    pub holds: Vec<u64>,
}

/// Makes resources. The mesh's own is [`Rules`]; tests have simpler ones.
pub trait Compiler: Send {
    /// The resource of that name for that viewer; `None` when it does not exist for it.
    fn compile(&self, snapshot: &Snapshot, subject: &Subject, name: &ResourceName) -> Option<Message>;
    /// The names that the viewer gets without asking if they exist for it, beside `self/self` and the trust bundles.
    fn implicit(&self, snapshot: &Snapshot, subject: &Subject) -> Vec<ResourceName>;
}

/// What a cached resource depends on beside its viewer: while this is equal, it need not be compiled again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// [`crate::snapshot::Config::revision`].
    config: u64,
    /// The address of the part of the snapshot that it is made from (which the cache keeps alive).
    part: usize,
}

impl Stamp {
    /// Of the resource in this snapshot. The second value keeps the part alive, so that its address stays its own.
    pub fn of(
        snapshot: &Snapshot,
        subject: &Subject,
        name: &ResourceName,
    ) -> (Self, Option<Arc<dyn Send + Sync>>) {
        let part: Option<Arc<dyn Send + Sync>> = match name.kind {
            Kind::SelfConfig => Some(subject.pod.clone()),
            Kind::Endpoints => name
                .name()
                .parse::<HostPort>()
                .ok()
                .and_then(|name| snapshot.endpoints.get(&name).map(|set| set.clone() as _)),
            Kind::Workload => {
                let ip = name.name().parse().ok();
                ip.and_then(|ip| snapshot.workloads.get(&ip).map(|pod| pod.clone() as _))
            }
            Kind::Catalogue
            | Kind::Cluster
            | Kind::Destination
            | Kind::Secret
            | Kind::Listener
            | Kind::TrustBundle => None,
        };
        let address = part.as_ref().map_or(0, |part| Arc::as_ptr(part).cast::<()>() as usize);
        (Self { config: snapshot.config.revision, part: address }, part)
    }
}

/// Whose variant of a resource it is: `None` when it is the same for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Variant {
    /// The same for everybody.
    Common,
    /// Chosen for a viewer.
    Viewer(Viewer),
    /// Of one pod only.
    Pod(Arc<str>),
}

impl Variant {
    /// The variant of the resource that `subject` gets.
    pub fn of(subject: &Subject, kind: Kind) -> Self {
        match kind {
            Kind::Endpoints | Kind::Workload | Kind::TrustBundle => Self::Common,
            Kind::SelfConfig => Self::Pod(subject.pod.uid.clone()),
            Kind::Catalogue | Kind::Cluster | Kind::Destination | Kind::Secret | Kind::Listener => {
                Self::Viewer(subject.viewer.clone())
            }
        }
    }
}

/// Encodes; the messages have only sorted maps, so equal content is equal bytes.
pub(super) fn encode<T: prost::Message>(compiled: Compiled<T>, dependents: Vec<HostPort>) -> Message {
    Message { bytes: compiled.message.encode_to_vec(), dependents, holds: compiled.holds }
}

/// The clusters that a destination leads to, in order, each once.
pub(super) fn destination_dependents(message: &wire::Destination) -> Vec<HostPort> {
    let http = message.http.iter().flat_map(table_backends);
    let tls = message.tls.iter().filter_map(|one| one.rule.as_ref());
    let tcp = message.tcp.iter().chain(tls).flat_map(|rule| &rule.backends);
    clusters(http.chain(tcp))
}

/// The clusters that a listener leads to.
pub(super) fn listener_dependents(message: &wire::Listener) -> Vec<HostPort> {
    clusters(message.backends())
}

fn table_backends(table: &wire::RouteTable) -> impl Iterator<Item = &wire::WeightedBackend> {
    table.rules.iter().flat_map(|rule| match &rule.action {
        Some(wire::rule::Action::Route(route)) => route.backends.as_slice(),
        Some(wire::rule::Action::DirectResponse(_)) | None => &[],
    })
}

fn clusters<'a>(backends: impl Iterator<Item = &'a wire::WeightedBackend>) -> Vec<HostPort> {
    // A backend without a name is refused by the proxy, with the resource's name.
    let mut names: Vec<_> = backends.filter_map(|b| HostPort::try_from(b.cluster.as_ref()?).ok()).collect();
    names.sort();
    names.dedup();
    names
}
