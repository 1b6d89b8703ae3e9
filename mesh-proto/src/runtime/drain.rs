//! Telling tasks to finish what they do, and knowing when they did.
//!
//! In: one [`Drain`] in the process's main function. Out: [`Watch`]es for the tasks: each waits for the start, and
//! dropping the last one means that everything is finished.

use std::time::Duration;

use tokio::sync::watch;

/// Starts the drain and waits for its end. Dropping it also starts the drain.
#[derive(Debug)]
pub struct Drain(watch::Sender<bool>);

/// Held by each task that has something to finish.
#[derive(Debug, Clone)]
pub struct Watch(watch::Receiver<bool>);

/// A drain and its first watch.
#[must_use]
pub fn channel() -> (Drain, Watch) {
    let (sender, receiver) = watch::channel(false);
    (Drain(sender), Watch(receiver))
}

impl Drain {
    /// Another watch.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }

    /// Tells every watch to finish. Calling it again does nothing.
    pub fn start(&self) {
        self.0.send_if_modified(|draining| !std::mem::replace(draining, true));
    }

    /// Tells every watch to finish and waits until all are dropped, at most `limit`. True if they were.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.start();
        tokio::time::timeout(limit, self.0.closed()).await.is_ok()
    }
}

impl Watch {
    /// Waits until the drain starts.
    pub async fn draining(&self) {
        // An error means that the drain itself is gone, which is a start too.
        let _ = self.0.clone().wait_for(|draining| *draining).await;
    }

    /// Whether the drain has started.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_when_the_last_watch_is_dropped() {
        let (drain, watch) = channel();
        assert!(!watch.is_draining());
        let task = tokio::spawn({
            let watch = watch.clone();
            async move { watch.draining().await }
        });
        assert!(!drain.finish(Duration::from_secs(1)).await, "a watch is still held");
        assert!(watch.is_draining());
        task.await.unwrap();
        drop(watch);
        assert!(drain.finish(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_when_the_drain_is_dropped() {
        let (drain, watch) = channel();
        drop(drain);
        watch.draining().await;
        assert!(watch.is_draining());
    }
}
