//! From configuration to what a proxy is told. Pure: what goes in is the cache key, what comes out is a wire message and the
//! revisions of the objects that it holds; `None` means that the thing does not exist for that viewer.
//!
//! In: [`crate::snapshot`]. Out: `mesh.v1` messages. Which object is chosen, how several are merged and what the defaults
//! are is Istio's (reference: its push context, and the notes at each function).

mod alias;
mod authentication;
mod authorization;
pub mod catalogue;
mod claims;
pub mod cluster;
pub mod destination;
pub mod endpoints;
pub mod external;
mod features;
#[cfg(test)]
mod fixture;
mod host;
pub mod listener;
pub mod notes;
mod policy;
mod routes;
pub mod self_config;
#[cfg(test)]
mod tests;
mod traffic;

use std::time::Duration;

use mesh_proto::crd::ObjectRef;
use mesh_proto::model::{TlsParameters, TrustDomain};
use mesh_proto::wire::mesh::v1 as wire;

pub use authentication::key_sources;
pub use catalogue::catalogue;
pub use cluster::cluster;
pub use destination::destination;
pub use endpoints::{endpoints, workload};
pub use listener::secrets::{named_secrets, secret, secret_names};
pub use listener::{listener, listener_ports};
pub use notes::notes;
pub use self_config::self_config;

use crate::snapshot::{Config, Held};

/// Where a compiled rule comes from. `path`: of the field in the object.
fn origin<T>(held: &Held<T>, path: &str, rule: Option<usize>) -> wire::Origin {
    origin_of(&held.reference, held.origin.location(path), rule)
}

fn origin_of(reference: &ObjectRef, location: String, rule: Option<usize>) -> wire::Origin {
    wire::Origin {
        kind: reference.kind.to_string(),
        namespace: reference.namespace.to_string(),
        name: reference.name.to_string(),
        rule: rule.and_then(|rule| u32::try_from(rule).ok()),
        location,
    }
}

/// The names of our trust domain: its own, then its aliases.
pub(crate) fn trust_domains(config: &Config) -> impl Iterator<Item = &TrustDomain> {
    let own = &config.mesh.trust_domain;
    let aliases = config.options.trust_domain_aliases.iter().filter(move |alias| *alias != own);
    std::iter::once(own).chain(aliases)
}

/// How TLS is spoken, for the wire, where something is said of it.
fn spoken(parameters: &TlsParameters) -> Option<wire::TlsParameters> {
    (*parameters != TlsParameters::default()).then(|| parameters.into())
}

/// A duration for the wire. Those of resources are at most 100 years, so nothing overflows.
fn on_wire(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(0);
    prost_types::Duration { seconds, nanos }
}

/// The revisions of the objects that a message holds: sorted, each once.
fn holds(revisions: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut revisions: Vec<u64> = revisions.into_iter().collect();
    revisions.sort_unstable();
    revisions.dedup();
    revisions
}
