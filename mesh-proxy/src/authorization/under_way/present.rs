//! The request that a connection of HTTP/1 carries at present. Nothing of it is copied: its head comes here once it is written
//! ([`Sent`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Admission, GRACE, Inner, Now, Of, Permit, Told, unasked};
use crate::authorization::Connection;
use crate::http::Sent;

/// A connection's place, until it is dropped.
pub struct Place {
    id: u64,
    of: Rc<Inner>,
    present: Rc<Present>,
}

/// What is in it.
pub(super) struct Present {
    by: RefCell<Option<Admission>>,
    head: Sent,
    told: Rc<Told>,
    /// How many there have been.
    number: Cell<u64>,
}

/// What came of deciding a request again.
pub(super) enum Settled {
    /// It goes on, or there is none.
    Goes,
    /// It is told to end.
    Ended,
    /// Its head is not written yet.
    NotYet,
}

impl Place {
    pub(super) fn new(id: u64, of: Rc<Inner>, present: Rc<Present>) -> Self {
        Self { id, of, present }
    }

    /// Remembers the request that has been let in.
    #[must_use]
    pub fn admit(&self, by: Admission) -> Permit {
        let present = self.present.clone();
        present.leave();
        present.told.allow();
        present.number.set(present.number.get() + 1);
        *present.by.borrow_mut() = Some(by);
        Permit { told: present.told.clone(), of: Of::Connection(present) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.connections.borrow_mut().remove(&self.id);
    }
}

impl Default for Present {
    fn default() -> Self {
        Self {
            by: RefCell::default(),
            head: Sent::default(),
            told: Rc::new(Told::by_codec()),
            number: Cell::default(),
        }
    }
}

impl Present {
    pub(super) fn head(&self) -> &Sent {
        &self.head
    }

    pub(super) fn told(&self) -> &Told {
        &self.told
    }

    /// Whether it carries a request of `connection` that is allowed.
    pub(super) fn is_of(&self, connection: &Rc<Connection>) -> bool {
        let of = |by: &Admission| Rc::ptr_eq(&by.connection, connection);
        self.told.is_allowed() && self.by.borrow().as_ref().is_some_and(of)
    }

    /// The request is over.
    pub(super) fn leave(&self) {
        self.by.take();
        self.head.clear();
    }

    pub(super) fn revise(self: &Rc<Self>, now: &Now<'_>) -> Settled {
        let mut by = self.by.borrow_mut();
        let Some(by) = by.as_mut().filter(|_| self.told.is_allowed()) else { return Settled::Goes };
        let settled = self.head.look(|head| {
            if let Some(failure) = by.decide(head, now) {
                self.told.deny(failure);
                Settled::Ended
            } else if by.is_unasked_now(head, now.config) {
                self.end();
                Settled::Ended
            } else {
                Settled::Goes
            }
        });
        settled.unwrap_or(Settled::NotYet)
    }

    /// It is given a little time for an end of its own; what comes after it was asked about.
    fn end(self: &Rc<Self>) {
        let (present, number) = (self.clone(), self.number.get());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(GRACE).await;
            if present.number.get() == number && present.by.borrow().is_some() {
                present.told.deny(unasked());
            }
        });
    }
}
