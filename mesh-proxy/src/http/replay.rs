//! A request body that can be sent again: what was read of it is kept while it is short.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::http::body::{Body, BodyError, Frame, Source};

/// Hands out bodies for the attempts of one request, from one body that comes once.
pub struct Replayable {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    source: Body,
    kept: Vec<Bytes>,
    kept_len: usize,
    trailers: Option<HeaderMap>,
    ended: bool,
    failed: Option<BodyError>,
    limit: usize,
    /// More than `limit` was read: what was kept is gone.
    overflowed: bool,
    /// The attempt that may read on; those before it see a reset.
    attempt: u32,
}

struct Attempt {
    shared: Rc<RefCell<Shared>>,
    attempt: u32,
    next: usize,
    told_trailers: bool,
}

impl Replayable {
    /// Keeps at most `limit` bytes of `source`.
    #[must_use]
    pub fn new(source: Body, limit: usize) -> Self {
        let shared = Shared {
            source,
            kept: Vec::new(),
            kept_len: 0,
            trailers: None,
            ended: false,
            failed: None,
            limit,
            overflowed: false,
            attempt: 0,
        };
        Self { shared: Rc::new(RefCell::new(shared)) }
    }

    /// Whether another attempt would send the same bytes: not once the body was longer than the limit, or has failed.
    #[must_use]
    pub fn can_replay(&self) -> bool {
        let shared = self.shared.borrow();
        !shared.overflowed && shared.failed.is_none()
    }

    /// The body for the next attempt, from the start; the one handed out before ends with an error. `None` when the
    /// start is no longer kept.
    #[must_use]
    pub fn attempt(&self) -> Option<Body> {
        let mut shared = self.shared.borrow_mut();
        if shared.overflowed || shared.failed.is_some() {
            return None;
        }
        shared.attempt += 1;
        let attempt =
            Attempt { shared: self.shared.clone(), attempt: shared.attempt, next: 0, told_trailers: false };
        let body = Body::from_source(Box::new(attempt)).with_case(shared.source.case().clone());
        Some(body.with_interim(shared.source.interim().cloned()).with_sent(shared.source.sent().cloned()))
    }
}

impl Shared {
    /// Reads on from the source and keeps what comes, where it still fits.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = match std::task::ready!(self.source.poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                self.failed = Some(error.clone());
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
        };
        match &frame {
            Frame::Data(data) if !self.overflowed => {
                self.kept_len += data.len();
                if self.kept_len > self.limit {
                    self.overflowed = true;
                    self.kept = Vec::new();
                } else {
                    self.kept.push(data.clone());
                }
            }
            Frame::Data(_) => {}
            Frame::Trailers(trailers) => self.trailers = Some(trailers.clone()),
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Source for Attempt {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        if shared.attempt != self.attempt {
            return Poll::Ready(Some(Err(BodyError::Aborted("superseded by another attempt".into()))));
        }
        if !shared.overflowed {
            if let Some(data) = shared.kept.get(self.next) {
                self.next += 1;
                return Poll::Ready(Some(Ok(Frame::Data(data.clone()))));
            }
            if let Some(trailers) = &shared.trailers {
                if self.told_trailers {
                    return Poll::Ready(None);
                }
                self.told_trailers = true;
                return Poll::Ready(Some(Ok(Frame::Trailers(trailers.clone()))));
            }
        }
        if shared.ended {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(shared.poll_next(cx));
        match &frame {
            Some(Ok(Frame::Data(_))) => self.next += 1,
            Some(Ok(Frame::Trailers(_))) => self.told_trailers = true,
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn known_len(&self) -> Option<u64> {
        let shared = self.shared.borrow();
        // A length that is told leaves no place for them.
        if shared.trailers.is_some() && !self.told_trailers {
            return None;
        }
        let ahead: usize = shared.kept.iter().skip(self.next).map(Bytes::len).sum();
        if shared.ended {
            return Some(ahead as u64);
        }
        shared.source.known_len().map(|rest| rest + ahead as u64)
    }

    fn is_end(&self) -> bool {
        let shared = self.shared.borrow();
        let all_kept = self.next >= shared.kept.len();
        let trailers_told = shared.trailers.is_none() || self.told_trailers;
        all_kept && trailers_told && (shared.ended || shared.source.is_end())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::{HeaderName, HeaderValue};

    use super::*;

    struct Frames(VecDeque<Frame>);

    impl Source for Frames {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn known_len(&self) -> Option<u64> {
            self.0.is_empty().then_some(0)
        }

        fn is_end(&self) -> bool {
            self.0.is_empty()
        }
    }

    /// Whoever is told a length gets no trailers.
    #[tokio::test]
    async fn trailers_come_again() {
        let end = (HeaderName::from_static("x-end"), HeaderValue::from_static("1"));
        let frames = [Frame::Data(Bytes::from_static(b"abc")), Frame::Trailers(HeaderMap::from_iter([end]))];
        let body = Replayable::new(Body::from_source(Box::new(Frames(frames.into()))), 10);
        for attempt in 1..=3 {
            let mut body = body.attempt().unwrap();
            assert_eq!((body.known_len(), body.is_end()), (None, false), "{attempt}");
            assert!(matches!(body.frame().await, Some(Ok(Frame::Data(data))) if data == "abc"));
            assert_eq!((body.known_len(), body.is_end()), (None, false), "{attempt}");
            assert!(matches!(body.frame().await, Some(Ok(Frame::Trailers(_)))), "{attempt}");
            assert_eq!((body.known_len(), body.is_end()), (Some(0), true), "{attempt}");
        }
    }
}
