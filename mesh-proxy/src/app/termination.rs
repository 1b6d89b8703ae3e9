//! The order in which a pod ends (design §3.3, "Termination order is ours").
//!
//! In: the question of a preStop hook, then SIGTERM. Out: when the application may be told to stop. While the withdrawal of
//! the endpoint travels to the clients, connections are still accepted; each is told to be the last. Only then, and when
//! nothing is in flight, the hook is answered and the kubelet tells the application to stop; a native sidecar is told
//! after the application has ended.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::{self, NodeKind};
use crate::drain::{Drain, Drained};

#[cfg(test)]
mod tests;

/// How far the end is.
pub struct Termination {
    settings: config::Termination,
    /// When the first hook asked.
    started: std::sync::Arc<Mutex<Option<Instant>>>,
    lifting: Mutex<Option<JoinHandle<()>>>,
    quit: Notify,
}

impl Termination {
    /// An end that has not begun.
    #[must_use]
    pub fn new(settings: config::Termination) -> Self {
        Self { settings, started: Default::default(), lifting: Mutex::default(), quit: Notify::new() }
    }

    /// Tells clients to go elsewhere and serves them as long as they come; ends when the least time has passed and nothing
    /// is in flight, or at the limit. Called again, it joins.
    pub async fn drain(&self, inbound: &Drain) -> Drained {
        let started = *self.started.lock().get_or_insert_with(|| {
            tracing::info!(connections = inbound.connections(), "draining: the pod is told to end");
            Instant::now()
        });
        inbound.announce();
        sleep_until(started + self.settings.minimum).await;
        let drained = inbound.idle((started + self.settings.drain).duration_since(Instant::now())).await;
        match drained {
            Drained::Empty => tracing::info!(seconds = started.elapsed().as_secs(), "drained"),
            Drained::TimedOut(left) => {
                tracing::warn!(left, "connections were still open when the drain's time was up");
            }
        }
        drained
    }

    /// A hook that no end of the pod follows is a container's restart: after the grace period all is as it was.
    pub fn lift_later(&self, inbound: &Drain) {
        let mut lifting = self.lifting.lock();
        let (Some(after), Some(at)) = (self.settings.lift_after, *self.started.lock()) else { return };
        if lifting.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (inbound, started) = (inbound.clone(), self.started.clone());
        *lifting = Some(tokio::spawn(async move {
            sleep_until(at + after).await;
            *started.lock() = None;
            inbound.lift();
            tracing::info!(
                "no end of the pod has followed the drain (a container was restarted): serving as before"
            );
        }));
    }

    /// What comes between SIGTERM and the closing of sockets. Nothing, where somebody else has ordered the steps: a native
    /// sidecar is told when the application has ended, the local mesh's when it is drained.
    pub async fn before_the_end(&self, kind: NodeKind, inbound: &Drain, outbound: &Drain) {
        if let Some(lifting) = self.lifting.lock().take() {
            lifting.abort();
        }
        let with_application = self.settings.with_application;
        // Without a least time somebody else has waited for the clients already.
        if with_application || kind == NodeKind::Router && !self.settings.minimum.is_zero() {
            self.drain(inbound).await;
        }
        if with_application {
            // The application is ending at this moment, and may have something to tell.
            let told = Instant::now();
            sleep_until(told + self.settings.minimum.min(self.settings.shutdown)).await;
            outbound.idle((told + self.settings.shutdown).duration_since(Instant::now())).await;
        }
    }

    /// Ends the proxy as SIGTERM would.
    pub fn quit(&self) {
        self.quit.notify_one();
    }

    /// Resolves when [`Self::quit`] was called.
    pub async fn told_to_quit(&self) {
        self.quit.notified().await;
    }
}
