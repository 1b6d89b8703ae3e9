//! How much one proxy may have under way to a cluster (or subset) at once: Envoy's circuit breakers.
//!
//! In: the policy's numbers. Out: [`Permit`]s, as long as there is room. Counted for the process, whatever the number of
//! workers, and kept over every push. Source: Envoy's circuit breaking; Istio's `connectionPool`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mesh_proto::wire::mesh::v1 as wire;

const NONE: u32 = u32::MAX;
/// A retry budget's percentage is kept in hundredths.
const HUNDREDTHS: f64 = 100.0;

/// The numbers of a policy; `u32::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// `tcp.maxConnections`
    pub connections: u32,
    /// `http.http1MaxPendingRequests`: those that wait for a connection.
    pub pending: u32,
    /// `http.http2MaxRequests`
    pub requests: u32,
    /// `http.maxRetries`: at the same time.
    pub retries: u32,
    /// `retryBudget`: hundredths of a per cent of the requests under way, and how many retries are always granted.
    pub budget: Option<(u32, u32)>,
}

impl LimitSettings {
    /// Parses. A share that is no number is none.
    #[must_use]
    pub fn new(wire: &wire::Limits) -> Self {
        let budget = wire.retry_budget.as_ref().map(|budget| {
            let percent = (budget.percent.clamp(0.0, 100.0) * HUNDREDTHS).round();
            // From 0 to 10,000; what is no number becomes 0.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let share = percent as u32;
            (share, budget.min_retry_concurrency)
        });
        Self {
            connections: wire.max_connections.unwrap_or(NONE),
            pending: wire.max_pending_requests.unwrap_or(NONE),
            requests: wire.max_requests.unwrap_or(NONE),
            retries: wire.max_retries.unwrap_or(NONE),
            budget,
        }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Connections, idle ones too.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests that were sent and are not answered completely.
    Requests,
    /// Requests that are being sent again.
    Retries,
}

/// One counter with its limit.
#[derive(Debug)]
struct Gate {
    active: AtomicU32,
    limit: AtomicU32,
    refused: AtomicU64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { active: AtomicU32::new(0), limit: AtomicU32::new(NONE), refused: AtomicU64::new(0) }
    }
}

impl Gate {
    fn enter(&self, limit: u32) -> bool {
        let enter = |active: u32| (active < limit).then_some(active + 1);
        let entered = self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok();
        if !entered {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }
}

/// The counters of a cluster or subset.
#[derive(Debug, Default)]
pub struct Limits {
    connections: Gate,
    pending: Gate,
    requests: Gate,
    retries: Gate,
    /// Share and minimum of the retry budget; 0 when there is none (a share of 0 with a minimum of 0 is a limit of 0).
    budget: AtomicU64,
}

/// The bit that says that there is a budget.
const BUDGET: u64 = 1 << 63;

impl Limits {
    /// Sets the numbers of a policy that is published.
    pub fn configure(&self, settings: &LimitSettings) {
        let gates = [
            (&self.connections, settings.connections),
            (&self.pending, settings.pending),
            (&self.requests, settings.requests),
            (&self.retries, settings.retries),
        ];
        for (gate, limit) in gates {
            gate.limit.store(limit, Ordering::Relaxed);
        }
        let budget =
            settings.budget.map_or(0, |(share, least)| BUDGET | u64::from(share) << 32 | u64::from(least));
        self.budget.store(budget, Ordering::Relaxed);
    }

    fn gate(&self, resource: Resource) -> &Gate {
        match resource {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
        }
    }

    /// Room for one more; `None`: the limit is reached, which is counted.
    #[must_use]
    pub fn enter(self: &Arc<Self>, resource: Resource) -> Option<Permit> {
        let gate = self.gate(resource);
        let entered = gate.enter(self.limit(resource));
        entered.then(|| Permit { limits: self.clone(), resource })
    }

