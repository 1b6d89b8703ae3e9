//! Whose turn it is to fetch. In: a source with the namespaces that want it. Out: a slot, of one of these namespaces.
//!
//! Each namespace has slots of its own, so that what one of them names holds up no other one. Of these most are for fetches
//! that are short; who was not short comes again in the others, where it holds up only what is slow too.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Want;

/// A fetch that takes longer is slow.
pub(super) const SHORT: Duration = Duration::from_millis(300);
/// Fetches of a namespace at the same time, of either pace.
const SHORT_AT_ONCE: usize = 32;
const SLOW_AT_ONCE: usize = 16;

/// Held for as long as anything of a fetch goes on.
pub(super) type Slot = Arc<OwnedSemaphorePermit>;

/// How a source answered the last time; a new one is taken to be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Short,
    Slow,
}

impl Pace {
    /// By the time that it took.
    pub(super) fn of(took: Duration) -> Self {
        if took < SHORT { Self::Short } else { Self::Slow }
    }
}

struct Lane {
    short: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl Default for Lane {
    fn default() -> Self {
        let slots = |count| Arc::new(Semaphore::new(count));
        Self { short: slots(SHORT_AT_ONCE), slow: slots(SLOW_AT_ONCE) }
    }
}

/// The slots of all namespaces.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<Arc<str>, Lane>>);

impl Lanes {
    /// Forgets all other namespaces. Who still has a slot of theirs keeps it.
    pub(super) fn retain(&self, namespaces: &BTreeSet<Arc<str>>) {
        self.0.lock().retain(|namespace, _| namespaces.contains(namespace));
    }

    /// Waits for a slot of any namespace that wants the source: none of them can keep it from another one.
    pub(super) async fn turn(&self, want: &mut watch::Receiver<Want>, pace: Pace) -> Slot {
        loop {
            let namespaces = want.borrow_and_update().namespaces.clone();
            let slots = namespaces.into_iter().map(|namespace| {
                let mut lanes = self.0.lock();
                let lane = lanes.entry(namespace).or_default();
                let slots = if pace == Pace::Short { &lane.short } else { &lane.slow };
                Box::pin(slots.clone().acquire_owned())
            });
            let slots: Vec<_> = slots.collect();
            tokio::select! {
                slot = first(slots) => return Arc::new(slot),
                // Somebody else wants it too, or not any more.
                changed = want.changed() => if changed.is_err() {
                    // Nobody does: whoever follows it is about to be ended.
                    std::future::pending::<()>().await;
                },
            }
        }
    }
}

/// The first that is there; none: never.
async fn first<F>(slots: Vec<F>) -> OwnedSemaphorePermit
where
    F: Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>> + Unpin,
{
    if slots.is_empty() {
        return std::future::pending().await;
    }
    let (slot, ..) = select_all(slots).await;
    slot.expect("never closed")
}
