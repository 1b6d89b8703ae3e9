//! One fetch. In: a source. Out: a JWKS, or why there is none. Bounded in time and size; redirects are not followed, and no
//! address is asked that only this machine or its hypervisor has: a rule's author must not reach them through us.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use mesh_proto::runtime::crypto;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::KeySource;
use super::lanes::Slot;

/// The largest answer.
const MAX_BODY: usize = 1 << 20;
/// Lookups at the same time, of all namespaces: each has a thread until it ends, and the runtime has 512 of them, for
/// others too (the webhook's work).
const MAX_LOOKUPS: usize = 256;
static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// Whom a fetch may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// A mesh on one machine: its issuer may be on loopback.
    Loopback,
    /// Only addresses that others have too.
    Outside,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URI that can be fetched.
    #[error("{0:?} is no http or https URI")]
    Uri(String),
    /// The name has no address, or none that may be asked.
    #[error("{host} has no address that may be asked ({why})")]
    Address {
        /// The name.
        host: String,
        /// What it has.
        why: String,
    },
    /// No address of the name takes a connection.
    #[error("{host} cannot be connected to ({why})")]
    Connect {
        /// The name.
        host: String,
        /// What the last one tried says.
        why: String,
    },
    /// The exchange failed.
    #[error("{uri}: {why}")]
    Exchange {
        /// What was asked for.
        uri: String,
        /// How.
        why: String,
    },
    /// Another status than 200.
    #[error("{uri} answers {status}")]
    Status {
        /// What was asked for.
        uri: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The answer is not what it should be.
    #[error("{uri}: {why}")]
    Content {
        /// What was asked for.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing within the time.
    #[error("{0}: no answer within {1:?}")]
    Late(String, Duration),
}

/// Leave to fetch once.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    /// Everything together.
    pub(super) within: Duration,
    /// Held by whatever goes on for this fetch, even after it has ended.
    pub(super) slot: Slot,
}

/// The keys of a source.
pub(super) async fn keys(source: &KeySource, reach: Reach, turn: Turn) -> Result<Bytes, FetchError> {
    let (KeySource::Uri(name) | KeySource::Issuer(name)) = source;
    let fetched = async {
        let uri = match source {
            KeySource::Uri(uri) => uri.clone(),
            KeySource::Issuer(issuer) => discovered(issuer, reach, &turn.slot).await?,
        };
        let body = get(&uri, reach, &turn.slot).await?;
        let usable = mesh_proto::model::jwks::usable(&body);
        usable.map(Bytes::from).map_err(|why| FetchError::Content { uri, why })
    };
    let late = |_| Err(FetchError::Late(name.clone(), turn.within));
    tokio::time::timeout(turn.within, fetched).await.unwrap_or_else(late)
}

/// Where an issuer's discovery document says that its keys are.
async fn discovered(issuer: &str, reach: Reach, slot: &Slot) -> Result<String, FetchError> {
    let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let body = get(&uri, reach, slot).await?;
    let document: serde_json::Value = content(&uri, &body)?;
    let text = |field: &str| document.get(field).and_then(serde_json::Value::as_str);
    // Section 4.3: a document of somebody else says nothing of this issuer.
    if text("issuer") != Some(issuer) {
        return Err(FetchError::Content { uri, why: format!("it is the document of {:?}", text("issuer")) });
    }
    let Some(keys) = text("jwks_uri") else {
        return Err(FetchError::Content { uri, why: "it has no jwks_uri".to_owned() });
    };
    if uri.starts_with("https:") && !keys.starts_with("https:") {
        // Whoever is between could say which keys are good.
        return Err(FetchError::Content { uri, why: format!("its jwks_uri {keys:?} is not https") });
    }
    if keys.parse::<Uri>().is_ok_and(|uri| uri.authority().is_some_and(|of| of.as_str().contains('@'))) {
        // Those in a rule have been refused; they would be part of `Host`.
        return Err(FetchError::Content { uri, why: "its jwks_uri has credentials in it".to_owned() });
    }
    Ok(keys.to_owned())
}

