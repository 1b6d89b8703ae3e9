//! An endpoint as a member of a cluster or subset: what the policy of that group has found out about it.
//!
//! In: an endpoint, how attempts ended. Out: whether it may be chosen, and [`Picked`]. Ejection belongs to the group, as in
//! Envoy every subset is a cluster of its own; what the proxy has under way to the endpoint counts once.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::clock::Moment;
use super::endpoint::Endpoint;
use super::latency::Ending;
use super::outlier::{Health, Watch};

/// One endpoint in one group.
#[derive(Debug)]
pub struct Member {
    /// Who it is.
    pub endpoint: Arc<Endpoint>,
    pub(super) health: Arc<Health>,
    pub(super) watch: Option<Arc<Watch>>,
}

impl Deref for Member {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Member {
    /// Taken out by outlier detection.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.watch.is_some() && self.health.is_ejected()
    }
}

/// How an attempt looked from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Its answer, as an HTTP status (gRPC's are translated).
    Status(u16),
    /// It took a connection that carries bytes.
    Connected,
    /// It could not be connected to, or reset what was sent.
    Failed,
    /// It did not answer in time.
    TimedOut,
}

impl Seen {
    fn ending(self) -> Ending {
        match self {
            Self::Status(500..) => Ending::Error,
            Self::Status(_) | Self::Connected => Ending::Answer,
            Self::Failed | Self::TimedOut => Ending::Nothing,
        }
    }
}

/// A choice. The endpoint counts as busy until this is dropped: keep it until the answer's body has ended.
#[derive(Debug)]
pub struct Picked {
    member: Arc<Member>,
}

impl Picked {
    pub(super) fn new(member: Arc<Member>) -> Self {
        member.state.active.fetch_add(1, Ordering::Relaxed);
        member.state.total.fetch_add(1, Ordering::Relaxed);
        Self { member }
    }

    /// Who was chosen.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.member.endpoint
    }

    /// Tells how the attempt that was sent at one moment ended at another: once for each.
    pub fn saw(&self, seen: Seen, sent: Instant, ended: Instant) {
        let (took, now) = (ended.saturating_duration_since(sent), Moment::of(ended));
        self.member.state.latency.record(now, took, seen.ending());
        if let Some(watch) = &self.member.watch {
            watch.saw(&self.member, seen, now);
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.member.state.active.fetch_sub(1, Ordering::Relaxed);
    }
}
