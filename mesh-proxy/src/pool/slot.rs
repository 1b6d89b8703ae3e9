//! The connections of one key.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::http::h1::client::{Connection, Home};
use crate::http::h2;
use crate::pool::Target;
use crate::pool::limited::Occupancy;

/// Idle HTTP/1 connections, newest last, and shared HTTP/2 connections.
pub(super) struct Slot {
    /// The time of the last sweep: exact enough for idleness, and no clock is read per request.
    now: Cell<Instant>,
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<h2::client::Connection>>,
    /// Held while a connection is opened: those who come meanwhile may share it.
    pub(super) opening: tokio::sync::Mutex<()>,
    idle_timeout: Cell<Duration>,
    max_requests: Cell<Option<u32>>,
    max_streams: Cell<Option<u32>>,
    /// Used where there are limits.
    pub(super) occupancy: Rc<Occupancy>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            now: Cell::new(Instant::now()),
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
            idle_timeout: Cell::default(),
            max_requests: Cell::default(),
            max_streams: Cell::default(),
            occupancy: Rc::default(),
        }
    }
}

impl Slot {
    /// Takes over the limits of a target.
    pub(super) fn configure(&self, target: &Target) {
        self.idle_timeout.set(target.idle_timeout);
        self.max_requests.set(target.max_requests);
        self.max_streams.set(target.connections.max_streams.map(Into::into));
    }

    /// The newest idle connection that is still usable.
    pub(super) fn take(&self) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut connection, since }) = idle.pop() {
            if self.now.get().saturating_duration_since(since) >= self.idle_timeout.get() {
                // All others are older.
                idle.clear();
                return None;
            }
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    /// A place on a shared connection, the fullest that has room.
    pub(super) fn ticket(&self) -> Option<h2::client::Ticket> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|c| !c.is_closed());
        let (max, streams) = (self.max_requests.get(), self.max_streams.get());
        shared.iter().find(|c| c.has_room(max, streams)).map(h2::client::Connection::ticket)
    }

    /// Adds a shared connection and takes a place on it.
    pub(super) fn share(&self, connection: h2::client::Connection) -> h2::client::Ticket {
        let ticket = connection.ticket();
        self.shared.borrow_mut().push(connection);
        ticket
    }

    /// How many connections are shared.
    pub(super) fn shared(&self) -> usize {
        self.shared.borrow().len()
    }

    /// How many connections lie idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether it holds no connection.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    /// Closes what lies idle for too long, and what its upstream closed.
    pub(super) fn sweep(&self) {
        let timeout = self.idle_timeout.get();
        let now = Instant::now();
        self.now.set(now);
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|i| now.duration_since(i.since) < timeout && i.connection.is_usable());
        idle.shrink_to_fit();
        let max = self.max_requests.get();
        self.shared.borrow_mut().retain(|c| {
            let spent = max.is_some_and(|max| c.requests() >= max) && c.active() == 0;
            !c.is_closed() && !spent && c.idle_since().is_none_or(|since| since.elapsed() < timeout)
        });
    }
}

impl Home for Slot {
    fn put(&self, mut connection: Box<Connection>) {
        connection.lease = None;
        if self.max_requests.get().is_none_or(|max| connection.requests() < max) {
            self.idle.borrow_mut().push(Idle { connection, since: self.now.get() });
            self.occupancy.free();
        }
    }
}
