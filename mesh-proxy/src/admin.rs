//! The proxy's HTTP servers for people and probes, on the control thread.
//!
//! In: closures and a drain handle that the app gives. Out: `/healthz/ready` (status), `/stats/prometheus` (metrics),
//! `/config_dump`, `/clusters`, `/certs`, `/ready`, `/stats`, `/drain` (admin, on loopback only), and in a pod what the kubelet asks
//! ([`agent`]).

pub mod agent;
mod endpoints;
#[cfg(test)]
mod tests;
pub mod wait;

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

/// People, probes and scrapers are few; a leak of theirs must not take the proxy's descriptors. In a pod everybody in the
/// cluster can connect, and must not keep the kubelet out.
const MAX_CONNECTIONS: usize = 512;
/// A head that takes longer isn't coming; also ends idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
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
    /// For `/clusters`.
    pub clusters: Document,
    /// For `/drain`.
    pub drain: Box<dyn Drain>,
    /// What belongs to a pod.
    pub agent: Option<agent::Agent>,
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
    /// `/healthz/ready`, `/app-health/`, `/drain/<token>`, `/stats/prometheus`, `/quitquitquit`
    pub agent: Option<SocketAddr>,
}

/// The servers, bound but not yet serving.
#[derive(Debug)]
pub struct Servers {
    listeners: Vec<(Role, TcpListener)>,
}

/// Why the servers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Whoever reaches the admin endpoints is not authenticated.
    #[error("{role} address {address} is not on loopback")]
    NotLoopback {
        /// `admin`.
        role: &'static str,
        /// As configured.
        address: SocketAddr,
    },
    /// The system refused it.
    #[error("cannot listen on {role} address {address}: {source}")]
    Listen {
        /// `status`, `metrics`, `admin` or `agent`.
        role: &'static str,
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Servers {
    /// Binds all of them.
    ///
    /// # Errors
    /// When the admin's address is not on loopback, or one cannot be bound.
    pub async fn bind(addresses: &Addresses) -> Result<Self, BindError> {
        let wanted = [
            (Role::Status, addresses.status),
            (Role::Metrics, addresses.metrics),
            (Role::Admin, addresses.admin),
        ];
        let mut listeners = Vec::new();
        for (role, at) in wanted.into_iter().chain(addresses.agent.map(|at| (Role::Agent, at))) {
            listeners.push((role, listen(role, at).await?));
        }
        Ok(Self { listeners })
    }

    /// Where they listen, for configured ports of 0.
    #[must_use]
    pub fn addresses(&self) -> Option<Addresses> {
        let of = |role| {
            let listener = &self.listeners.iter().find(|(of, _)| *of == role)?.1;
            listener.local_addr().ok()
        };
        Some(Addresses {
            status: of(Role::Status)?,
            metrics: of(Role::Metrics)?,
            admin: of(Role::Admin)?,
            agent: of(Role::Agent),
        })
    }

    /// Serves until dropped.
    pub async fn serve(self, sources: Arc<Sources>) {
        let serve = |(role, listener)| accept(role, listener, sources.clone());
        futures_util::future::join_all(self.listeners.into_iter().map(serve)).await;
    }
}

async fn listen(role: Role, address: SocketAddr) -> Result<TcpListener, BindError> {
    let (is_admin, role) = (role == Role::Admin, role.name());
    if is_admin && !address.ip().is_loopback() {
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
            Ok((stream, peer)) => {
                connections.spawn(serve_connection(role, stream, peer, sources.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, role = role.name(), "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(role: Role, stream: TcpStream, peer: SocketAddr, sources: Arc<Sources>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let sources = sources.clone();
        async move { Ok::<_, Infallible>(endpoints::answer(role, peer, &request, &sources).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, role = role.name(), "connection failed");
    }
}
