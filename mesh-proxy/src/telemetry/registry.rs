//! All series of a family: interned by their labels, one shard per worker, bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Series that share a shape.
#[derive(Debug)]
pub(super) struct Family<S> {
    workers: usize,
    limit: usize,
    /// What counts for all that came after the limit was reached.
    overflow: String,
    overflowed: AtomicU64,
    series: Mutex<BTreeMap<String, Series<S>>>,
}

/// One shard per worker that has used it.
#[derive(Debug)]
pub(super) struct Series<S>(Vec<Option<Arc<S>>>);

impl<S: Default> Family<S> {
    pub(super) fn new(workers: usize, limit: usize, overflow: String) -> Self {
        let series = Mutex::new(BTreeMap::new());
        Self { workers, limit, overflow, overflowed: AtomicU64::new(0), series }
    }

    /// The counters of `labels` for `worker`: the same ones every time.
    pub(super) fn shard(&self, labels: String, worker: usize) -> Arc<S> {
        let mut series = self.series.lock();
        let labels = if series.len() < self.limit || series.contains_key(&labels) {
            labels
        } else {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            self.overflow.clone()
        };
        let shards =
            series.entry(labels).or_insert_with(|| Series((0..self.workers).map(|_| None).collect()));
        shards.0[worker].get_or_insert_default().clone()
    }
}

impl<S> Family<S> {
    /// Visits all series in the order of their labels.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&str, &Series<S>)) {
        for (labels, series) in self.series.lock().iter() {
            visit(labels, series);
        }
    }

    /// A value of all series, by worker.
    pub(super) fn per_worker(&self, value: impl Fn(&S) -> u64) -> Vec<u64> {
        let mut sums = vec![0; self.workers];
        self.for_each(|_, series| {
            for (sum, shard) in sums.iter_mut().zip(&series.0) {
                *sum += shard.as_ref().map_or(0, |shard| value(shard));
            }
        });
        sums
    }

    /// How many series there are.
    pub(super) fn len(&self) -> usize {
        self.series.lock().len()
    }

    /// How often a series had to be refused.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

impl<S> Series<S> {
    /// The shards that exist.
    pub(super) fn shards(&self) -> impl Iterator<Item = &S> {
        self.0.iter().flatten().map(|shard| &**shard)
    }

    /// A value summed over the workers.
    pub(super) fn sum(&self, value: impl Fn(&S) -> u64) -> u64 {
        self.shards().map(value).sum()
    }
}
