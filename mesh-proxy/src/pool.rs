//! Connections to upstreams, per worker. In: a [`Target`] and a request. Out: the response, or a [`SendError`] that says
//! whether it is safe to repeat. HTTP/1 connections are reused newest first and come back when the response body ends;
//! HTTP/2 connections are shared, at most 64 streams each.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

pub mod connect;
pub mod error;
pub mod key;
mod limited;
mod slot;
#[cfg(test)]
mod tests;

pub use connect::Source;
pub use error::{SendError, SendErrorKind};
pub use key::PoolKey;
pub use limited::{Lease, Overflow};

use crate::cluster::{ConnectionSettings, Limits, Resource};
use crate::http::{Body, Protocol, h1, h2, sent};
use crate::io::Io;
use slot::Slot;

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Where a request goes, and how. Make one per endpoint and keep it: requests only borrow it.
#[derive(Clone)]
pub struct Target {
    /// Which connections may be shared.
    pub key: PoolKey,
    /// Where to connect.
    pub address: SocketAddr,
    /// TLS, where it is used. The configuration verifies the peer's identity.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The peer is a sidecar or gateway of the mesh.
    pub mesh: bool,
    /// The address to connect from; `None`: the kernel's choice.
    pub source: Option<Source>,
    /// TCP and TLS handshakes together.
    pub connect_timeout: Duration,
    /// How long a connection may lie idle.
    pub idle_timeout: Duration,
    /// How many requests a connection may carry; none means no limit.
    pub max_requests: Option<u32>,
    /// How connections are opened and used beside that.
    pub connections: ConnectionSettings,
    /// What is counted and limited; none means no limit.
    pub limits: Option<Arc<Limits>>,
    /// A field sent with the first request of each connection.
    pub greeting: Option<(HeaderName, HeaderValue)>,
}

/// The connections of one worker. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pool(Rc<Inner>);

#[derive(Default)]
struct Inner {
    slots: RefCell<HashMap<PoolKey, Rc<Slot>, BuildHasherDefault<Hashed>>>,
    /// The sweeper runs.
    swept: Cell<bool>,
}

/// Keys bring their hash along.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a pool key writes its hash as one number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a request and waits for the head of its answer. 1xx answers go to the client by themselves. After 101, or 2xx
    /// to CONNECT, [`Body::into_upgraded`] of the answer is the upstream's stream. Needs a `LocalSet`.
    ///
    /// # Errors
    /// [`SendErrorKind`] says what happened; the request comes back whenever nothing of it was used up.
    pub async fn send(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let slot = self.slot(target);
        match target.key.protocol() {
            Protocol::Http1 => send_http1(slot, target, request).await,
            Protocol::Http2 => send_http2(slot, target, request).await,
        }
    }

    /// A connection of its own, with TLS where the target has it: for bytes that are no HTTP.
    ///
    /// # Errors
    /// Connect and TLS errors; an overflow at the limit of connections, for which bytes do not wait.
    pub async fn connect_raw(&self, target: &Target) -> Result<Io, SendError> {
        let failed = |kind| SendError::new(kind, None);
        let Some(limits) = &target.limits else { return connect::connect(target).await.map_err(failed) };
        let overflow = || failed(SendErrorKind::Overflow(Overflow::Connections));
        let here = self.slot(target).occupancy.clone();
        let lease = here.connect_strictly(limits).ok_or_else(overflow)?;
        let io = connect::connect(target).await.map_err(failed)?;
        Ok(io.counted(lease))
    }

    /// How many connections lie idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.0.slots.borrow().values().map(|slot| slot.idle()).sum()
    }

    /// How many HTTP/2 connections are open.
    #[must_use]
    pub fn shared(&self) -> usize {
        self.0.slots.borrow().values().map(|slot| slot.shared()).sum()
    }

    fn slot(&self, target: &Target) -> Rc<Slot> {
        if let Some(slot) = self.0.slots.borrow().get(&target.key) {
            slot.configure(target);
            return slot.clone();
        }
        let slot = Rc::new(Slot::default());
        slot.configure(target);
        self.0.slots.borrow_mut().insert(target.key.clone(), slot.clone());
        if !self.0.swept.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(&self.0)));
        }
        slot
    }
}

