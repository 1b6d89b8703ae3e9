//! Opens connections: TCP, then TLS where the target has it.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::io::Io;
use crate::pool::{SendErrorKind, Target};

/// Connects within the target's time.
pub(super) async fn connect(target: &Target) -> Result<Io, SendErrorKind> {
    match tokio::time::timeout(target.connect_timeout, handshakes(target)).await {
        Ok(result) => result,
        Err(_) => Err(SendErrorKind::ConnectTimeout),
    }
}

async fn handshakes(target: &Target) -> Result<Io, SendErrorKind> {
    let tcp = TcpStream::connect(target.address)
        .await
        .and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))
        .map_err(|error| SendErrorKind::ConnectFailed(error.kind()))?;
    let Some((config, name)) = &target.tls else { return Ok(Io::Plain(tcp)) };
    let connector = TlsConnector::from(config.clone());
    match connector.connect(name.clone(), tcp).await {
        Ok(tls) => Ok(Io::Client(Box::new(tls))),
        Err(error) => Err(SendErrorKind::Tls(tls_text(&error))),
    }
}

/// The verifier's own words, without the layers around them.
fn tls_text(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) => {
            other.0.to_string()
        }
        Some(tls) => tls.to_string(),
        None => error.to_string(),
    }
}
