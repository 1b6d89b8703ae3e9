//! One request to the authority: a new key and its CSR out, a checked leaf back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::UnixTime;
use tonic::metadata::{Ascii, MetadataValue};

use super::CaConfig;
use crate::model::SpiffeId;
use crate::runtime::grpc;
use crate::runtime::identity::{Identity, InvalidCertificate, Leaf, RootsHandle, pem, read_certificates};
use crate::runtime::tls::{self, ClientIdentity, Expect, InvalidSvid, Role};
use crate::wire::istio::v1::auth::IstioCertificateRequest;
use crate::wire::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;

/// How long one request may take, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The largest answer; a chain is a few KiB.
const MAX_ANSWER: usize = 256 << 10;

/// Why there is no (new) certificate.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// Our own key or request could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(String),
    /// The token or roots file cannot be read.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        why: String,
    },
    /// Neither a token nor a valid certificate to show.
    #[error("nothing to prove our identity with: no token file, no valid certificate")]
    NoProof,
    /// The configured address.
    #[error("{0}")]
    Address(String),
    /// The authority is away or said no.
    #[error("authority {address}: {why}")]
    Authority {
        /// Its address.
        address: String,
        /// What happened.
        why: String,
    },
    /// The authority's answer is not our certificate.
    #[error("answer of the authority: {0}")]
    Answer(#[from] InvalidCertificate),
}

/// A leaf with what is stored of it.
pub(super) struct Issued {
    pub(super) leaf: Leaf,
    pub(super) chain_pem: String,
    pub(super) key_pem: String,
}

/// Asks for one certificate: shows the certificate of `current` while it is valid, and the token where there is none or
/// where the authority does not take it (its roots may be new, or it may want a token always).
pub(super) async fn request(
    config: &CaConfig,
    roots: &RootsHandle,
    current: Option<&Identity>,
) -> Result<Issued, ObtainError> {
    let current = current.filter(|identity| identity.leaf().is_valid_at(SystemTime::now()));
    if let Some(identity) = current {
        match ask(config, roots, ClientIdentity::Mesh(identity), None).await {
            Err(error @ ObtainError::Authority { .. }) if config.token.is_some() => {
                tracing::debug!(%error, "not renewed by certificate, trying the token");
            }
            other => return other,
        }
    }
    let token = read_token(config).await?;
    ask(config, roots, ClientIdentity::None, Some(token)).await
}

async fn ask(
    config: &CaConfig,
    roots: &RootsHandle,
    show: ClientIdentity<'_>,
    token: Option<MetadataValue<Ascii>>,
) -> Result<Issued, ObtainError> {
    let (csr, key_pem) = new_request(&config.identity)?;
    let expect = Expect::Exactly(config.authority.clone());
    let tls = tls::client_config(show, roots.clone(), expect, &[b"h2"]);
    // A channel for one request: the next one may show another certificate, and the authority is asked rarely.
    let channel = grpc::channel(&config.address, tls).map_err(|e| ObtainError::Address(e.to_string()))?;
    let mut client = IstioCertificateServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
    let mut request = tonic::Request::new(IstioCertificateRequest {
        csr,
        validity_duration: config.ttl.map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
        metadata: None,
    });
    request.set_timeout(REQUEST_TIMEOUT);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token);
    }
    let failed = |why: String| ObtainError::Authority { address: config.address.clone(), why };
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.create_certificate(request))
        .await
        .map_err(|_| failed(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())))?
        .map_err(|status| failed(reason(&status)))?;
    check(config, roots, &answer.into_inner().cert_chain, key_pem)
}

/// The whole story of a failed call: tonic says "transport error" and keeps the reason in the sources.
fn reason(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// A new P-256 key and its request. The authority takes only the key from it; the name is there for other issuers that
/// speak this protocol and compare it.
fn new_request(id: &SpiffeId) -> Result<(String, String), ObtainError> {
    let failed = |e: rcgen::Error| ObtainError::Request(e.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(failed)?)];
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(failed)?;
    Ok((csr, key.serialize_pem()))
}

async fn read_token(config: &CaConfig) -> Result<MetadataValue<Ascii>, ObtainError> {
    let path = config.token.as_ref().ok_or(ObtainError::NoProof)?;
    let failed = |why: String| ObtainError::File { path: path.clone(), why };
    let token = tokio::fs::read_to_string(path).await.map_err(|e| failed(e.to_string()))?;
    let mut value: MetadataValue<_> =
        format!("Bearer {}", token.trim()).parse().map_err(|_| failed("not a token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The answer must be ours: our key, our identity, valid now, signed by a root that we trust.
fn check(
    config: &CaConfig,
    roots: &RootsHandle,
    chain: &[String],
    key_pem: String,
) -> Result<Issued, ObtainError> {
    let text = chain.join("\n");
    let mut certificates = read_certificates("certificate chain", text.as_bytes())?;
    // The root comes along at the end. Peers have it: sending it in every handshake would tell them nothing.
    if let Some(domain) = roots.get().domain(config.identity.trust_domain()) {
        certificates.retain(|certificate| !domain.certificates.contains(certificate));
    }
    let chain_pem: String = certificates.iter().map(|certificate| pem(certificate)).collect();
    let leaf = Leaf::from_pem(chain_pem.as_bytes(), key_pem.as_bytes())?;
    trusted(&leaf, roots, &config.identity)?;
    Ok(Issued { leaf, chain_pem, key_pem })
}

/// Whether `leaf` is `id`'s and our own roots vouch for it now: what our peers will ask.
pub(super) fn trusted(leaf: &Leaf, roots: &RootsHandle, id: &SpiffeId) -> Result<(), InvalidCertificate> {
    if leaf.id != *id {
        return Err(InvalidCertificate::OtherIdentity { got: leaf.id.clone(), expected: id.clone() });
    }
    let chain: &Arc<_> = &leaf.certified_key;
    for role in [Role::Server, Role::Client] {
        tls::verify_chain(&chain.cert, roots, role, UnixTime::now()).map_err(|e: InvalidSvid| e)?;
    }
    Ok(())
}
