//! How TLS is ended at a gateway: settings for rustls, kept for each [`TlsSettings`] that some server has.
//!
//! In: key pairs, roots and the Gateway's wishes. Out: [`Terminations`], swapped as a whole by the keeper and read by
//! workers. Sources: Istio's ServerTLSSettings, Envoy's DownstreamTlsContext.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_proto::model::TlsParameters;
use mesh_proto::runtime::crypto;
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{self, ClientAuth};
use mesh_proto::wire::mesh::v1 as wire;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::store::listener::TlsSettings;
use crate::tls::client_rules::ClientRules;
use crate::tls::{ALPN_HTTP1, ALPN_HTTP2, ALPN_HTTP10, ALPN_TCP};

/// What clients that are workloads of the mesh may speak.
const MESH_ALPN: [&[u8]; 6] = [ALPN_HTTP2, ALPN_HTTP1, ALPN_HTTP10, ALPN_TCP, b"h2", b"http/1.1"];
/// How long a handshake waits for settings that have just come.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who checks clients' certificates, where they are asked for one.
pub type Clients = Option<Arc<dyn ClientCertVerifier>>;

/// How one kind of server ends TLS at present.
#[derive(Debug)]
pub struct Termination {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// Of clients that are no workloads of the mesh.
    pub clients: Clients,
    /// Differs where clients' certificates are checked against other roots.
    pub trust: u64,
    /// Clients are workloads of the mesh.
    pub mesh: bool,
}

impl Termination {
    /// Whether a client that has shown `chain` would be let in now.
    #[must_use]
    pub fn takes(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some(clients) = &self.clients else { return true };
        match chain.split_first() {
            None => !clients.client_auth_mandatory(),
            Some((leaf, rest)) => clients.verify_client_cert(leaf, rest, UnixTime::now()).is_ok(),
        }
    }
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

/// Who vouches for clients, where they are asked for a certificate.
#[derive(Debug, Default)]
pub struct Vouching {
    /// Who signs their certificates.
    pub roots: Option<Arc<RootCertStore>>,
    /// What was revoked of it.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}

/// Settings for handshakes, and who checks clients in them.
///
/// # Errors
/// When nothing is left that could be agreed on, or something is asked for that cannot be kept.
pub fn server_config(
    settings: &TlsSettings,
    pairs: Vec<Arc<CertifiedKey>>,
    clients: Vouching,
) -> Result<(Arc<ServerConfig>, Clients), String> {
    let wire = &settings.wire;
    let (provider, versions) = crypto::speaking(&parameters(wire)?);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .map_err(|error| error.to_string())?;
    let demanded = wire.clients() != wire::ClientCertificates::None;
    let clients = match clients.roots {
        Some(roots) => Some(verifier(wire, roots, clients.revoked, provider)?),
        None if demanded => return Err("client certificates are asked for, and no CA is there".to_owned()),
        None => None,
    };
    let builder = match &clients {
        Some(clients) => builder.with_client_cert_verifier(clients.clone()),
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
    Ok((Arc::new(config), clients))
}

/// Settings for handshakes with workloads of the mesh.
///
/// # Errors
/// When something is asked for that cannot be kept.
pub fn mesh_config(settings: &TlsSettings, identity: &Identity) -> Result<Arc<ServerConfig>, String> {
    let wire = &settings.wire;
    let peers = tls::peers(identity, ClientAuth::Required);
    let clients = match &wire.rules {
        Some(rules) => ClientRules::try_from(rules)?.over(peers),
        None => peers,
    };
    Ok(tls::serving(identity, clients, &parameters(wire)?, &MESH_ALPN))
}

fn parameters(wire: &wire::TlsSettings) -> Result<TlsParameters, String> {
    let said = wire.parameters.as_ref().map(TlsParameters::try_from).transpose();
    Ok(said.map_err(|error| error.to_string())?.unwrap_or_default())
}

/// Checks clients' certificates. As in Envoy, each CA of a chain has to say what it revoked where one does, and a list that
/// is out of date vouches for nobody.
fn verifier(
    wire: &wire::TlsSettings,
    roots: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider).with_crls(revoked);
    let builder = match wire.clients() {
        wire::ClientCertificates::Optional => builder.allow_unauthenticated(),
        _ => builder,
    };
    let verifier = builder.enforce_revocation_expiration().build().map_err(|error| error.to_string())?;
    Ok(match &wire.rules {
        Some(rules) => ClientRules::try_from(rules)?.over(verifier),
        None => verifier,
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
