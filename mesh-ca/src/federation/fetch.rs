//! One bundle, once: from a file, or with one GET over TLS. No redirects are followed, and nothing is sent along.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mesh_proto::runtime::crypto;
use mesh_proto::runtime::identity::{Roots, RootsHandle, read_certificates, read_roots};
use mesh_proto::runtime::tls::{self, ClientIdentity, Expect};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Got, Known, NoBundle, Spiffe, Web};
use crate::authority::hex;
use crate::bundle::{Document, MAX_DOCUMENT, parse};
use crate::keeper::told::sha256;

/// How long one answer may take, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bundle document, or PEM roots.
pub(super) async fn file(path: &Path) -> Result<Document, NoBundle> {
    in_file(path, &read(path).await?)
}

async fn read(path: &Path) -> Result<Vec<u8>, NoBundle> {
    use tokio::io::AsyncReadExt as _;
    let failed = |e: std::io::Error| NoBundle::File { path: path.to_owned(), why: e.to_string() };
    let mut text = Vec::new();
    let opened = tokio::fs::File::open(path).await.map_err(failed)?;
    opened.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut text).await.map_err(failed)?;
    Ok(text)
}

fn in_file(path: &Path, text: &[u8]) -> Result<Document, NoBundle> {
    if text.trim_ascii_start().starts_with(b"-----BEGIN") {
        let roots =
            read_roots(text).map_err(|e| NoBundle::File { path: path.to_owned(), why: e.to_string() })?;
        return Ok(Document { roots, sequence: None, refresh: None });
    }
    parse(text).map_err(|source| NoBundle::Invalid { place: path.display().to_string(), source })
}

/// From an endpoint of the Web.
pub(super) async fn web(web: &Web) -> Result<Document, NoBundle> {
    let failed = |why: String| NoBundle::Endpoint { url: web.url.clone(), why };
    let mut roots = RootCertStore::empty();
    match &web.roots {
        Some(path) => {
            let failed = |why: String| NoBundle::File { path: path.clone(), why };
            let pem = tokio::fs::read(path).await.map_err(|e| failed(e.to_string()))?;
            for root in read_certificates("root certificates", &pem).map_err(|e| failed(e.to_string()))? {
                roots.add(root).map_err(|e| failed(e.to_string()))?;
            }
        }
        None => {
            let loaded = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(loaded.certs);
            if roots.is_empty() {
                return Err(failed(
                    "this machine has no roots of the Web: name them with `roots`".to_owned(),
                ));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    get(&web.url, Arc::new(config)).await
}

/// From an endpoint with a SPIFFE identity: one that the newest roots of its trust domain vouch for; or the first ones, where
/// there are no newer ones, or where they are others than those that have been superseded: the operator has begun anew, or
/// will when the endpoint does.
pub(super) async fn spiffe(spiffe: &Spiffe, known: Known<'_>) -> Result<Got, NoBundle> {
    let first = first(&spiffe.bundle).await;
    if !known.roots.is_empty() {
        let failed = match by_roots(spiffe, known.roots.to_vec()).await {
            Ok(document) => {
                return Ok(Got { document, first: first.ok().and_then(|first| first.spent(&known)) });
            }
            Err(failed) => failed,
        };
        match &first {
            Ok(First { name, .. }) if Some(name.as_str()) != known.superseded => {}
            Ok(_) => return Err(failed),
            Err(unread) => {
                let why = format!("{failed}; and the bundle to begin with cannot be used: {unread}");
                return Err(NoBundle::Endpoint { url: spiffe.url.clone(), why });
            }
        }
    }
    let First { name, roots } = first?;
    Ok(Got { document: by_roots(spiffe, roots).await?, first: Some(name) })
}

/// The bundle to begin with.
struct First {
    /// What names it.
    name: String,
    roots: Vec<CertificateDer<'static>>,
}

async fn first(path: &Path) -> Result<First, NoBundle> {
    let text = read(path).await?;
    Ok(First { name: hex(&sha256(&text)), roots: in_file(path, &text)?.roots })
}

impl First {
    /// What names it, if it has nothing to say any more while `known` vouch for the endpoint. One with a root that nobody has
    /// heard of is put there ahead of time, and counts when the endpoint has changed; but not the one that we have come
    /// from before there was a name of it.
    fn spent(self, known: &Known<'_>) -> Option<String> {
        let heard_of = || self.roots.iter().all(|root| known.roots.contains(root));
        (known.superseded.is_none() || heard_of()).then_some(self.name)
    }
}

async fn by_roots(spiffe: &Spiffe, roots: Vec<CertificateDer<'static>>) -> Result<Document, NoBundle> {
    let failed = |why: String| NoBundle::Endpoint { url: spiffe.url.clone(), why };
    let id = &spiffe.endpoint_spiffe_id;
    let roots = Roots::none().with_domain(id.trust_domain(), roots).map_err(|e| failed(e.to_string()))?;
    let expect = Expect::Exactly(id.clone());
    get(&spiffe.url, tls::client_config(ClientIdentity::None, RootsHandle::new(roots), expect, &[])).await
}

async fn get(url: &str, config: Arc<ClientConfig>) -> Result<Document, NoBundle> {
    let failed = |why: String| NoBundle::Endpoint { url: url.to_owned(), why };
    let body = tokio::time::timeout(PATIENCE, exchange(url, config))
        .await
        .map_err(|_| failed(format!("no answer within {} s", PATIENCE.as_secs())))?
        .map_err(failed)?;
    parse(&body).map_err(|source| NoBundle::Invalid { place: url.to_owned(), source })
}

async fn exchange(url: &str, config: Arc<ClientConfig>) -> Result<Bytes, String> {
    let url: Uri = url.parse().map_err(|e| format!("not a URL: {e}"))?;
    let host = url.host().filter(|_| url.scheme_str() == Some("https")).ok_or("not an https URL")?;
    let port = url.port_u16().unwrap_or(443);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|e| e.to_string())?;
    let tcp = TcpStream::connect((bare, port)).await.map_err(|e| e.to_string())?;
    let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| tls::explain(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| e.to_string())?;
    // Ends with the answer.
    tokio::spawn(connection);
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered {}", answer.status()));
    }
    let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await.map_err(|e| e.to_string())?;
    Ok(body.to_bytes())
}
