//! What an authority is made of: PEM texts in, a signing certificate with its key, its chain and its roots out.
//!
//! The four texts are Istio's (`ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`), wherever they are kept: a
//! directory, a Secret. Keys are never part of an error.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::identity::{InvalidCertificate, read_certificates};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, SerialNumber};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::OffsetDateTime;

use super::OpenError;

/// The signing certificate.
pub const CERTIFICATE: &str = "ca-cert.pem";
/// Its key.
pub const KEY: &str = "ca-key.pem";
/// The roots that everyone must trust.
pub const ROOT: &str = "root-cert.pem";
/// From the signing certificate towards the root.
pub const CHAIN: &str = "cert-chain.pem";
/// The life of a root that we create (Istio's).
pub const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);

/// A signing certificate with its key.
pub struct Material {
    pub(super) key: KeyPair,
    /// The signing certificate.
    pub(super) signing: CertificateDer<'static>,
    /// From the signing certificate towards the root, without roots: empty if it is a root itself.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// The root that the signing certificate leads to, first, and the others that are to be trusted beside it.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// The PEM texts of one authority. An empty `chain` or `root` is one that is not there.
#[derive(Clone, Copy)]
pub struct Texts<'a> {
    /// [`CERTIFICATE`].
    pub certificate: &'a [u8],
    /// [`KEY`].
    pub key: &'a [u8],
    /// [`CHAIN`].
    pub chain: &'a [u8],
    /// [`ROOT`].
    pub root: &'a [u8],
}

impl Material {
    /// Reads the texts. `place` is told where a text comes from: "Secret a/b: ca-key.pem".
    ///
    /// # Errors
    /// When one is not what it should be, by its place.
    pub fn read(texts: Texts<'_>, place: impl Fn(&str) -> String) -> Result<Self, OpenError> {
        let key = key(&place(KEY), texts.key)?;
        let mut chain = certificates(&place(CERTIFICATE), texts.certificate)?;
        let signing = chain.first().cloned().expect("read_certificates gives at least one");
        if !is_blank(texts.chain) {
            for certificate in certificates(&place(CHAIN), texts.chain)? {
                if !chain.contains(&certificate) {
                    chain.push(certificate);
                }
            }
        }
        let mut roots = if is_blank(texts.root) {
            chain.last().cloned().into_iter().collect()
        } else {
            certificates(&place(ROOT), texts.root)?
        };
        chain.retain(|certificate| !roots.contains(certificate));
        let end = chain.last().unwrap_or(&signing);
        if let Some(at) = roots.iter().position(|root| root == end || issued(root, end)) {
            roots.swap(0, at);
        }
        Ok(Self { key, signing, chain, roots })
    }

    /// The end of the first certificate to end of those that a leaf needs.
    pub(super) fn not_after(&self) -> Result<SystemTime, OpenError> {
        let mut first = None;
        for certificate in self.chain.iter().chain(self.roots.first()) {
            let end =
                end_of(certificate).ok_or_else(|| OpenError::Unusable("a bad certificate".to_owned()))?;
            first = Some(first.map_or(end, |first: SystemTime| first.min(end)));
        }
        first.ok_or_else(|| OpenError::Unusable("no certificate".to_owned()))
    }
}

/// A new self-signed root that lives for `life`: key and certificate, as PEM.
pub fn self_signed(domain: &TrustDomain, life: Duration) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
    params.distinguished_name.push(DnType::CommonName, "mesh root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&super::new_serial()));
    let now = SystemTime::now();
    params.not_before = OffsetDateTime::from(now - super::BACKDATE);
    params.not_after = OffsetDateTime::from(now + life);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    Ok((root.key().serialize_pem(), root.pem()))
}

/// When a certificate ends. `None` if it cannot be read.
#[must_use]
pub fn end_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(at(parsed.validity().not_after.timestamp()))
}

/// When a certificate begins. `None` if it cannot be read.
#[must_use]
pub fn start_of(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(at(parsed.validity().not_before.timestamp()))
}

fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Whether `root` names itself as what `certificate` names as its issuer. The signature is checked by
/// [`super::Authority`], with the whole chain.
fn issued(root: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let (root, certificate) =
        (x509_parser::parse_x509_certificate(root), x509_parser::parse_x509_certificate(certificate));
    match (root, certificate) {
        (Ok((_, root)), Ok((_, certificate))) => root.subject().as_raw() == certificate.issuer().as_raw(),
        _ => false,
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

fn certificates(place: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let invalid = |e: InvalidCertificate| OpenError::Invalid { place: place.to_owned(), why: e.to_string() };
    read_certificates("certificates", pem).map_err(invalid)
}

fn key(place: &str, pem: &[u8]) -> Result<KeyPair, OpenError> {
    let invalid = |why: String| OpenError::Invalid { place: place.to_owned(), why };
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| invalid(e.to_string()))?;
    KeyPair::try_from(&der).map_err(|e| invalid(e.to_string()))
}
