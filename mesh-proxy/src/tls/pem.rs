//! Certificates, keys and roots as people keep them: PEM.
//!
//! In: the bytes of files or Secrets. Out: what rustls takes, or why it is none. No error says anything of the content.

use std::sync::Arc;

use mesh_proto::runtime::crypto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

/// The most that is read: nobody has a longer chain.
pub const LONGEST: usize = 1 << 20;

/// Why bytes are of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// More than [`LONGEST`].
    #[error("longer than {LONGEST} bytes")]
    TooLong,
    /// No certificate.
    #[error("no certificate in PEM")]
    NoCertificate,
    /// Something that is none.
    #[error("a certificate that is damaged")]
    Certificate,
    /// No private key.
    #[error("no private key in PEM (PKCS#8, PKCS#1 or SEC1, without a passphrase)")]
    NoKey,
    /// No list of revoked certificates, or one that is damaged.
    #[error("no list of revoked certificates (CRL) in PEM, or a damaged one")]
    RevocationList,
    /// RSA, ECDSA and Ed25519 are.
    #[error("a private key of a kind that is not supported")]
    Key,
    /// They do not belong together.
    #[error("the private key is not that of the certificate")]
    Mismatch,
}

/// A certificate chain and its key.
///
/// # Errors
/// When they are none, or do not belong together.
pub fn key_pair(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, Unusable> {
    let chain = certificates(chain)?;
    if key.len() > LONGEST {
        return Err(Unusable::TooLong);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unusable::NoKey)?;
    let key = crypto::provider().key_provider.load_private_key(key).map_err(|_| Unusable::Key)?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        // A key that cannot tell its public half is believed.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Arc::new(pair)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(Unusable::Mismatch),
        Err(_) => Err(Unusable::Certificate),
    }
}

/// Who signs certificates.
///
/// # Errors
/// When there is none, or one of them is damaged.
pub fn roots(pem: &[u8]) -> Result<Arc<RootCertStore>, Unusable> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|_| Unusable::Certificate)?;
    }
    Ok(Arc::new(store))
}

/// Lists of revoked certificates, as their CAs signed them.
///
/// # Errors
/// When there is none, or one of them is damaged.
pub fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Unusable> {
    if pem.len() > LONGEST {
        return Err(Unusable::TooLong);
    }
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let lists = lists.ok().filter(|lists| !lists.is_empty()).ok_or(Unusable::RevocationList)?;
    let is_one = |list: &CertificateRevocationListDer<'_>| {
        x509_parser::parse_x509_crl(list).is_ok_and(|(rest, _)| rest.is_empty())
    };
    if lists.iter().all(is_one) { Ok(lists) } else { Err(Unusable::RevocationList) }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    if pem.len() > LONGEST {
        return Err(Unusable::TooLong);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err(Unusable::NoCertificate),
        Ok(chain) => Ok(chain),
        Err(_) => Err(Unusable::Certificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let ((cert, key), (_, other)) = (pair(), pair());
        assert!(key_pair(cert.as_bytes(), key.as_bytes()).is_ok());
        let why = |chain: &str, key: &str| key_pair(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(why(&cert, &other), Unusable::Mismatch);
        assert_eq!(why("garbage", &key), Unusable::NoCertificate);
        assert_eq!(why(&cert, "garbage"), Unusable::NoKey);
        assert_eq!(why(&cert, &cert), Unusable::NoKey);
        let half = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(why(half, &key), Unusable::Certificate);
        assert_eq!(why(&"x".repeat(LONGEST + 1), &key), Unusable::TooLong);
        assert!(roots(cert.as_bytes()).is_ok());
        assert_eq!(roots(half.as_bytes()).unwrap_err(), Unusable::Certificate);
        let no_list = half.replace("CERTIFICATE", "X509 CRL");
        for text in [cert.as_str(), "", no_list.as_str()] {
            assert_eq!(revocation_lists(text.as_bytes()).unwrap_err(), Unusable::RevocationList);
        }
    }
}
