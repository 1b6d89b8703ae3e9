//! A handle that stays the same while what it holds is replaced: readers on any thread, one writer.
//!
//! In: what `xds` publishes. Out: the newest value, without a lock (design §3.3: each destination, cluster and endpoint
//! set is its own cell, so that a change swaps one cell and nothing else).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::watch;

/// What is known about the resource behind a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Asked for, not answered yet.
    Pending,
    /// The pilot says that it does not exist.
    Absent,
    /// The pilot sent it, and this proxy refused it; there was none before.
    Rejected(Arc<str>),
    /// There is a value.
    Present,
}

/// A value that comes and goes behind a handle that stays.
#[derive(Debug)]
pub struct Cell<T> {
    current: ArcSwapOption<T>,
    phase: watch::Sender<Phase>,
    used: AtomicBool,
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::Pending),
            used: AtomicBool::new(true),
        }
    }
}

impl<T> Cell<T> {
    /// The newest value; `None` until the first one, and when it was answered absent or refused.
    pub fn load(&self) -> Guard<Option<Arc<T>>> {
        // Read before write: a cell in use is not written by every request.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.current.load()
    }

    /// The newest value, for somebody who only looks: that is no use of it.
    pub fn peek(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }

    /// The newest value, to keep.
    pub fn load_full(&self) -> Option<Arc<T>> {
        Guard::into_inner(self.load())
    }

    /// What is known now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits for the first answer of whatever kind.
    pub async fn answered(&self) -> Phase {
        let mut phase = self.phase.subscribe();
        let answer = phase.wait_for(|p| *p != Phase::Pending).await;
        // The sender lives in this cell, which the caller borrows.
        answer.map_or(Phase::Pending, |p| p.clone())
    }

    /// Publishes a value.
    pub(crate) fn publish(&self, value: Arc<T>) {
        self.current.store(Some(value));
        self.enter(Phase::Present);
    }

    /// Forgets the value: `Absent`, `Rejected` or (the stream will ask again) `Pending`.
    pub(crate) fn clear(&self, phase: Phase) {
        self.current.store(None);
        self.enter(phase);
    }

    /// Whether it was read since the last call.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|p| {
            let changed = *p != phase;
            *p = phase;
            changed
        });
    }
}
