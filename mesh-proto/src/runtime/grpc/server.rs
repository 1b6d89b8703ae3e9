//! The server's side: our own accept loop over TLS, hyper's HTTP/2, tonic's routes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

use super::{CONNECTION_WINDOW, KEEPALIVE, KEEPALIVE_TIMEOUT, PeerAddress, PeerIdentity, STREAM_WINDOW};
use crate::runtime::{drain, tls};

/// The bounds of a server.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Connections at the same time; more wait in the listen queue.
    pub connections: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// Requests at the same time on one connection.
    pub streams: u32,
    /// The longest life of a connection that showed no certificate: strangers hold no slot for long, whether they ask for
    /// something or stay silent after the handshake.
    pub anonymous: Duration,
    /// How long open requests get to end once the connection is told to close.
    pub grace: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            connections: 20_000,
            handshake: Duration::from_secs(10),
            streams: 200,
            anonymous: Duration::from_secs(60),
            grace: Duration::from_secs(5),
        }
    }
}

/// Serves `routes` until the drain starts and every connection is done. No error of accepting or of a connection ends it.
pub async fn serve(listener: TcpListener, config: Arc<ServerConfig>, routes: Routes, drain: drain::Watch) {
    serve_with(ServeSettings::default(), listener, config, routes, drain).await;
}

/// [`serve`] with other bounds.
pub async fn serve_with(
    settings: ServeSettings,
    listener: TcpListener,
    config: Arc<ServerConfig>,
    routes: Routes,
    drain: drain::Watch,
) {
    let slots = Arc::new(Semaphore::new(settings.connections));
    let server = Arc::new(Server { settings, acceptor: TlsAcceptor::from(config), routes: routes.prepare() });
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await.expect("never closed");
            (accept(&listener).await, slot)
        };
        let ((stream, peer), slot) = tokio::select! {
            () = drain.draining() => break,
            next = next => next,
        };
        tokio::spawn(server.clone().connection(stream, peer, slot, drain.clone()));
    }
    drop(listener);
    let all = u32::try_from(server.settings.connections).unwrap_or(u32::MAX);
    // Every connection gives its slot back when it is done; each is bounded by the grace.
    let _ = slots.acquire_many(all).await;
}

/// The next connection, whatever happens to others: an error (no descriptors left, the peer is gone again) passes.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

struct Server {
    settings: ServeSettings,
    acceptor: TlsAcceptor,
    routes: Routes,
}

impl Server {
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        _slot: OwnedSemaphorePermit,
        drain: drain::Watch,
    ) {
        let handshake = tokio::time::timeout(self.settings.handshake, self.handshake(stream));
        let handshake = tokio::select! {
            () = drain.draining() => return,
            done = handshake => done,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::info!(peer = %address, error = tls::explain(&error), "TLS handshake failed");
                return;
            }
            Err(_) => {
                tracing::info!(peer = %address, "TLS handshake timed out");
                return;
            }
        };
        self.requests(stream, address, &drain).await;
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        self.acceptor.accept(stream).await
    }

    async fn requests(&self, stream: TlsStream<TcpStream>, address: SocketAddr, drain: &drain::Watch) {
        let peer = match stream.get_ref().1.peer_certificates().map(tls::peer) {
            None => None,
            Some(Ok(peer)) => Some(peer),
            // The verifier has read the same bytes; refuse rather than reason.
            Some(Err(error)) => {
                return tracing::warn!(peer = %address, %error, "certificate without identity");
            }
        };
        // A connection ends with the certificate that opened it.
        let life = match &peer {
            Some(peer) => peer.not_after.duration_since(SystemTime::now()).unwrap_or_default(),
            None => self.settings.anonymous,
        };
        let facts = (PeerIdentity(peer.map(|p| p.id)), PeerAddress(address));
        let routes = self.routes.clone();
        let service = hyper::service::service_fn(move |request| call(routes.clone(), facts.clone(), request));
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_concurrent_streams(self.settings.streams)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = drain.draining() => None,
            () = tokio::time::sleep(life) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(self.settings.grace, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return tracing::debug!(peer = %address, "connection closed with open requests"),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %address, %error, "connection ended");
        }
    }
}

async fn call(
    routes: Routes,
    (identity, address): (PeerIdentity, PeerAddress),
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(identity);
    request.extensions_mut().insert(address);
    let mut routes = routes;
    match ServiceExt::<Request<Body>>::ready(&mut routes).await {
        Ok(ready) => match ready.call(request).await {
            Ok(response) => Ok(response),
            Err(error) => Ok(tonic::Status::internal(error.to_string()).into_http()),
        },
        Err(error) => Ok(tonic::Status::unavailable(error.to_string()).into_http()),
    }
}
