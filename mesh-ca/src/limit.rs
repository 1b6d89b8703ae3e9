//! How many certificates one identity may have: a bucket of tokens for each, in a bounded table.
//!
//! All replicas of a workload are one identity, so that a rollout takes many at once: the bucket is deep. What it stops is
//! a program that asks without end, and keeps the authority from others.

use std::collections::HashMap;
use std::time::Duration;

use mesh_proto::model::SpiffeId;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

/// Identities that are counted by themselves; more share one bucket.
const MAX_IDENTITIES: usize = 20_000;

/// How fast and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "Asked")]
pub struct Rate {
    /// Certificates a second, in the long run.
    pub per_second: f64,
    /// At once.
    pub burst: f64,
}

/// A rate as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    per_second: f64,
    burst: f64,
}

impl TryFrom<Asked> for Rate {
    type Error = &'static str;

    fn try_from(Asked { per_second, burst }: Asked) -> Result<Self, &'static str> {
        Self::new(per_second, burst)
    }
}

impl Rate {
    /// `per_second` in the long run, `burst` at once.
    ///
    /// # Errors
    /// When nobody could ever have one.
    pub fn new(per_second: f64, burst: f64) -> Result<Self, &'static str> {
        let good = per_second.is_finite() && burst.is_finite() && per_second >= 0.001 && burst >= 1.0;
        if good {
            Ok(Self { per_second, burst })
        } else {
            Err("a rate of at least 0.001 a second and 1 at once")
        }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self { per_second: 20.0, burst: 2000.0 }
    }
}

/// Too many; there is room again after that long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany(pub Duration);

/// The buckets.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    most: usize,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    of: HashMap<SpiffeId, Bucket>,
    /// Of all those for whom there was no room.
    others: Option<Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limiter {
    /// Nobody has had any yet.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, most: MAX_IDENTITIES, buckets: Mutex::default() }
    }

    /// Takes one for `id`.
    ///
    /// # Errors
    /// When it has had too many.
    pub fn take(&self, id: &SpiffeId, now: Instant) -> Result<(), TooMany> {
        let mut buckets = self.buckets.lock();
        if !buckets.of.contains_key(id) && buckets.of.len() >= self.most {
            // A bucket that is full again says no more than none.
            let rate = self.rate;
            buckets.of.retain(|_, bucket| bucket.filled(rate, now).tokens < rate.burst);
        }
        let full = Bucket { tokens: self.rate.burst, at: now };
        let bucket = if buckets.of.len() < self.most || buckets.of.contains_key(id) {
            buckets.of.entry(id.clone()).or_insert(full)
        } else {
            buckets.others.get_or_insert(full)
        };
        *bucket = bucket.filled(self.rate, now);
        if bucket.tokens < 1.0 {
            let wait = (1.0 - bucket.tokens) / self.rate.per_second;
            return Err(TooMany(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX)));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn filled(self, rate: Rate, now: Instant) -> Self {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        Self { tokens: (self.tokens + since * rate.per_second).min(rate.burst), at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(account: usize) -> SpiffeId {
        format!("spiffe://td/ns/default/sa/a{account}").parse().unwrap()
    }

    #[test]
    fn what_is_written_counts() {
        let read = |text: &str| serde_json::from_str::<Rate>(text);
        let rate = read(r#"{"per_second": 2.0, "burst": 3.0}"#);
        assert_eq!(rate.unwrap(), Rate { per_second: 2.0, burst: 3.0 });
        assert!(read(r#"{"per_second": 0.0, "burst": 3.0}"#).is_err(), "nobody could ever have one");
    }

    #[test]
    fn an_identity_has_its_burst_and_then_its_rate_and_others_theirs() {
        let limiter = Limiter::new(Rate { per_second: 2.0, burst: 3.0 });
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        for _ in 0..3 {
            assert_eq!(limiter.take(&id(1), start), Ok(()));
        }
        assert_eq!(limiter.take(&id(1), start), Err(TooMany(Duration::from_millis(500))));
        assert_eq!(limiter.take(&id(2), start), Ok(()), "somebody else");
        assert_eq!(limiter.take(&id(1), after(499)), Err(TooMany(Duration::from_millis(1))));
        assert_eq!(limiter.take(&id(1), after(500)), Ok(()));
        // A long rest gives no more than the burst.
        for _ in 0..3 {
            assert_eq!(limiter.take(&id(1), after(1_000_000)), Ok(()));
        }
        assert!(limiter.take(&id(1), after(1_000_000)).is_err());
    }

    #[test]
    fn a_rate_by_which_nobody_gets_any_is_none() {
        assert!(Rate::new(0.001, 1.0).is_ok() && Rate::new(1000.0, 1e9).is_ok());
        for odd in [0.0, 0.0009, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Rate::new(odd, 10.0).is_err(), "{odd} a second");
        }
        for odd in [0.0, 0.9, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Rate::new(10.0, odd).is_err(), "{odd} at once");
        }
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_rests() {
        let limiter = Limiter { most: 10, ..Limiter::new(Rate { per_second: 1.0, burst: 2.0 }) };
        let start = Instant::now();
        for account in 0..10 {
            assert_eq!(limiter.take(&id(account), start), Ok(()));
        }
        // No room: all of these share a bucket, and are not refused for being many names.
        assert_eq!(limiter.take(&id(10), start), Ok(()));
        assert_eq!(limiter.take(&id(11), start), Ok(()));
        assert!(limiter.take(&id(12), start).is_err());
        assert_eq!(limiter.buckets.lock().of.len(), 10);
        assert_eq!(limiter.take(&id(12), start + Duration::from_secs(1)), Ok(()), "the others rest");
        assert_eq!(limiter.buckets.lock().of.len(), 1);
    }
}
