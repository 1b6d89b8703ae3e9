//! A request's head once it is written: whoever has let it in may look at it again for as long as the request is under way.
//!
//! In: the head, from the codec that has no more use for it. Out: the same one, to look at, or back for another attempt. It
//! is moved, never copied.

use std::cell::RefCell;
use std::rc::Rc;

use http::request::Parts;

use crate::http::headers;

/// The place of one request's head; it travels with the request's body.
#[derive(Clone, Default)]
pub struct Sent(Rc<RefCell<Option<Parts>>>);

/// A head that is written: there, or where it is of use to nobody else, here.
pub(crate) struct Written {
    own: Option<Parts>,
    place: Option<Sent>,
}

impl Sent {
    /// What `f` sees in it; none: it is not written yet.
    pub fn look<T>(&self, f: impl FnOnce(&Parts) -> T) -> Option<T> {
        self.0.borrow().as_ref().map(f)
    }

    /// Nobody looks at it any more.
    pub fn clear(&self) {
        if let Some(head) = self.0.take() {
            headers::recycle(head.headers);
        }
    }
}

impl Written {
    /// Of an attempt. An earlier one's head stays: it is the same.
    pub(crate) fn new(head: Parts, place: Option<&Sent>) -> Self {
        match place {
            Some(place) if place.0.borrow().is_none() => {
                *place.0.borrow_mut() = Some(head);
                Self { own: None, place: Some(place.clone()) }
            }
            _ => Self { own: Some(head), place: None },
        }
    }

    /// For another attempt.
    pub(crate) fn back(self) -> Option<Parts> {
        self.own.or_else(|| self.place?.0.take())
    }

    /// It was answered.
    pub(crate) fn answered(self) {
        if let Some(head) = self.own {
            headers::recycle(head.headers);
        }
    }
}
