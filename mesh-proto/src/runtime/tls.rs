//! TLS settings that check SPIFFE identities, both ways.
//!
//! In: an [`Identity`] or [`RootsHandle`] and whom to expect. Out: rustls settings that read the newest leaf and roots at
//! every handshake, so that they are made once. Nothing is resumed and there is no early data: every connection is
//! checked against what is in force when it is opened. Source: the SPIFFE X509-SVID specification §5.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use super::crypto;
use super::identity::{Identity, Leaf, RootsHandle};
use super::svid::check_intermediate;
pub use super::svid::{InvalidSvid, Svid};
use crate::model::{SpiffeId, TlsParameters};

/// The most certificates that a peer's chain may have.
const MAX_CHAIN: usize = 8;

/// What a server asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate, or no connection.
    Required,
    /// A certificate may be missing, but not invalid.
    Optional,
}

/// What a client shows.
#[derive(Debug, Clone, Copy)]
pub enum ClientIdentity<'a> {
    /// Nothing.
    None,
    /// The newest leaf.
    Mesh(&'a Identity),
}

/// Whom a client takes for the right server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Only this one.
    Exactly(SpiffeId),
    /// Any of these; none of them means nobody.
    OneOf(Vec<SpiffeId>),
}

/// TLS settings of a server that shows `identity`. They speak as [`super::identity::MeshTls`] says now: whoever keeps them
/// for long makes them anew when that is another one.
#[must_use]
pub fn server_config(identity: &Identity, auth: ClientAuth, alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
    let spoken = identity.roots_handle().tls();
    serving(identity, peers(identity, auth), &spoken.parameters, alpn)
}

/// Checks clients as [`server_config`] does.
#[must_use]
pub fn peers(identity: &Identity, auth: ClientAuth) -> Arc<dyn ClientCertVerifier> {
    Arc::new(PeerVerifier {
        roots: identity.roots_handle().clone(),
        expect: None,
        mandatory: auth == ClientAuth::Required,
    })
}

/// The same with another check of clients, or spoken in another way.
#[must_use]
pub fn serving(
    identity: &Identity,
    clients: Arc<dyn ClientCertVerifier>,
    parameters: &TlsParameters,
    alpn: &[&[u8]],
) -> Arc<rustls::ServerConfig> {
    let (provider, versions) = crypto::speaking(parameters);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .expect("aws-lc-rs has suites and groups for both versions")
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Newest(identity.clone())));
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

/// TLS settings of a client that takes only whom it expects for its server. How they are spoken: see [`server_config`].
#[must_use]
pub fn client_config(
    identity: ClientIdentity<'_>,
    roots: RootsHandle,
    expect: Expect,
    alpn: &[&[u8]],
) -> Arc<rustls::ClientConfig> {
    let expect = match expect {
        Expect::Exactly(id) => vec![id],
        Expect::OneOf(ids) => ids,
    };
    let (provider, versions) = crypto::speaking(&roots.tls().parameters);
    let verifier = Arc::new(PeerVerifier { roots, expect: Some(expect), mandatory: true });
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .expect("aws-lc-rs has suites and groups for both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        ClientIdentity::None => builder.with_no_client_auth(),
        ClientIdentity::Mesh(identity) => {
            builder.with_client_cert_resolver(Arc::new(Newest(identity.clone())))
        }
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// Whom a chain that was verified in a handshake belongs to. Checks no signature.
///
/// # Errors
/// When there is no certificate or it is no SVID.
pub fn peer_id(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, InvalidSvid> {
    peer(chain).map(|svid| svid.id)
}

/// Like [`peer_id`], with the life of the certificate: a connection must not outlive it.
///
/// # Errors
/// When there is no certificate or it is no SVID.
pub fn peer(chain: &[CertificateDer<'_>]) -> Result<Svid, InvalidSvid> {
    Svid::parse(chain.first().ok_or(InvalidSvid::None)?)
}

/// The server name of an address `host:port`, for SNI. SPIFFE checks identities, so any name will do where the address
/// has none that TLS can carry.
#[must_use]
pub fn server_name(address: &str) -> ServerName<'static> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ServerName::IpAddress(ip.into());
    }
    ServerName::try_from(host.to_owned())
        .unwrap_or_else(|_| ServerName::try_from("mesh.invalid").expect("a valid DNS name"))
}

/// Why a handshake failed, in words for people: of our own checks the reason alone, without rustls's wrapping.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => why.to_string(),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

/// Checks a chain: the roots of the *presented* trust domain (an alias of ours without roots of its own has ours), the path,
/// the times, the use.
///
/// # Errors
/// Why it is not the chain of an identity that `roots` vouch for.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    roots: &RootsHandle,
    role: Role,
    now: UnixTime,
) -> Result<Svid, InvalidSvid> {
    let (leaf, intermediates) = chain.split_first().ok_or(InvalidSvid::None)?;
    verify(leaf, intermediates, roots, role, now)
}

/// Which side of a connection a certificate is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It answers.
    Server,
    /// It connects.
    Client,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trusted: &RootsHandle,
    role: Role,
    now: UnixTime,
) -> Result<Svid, InvalidSvid> {
    if intermediates.len() >= MAX_CHAIN {
        return Err(InvalidSvid::ChainTooLong(intermediates.len() + 1));
    }
    let svid = Svid::parse(leaf)?;
    let roots = trusted.get();
    let tls = trusted.tls();
    let Some(domain) = tls.roots_of(&roots, svid.id.trust_domain()) else {
        let known: Vec<_> = roots.domains().map(|(domain, _)| domain.as_str()).collect();
        return Err(InvalidSvid::UnknownTrustDomain { id: svid.id, known: known.join(", ") });
    };
    if tls.is_tainted(&roots, &svid.id) {
        return Err(InvalidSvid::Tainted(svid.id));
    }
    for certificate in intermediates {
        // A root that was sent along is no intermediate of the path.
        if !domain.certificates.contains(certificate) {
            check_intermediate(certificate, &svid.id)?;
        }
    }
    let usage = match role {
        Role::Server => KeyUsage::server_auth(),
        Role::Client => KeyUsage::client_auth(),
    };
    let algorithms = crypto::provider().signature_verification_algorithms;
    let certificate = EndEntityCert::try_from(leaf).map_err(|e| path_error(&svid.id, role, e))?;
    certificate
        .verify_for_usage(algorithms.all, &domain.store.roots, intermediates, now, usage, None, None)
        .map_err(|e| path_error(&svid.id, role, e))?;
    // The path validation lets a certificate pass that does not say its use; intermediates may be silent, a leaf not.
    if !svid.says_usage {
        return Err(InvalidSvid::Usage { id: svid.id, role: role.name() });
    }
    Ok(svid)
}

