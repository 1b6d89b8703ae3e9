//! The bundle endpoint: `GET /` over TLS, for other trust domains. Everybody may read it: roots are no secret.
//!
//! With our own SPIFFE certificate (profile `https_spiffe`: the endpoint's identity is the authority's), or with one of the
//! Web's from files, read again for each connection (profile `https_web`).

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_proto::runtime::identity::read_certificates;
use mesh_proto::runtime::tls::{ClientAuth, explain, server_config};
use mesh_proto::runtime::{crypto, drain};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::document;
use crate::keeper::Keeper;

/// How long a handshake, and the head of a request, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may live: an answer is one small document.
const LIFE: Duration = Duration::from_secs(60);
/// Connections at the same time; more wait to be accepted.
const CONNECTIONS: usize = 256;

/// A certificate of the Web's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebCertificate {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Serves until the drain starts.
pub async fn serve(
    listener: TcpListener,
    keeper: Arc<Keeper>,
    web: Option<WebCertificate>,
    drain: drain::Watch,
) {
    let ours = server_config(keeper.identity(), ClientAuth::Optional, &[]);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let accepted = tokio::select! {
            () = drain.draining() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let config = match &web {
            None => Ok(ours.clone()),
            Some(web) => web.config(),
        };
        let config = match config {
            Ok(config) => config,
            Err(why) => {
                tracing::error!(why, "the bundle endpoint has no certificate");
                continue;
            }
        };
        let keeper = keeper.clone();
        tokio::spawn(async move {
            if tokio::time::timeout(LIFE, connection(stream, config, &keeper)).await.is_err() {
                tracing::debug!(%peer, "a reader of the bundle took too long");
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, keeper: &Arc<Keeper>) {
    let stream = match tokio::time::timeout(PATIENCE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return tracing::debug!(error = explain(&error), "no TLS with a reader of the bundle");
        }
        Err(_) => return,
    };
    let keeper = keeper.clone();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &keeper);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // A reader that is gone is nobody's fault.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, keeper: &Keeper) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => {
            (StatusCode::OK, "application/json", document(&keeper.told().borrow()))
        }
        (_, "/") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "the bundle is at /\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

impl WebCertificate {
    fn config(&self) -> Result<Arc<ServerConfig>, String> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
        let chain = read_certificates("certificate chain", &read(&self.certificate)?);
        let chain = chain.map_err(|e| format!("{}: {e}", self.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?);
        let key = key.map_err(|e| format!("{}: {e}", self.key.display()))?;
        let config = ServerConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|e| format!("{}: {e}", self.certificate.display()))?;
        Ok(Arc::new(config))
    }
}
