//! The time that ejections and latencies count in: milliseconds since the process began, from tokio's clock, so that tests
//! may stop it.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

static EPOCH: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// Later than any other.
    pub(super) const NEVER: Self = Self(u64::MAX);

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self::of(Instant::now())
    }

    /// From tokio's clock.
    #[must_use]
    pub fn of(instant: Instant) -> Self {
        Self(millis(instant.into_std().saturating_duration_since(*EPOCH)))
    }

    pub(super) fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    pub(super) fn millis(self) -> u64 {
        self.0
    }

    /// Later by some time.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// Milliseconds since an earlier one.
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whole milliseconds of a time.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