fn path_error(id: &SpiffeId, role: Role, error: webpki::Error) -> InvalidSvid {
    let id = id.clone();
    match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            InvalidSvid::UnknownIssuer(id)
        }
        webpki::Error::CertExpired { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            InvalidSvid::Time { id, what: format!("expired {ago} s ago") }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            let ahead = not_before.as_secs().saturating_sub(time.as_secs());
            InvalidSvid::Time { id, what: format!("is not valid for another {ahead} s") }
        }
        webpki::Error::RequiredEkuNotFoundContext(_) => InvalidSvid::Usage { id, role: role.name() },
        webpki::Error::CaUsedAsEndEntity => InvalidSvid::SigningCertificate,
        other => InvalidSvid::Path { id, why: other.to_string() },
    }
}

/// Checks the other side's certificate; `expect` is what a client demands beyond that.
#[derive(Debug)]
struct PeerVerifier {
    roots: RootsHandle,
    expect: Option<Vec<SpiffeId>>,
    mandatory: bool,
}

impl PeerVerifier {
    /// Aliases of our trust domain are the same names.
    fn is_one_of(&self, expected: &[SpiffeId], peer: &SpiffeId) -> bool {
        expected.contains(peer) || {
            let tls = self.roots.tls();
            expected.iter().any(|id| tls.is_same(id, peer))
        }
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let refuse = |e: InvalidSvid| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e))))
        };
        let svid = verify(leaf, intermediates, &self.roots, role, now).map_err(refuse)?;
        match &self.expect {
            Some(expected) if !self.is_one_of(expected, &svid.id) => {
                let expected: Vec<_> = expected.iter().map(SpiffeId::as_str).collect();
                let expected = if expected.is_empty() { "nobody".to_owned() } else { expected.join(" or ") };
                Err(refuse(InvalidSvid::Mismatch { peer: svid.id, expected }))
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Role::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    crypto::signature_checks!();
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // Names of roots would tell strangers whom we trust, and our clients need no hint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Role::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    crypto::signature_checks!();
}

/// Shows the newest leaf.
#[derive(Debug)]
struct Newest(Identity);

impl Newest {
    /// An expired leaf is shown too: the peer's refusal then says what is wrong.
    fn key(&self) -> Arc<rustls::sign::CertifiedKey> {
        let leaf: Arc<Leaf> = self.0.leaf();
        if !leaf.is_valid_at(SystemTime::now()) {
            tracing::debug!(identity = %leaf.id, "showing a certificate that is not valid now");
        }
        leaf.certified_key.clone()
    }
}

impl rustls::server::ResolvesServerCert for Newest {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.key())
    }
}

impl rustls::client::ResolvesClientCert for Newest {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
