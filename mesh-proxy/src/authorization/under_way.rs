//! Requests that are under way, so that they can be decided again.
//!
//! In: each of them, with what it was let in by. Out: [`UnderWay::revise`] says which one would not be let in any more: it is
//! denied where its answer has not begun, else cut off, or its tunnel ended. One that somebody is to be asked about by now
//! (CUSTOM) who was not asked when it began ends too: it comes again, and he is asked.
//!
//! Streams of HTTP/2 and tunnels are registered one by one. A connection of HTTP/1 carries one request at a time: it is
//! registered once, and what it carries is moved into its place ([`Present`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::request::Parts;
use http::{Version, header};
use tokio::sync::Notify;

mod admission;
mod present;
mod told;

pub use self::admission::{Admission, Now};
pub use self::present::Place;
use self::present::{Present, Settled};
pub use self::told::{Told, while_allowed};
use crate::http::{Body, BodyError};
use crate::respond::{External as Refusal, Failure};
use crate::store::SelfConfig;

/// For a request that somebody is to be asked about who was not: most have ended by then. What is acknowledged is in force
/// within a second.
const GRACE: Duration = Duration::from_millis(500);
const UNASKED: &str = "it began before anybody was to be asked about it";

/// Those of one worker.
#[derive(Default)]
pub struct UnderWay(Rc<Inner>);

#[derive(Default)]
struct Inner {
    next: Cell<u64>,
    /// Streams and tunnels.
    requests: RefCell<HashMap<u64, Asked>>,
    /// Connections of HTTP/1.
    connections: RefCell<HashMap<u64, Rc<Present>>>,
    /// By which settings all of them were decided last.
    decided: RefCell<Option<Arc<SelfConfig>>>,
    /// How many settings those have been.
    round: Cell<u64>,
    /// What could not be decided by them yet: its head was on its way.
    unsettled: RefCell<Vec<Rc<Present>>>,
    /// Told when it can.
    wanted: Rc<Notify>,
}

/// A stream or tunnel.
struct Asked {
    by: Admission,
    /// Its head, as policies have seen it.
    head: Parts,
    told: Rc<Told>,
}

/// One request's leave to go on; it is not looked at any more when this is dropped.
pub struct Permit {
    told: Rc<Told>,
    of: Of,
}

enum Of {
    Own(u64, Rc<Inner>),
    Connection(Rc<Present>),
}

/// Whether a request is registered by itself: one of several at a time, or one that outlives its connection's HTTP.
#[must_use]
pub fn is_own(head: &Parts) -> bool {
    head.version == Version::HTTP_2 || head.headers.contains_key(header::UPGRADE)
}

impl UnderWay {
    /// Remembers a request that has been let in, one that [`is_own`].
    #[must_use]
    pub fn admit(&self, by: Admission, head: &Parts) -> Permit {
        let id = self.0.id();
        let told = Rc::<Told>::default();
        let asked = Asked { by, head: head.clone(), told: told.clone() };
        self.0.requests.borrow_mut().insert(id, asked);
        Permit { told, of: Of::Own(id, self.0.clone()) }
    }

    /// A connection's place for the request that it carries.
    #[must_use]
    pub fn connect(&self) -> Place {
        let (id, present) = (self.0.id(), Rc::<Present>::default());
        self.0.connections.borrow_mut().insert(id, present.clone());
        Place::new(id, self.0.clone(), present)
    }

    /// Ends those that would not be let in now; says how many. By settings that are known already only what could not be
    /// decided by them is looked at.
    pub fn revise(&self, now: &Now<'_>) -> usize {
        let unsettled = self.0.unsettled.take();
        if self.0.is_decided_by(now.config) {
            return self.revise_all(unsettled.iter(), now);
        }
        self.0.round.set(self.0.round.get() + 1);
        *self.0.decided.borrow_mut() = Some(now.config.clone());
        let mut ended = 0;
        for asked in self.0.requests.borrow_mut().values_mut().filter(|asked| asked.told.is_allowed()) {
            if let Some(failure) = asked.by.decide(&asked.head, now) {
                asked.told.deny(failure);
            } else if asked.by.is_unasked_now(&asked.head, now.config) {
                asked.end();
            } else {
                continue;
            }
            ended += 1;
        }
        ended + self.revise_all(self.0.connections.borrow().values(), now)
    }

    fn revise_all<'a>(&self, all: impl Iterator<Item = &'a Rc<Present>>, now: &Now<'_>) -> usize {
        let mut ended = 0;
        for present in all {
            match present.revise(now, &self.0) {
                Settled::Goes => {}
                Settled::Ended => ended += 1,
                Settled::NotYet => self.0.unsettled.borrow_mut().push(present.clone()),
            }
        }
        ended
    }

    /// Resolves when a request could not be decided again, because its head was on its way, and now can be: it is not
    /// written before it was.
    pub async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// Ends everything that is under way on connections that have ended.
    pub fn end(&self) {
        for asked in self.0.requests.borrow().values().filter(|asked| asked.told.is_allowed()) {
            if let Some(failure) = asked.by.connection.ended.failure() {
                asked.told.deny(failure);
            }
        }
        self.0.connections.borrow().values().for_each(|present| present.end_with_connection());
    }

    /// How many there are, but for those of HTTP/1 that become no tunnels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.requests.borrow().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn is_decided_by(&self, config: &Arc<SelfConfig>) -> bool {
        self.decided.borrow().as_ref().is_some_and(|by| Arc::ptr_eq(by, config))
    }

    fn id(&self) -> u64 {
        let id = self.next.get();
        self.next.set(id + 1);
        id
    }
}

impl Asked {
    /// A tunnel has no end of its own, an ordinary request is given a little time for it.
    fn end(&self) {
        if self.head.headers.contains_key(header::UPGRADE) {
            return self.told.deny(unasked());
        }
        let told = self.told.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(GRACE).await;
            told.deny(unasked());
        });
    }
}

fn unasked() -> Failure {
    Failure::External(Refusal::CannotAsk(UNASKED.to_owned()))
}

impl Permit {
    /// Where it is told.
    #[must_use]
    pub fn told(&self) -> Rc<Told> {
        self.told.clone()
    }

    /// For the codec that writes an answer: ready when it is to be cut off.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<BodyError> {
        self.told.poll(cx).map(|failure| BodyError::Aborted(failure.to_string().into()))
    }

    /// Sees to it that the head of the request with this body can be looked at later.
    pub fn follow(&self, body: &mut Body) {
        if let Of::Connection(present) = &self.of {
            body.set_sent(present.head().clone());
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match &self.of {
            Of::Own(id, all) => drop(all.requests.borrow_mut().remove(id)),
            Of::Connection(present) => present.leave(),
        }
    }
}
