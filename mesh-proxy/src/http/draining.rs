//! A connection's view of its drain signal.

use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use tokio::task::unconstrained;

use crate::drain::DrainWatch;

/// The connection's drain signal, registered once.
pub(crate) struct Draining<'a> {
    watch: &'a DrainWatch,
    signal: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
    registered: Option<Waker>,
}

impl<'a> Draining<'a> {
    pub(crate) fn new(watch: &'a DrainWatch) -> Self {
        Self { watch, signal: None, registered: None }
    }

    /// Whether the connection should end without waiting for what is on its way.
    pub(crate) fn is_revoked(&self) -> bool {
        self.watch.is_revoked()
    }

    /// Whether the connection should end; wakes the task when that changes.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if self.watch.is_draining() {
            return true;
        }
        if self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return false;
        }
        let watch = self.watch;
        let signal = self.signal.get_or_insert_with(|| Box::pin(watch.draining()));
        self.registered = Some(cx.waker().clone());
        // Unconstrained: a Pending for want of budget would not have registered the waker.
        pin!(unconstrained(signal.as_mut())).poll(cx).is_ready()
    }
}
