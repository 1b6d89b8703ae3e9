//! The Kubernetes source: an API server, watched.
//!
//! In: a client. Out: [`Event`](super::Event)s, the same as those of files. One task for each kind lists and watches;
//! [`merge::Merge`] turns what they see into events and is pure.
//!
//! ```text
//! API server ─ list, watch ─► watch (one task a kind) ─ narrowed objects ─► merge ─ events ─► index
//! ```
//! What an API server may do to us, and what follows: an object that cannot be read is refused by name; an expired
//! resource version (410) or a restart leads to a new listing, of which only what differs is told; a kind that is not
//! served (its CRD is missing) is looked for again and told in status; a kind served in other versions is read in the
//! first one that we know. Nothing is told to be complete before each kind has been listed once.
//!
//! # Rights
//! What the pilot asks the API server for, all of it:
//!
//! | group | resources | verbs | for |
//! |---|---|---|---|
//! | `""` | services, pods, nodes, namespaces, secrets | get, list, watch | the mesh; Secrets for gateways (only certificates and keys of TLS are kept) |
//! | `discovery.k8s.io` | endpointslices | get, list, watch | who is ready behind a service |
//! | `networking.istio.io`, `security.istio.io`, `telemetry.istio.io`, `extensions.istio.io` | `*` | get, list, watch | configuration |
//! | the same | `*/status` | get, patch | status conditions (the leader) |
//! | `gateway.networking.k8s.io` | `*` | get, list, watch | told as not in force |
//! | `gateway.networking.k8s.io` | `*/status` | get, patch | told as not in force (the leader) |
//! | `""` | configmaps (all namespaces) | get, list, watch, create, update, patch | `istio-ca-root-cert` in every namespace (the leader) |
//! | `""` | configmaps (own namespace) | get, list, watch, create, update, patch | `istio-ca-root-cert` of the authority, `mesh-last-good` (the leader) |
//! | `admissionregistration.k8s.io` | mutatingwebhookconfigurations, validatingwebhookconfigurations | get, list, watch, update, patch | the webhooks' `caBundle` ([`crate::webhook`]) |
//! | `coordination.k8s.io` | leases (own namespace) | get, create, update, patch | the leader: Lease `mesh-pilot-leader` |
//!
//! Discovery (`/api`, `/apis`) is open to every account (`system:discovery`).

pub mod kinds;
pub mod merge;
pub mod seen;
pub mod slice;
pub mod watch;

#[cfg(test)]
mod tests;

use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::kinds::Watched;
use self::merge::Merge;
use super::Event;
use crate::status::Waiting;

/// What tasks may have seen that is not merged yet: more makes them wait.
const BACKLOG: usize = 256;
/// As many sightings become one batch of events at most.
const BATCH: usize = 4096;
/// How often to say what the first listing still waits for.
const TELL: Duration = Duration::from_secs(10);
/// The first listing is done after this or never: whoever restarts us sees it.
const FIRST_LISTING: Duration = Duration::from_secs(300);

/// The source.
pub struct KubeSource {
    client: Client,
    merge: Merge,
    waiting: Waiting,
}

/// Why the source has ended.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Some kind could not be listed.
    #[error(
        "the first listing takes too long; check the API server's address and the pilot's rights. Waiting for: {0}"
    )]
    NotListed(String),
}

impl KubeSource {
    /// A source that begins with what `merge` knows.
    #[must_use]
    pub fn new(client: Client, merge: Merge) -> Self {
        Self { client, merge, waiting: Waiting::default() }
    }

    /// What the first listing waits for.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.waiting.clone()
    }

    /// Watches until nobody listens any more. Each message is everything that was seen meanwhile.
    ///
    /// # Errors
    /// When the first listing takes too long.
    pub async fn run(mut self, events: mpsc::Sender<Vec<Event>>) -> Result<(), SourceError> {
        let (seen, mut sightings) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        for watched in Watched::all() {
            watch::spawn(&mut tasks, self.client.clone(), watched, seen.clone());
        }
        drop(seen);
        let deadline = Instant::now() + FIRST_LISTING;
        let mut tell = tokio::time::interval_at(Instant::now() + TELL, TELL);
        let mut found = Vec::new();
        loop {
            let sighting = tokio::select! {
                sighting = sightings.recv() => sighting,
                _ = tell.tick(), if !self.merge.is_listed() => {
                    let waiting = self.merge.waiting().join("; ");
                    tracing::warn!(waiting, "the first listing is not done");
                    if Instant::now() >= deadline {
                        return Err(SourceError::NotListed(waiting));
                    }
                    continue;
                }
                () = events.closed() => return Ok(()),
            };
            // All tasks are gone only when this one is.
            let Some((watched, first)) = sighting else { return Ok(()) };
            self.merge.take(watched, first, &mut found);
            // What has come meanwhile goes into the same batch.
            for _ in 1..BATCH {
                let Ok((watched, more)) = sightings.try_recv() else { break };
                self.merge.take(watched, more, &mut found);
            }
            *self.waiting.lock() = self.merge.waiting();
            if !found.is_empty() && events.send(std::mem::take(&mut found)).await.is_err() {
                return Ok(());
            }
        }
    }
}
