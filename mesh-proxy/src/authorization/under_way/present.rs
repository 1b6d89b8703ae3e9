//! The request that a connection of HTTP/1 carries at present. Nothing of it is copied: its head comes here once it is written
//! ([`Sent`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Admission, GRACE, Inner, Now, Of, Permit, Told, unasked};
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
    /// In which round it was decided last ([`Inner`]).
    round: Cell<u64>,
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
        present.round.set(self.of.round.get());
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
            round: Cell::default(),
        }
    }
}

impl Present {
    pub(super) fn head(&self) -> &Sent {
        &self.head
    }

    /// Denies the request where its connection has ended.
    pub(super) fn end_with_connection(&self) {
        let by = self.by.borrow();
        let ended = by.as_ref().and_then(|by| by.connection.ended.failure());
        if let Some(failure) = ended.filter(|_| self.told.is_allowed()) {
            self.told.deny(failure);
        }
    }

    /// The request is over.
    pub(super) fn leave(&self) {
        self.by.take();
        self.head.clear();
    }

    pub(super) fn revise(self: &Rc<Self>, now: &Now<'_>, of: &Inner) -> Settled {
        let mut by = self.by.borrow_mut();
        let is_due = self.told.is_allowed() && self.round.get() != of.round.get();
        let Some(by) = by.as_mut().filter(|_| is_due) else {
            self.head.release();
            return Settled::Goes;
        };
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
        let Some(settled) = settled else {
            self.head.hold(of.wanted.clone());
            return Settled::NotYet;
        };
        self.round.set(of.round.get());
        self.head.release();
        settled
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
