//! Ending politely: one signal per process and direction, one more per connection, and a count of what still lives.
//!
//! In: [`Drain::begin`] (SIGTERM, `POST /drain`), [`Drain::announce`] (a pod's end has begun, and clients may not know it
//! yet) or [`Closer::close`] (a decision about one connection was revised). Out: [`DrainWatch`], which every accept loop
//! and connection holds, [`Drain::idle`] and [`Drain::drained`], bounded in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

#[cfg(test)]
mod tests;

/// A flag that is raised once and wakes everybody who waits for it.
#[derive(Default)]
struct Signal {
    raised: AtomicBool,
    notify: Notify,
}

impl Signal {
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    fn lower(&self) {
        self.raised.store(false, Ordering::Release);
    }

    fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        loop {
            // Registered before the flag is read: a signal in between is not lost.
            let notified = self.notify.notified();
            if self.is_raised() {
                return;
            }
            notified.await;
        }
    }
}

#[derive(Default)]
struct Shared {
    /// Connections end with the present request.
    signal: Signal,
    /// Nothing is accepted any more.
    closing: Signal,
    live: AtomicUsize,
    /// How many of `live` are accept loops.
    listening: AtomicUsize,
    fell: Notify,
}

/// The handle that starts a drain and waits for its end. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drain(Arc<Shared>);

/// What connections and accept loops hold: tells them to end.
#[derive(Clone)]
pub struct DrainWatch {
    process: Arc<Shared>,
    connection: Option<Arc<Own>>,
}

/// Ends one connection, without ending the others.
#[derive(Clone)]
pub struct Closer(Arc<Own>);

/// The signal of one connection.
#[derive(Default)]
struct Own {
    signal: Signal,
    /// It is not allowed any more: what has not begun is not served.
    revoked: AtomicBool,
}

/// Counts as one live connection until dropped.
pub struct Live(Arc<Shared>);

/// Counts as one accept loop until dropped.
pub struct Listening(Live);

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing lives any more.
    Empty,
    /// Time was up; so many were left.
    TimedOut(usize),
}

impl Drain {
    /// A drain that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What connections hold.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { process: self.0.clone(), connection: None }
    }

    /// Tells everybody to end. May be called again.
    pub fn begin(&self) {
        self.0.closing.raise();
        self.0.signal.raise();
    }

    /// Tells connections to end, and goes on accepting: clients learn only later that they should go elsewhere, and till
    /// then each new connection carries what is on its way and ends.
    pub fn announce(&self) {
        self.0.signal.raise();
    }

    /// Takes an announcement back: new connections live as long as they like again. [`Self::begin`] is never taken back.
    pub fn lift(&self) {
        if !self.0.closing.is_raised() {
            self.0.signal.lower();
        }
    }

    /// Whether [`Self::begin`] or [`Self::announce`] was called.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.signal.is_raised()
    }

    /// How many connections and accept loops live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.live.load(Ordering::Acquire)
    }

    /// Waits until nothing lives any more, at most `limit`. Does not begin the drain.
    pub async fn drained(&self, limit: Duration) -> Drained {
        self.until(limit, || self.live()).await
    }

    /// How many connections live.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.live().saturating_sub(self.0.listening.load(Ordering::Acquire))
    }

    /// Waits until no connection lives any more, at most `limit`; accept loops don't count.
    pub async fn idle(&self, limit: Duration) -> Drained {
        self.until(limit, || self.connections()).await
    }

    async fn until(&self, limit: Duration, left: impl Fn() -> usize) -> Drained {
        let empty = async {
            loop {
                let fell = self.0.fell.notified();
                if left() == 0 {
                    return;
                }
                fell.await;
            }
        };
        match tokio::time::timeout(limit, empty).await {
            Ok(()) => Drained::Empty,
            Err(_) => Drained::TimedOut(left()),
        }
    }
}

impl DrainWatch {
    /// Whether the holder should end: no new work after the present one.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.process.signal.is_raised() || self.connection.as_ref().is_some_and(|c| c.signal.is_raised())
    }

    /// Whether the connection is not allowed any more: nothing new may begin on it, not even what is on its way.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| c.revoked.load(Ordering::Acquire))
    }

    /// Resolves when the holder should end.
    pub async fn draining(&self) {
        match &self.connection {
            None => self.process.signal.wait().await,
            Some(connection) => {
                tokio::select! {
                    () = self.process.signal.wait() => {}
                    () = connection.signal.wait() => {}
                }
            }
        }
    }

    /// Resolves when an accept loop should end.
    pub async fn closing(&self) {
        match &self.connection {
            None => self.process.closing.wait().await,
            Some(own) => {
                tokio::select! {
                    () = self.process.closing.wait() => {}
                    () = own.signal.wait() => {}
                }
            }
        }
    }

    /// A watch for one connection, which ends with this one's signal or by its own [`Closer`].
    #[must_use]
    pub fn for_connection(&self) -> (Closer, Self) {
        let own = Arc::new(Own::default());
        (Closer(own.clone()), Self { process: self.process.clone(), connection: Some(own) })
    }

    /// Counts the holder as live until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> Live {
        self.process.live.fetch_add(1, Ordering::AcqRel);
        Live(self.process.clone())
    }

    /// Counts the holder as an accept loop until the guard is dropped.
    #[must_use]
    pub fn listen(&self) -> Listening {
        let live = self.enter();
        self.process.listening.fetch_add(1, Ordering::AcqRel);
        Listening(live)
    }
}

impl Closer {
    /// Tells the connection to end after the present request.
    pub fn close(&self) {
        self.0.signal.raise();
    }

    /// Tells the connection that it is not allowed any more: the present request is the last one, and none is waited for.
    pub fn revoke(&self) {
        self.0.revoked.store(true, Ordering::Release);
        self.close();
    }

    /// Resolves when [`Self::close`] or [`Self::revoke`] was called.
    pub async fn closed(&self) {
        self.0.signal.wait().await;
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let last = self.0.live.fetch_sub(1, Ordering::AcqRel) == 1;
        // Waking costs a lock: only while somebody may wait.
        if last || self.0.signal.is_raised() {
            self.0.fell.notify_waiters();
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.0.listening.fetch_sub(1, Ordering::AcqRel);
    }
}
