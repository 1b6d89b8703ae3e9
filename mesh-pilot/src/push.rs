//! Pushes: the only part that knows streams. In: snapshots with what changed in them, and the proxies' requests.
//! Out: one delta-ADS response at a time for each stream (`mesh_proto::discovery`, rules 1-9).
//!
//! ```text
//! snapshot + changes ─► hub ─► dirty names of each stream that wants them ─► stream.next() ─► response
//!                        │                                                      │
//!                        └── interest: name → streams                           └── cache: (name, viewer) → one Bytes
//! ```
//! No timers: a change marks names dirty and wakes the streams that want them; what changes while a response is
//! unanswered leaves with the next one. A slow stream has a dirty set of its own and costs nobody else anything.

pub mod cache;
pub mod hub;
pub mod node;
pub mod replicas;
pub mod resources;
pub mod rules;
pub mod server;
pub mod stream;

#[cfg(test)]
mod tests;

pub use cache::{Cache, Encoded};
pub use hub::{Admission, Hub, Observers, ProxyReport, Refusal, StreamId};
pub use node::{Node, NodeKind};
pub use replicas::Standings;
pub use resources::{Compiler, Message};
pub use server::Discovery;
pub use stream::{Outgoing, Subject};
