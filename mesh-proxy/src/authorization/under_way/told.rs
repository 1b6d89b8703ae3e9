//! Where a request that is under way is told that it is not allowed any more.
//!
//! In: the failure. Out: before the answer's head the denial takes its place, afterwards the answer is cut off.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::Response;

use crate::http::{Body, BodyError, Frame, Source};
use crate::respond::Failure;

/// Whether it is denied by now, and by which rule.
#[derive(Default)]
pub struct Told {
    failure: RefCell<Option<Failure>>,
    waiting: RefCell<Option<Waker>>,
    /// Whoever writes the answer looks here by himself, so that no body is wrapped for it.
    by_codec: bool,
}

impl Told {
    pub(super) fn by_codec() -> Self {
        Self { by_codec: true, ..Self::default() }
    }

    pub(super) fn allow(&self) {
        self.failure.take();
    }

    pub(super) fn deny(&self, failure: Failure) {
        *self.failure.borrow_mut() = Some(failure);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.failure.borrow().is_none()
    }

    /// Why it may not go on, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Failure> {
        if let Some(failure) = self.failure() {
            return Poll::Ready(failure);
        }
        // One task at a time waits: that of the request.
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Resolves when it may not go on.
    pub async fn denied(&self) -> Failure {
        poll_fn(|cx| self.poll(cx)).await
    }
}

/// An answer as long as its request is allowed: before its head the denial takes its place, afterwards it is cut off.
///
/// # Errors
/// Why there is no answer; who denies it.
pub async fn while_allowed(
    told: Option<Rc<Told>>,
    answer: Pin<&mut impl Future<Output = Result<Response<Body>, Failure>>>,
) -> Result<Response<Body>, Failure> {
    let Some(told) = told else { return answer.await };
    let response = tokio::select! {
        biased;
        failure = told.denied() => return Err(failure),
        response = answer => response?,
    };
    if told.by_codec || response.body().is_upgraded() || response.body().is_end() {
        return Ok(response);
    }
    Ok(response.map(|body| body.wrap(|body| Box::new(Cut { body, told }))))
}

/// A body that ends when its request is denied.
struct Cut {
    body: Body,
    told: Rc<Told>,
}

impl Source for Cut {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.told.poll(cx) {
            Poll::Ready(failure) => Poll::Ready(Some(Err(BodyError::Aborted(failure.to_string().into())))),
            Poll::Pending => self.body.poll_frame(cx),
        }
    }

    fn known_len(&self) -> Option<u64> {
        self.body.known_len()
    }

    fn is_end(&self) -> bool {
        self.body.is_end()
    }
}
