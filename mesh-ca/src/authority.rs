//! The signing certificate and what it signs: an attested identity and a key in, a chain out.
//!
//! Where the signing certificate comes from is [`store`]'s affair. Source of the leaf's form: the SPIFFE X509-SVID
//! specification §4.

mod store;

use std::time::{Duration, SystemTime};

use mesh_proto::model::{SpiffeId, TrustDomain};
use mesh_proto::runtime::certificates::authority_id;
use mesh_proto::runtime::identity::{InvalidCertificate, Leaf, Roots, RootsHandle, pem};
use mesh_proto::runtime::tls::{self, InvalidSvid, Role};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;

pub use store::{OpenError, write_public};

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
    domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    /// From the signing certificate to the root.
    chain: Vec<CertificateDer<'static>>,
    /// The end of the first certificate of the chain to end.
    not_after: SystemTime,
    limits: Limits,
}

/// How long leaves live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// When nothing is asked for.
    pub default: Duration,
    /// Whatever is asked for.
    pub max: Duration,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("domain", &self.domain).field("not_after", &self.not_after).finish()
    }
}

impl Authority {
    /// The authority whose signing certificate is kept in `state_dir`; a new self-signed one if there is none.
    ///
    /// # Errors
    /// When what is kept there cannot be used. A new root never takes the place of one that cannot be read.
    pub fn open(state_dir: &std::path::Path, domain: TrustDomain, limits: Limits) -> Result<Self, OpenError> {
        let kept = store::open(state_dir, &domain)?;
        let signing = kept.chain.first().expect("a kept chain is not empty");
        let issuer = Issuer::from_ca_cert_der(signing, kept.key)?;
        let not_after = store::not_after(&kept.chain)?;
        let authority = Self { domain, issuer, chain: kept.chain, not_after, limits };
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
        let life = asked.unwrap_or(self.limits.default).min(self.limits.max);
        let not_after = (now + life).min(self.not_after);
        let mut params = CertificateParams::default();
        // No subject: the SAN becomes critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
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
        chain.extend(self.chain.iter().map(|c| pem(c)));
        let serial = serial.iter().map(|b| format!("{b:02x}")).collect();
        Ok(Issued { chain, not_after, serial, leaf: leaf.der().clone() })
    }

    /// A leaf of the authority itself, for its own server, with a new key.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn own_leaf(&self) -> Result<Leaf, SignError> {
        let key = KeyPair::generate()?;
        let issued = self.sign(&authority_id(&self.domain), &key, None, SystemTime::now())?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut chain = vec![issued.leaf];
        // Peers have the root; only what is between is shown.
        chain.extend_from_slice(&self.chain[..self.chain.len() - 1]);
        Ok(Leaf::from_der(chain, key)?)
    }

    /// The root that everyone must trust, as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.chain.last().map(|root| pem(root)).unwrap_or_default()
    }

    /// The root that everyone must trust.
    ///
    /// # Errors
    /// When it cannot be a root.
    pub fn roots(&self) -> Result<Roots, InvalidCertificate> {
        Roots::none().with_domain(&self.domain, self.chain.last().cloned().into_iter().collect())
    }

    /// When the first certificate of our own chain ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// 127 random bits, positive and never zero (RFC 5280 §4.1.2.2).
fn new_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

#[cfg(test)]
mod tests;
