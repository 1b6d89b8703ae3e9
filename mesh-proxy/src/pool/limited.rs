//! Connections under limits: how many, and who waits for one (Envoy's connection pool under its circuit breakers).
//!
//! In: a target with limits. Out: a connection, a wait for one, or [`Overflow`]. A request that finds no free connection is
//! pending, also while one is being opened for it; beyond `http1MaxPendingRequests` it is refused at once. At
//! `maxConnections` it waits for a connection of its own pool; a pool (a worker's, to one endpoint) that has none may always
//! open one, so that nothing waits for ever.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::cluster::{Limits, Permit, Resource};

/// Which limit has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// `tcp.maxConnections`
    Connections,
    /// `http.http1MaxPendingRequests`
    Pending,
    /// `http.http2MaxRequests`
    Requests,
}

impl Overflow {
    /// The field of a DestinationRule's connectionPool.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Connections => "tcp.maxConnections",
            Self::Pending => "http.http1MaxPendingRequests",
            Self::Requests => "http.http2MaxRequests",
        }
    }
}

/// One pool's own connections.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    open: Cell<usize>,
    waiting: Cell<usize>,
    /// A connection or a place on one is free, or a connection is gone.
    freed: Notify,
}

impl Occupancy {
    /// Whether requests wait: who comes later has to wait behind them.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Wakes one that waits.
    pub(super) fn free(&self) {
        if self.has_waiting() {
            self.freed.notify_one();
        }
    }

    /// Room for one more connection, if the limit or an empty pool allows it.
    pub(super) fn connect(self: &Rc<Self>, limits: &Arc<Limits>) -> Option<Lease> {
        let within = self.connect_strictly(limits);
        if within.is_some() || self.open.get() > 0 {
            return within;
        }
        self.open.set(1);
        let permit = limits.enter_anyway(Resource::Connections);
        Some(Lease { here: self.clone(), connection: true, _permit: permit })
    }

    /// Room for one more connection within the limit.
    pub(super) fn connect_strictly(self: &Rc<Self>, limits: &Arc<Limits>) -> Option<Lease> {
        let permit = limits.enter(Resource::Connections)?;
        self.open.set(self.open.get() + 1);
        Some(Lease { here: self.clone(), connection: true, _permit: permit })
    }

    /// Room for one more request on a connection.
    pub(super) fn request(self: &Rc<Self>, limits: &Arc<Limits>) -> Result<Lease, Overflow> {
        let permit = limits.enter(Resource::Requests).ok_or(Overflow::Requests)?;
        Ok(Lease { here: self.clone(), connection: false, _permit: permit })
    }

    /// Waits until something may be free.
    pub(super) async fn wait(&self) {
        let _waiting = Waiting::new(self);
        self.freed.notified().await;
    }
}

/// One that waits, until it is dropped.
struct Waiting<'a>(&'a Occupancy);

impl<'a> Waiting<'a> {
    fn new(here: &'a Occupancy) -> Self {
        here.waiting.set(here.waiting.get() + 1);
        Self(here)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// A connection or request that counts as long as it lives.
#[derive(Debug)]
pub struct Lease {
    here: Rc<Occupancy>,
    connection: bool,
    _permit: Permit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection {
            self.here.open.set(self.here.open.get() - 1);
        }
        self.here.free();
    }
}
