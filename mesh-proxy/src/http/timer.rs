//! A deadline that moves with every request but touches the timer wheel rarely: it sleeps to the earliest deadline it was
//! given, and looks again when it wakes.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// A movable deadline of one task.
#[derive(Default)]
pub struct Deadline {
    sleep: Option<Pin<Box<Sleep>>>,
    registered: Option<Waker>,
    due: Option<Instant>,
}

impl Deadline {
    /// Expires `after` from now.
    pub fn set(&mut self, after: Duration) {
        let due = Instant::now() + after;
        self.due = Some(due);
        if let Some(sleep) = &mut self.sleep
            && sleep.deadline() > due
        {
            sleep.as_mut().reset(due);
            self.registered = None;
        }
    }

    /// Never expires.
    pub fn clear(&mut self) {
        self.due = None;
    }

    /// Whether a deadline is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.due.is_some()
    }

    /// Ready once the deadline has passed.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            if sleep.is_elapsed() {
                if Instant::now() >= due {
                    return Poll::Ready(());
                }
                sleep.as_mut().reset(due);
                self.registered = None;
            }
            if self.registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            // Unconstrained: a Pending for want of budget would not have registered the waker.
            if pin!(unconstrained(sleep.as_mut())).poll(cx).is_pending() {
                self.registered = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn expires_at_the_last_deadline_that_was_set() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(Duration::from_secs(5));
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll_expired(cx))).await.is_pending());
        deadline.set(Duration::from_secs(60));
        poll_fn(|cx| deadline.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    /// The first poll of a deadline may come when the task has used up its budget.
    #[tokio::test(start_paused = true)]
    async fn wakes_although_the_budget_was_spent() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(Duration::from_secs(5));
        let mut spent = false;
        poll_fn(|cx| {
            while !spent && tokio::task::coop::has_budget_remaining() {
                spent |= pin!(tokio::task::consume_budget()).poll(cx).is_pending();
            }
            spent = true;
            deadline.poll_expired(cx)
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_moves_it_forward() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        deadline.set(Duration::from_secs(60));
        assert!(poll_fn(|cx| Poll::Ready(deadline.poll_expired(cx))).await.is_pending());
        deadline.set(Duration::from_secs(1));
        poll_fn(|cx| deadline.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 1);
    }
}
