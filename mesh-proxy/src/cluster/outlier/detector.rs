//! Who is out, and for how long. Everything here happens seldom and under one lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::super::clock::{Moment, millis};
use super::super::group::Members;
use super::super::member::Member;
use super::{Health, Reason, Watch};

/// Envoy's `max_ejection_time`.
const MAX_EJECTION: Duration = Duration::from_secs(300);

/// The detector of a cluster or subset, kept over every push.
#[derive(Debug)]
pub struct Detector {
    inner: Mutex<Inner>,
    /// When somebody has to be looked at; never, while nobody is or was out.
    due: AtomicU64,
    told: Told,
}

#[derive(Debug)]
struct Inner {
    /// Of the view that is published.
    members: Weak<Members>,
    /// The last time at which readmission was looked at.
    looked: Moment,
    ejected: usize,
}

/// What has happened, for metrics.
#[derive(Debug, Default)]
pub struct Told {
    active: AtomicU64,
    enforced: [AtomicU64; 3],
    overflow: AtomicU64,
}

impl Told {
    /// Who is out now.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Ejections ever.
    #[must_use]
    pub fn ejections(&self, reason: Reason) -> u64 {
        self.enforced[reason as usize].load(Ordering::Relaxed)
    }

    /// Ejections that `maxEjectionPercent` did not allow.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow.load(Ordering::Relaxed)
    }
}

impl Detector {
    /// Nobody is out. Looks at readmission every interval from now on.
    pub(in super::super) fn new(now: Moment) -> Self {
        let inner = Inner { members: Weak::new(), looked: now, ejected: 0 };
        Self { inner: Mutex::new(inner), due: AtomicU64::new(Moment::NEVER.millis()), told: Told::default() }
    }

    /// What has happened.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        now.millis() >= self.due.load(Ordering::Relaxed)
    }

    /// A view is published: from now on its members count. Somebody may have been ejected since it was made.
    pub(in super::super) fn adopt(&self, members: &Arc<Members>) {
        let mut inner = self.inner.lock();
        inner.members = Arc::downgrade(members);
        self.settle(&mut inner, members);
        members.refresh();
    }

    pub(super) fn eject(&self, watch: &Watch, member: &Member, reason: Reason, now: Moment) {
        let mut inner = self.inner.lock();
        let health = &member.health;
        health.reset(reason);
        let Some(members) = inner.members.upgrade() else { return };
        let known = members.all().iter().any(|m| Arc::ptr_eq(&m.health, health));
        if health.is_ejected() || !known {
            return;
        }
        let all = members.all().len() as u64;
        let allowed = u64::from(watch.settings.max_ejection_percent);
        let (cluster, address) = (&*watch.cluster, member.address);
        if (inner.ejected as u64 + 1) * 100 > allowed * all {
            self.told.overflow.fetch_add(1, Ordering::Relaxed);
            tracing::info!(
                cluster, %address, reason = reason.name(), ejected = inner.ejected, all,
                "not ejected: maxEjectionPercent is {allowed}"
            );
            return;
        }
        if inner.ejected == 0 && self.due.load(Ordering::Relaxed) == Moment::NEVER.millis() {
            // The looks go on at their own pace, whoever is out.
            let interval = millis(watch.settings.interval);
            let looks = now.since(inner.looked) / interval;
            inner.looked = Moment::from_millis(inner.looked.millis() + looks * interval);
            self.due.store(inner.looked.millis() + interval, Ordering::Relaxed);
        }
        let times = health.ejections.load(Ordering::Relaxed).saturating_add(1);
        health.ejections.store(times, Ordering::Relaxed);
        health.since.store(now.millis(), Ordering::Relaxed);
        health.ejected.store(true, Ordering::Relaxed);
        self.told.enforced[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.settle(&mut inner, &members);
        members.refresh();
        let out_for = sentence(watch, health);
        tracing::warn!(
            cluster, %address, uid = %member.uid, reason = reason.name(), ?out_for, ejected = inner.ejected, all,
            "ejected by outlier detection"
        );
    }

    /// Makes up for all the looks since the last one.
    pub(super) fn look(&self, watch: &Watch, now: Moment) {
        // Whoever comes meanwhile finds it done.
        let Some(mut inner) = self.inner.try_lock() else { return };
        let Some(members) = inner.members.upgrade() else { return };
        let interval = millis(watch.settings.interval);
        let looks = now.since(inner.looked) / interval;
        if looks == 0 {
            return;
        }
        let start = inner.looked;
        let mut waits = false;
        let mut readmitted = Vec::new();
        for member in members.all() {
            let health = &member.health;
            let mut well = looks;
            if health.is_ejected() {
                let since = Moment::from_millis(health.since.load(Ordering::Relaxed));
                let over = since.after(sentence(watch, health)).since(start).div_ceil(interval).max(1);
                if over > looks {
                    waits = true;
                    continue;
                }
                health.ejected.store(false, Ordering::Relaxed);
                health.reset_all();
                readmitted.push(member);
                well = looks - over;
            }
            // Each look that finds it well forgets one ejection.
            let times = u64::from(health.ejections.load(Ordering::Relaxed)).saturating_sub(well);
            health.ejections.store(u32::try_from(times).unwrap_or(u32::MAX), Ordering::Relaxed);
            waits |= times > 0;
        }
        inner.looked = Moment::from_millis(start.millis() + looks * interval);
        let due = if waits { inner.looked.millis() + interval } else { Moment::NEVER.millis() };
        self.due.store(due, Ordering::Relaxed);
        if !readmitted.is_empty() {
            self.settle(&mut inner, &members);
            members.refresh();
        }
        for member in readmitted {
            let (cluster, address) = (&*watch.cluster, member.address);
            tracing::info!(cluster, %address, uid = %member.uid, "readmitted by outlier detection");
        }
    }

    fn settle(&self, inner: &mut Inner, members: &Members) {
        inner.ejected = members.all().iter().filter(|m| m.is_ejected()).count();
        self.told.active.store(inner.ejected as u64, Ordering::Relaxed);
    }
}

/// How long somebody stays out.
fn sentence(watch: &Watch, health: &Health) -> Duration {
    let base = watch.settings.base_ejection;
    let times = health.ejections.load(Ordering::Relaxed);
    base.saturating_mul(times).min(MAX_EJECTION.max(base))
}
