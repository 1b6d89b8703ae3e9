//! A response body that must end before the route's timeout.
//!
//! In: the upstream's body and a deadline. Out: the same bytes, or an error once time is up.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::http::{Body, BodyError, Frame, Source};

struct Timed {
    body: Body,
    sleep: Pin<Box<Sleep>>,
}

/// `body`, cut at `deadline`.
#[must_use]
pub fn until(body: Body, deadline: Instant) -> Body {
    if body.is_end() {
        return body;
    }
    Body::from_source(Box::new(Timed { body, sleep: Box::pin(sleep_until(deadline)) }))
}

impl Source for Timed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if let Poll::Ready(frame) = self.body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        match self.sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Timeout))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn known_len(&self) -> Option<u64> {
        self.body.known_len()
    }

    fn is_end(&self) -> bool {
        self.body.is_end()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Never;

    impl Source for Never {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Pending
        }

        fn known_len(&self) -> Option<u64> {
            None
        }

        fn is_end(&self) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_cut() {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut body = until(Body::from_source(Box::new(Never)), deadline);
        assert!(matches!(body.frame().await, Some(Err(BodyError::Timeout))));
        assert!(Instant::now() >= deadline);
        assert!(until(Body::empty(), deadline).is_end());
    }
}
