//! Outlier detection: who fails too often in a row is taken out for a while (Envoy's outlier detector with what Istio uses
//! of it: consecutive 5xx, gateway and local origin failures).
//!
//! In: how each attempt ended, from any worker. Out: ejections and readmissions. Counting is atomic, without a lock: the
//! attempt that reaches the limit, and no other, ejects. What was counted is kept by uid over every push.

mod detector;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;

use super::InvalidCluster;
use super::clock::{Moment, millis};
use super::member::{Member, Seen};
use crate::route::parse_duration;

pub use detector::{Detector, Told};

const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION: Duration = Duration::from_secs(30);

/// The policy's numbers; 0 is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// 5xx in a row.
    pub server_errors: u32,
    /// 502, 503, 504 in a row.
    pub gateway_errors: u32,
    /// Failures of our own count apart.
    pub split: bool,
    /// In a row, where they count apart.
    pub local_failures: u32,
    /// How often readmission is looked at.
    pub interval: Duration,
    /// For the first ejection; each further one in a row lasts once more as long.
    pub base_ejection: Duration,
    /// Of all endpoints, at the same time.
    pub max_ejection_percent: u32,
    /// With fewer healthy ones than that, all get traffic.
    pub min_health_percent: u32,
}

impl Outlier {
    /// Parses; `field` is the message's path.
    pub(super) fn new(wire: &wire::OutlierDetection, field: &str) -> Result<Self, InvalidCluster> {
        let duration = |value: Option<prost_types::Duration>, name: &str, default| {
            let invalid = |reason| InvalidCluster::Value { field: format!("{field}.{name}"), reason };
            let time = value.map_or(Ok(default), |value| parse_duration(value).map_err(invalid))?;
            if millis(time) == 0 { Err(invalid("less than a millisecond".to_owned())) } else { Ok(time) }
        };
        Ok(Self {
            server_errors: wire.consecutive_5xx,
            gateway_errors: wire.consecutive_gateway,
            split: wire.split_local_origin,
            local_failures: wire.consecutive_local_origin,
            interval: duration(wire.interval, "interval", INTERVAL)?,
            base_ejection: duration(wire.base_ejection_time, "base_ejection_time", BASE_EJECTION)?,
            max_ejection_percent: wire.max_ejection_percent.min(100),
            min_health_percent: wire.min_health_percent.min(100),
        })
    }
}

/// Why somebody is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// 5xx in a row.
    ServerErrors,
    /// Gateway errors in a row.
    GatewayErrors,
    /// Failures of our own in a row.
    LocalOrigin,
}

impl Reason {
    /// Envoy's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerErrors => "consecutive_5xx",
            Self::GatewayErrors => "consecutive_gateway_failure",
            Self::LocalOrigin => "consecutive_local_origin_failure",
        }
    }
}

/// What is counted about one endpoint.
#[derive(Debug, Default)]
pub(super) struct Health {
    ejected: AtomicBool,
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    /// Ejections in a row. Changed under the detector's lock only, as the next one.
    ejections: AtomicU32,
    /// When it was ejected last.
    since: AtomicU64,
}

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    fn counter(&self, reason: Reason) -> &AtomicU32 {
        match reason {
            Reason::ServerErrors => &self.server_errors,
            Reason::GatewayErrors => &self.gateway_errors,
            Reason::LocalOrigin => &self.local_failures,
        }
    }

    /// Counts one more; true for exactly the one that reaches `limit`.
    fn count(&self, reason: Reason, limit: u32) -> bool {
        let before = self.counter(reason).fetch_add(1, Ordering::Relaxed);
        limit != 0 && before.wrapping_add(1) == limit
    }

    fn reset(&self, reason: Reason) {
        // A write would take the cache line from the other workers.
        if self.counter(reason).load(Ordering::Relaxed) != 0 {
            self.counter(reason).store(0, Ordering::Relaxed);
        }
    }

    fn reset_all(&self) {
        for reason in [Reason::ServerErrors, Reason::GatewayErrors, Reason::LocalOrigin] {
            self.reset(reason);
        }
    }
}

/// One version of the policy over the detector that outlives it.
#[derive(Debug)]
pub struct Watch {
    /// The numbers in force.
    pub settings: Outlier,
    /// What is known of the whole group.
    pub detector: Arc<Detector>,
    /// Istio's name of the cluster, for the log.
    pub cluster: Arc<str>,
}

impl Watch {
    /// Takes an attempt's end into account.
    pub(super) fn saw(&self, member: &Member, seen: Seen, now: Moment) {
        let health = &member.health;
        match seen {
            Seen::Status(status) => {
                health.reset(Reason::LocalOrigin);
                self.status(member, status, now);
            }
            Seen::Connected if self.settings.split => health.reset(Reason::LocalOrigin),
            Seen::Connected => self.status(member, 200, now),
            Seen::Failed | Seen::TimedOut if self.settings.split => {
                self.count(member, Reason::LocalOrigin, self.settings.local_failures, now);
            }
            Seen::Failed => self.status(member, 503, now),
            Seen::TimedOut => self.status(member, 504, now),
        }
    }

    fn status(&self, member: &Member, status: u16, now: Moment) {
        let health = &member.health;
        if !(500..600).contains(&status) {
            health.reset(Reason::ServerErrors);
            health.reset(Reason::GatewayErrors);
            return;
        }
        if (502..=504).contains(&status) {
            self.count(member, Reason::GatewayErrors, self.settings.gateway_errors, now);
        } else {
            health.reset(Reason::GatewayErrors);
        }
        self.count(member, Reason::ServerErrors, self.settings.server_errors, now);
    }

    fn count(&self, member: &Member, reason: Reason, limit: u32, now: Moment) {
        if member.health.count(reason, limit) {
            self.detector.eject(self, member, reason, now);
        }
    }

    /// Readmits who has been out for long enough, at the times when Envoy would look. Nearly free when nobody is out.
    pub(super) fn look(&self, now: Moment) {
        if self.detector.is_due(now) {
            self.detector.look(self, now);
        }
    }
}
