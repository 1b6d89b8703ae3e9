//! A Secret that a gateway holds: ready to be used, never shown.
//!
//! In: `secret/<namespace>/<name>`. Out: [`Secret`]; what is in it and cannot be used is refused, so that the last good one
//! stays.

use std::sync::Arc;

use mesh_proto::wire::mesh::v1 as wire;
use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::sign::CertifiedKey;

use crate::tls::pem::{self, Unusable};

/// A key pair, roots, or both.
pub struct Secret {
    /// To be shown to clients.
    pub key_pair: Option<Arc<CertifiedKey>>,
    /// Who signs clients' certificates.
    pub ca: Option<Arc<RootCertStore>>,
    /// Which of these are revoked; empty: nobody says so.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Differs where the roots or what is revoked do.
    pub trust: u64,
}

/// Why a Secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// `tls.crt` or `cert`, `tls.key` or `key`.
    #[error("tls.crt, tls.key (or cert, key): {0}")]
    KeyPair(Unusable),
    /// `ca.crt` or `cacert`.
    #[error("ca.crt (or cacert): {0}")]
    Ca(Unusable),
    /// `ca.crl` or `crl`.
    #[error("ca.crl (or crl): {0}")]
    Revoked(Unusable),
}

impl TryFrom<wire::Secret> for Secret {
    type Error = InvalidSecret;

    fn try_from(wire: wire::Secret) -> Result<Self, InvalidSecret> {
        let has_pair = !wire.certificate_chain.is_empty() || !wire.private_key.is_empty();
        let pair = has_pair.then(|| pem::key_pair(&wire.certificate_chain, &wire.private_key));
        let has_ca = !wire.ca_certificates.is_empty();
        Ok(Self {
            key_pair: pair.transpose().map_err(InvalidSecret::KeyPair)?,
            ca: has_ca.then(|| pem::roots(&wire.ca_certificates)).transpose().map_err(InvalidSecret::Ca)?,
            revoked: match wire.crl.is_empty() {
                true => Vec::new(),
                false => pem::revocation_lists(&wire.crl).map_err(InvalidSecret::Revoked)?,
            },
            trust: trust_of(&wire.ca_certificates) ^ trust_of(&wire.crl).rotate_left(1),
        })
    }
}

/// A number for roots, or for what is revoked of them.
#[must_use]
pub fn trust_of(pem: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(pem)
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}
