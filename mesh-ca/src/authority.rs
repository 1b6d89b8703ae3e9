//! The signing certificate and what it signs: an attested identity and a key in, a chain out.
//!
//! Where the signing certificate comes from is [`store`]'s and [`material`]'s affair. Source of the leaf's form: the SPIFFE X509-SVID
//! specification §4.

pub mod material;
pub mod store;

use std::time::{Duration, SystemTime};

use mesh_proto::model::{SpiffeId, TrustDomain};
use mesh_proto::runtime::identity::{InvalidCertificate, Leaf, Roots, RootsHandle, pem};
use mesh_proto::runtime::tls::{self, InvalidSvid, Role};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;

use material::Material;
pub use store::OpenError;

/// Certificates are dated back for peers whose clock is slow.
const BACKDATE: Duration = Duration::from_secs(300);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The signing certificate has expired: an operator must replace it.
    #[error("the authority's own certificate has expired")]
    RootExpired,
    /// Making the certificate failed: a bug.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// What was made is not what was meant: a bug.
    #[error("made a bad certificate: {0}")]
    Made(#[from] InvalidCertificate),
}

/// A signed chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// PEM, leaf first, the root last.
    pub chain: Vec<String>,
    /// The end of the leaf's life.
    pub not_after: SystemTime,
    /// The leaf's serial number in hexadecimal digits.
    pub serial: String,
    leaf: CertificateDer<'static>,
}

/// Signs leaves of one trust domain.
pub struct Authority {
    policy: Policy,
    issuer: Issuer<'static, KeyPair>,
    /// From the signing certificate towards the root.
    chain: Vec<CertificateDer<'static>>,
    /// The root that the chain leads to, and others that are trusted beside it.
    roots: Vec<CertificateDer<'static>>,
    /// The end of the first certificate to end of those that a leaf needs.
    not_after: SystemTime,
}

/// How long leaves live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When nothing is asked for.
    pub default: Duration,
    /// At least, whatever is asked for.
    pub min: Duration,
    /// At most, whatever is asked for.
    pub max: Duration,
}

/// What is signed for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The authority's own identity: nobody else gets it.
    pub own: SpiffeId,
    /// How long leaves live.
    pub limits: Limits,
    /// DNS names in the leaves of one identity, beside the identity: what callers that know no SPIFFE (the API server
    /// calling a webhook) look for. Never from a request.
    pub dns: Option<(SpiffeId, Vec<String>)>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("own", &self.policy.own)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority that signs with `material`.
    ///
    /// # Errors
    /// When what it would sign is not good.
    pub fn new(material: Material, policy: Policy) -> Result<Self, OpenError> {
        let not_after = material.not_after()?;
        let issuer = Issuer::from_ca_cert_der(&material.signing, material.key)?;
        let authority = Self { policy, issuer, chain: material.chain, roots: material.roots, not_after };
        authority.prove()?;
        Ok(authority)
    }

    /// A leaf of our own must be good in the eyes of our own verifier: everything that could be wrong with a plugged-in
    /// certificate or key shows here, and not in every proxy.
    fn prove(&self) -> Result<(), OpenError> {
        let leaf = self.own_leaf().map_err(|e| OpenError::Unusable(e.to_string()))?;
        let chain = &leaf.certified_key.cert;
        let roots = RootsHandle::new(self.roots().map_err(|e| OpenError::Unusable(e.to_string()))?);
        for role in [Role::Server, Role::Client] {
            tls::verify_chain(chain, &roots, role, UnixTime::now())
                .map_err(|e: InvalidSvid| OpenError::Unusable(e.to_string()))?;
        }
        Ok(())
    }

    /// Signs `key` for `id`. `asked` is the life that the caller wants: what we allow and what our own certificates have
    /// left bound it.
    ///
    /// # Errors
    /// When our own certificates have expired, or by a bug.
    pub fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        asked: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, SignError> {
        if now >= self.not_after {
            return Err(SignError::RootExpired);
        }
        let not_after = (now + self.life(asked)).min(self.not_after);
        let mut params = CertificateParams::default();
        // No subject: the SAN becomes critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        if let Some((_, names)) = self.policy.dns.as_ref().filter(|(whose, _)| whose == id) {
            for name in names {
                params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            }
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(not_after);
        let serial = new_serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let leaf = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![leaf.pem()];
        chain.extend(self.chain.iter().chain(self.roots.first()).map(|c| pem(c)));
        Ok(Issued { chain, not_after, serial: hex(&serial), leaf: leaf.der().clone() })
    }

    /// How long a leaf may live whose caller wants it to live for `asked`.
    #[must_use]
    pub fn life(&self, asked: Option<Duration>) -> Duration {
        let Limits { default, min, max } = self.policy.limits;
        asked.map_or(default, |asked| asked.max(min)).min(max)
    }

    /// A leaf of the authority itself, for its own server, with a new key.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn own_leaf(&self) -> Result<Leaf, SignError> {
        let key = KeyPair::generate()?;
        let issued = self.sign(&self.policy.own, &key, None, SystemTime::now())?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut chain = vec![issued.leaf];
        // Peers have the root; only what is between is shown.
        chain.extend_from_slice(&self.chain);
        Ok(Leaf::from_der(chain, key)?)
    }

    /// The roots that everyone must trust, as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.roots.iter().map(|root| pem(root)).collect()
    }

    /// The roots that everyone must trust, the one of what is signed now first.
    #[must_use]
    pub fn root_certificates(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots that everyone must trust.
    ///
    /// # Errors
    /// When one cannot be a root.
    pub fn roots(&self) -> Result<Roots, InvalidCertificate> {
        Roots::none().with_domain(self.domain(), self.roots.clone())
    }

    /// The trust domain of everything that is signed.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        self.policy.own.trust_domain()
    }

    /// When the first certificate of our own chain ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// Hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// 127 random bits, positive and never zero (RFC 5280 §4.1.2.2).
fn new_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

#[cfg(test)]
mod tests;