async fn send_http1(
    slot: Rc<Slot>,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let connection = match &target.limits {
        Some(limits) => limited_http1(&slot, target, limits).await,
        None => match slot.take() {
            Some(connection) => Ok(connection),
            None => connect::connect(target).await.map(h1::client::Connection::new),
        },
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(kind) => return Err(SendError::new(kind, Some(request))),
    };
    let host = || target.address.to_string();
    let mesh = target.mesh;
    let limited = target.limits.is_some().then(|| slot.clone());
    let request = sent::seen(request).await;
    let answer = h1::client::send(connection, request, target.greeting.as_ref(), host, slot, mesh).await;
    if limited.is_some_and(|slot| slot.occupancy.has_waiting()) {
        // The place that this request had is the next one's before our client hears: whoever asks again at once would
        // else find the pending one still pending, and overflow. So does Envoy, which writes after it has dialled.
        tokio::task::yield_now().await;
    }
    answer
}

/// A connection under limits, with the lease of its request.
async fn limited_http1(
    slot: &Slot,
    target: &Target,
    limits: &Arc<Limits>,
) -> Result<Box<h1::client::Connection>, SendErrorKind> {
    let here = &slot.occupancy;
    // Who waits comes first.
    let free = if here.has_waiting() { None } else { slot.take() };
    let mut connection = match free {
        Some(connection) => connection,
        None => {
            let pending = limits.enter(Resource::Pending);
            let _pending = pending.ok_or(SendErrorKind::Overflow(Overflow::Pending))?;
            loop {
                if let Some(lease) = here.connect(limits) {
                    let io = connect::connect(target).await?;
                    break h1::client::Connection::new(io.counted(lease));
                }
                here.wait().await;
                if let Some(connection) = slot.take() {
                    break connection;
                }
            }
        }
    };
    match here.request(limits) {
        Ok(lease) => connection.lease = Some(lease),
        Err(overflow) => {
            h1::client::Home::put(slot, connection);
            return Err(SendErrorKind::Overflow(overflow));
        }
    }
    Ok(connection)
}

async fn send_http2(
    slot: Rc<Slot>,
    target: &Target,
    request: Request<Body>,
) -> Result<Response<Body>, SendError> {
    let ticket = match &target.limits {
        Some(limits) => limited_http2(&slot, target, limits).await,
        None => match slot.ticket() {
            Some(ticket) => Ok(ticket),
            None => {
                let _opening = slot.opening.lock().await;
                // Whoever was before us may have opened one with room.
                match slot.ticket() {
                    Some(ticket) => Ok(ticket),
                    None => open_http2(target, None).await.map(|connection| slot.share(connection)),
                }
            }
        },
    };
    let ticket = match ticket {
        Ok(ticket) => ticket,
        Err(kind) => return Err(SendError::new(kind, Some(request))),
    };
    let fallback = target.address.to_string();
    ticket.send(request, target.mesh, &fallback, target.greeting.as_ref()).await
}

/// A place on a shared connection under limits, with the lease of its request.
async fn limited_http2(
    slot: &Slot,
    target: &Target,
    limits: &Arc<Limits>,
) -> Result<h2::client::Ticket, SendErrorKind> {
    let here = &slot.occupancy;
    let free = if here.has_waiting() { None } else { slot.ticket() };
    let ticket = match free {
        Some(ticket) => ticket,
        None => {
            let pending = limits.enter(Resource::Pending);
            let _pending = pending.ok_or(SendErrorKind::Overflow(Overflow::Pending))?;
            loop {
                let opening = slot.opening.lock().await;
                if let Some(ticket) = slot.ticket() {
                    break ticket;
                }
                if let Some(lease) = here.connect(limits) {
                    break slot.share(open_http2(target, Some(lease)).await?);
                }
                drop(opening);
                here.wait().await;
            }
        }
    };
    // A ticket that is dropped gives its place back.
    let lease = here.request(limits).map_err(SendErrorKind::Overflow)?;
    Ok(ticket.leased(lease))
}

async fn open_http2(target: &Target, lease: Option<Lease>) -> Result<h2::client::Connection, SendErrorKind> {
    let io = connect::connect(target).await?;
    let io = match lease {
        Some(lease) => io.counted(lease),
        None => io,
    };
    if io.is_tls() && io.alpn().is_some_and(|alpn| !alpn.ends_with(b"h2")) {
        return Err(SendErrorKind::Tls("the upstream chose another protocol than HTTP/2".to_owned()));
    }
    h2::client::Connection::open(io).await
}

/// Closes what was idle for too long or was closed by its upstream, and forgets unused keys. Ends with the pool.
async fn sweep(pool: Weak<Inner>) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        let mut slots = pool.slots.borrow_mut();
        slots.retain(|_, slot| {
            slot.sweep();
            // Somebody else holds it while a request is under way.
            !slot.is_empty() || Rc::strong_count(slot) > 1
        });
        if slots.is_empty() {
            pool.swept.set(false);
            return;
        }
    }
}
