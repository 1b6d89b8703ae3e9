//! A certificate signing request in, its public key out. Everything else in it is ignored.
//!
//! Source: RFC 2986. The signature proves that the caller has the private key.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// The largest request, as PEM; one with a 4096 bit key is under 2 KiB.
pub const MAX_CSR: usize = 16 << 10;
/// Verifying with larger keys takes long enough to be an attack.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a request is refused. The fault is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCsr {
    /// Larger than any that is needed.
    #[error("the request is {0} bytes long, more than {MAX_CSR}")]
    TooLarge(usize),
    /// Not PEM of one request.
    #[error("not a PEM certificate request: {0}")]
    Malformed(String),
    /// Not P-256 or RSA of at least 2048 bits.
    #[error("{0} is not accepted: P-256 or RSA of 2048 bits or more")]
    Key(String),
    /// The caller does not have the private key.
    #[error("the request's signature is not of its key")]
    Signature,
}

/// The public key that the caller proved to have the private one of.
///
/// # Errors
/// When the request is malformed, its key is not accepted, or its signature is not of that key.
pub fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, InvalidCsr> {
    if pem.len() > MAX_CSR {
        return Err(InvalidCsr::TooLarge(pem.len()));
    }
    let malformed = |e: &dyn std::fmt::Display| InvalidCsr::Malformed(e.to_string());
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|e| malformed(&e))?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|e| malformed(&e))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes after its end"));
    }
    let spki = &request.certification_request_info.subject_pki;
    match spki.parsed().map_err(|e| malformed(&e))? {
        PublicKey::RSA(key) if RSA_BITS.contains(&key.key_size()) => {}
        PublicKey::RSA(key) => return Err(InvalidCsr::Key(format!("RSA of {} bits", key.key_size()))),
        // The curve is checked by its name below: P-256 is the only one of this size that rcgen knows.
        PublicKey::EC(point) if point.key_size() == 256 => {}
        PublicKey::EC(point) => return Err(InvalidCsr::Key(format!("a curve of {} bits", point.key_size()))),
        _ => return Err(InvalidCsr::Key("this kind of key".to_owned())),
    }
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|e| InvalidCsr::Key(e.to_string()))?;
    request.verify_signature().map_err(|_| InvalidCsr::Signature)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData, RsaKeySize};

    use super::*;

    fn request(key: &KeyPair) -> String {
        CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn takes_the_key() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(public_key(&request(&key)).unwrap().der_bytes(), key.public_key_raw());
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        assert_eq!(public_key(&request(&rsa)).unwrap().der_bytes(), rsa.public_key_raw());
    }

    #[test]
    fn refuses_other_keys() {
        for (algorithm, what) in [
            (&rcgen::PKCS_ECDSA_P384_SHA384, "a curve of 384 bits"),
            (&rcgen::PKCS_ED25519, "this kind of key"),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(public_key(&request(&key)).unwrap_err(), InvalidCsr::Key(what.to_owned()));
        }
    }

    /// Too weak, and so large that checking it is work for an attacker to give.
    #[test]
    fn refuses_rsa_of_other_sizes() {
        for (bits, pem) in [
            (1024, include_str!("../corpus/request/rsa-1024")),
            (8448, include_str!("../corpus/request/rsa-8448")),
        ] {
            assert_eq!(public_key(pem).unwrap_err(), InvalidCsr::Key(format!("RSA of {bits} bits")));
        }
    }

    #[test]
    fn refuses_a_key_that_the_caller_does_not_have() {
        let key = KeyPair::generate().unwrap();
        let der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let other = KeyPair::generate().unwrap();
        let point = key.public_key_raw();
        let at = der.windows(point.len()).position(|w| w == point).unwrap();
        let mut stolen = der;
        stolen[at..at + point.len()].copy_from_slice(other.public_key_raw());
        let pem = pem("CERTIFICATE REQUEST", &stolen);
        assert_eq!(public_key(&pem).unwrap_err(), InvalidCsr::Signature);
    }

    #[test]
    fn refuses_garbage_of_any_size() {
        let good = request(&KeyPair::generate().unwrap());
        assert!(public_key(&format!("{good:\n<MAX_CSR$}")).is_ok());
        let larger = MAX_CSR + 1;
        assert_eq!(public_key(&format!("{good:\n<larger$}")).unwrap_err(), InvalidCsr::TooLarge(larger));
        for cut in 0..good.len() {
            let part = &good[..cut];
            if part.trim_end() != good.trim_end() {
                assert!(public_key(part).is_err(), "{cut}");
            }
        }
        let key = KeyPair::generate().unwrap();
        let mut der = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        der.push(0);
        assert!(public_key(&pem("CERTIFICATE REQUEST", &der)).is_err());
        assert!(public_key(&key.serialize_pem()).is_err());
    }

    fn pem(label: &str, der: &[u8]) -> String {
        use base64::Engine;
        let text = base64::prelude::BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }
}
