//! The proxy's HTTP servers for people and probes, on the control thread and on loopback only.
//!
//! In: closures and a drain handle that the app gives. Out: `/healthz/ready` (status), `/stats/prometheus` (metrics),
//! `/config_dump`, `/certs`, `/ready`, `/stats`, `/drain` (admin).

mod endpoints;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use endpoints::Role;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// People, probes and scrapers are few; a leak of theirs must not take the proxy's descriptors.
const MAX_CONNECTIONS: usize = 64;
/// A head that takes longer isn't coming; also ends idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

/// Where the servers listen.
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
    listeners: [(Role, TcpListener); 3],
}

/// Why the servers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Whoever reaches these endpoints is not authenticated.
    #[error("{role} address {address} is not on loopback")]
    NotLoopback {
        /// `status`, `metrics` or `admin`.
        role: &'static str,
        /// As configured.
        address: SocketAddr,
    },
    /// The system refused it.
    #[error("cannot listen on {role} address {address}: {source}")]
    Listen {
        /// `status`, `metrics` or `admin`.
        role: &'static str,
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Servers {
    /// Binds all three.
    ///
    /// # Errors
    /// When an address is not on loopback, or cannot be bound.
    pub async fn bind(addresses: &Addresses) -> Result<Self, BindError> {
        Ok(Self {
            listeners: [
                (Role::Status, listen(Role::Status, addresses.status).await?),
                (Role::Metrics, listen(Role::Metrics, addresses.metrics).await?),
                (Role::Admin, listen(Role::Admin, addresses.admin).await?),
            ],
        })
    }

    /// Where they listen, for configured ports of 0.
    #[must_use]
    pub fn addresses(&self) -> Option<Addresses> {
        let mut addresses = self.listeners.iter().map(|(_, listener)| listener.local_addr().ok());
        let mut next = || addresses.next().flatten();
        Some(Addresses { status: next()?, metrics: next()?, admin: next()? })
    }

    /// Serves until dropped.
    pub async fn serve(self, sources: Arc<Sources>) {
        let servers = self.listeners.map(|(role, listener)| accept(role, listener, sources.clone()));
        futures_util::future::join_all(servers).await;
    }
}

async fn listen(role: Role, address: SocketAddr) -> Result<TcpListener, BindError> {
    let role = role.name();
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback { role, address });
    }
    TcpListener::bind(address).await.map_err(|source| BindError::Listen { role, address, source })
}

/// Takes connections, a bounded number at a time; all of them end with this future.
async fn accept(role: Role, listener: TcpListener, sources: Arc<Sources>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(role, stream, sources.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, role = role.name(), "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(role: Role, stream: TcpStream, sources: Arc<Sources>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let sources = sources.clone();
        async move { Ok::<_, Infallible>(endpoints::answer(role, &request, &sources).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, role = role.name(), "connection failed");
    }
}
