//! The counters of one series of one worker. A shard has one writer, so that adding is a load and a store; whoever sums
//! them reads whatever is there.

use std::sync::atomic::{AtomicU64, Ordering};

/// Envoy's default bounds (Istio uses them for milliseconds and for bytes).
pub(super) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A counter with one writer.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Only the shard's own worker calls this.
    pub(super) fn add(&self, value: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Values by bucket, not cumulated; thousandths, so that milliseconds keep their microseconds.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    sum: Counter,
}

impl Histogram {
    /// Adds one value, given in thousandths.
    pub(super) fn record(&self, thousandths: u64) {
        // Most values are small: a walk from below beats a binary search.
        let value = thousandths as f64 / 1000.0;
        let bucket = BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.sum.add(thousandths);
    }
}

/// A histogram summed over workers.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct HistogramTotal {
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) thousandths: u64,
}

impl HistogramTotal {
    pub(super) fn add(&mut self, shard: &Histogram) {
        for (total, counter) in self.buckets.iter_mut().zip(&shard.buckets) {
            *total += counter.get();
        }
        self.thousandths += shard.sum.get();
    }
}

/// What is counted about requests.
#[derive(Debug, Default)]
pub(super) struct RequestShard {
    pub(super) requests: Counter,
    /// Milliseconds.
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
}

impl RequestShard {
    pub(super) fn requests(&self) -> u64 {
        self.requests.get()
    }
}

/// What is counted about connections that forward bytes.
#[derive(Debug, Default)]
pub(super) struct ConnectionShard {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) sent: Counter,
    pub(super) received: Counter,
}

impl ConnectionShard {
    pub(super) fn opened(&self) -> u64 {
        self.opened.get()
    }
}
