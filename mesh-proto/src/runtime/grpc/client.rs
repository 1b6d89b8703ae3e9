//! The client's side: a lazy channel over our own connector.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{CONNECTION_WINDOW, KEEPALIVE, KEEPALIVE_TIMEOUT, STREAM_WINDOW};
use crate::runtime::tls;

/// How long connecting and the handshake may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A channel to `address` (`host:port`). It connects when it is first used, and again after every loss; each handshake
/// uses the newest leaf and roots. The error of a failed handshake names both identities.
///
/// # Errors
/// When `address` is not `host:port`.
pub fn channel(address: &str, config: Arc<ClientConfig>) -> Result<Channel, io::Error> {
    let invalid =
        |why: String| io::Error::new(io::ErrorKind::InvalidInput, format!("address {address:?}: {why}"));
    if address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(invalid("not host:port".to_owned()));
    }
    // TLS is the connector's affair, so tonic is told plain http.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| invalid(e.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let address: Arc<str> = Arc::from(address);
    Ok(endpoint
        .connect_with_connector_lazy(tower::service_fn(move |_| connect(address.clone(), config.clone()))))
}

async fn connect(
    address: Arc<str>,
    config: Arc<ClientConfig>,
) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let told = |e: &io::Error| io::Error::new(e.kind(), format!("{address}: {}", tls::explain(e)));
    let stream = TcpStream::connect(&*address).await.map_err(|e| told(&e))?;
    stream.set_nodelay(true)?;
    let stream =
        TlsConnector::from(config).connect(tls::server_name(&address), stream).await.map_err(|e| told(&e))?;
    Ok(TokioIo::new(stream))
}
