//! A request's head, for whoever has let it in: he may look at it again for as long as the request is under way.
//!
//! In: the head, from the codec that has no more use for it once it is written. Out: the same one, to look at, or back for
//! another attempt. It is moved, not copied. A head that is not written yet cannot be looked at: where somebody wants to
//! (what lets it in has changed meanwhile), it is not written before he has ([`seen`]).

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::Request;
use http::request::Parts;
use tokio::sync::Notify;

use crate::http::{Body, headers};

/// The place of one request's head; it travels with the request's body.
#[derive(Clone, Default)]
pub struct Sent(Rc<Inner>);

#[derive(Default)]
struct Inner {
    head: RefCell<Option<Parts>>,
    /// Told when the head is there for whoever wants to look first.
    wanted: RefCell<Option<Rc<Notify>>>,
    /// Who waits for him.
    waiting: RefCell<Option<Waker>>,
}

/// A head that is written: there, or where it is of use to nobody else, here.
pub(crate) struct Written {
    own: Option<Parts>,
    place: Option<Sent>,
}

impl Sent {
    /// What `f` sees in it; none: it is not written yet.
    pub fn look<T>(&self, f: impl FnOnce(&Parts) -> T) -> Option<T> {
        self.0.head.borrow().as_ref().map(f)
    }

    /// It is not written before [`Self::release`]; `wanted` is told when it can be looked at.
    pub fn hold(&self, wanted: Rc<Notify>) {
        *self.0.wanted.borrow_mut() = Some(wanted);
    }

    /// It was looked at.
    pub fn release(&self) {
        if self.0.wanted.take().is_some()
            && let Some(waker) = self.0.waiting.take()
        {
            waker.wake();
        }
    }

    /// Nobody looks at it any more.
    pub fn clear(&self) {
        if let Some(head) = self.0.head.take() {
            headers::recycle(head.headers);
        }
        self.release();
    }

    fn is_held(&self) -> bool {
        self.0.wanted.borrow().is_some()
    }

    /// Gives it back where the place is taken: by an earlier attempt's, which is the same.
    fn put(&self, head: Parts) -> Option<Parts> {
        let mut place = self.0.head.borrow_mut();
        if place.is_some() {
            return Some(head);
        }
        *place = Some(head);
        None
    }

    fn poll_released(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(wanted) = self.0.wanted.borrow().clone() else { return Poll::Ready(()) };
        *self.0.waiting.borrow_mut() = Some(cx.waker().clone());
        wanted.notify_one();
        Poll::Pending
    }
}

/// A request whose head may be written now: at once, unless somebody wants to look at it first.
pub(crate) async fn seen(request: Request<Body>) -> Request<Body> {
    let Some(place) = request.body().sent().filter(|place| place.is_held()).cloned() else { return request };
    let (head, body) = request.into_parts();
    // It comes back once it is written.
    let shown = place.put(head.clone()).is_none();
    poll_fn(|cx| place.poll_released(cx)).await;
    if shown {
        place.0.head.take();
    }
    Request::from_parts(head, body)
}

impl Written {
    /// Of an attempt. An earlier one's head stays: it is the same.
    pub(crate) fn new(head: Parts, place: Option<&Sent>) -> Self {
        let Some(place) = place else { return Self { own: Some(head), place: None } };
        match place.put(head) {
            None => Self { own: None, place: Some(place.clone()) },
            own => Self { own, place: None },
        }
    }

    /// For another attempt.
    pub(crate) fn back(self) -> Option<Parts> {
        self.own.or_else(|| self.place?.0.head.take())
    }

    /// It was answered.
    pub(crate) fn answered(self) {
        if let Some(head) = self.own {
            headers::recycle(head.headers);
        }
    }
}