fn content(uri: &str, body: &Bytes) -> Result<serde_json::Value, FetchError> {
    serde_json::from_slice(body)
        .map_err(|error| FetchError::Content { uri: uri.to_owned(), why: format!("no JSON: {error}") })
}

async fn get(text: &str, reach: Reach, slot: &Slot) -> Result<Bytes, FetchError> {
    let wrong = || FetchError::Uri(text.to_owned());
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?.to_owned();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let failed = |why: String| FetchError::Exchange { uri: text.to_owned(), why };
    let stream = connect(&host, port, reach, slot).await?;
    let response = if secure {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|_| wrong())?;
        let tls =
            TlsConnector::from(client()).connect(name, stream).await.map_err(|e| failed(e.to_string()))?;
        exchange(tls, &uri, &host).await
    } else {
        exchange(stream, &uri, &host).await
    };
    let (status, body) = response.map_err(failed)?;
    if status != StatusCode::OK {
        return Err(FetchError::Status { uri: text.to_owned(), status });
    }
    Ok(body)
}

async fn connect(host: &str, port: u16, reach: Reach, slot: &Slot) -> Result<TcpStream, FetchError> {
    let failed = |why: String| FetchError::Address { host: host.to_owned(), why };
    let bare = host.trim_matches(['[', ']']).to_owned();
    let held = (slot.clone(), LOOKUPS.acquire().await.expect("never closed"));
    // A lookup has a thread of the machine until it ends, whoever still waits for it.
    let lookup = tokio::spawn(async move {
        let found = tokio::net::lookup_host((bare, port)).await.map(Iterator::collect::<Vec<_>>);
        drop(held);
        found
    });
    let found = lookup.await.map_err(|error| failed(error.to_string()))?;
    let found = found.map_err(|error| failed(error.to_string()))?;
    let has = format!("{:?}", found.iter().map(SocketAddr::ip).collect::<Vec<_>>());
    let mut why = None;
    for address in found.into_iter().filter(|address| may_ask(address.ip(), reach)) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = Some(format!("{address}: {error}")),
        }
    }
    Err(match why {
        Some(why) => FetchError::Connect { host: host.to_owned(), why },
        None => failed(has),
    })
}

/// Whether an address may be asked at all: none that only this machine has, and none at which clouds tell machines their
/// credentials.
pub(super) fn may_ask(address: IpAddr, reach: Reach) -> bool {
    let never = match inner(address) {
        IpAddr::V4(v4) => {
            let of_clouds = [[100, 100, 100, 200], [168, 63, 129, 16]].contains(&v4.octets());
            v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || of_clouds
        }
        IpAddr::V6(v6) => {
            let of_clouds = [
                Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
                Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
            ];
            v6.is_unicast_link_local() || v6.is_unspecified() || v6.is_multicast() || of_clouds.contains(&v6)
        }
    };
    !never && (reach == Reach::Loopback || !inner(address).is_loopback())
}

/// The IPv4 address that an IPv6 one leads to: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if v6.is_loopback() || v6.is_unspecified() {
        return address;
    }
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into());
    match (a, b, [c, d, e, f]) {
        (0, 0, [0, 0, 0, 0 | 0xffff]) | (0x64, 0xff9b, [0, 0, 0, 0]) => v4(g, h),
        (0x2002, high, [low, ..]) => v4(high, low),
        _ => address,
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    host: &str,
) -> Result<(StatusCode, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let authority = uri.authority().map_or(host, http::uri::Authority::as_str);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
        Ok((status, body.to_bytes()))
    };
    let answered = answered.await;
    driver.abort();
    answered
}

/// TLS with the roots of this machine.
fn client() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let mut roots = rustls::RootCertStore::empty();
            // One that cannot be read is one less.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let builder = rustls::ClientConfig::builder_with_provider(crypto::provider())
                .with_safe_default_protocol_versions()
                .expect("the provider has TLS 1.2 and 1.3");
            Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
        })
        .clone()
}
