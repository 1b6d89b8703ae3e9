//! How TLS is ended at a gateway: settings for rustls, kept for each [`TlsSettings`] that some server has.
//!
//! In: key pairs, roots and the Gateway's wishes. Out: [`Terminations`], swapped as a whole by the keeper and read by
//! workers. Sources: Istio's ServerTLSSettings, Envoy's DownstreamTlsContext.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_proto::runtime::crypto;
use mesh_proto::wire::mesh::v1 as wire;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use tokio::sync::watch;

use crate::store::listener::TlsSettings;

/// How long a handshake waits for settings that have just come.
const PATIENCE: Duration = Duration::from_secs(2);

/// How one kind of server ends TLS at present.
#[derive(Debug)]
pub struct Termination {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// Differs where clients' certificates are checked against other roots.
    pub trust: u64,
    /// Clients are workloads of the mesh.
    pub mesh: bool,
}

/// All of them, by [`TlsSettings::key`].
#[derive(Debug)]
pub struct Terminations {
    current: ArcSwap<HashMap<Arc<[u8]>, Arc<Termination>>>,
    /// The store's generation that they are of.
    seen: watch::Sender<u64>,
}

impl Default for Terminations {
    fn default() -> Self {
        Self { current: ArcSwap::default(), seen: watch::Sender::new(0) }
    }
}

impl Terminations {
    /// What there is for these settings now.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<Arc<Termination>> {
        self.current.load().get(key).cloned()
    }

    /// The same, after what the store has at `generation` was looked at.
    pub async fn settled(&self, key: &[u8], generation: u64) -> Option<Arc<Termination>> {
        if let Some(found) = self.find(key) {
            return Some(found);
        }
        let mut seen = self.seen.subscribe();
        // Late, or the process ends: then there is none.
        let _ = tokio::time::timeout(PATIENCE, seen.wait_for(|seen| *seen >= generation)).await;
        self.find(key)
    }

    pub(super) fn replace(&self, all: HashMap<Arc<[u8]>, Arc<Termination>>, generation: u64) {
        self.current.store(Arc::new(all));
        self.seen.send_replace(generation);
    }
}

/// Settings for handshakes. `roots`: who signs clients' certificates, where they are asked for.
///
/// # Errors
/// When nothing is left that could be agreed on.
pub fn server_config(
    settings: &TlsSettings,
    pairs: Vec<Arc<CertifiedKey>>,
    roots: Option<Arc<RootCertStore>>,
) -> Result<Arc<ServerConfig>, String> {
    let wire = &settings.wire;
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
    versions.extend(wire.tls13.then_some(&rustls::version::TLS13));
    versions.extend(wire.tls12.then_some(&rustls::version::TLS12));
    let mut provider = (*crypto::provider()).clone();
    if !wire.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| match suite {
            SupportedCipherSuite::Tls12(_) => {
                name_of(suite.suite()).is_some_and(|name| wire.cipher_suites.iter().any(|w| w == name))
            }
            SupportedCipherSuite::Tls13(_) => true,
        });
    }
    let provider = Arc::new(provider);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?;
    let demanded = wire.clients() != wire::ClientCertificates::None;
    let builder = match roots {
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = match wire.clients() {
                wire::ClientCertificates::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
        None if demanded => return Err("client certificates are asked for, and no CA is there".to_owned()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Pairs(pairs)));
    if !settings.bytes {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    if demanded {
        // Every client is checked against what is in force when it connects.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// OpenSSL's name of a suite of TLS 1.2.
fn name_of(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

/// Of several pairs (RSA, ECDSA) the first whose signature the client knows.
#[derive(Debug)]
struct Pairs(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Pairs {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or_else(|| self.0.first()).cloned()
    }
}
