//! The proxy's HTTP servers for people and probes, on the control thread and on loopback only.
//!
//! In: closures and a drain handle that the app gives. Out: `/healthz/ready` (status), `/stats/prometheus` (metrics),
//! `/config_dump`, `/certs`, `/ready`, `/stats`, `/drain` (admin).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;

/// What asks the process to drain.
pub trait Drain: Send + Sync {
    /// Starts draining (again: joins the drain that runs). Ends with `true` when nothing is in flight any more, with
    /// `false` when `limit` has passed first.
    fn drain(&self, limit: Option<Duration>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// Whether the process is ready; if not, why.
pub type Readiness = Box<dyn Fn() -> Result<(), String> + Send + Sync>;
/// A document made when it is asked for.
pub type Document = Box<dyn Fn() -> Value + Send + Sync>;

/// What the endpoints show.
pub struct Sources {
    /// For `/healthz/ready` and `/ready`.
    pub ready: Readiness,
    /// For `/stats/prometheus`.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// For `/config_dump`.
    pub config_dump: Document,
    /// For `/certs`.
    pub certs: Document,
    /// For `/stats`.
    pub stats: Document,
    /// For `/drain`.
    pub drain: Box<dyn Drain>,
}

/// Where the servers listen. Only loopback addresses are accepted.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// `/healthz/ready`
    pub status: SocketAddr,
    /// `/stats/prometheus`
    pub metrics: SocketAddr,
    /// `/config_dump`, `/certs`, `/ready`, `/stats`, `/drain`
    pub admin: SocketAddr,
}

/// The servers, bound but not yet serving.
#[derive(Debug)]
pub struct Servers {
    listeners: [TcpListener; 3],
}

impl Servers {
    /// Binds all three.
    ///
    /// # Errors
    /// When an address is not on loopback, or cannot be bound.
    pub async fn bind(addresses: &Addresses) -> io::Result<Self> {
        let _ = addresses;
        unimplemented!("lands with the endpoints")
    }

    /// Serves until dropped.
    pub async fn serve(self, sources: Arc<Sources>) {
        let _ = (self.listeners, sources);
        unimplemented!("lands with the endpoints")
    }
}
