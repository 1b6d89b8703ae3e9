//! Connections to upstreams, per worker. In: a [`Target`] and a request. Out: the response, or a [`SendError`] that says
//! whether it is safe to repeat. HTTP/1 connections are reused newest first and come back when the response body ends;
//! HTTP/2 connections are shared, at most 64 streams each.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

pub mod error;
pub mod key;

pub use error::{SendError, SendErrorKind};
pub use key::PoolKey;

use crate::http::Body;
use crate::io::Io;

/// Where a request goes, and how. Make one per endpoint and keep it: requests only borrow it.
#[derive(Clone)]
pub struct Target {
    /// Which connections may be shared.
    pub key: PoolKey,
    /// Where to connect.
    pub address: SocketAddr,
    /// TLS, where it is used. The configuration verifies the peer's identity.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// TCP and TLS handshakes together.
    pub connect_timeout: Duration,
    /// How long a connection may lie idle.
    pub idle_timeout: Duration,
    /// How many requests a connection may carry; none means no limit.
    pub max_requests: Option<u32>,
    /// A field sent with the first request of each connection.
    pub greeting: Option<(HeaderName, HeaderValue)>,
}

/// The connections of one worker. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pool(Rc<Inner>);

#[derive(Default)]
struct Inner {}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a request and waits for the head of its answer. 1xx answers go to the client by themselves. After 101, or 2xx
    /// to CONNECT, [`Body::into_upgraded`] of the answer is the upstream's stream.
    ///
    /// # Errors
    /// [`SendErrorKind`] says what happened; the request comes back whenever nothing of it was used up.
    pub async fn send(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let _ = (&self.0, target);
        Err(SendError::new(SendErrorKind::Protocol("the HTTP client has not landed"), Some(request)))
    }

    /// A connection of its own, with TLS where the target has it: for bytes that are no HTTP.
    ///
    /// # Errors
    /// Connect and TLS errors.
    pub async fn connect_raw(&self, target: &Target) -> Result<Io, SendError> {
        let _ = (&self.0, target);
        Err(SendError::new(SendErrorKind::Protocol("the HTTP client has not landed"), None))
    }
}