    /// Counts one more whatever the limit: a worker that has no connection to a host may always open one.
    #[must_use]
    pub fn enter_anyway(self: &Arc<Self>, resource: Resource) -> Permit {
        self.gate(resource).active.fetch_add(1, Ordering::Relaxed);
        Permit { limits: self.clone(), resource }
    }

    /// How much there is now.
    #[must_use]
    pub fn active(&self, resource: Resource) -> u32 {
        self.gate(resource).active()
    }

    /// How much there may be; `u32::MAX`: no limit.
    #[must_use]
    pub fn limit(&self, resource: Resource) -> u32 {
        let budget = self.budget.load(Ordering::Relaxed);
        if resource != Resource::Retries || budget & BUDGET == 0 {
            return self.gate(resource).limit.load(Ordering::Relaxed);
        }
        let (share, least) = ((budget & !BUDGET) >> 32, budget & u64::from(u32::MAX));
        let busy = u64::from(self.requests.active()) + u64::from(self.pending.active());
        u32::try_from((busy * share / 10_000).max(least)).unwrap_or(NONE)
    }

    /// How often there was no room.
    #[must_use]
    pub fn refused(&self, resource: Resource) -> u64 {
        self.gate(resource).refused.load(Ordering::Relaxed)
    }
}

/// Room for one; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limits: Arc<Limits>,
    resource: Resource,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.gate(self.resource).active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(wire: &wire::Limits) -> Arc<Limits> {
        let limits = Arc::new(Limits::default());
        limits.configure(&LimitSettings::new(wire));
        limits
    }

    #[test]
    fn as_many_as_allowed_and_room_comes_back() {
        let limits = limits(&wire::Limits { max_connections: Some(2), ..Default::default() });
        let held: Vec<_> = (0..2).map(|_| limits.enter(Resource::Connections).unwrap()).collect();
        assert!(limits.enter(Resource::Connections).is_none());
        assert_eq!((limits.active(Resource::Connections), limits.refused(Resource::Connections)), (2, 1));
        // What is not limited is counted, too.
        let other = limits.enter(Resource::Requests).unwrap();
        drop(held);
        assert!(limits.enter(Resource::Connections).is_some());
        assert_eq!(limits.active(Resource::Requests), 1);
        drop(other);
    }

    /// A lower limit of a later push counts what is there already.
    #[test]
    fn counts_survive_new_numbers() {
        let limits = limits(&wire::Limits { max_requests: Some(5), ..Default::default() });
        let held: Vec<_> = (0..3).map(|_| limits.enter(Resource::Requests).unwrap()).collect();
        limits.configure(&LimitSettings::new(&wire::Limits { max_requests: Some(2), ..Default::default() }));
        drop(held.into_iter().next());
        assert_eq!(limits.active(Resource::Requests), 0, "the rest went with the iterator");
        let held: Vec<_> = (0..2).map(|_| limits.enter(Resource::Requests).unwrap()).collect();
        assert!(limits.enter(Resource::Requests).is_none());
        drop(held);
    }

    #[test]
    fn a_budget_is_a_share_of_what_is_under_way() {
        let budget = wire::RetryBudget { percent: 20.0, min_retry_concurrency: 1 };
        let limits =
            limits(&wire::Limits { max_retries: Some(0), retry_budget: Some(budget), ..Default::default() });
        let first = limits.enter(Resource::Retries);
        assert!(first.is_some() && limits.enter(Resource::Retries).is_none());
        let busy: Vec<_> = (0..10).map(|_| limits.enter(Resource::Requests).unwrap()).collect();
        assert!(limits.enter(Resource::Retries).is_some(), "2 of 10");
        drop((busy, first));
    }

    #[test]
    fn exact_with_four_workers() {
        let limits = limits(&wire::Limits { max_requests: Some(3), ..Default::default() });
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let held = limits.enter(Resource::Requests);
                        most.fetch_max(limits.active(Resource::Requests), Ordering::Relaxed);
                        drop(held);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
        assert_eq!(limits.active(Resource::Requests), 0);
    }
}
