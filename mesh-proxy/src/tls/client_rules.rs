//! Which of the clients' certificates that are valid are let in: by name, by key, by certificate.
//!
//! In: `wire::CertificateRules`, and who checks everything else. Out: a verifier for rustls. Sources: Istio's
//! ServerTLSSettings (`subjectAltNames`, `verifyCertificateSpki`, `verifyCertificateHash`), Envoy's CertificateValidationContext.

use std::sync::Arc;

use mesh_proto::wire::mesh::v1 as wire;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::names::names_of;

/// What is asked of a client's certificate, beyond a chain to a CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRules {
    names: Vec<String>,
    keys: Vec<[u8; 32]>,
    certificates: Vec<[u8; 32]>,
}

/// The certificate is not one of those that are let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("the client's certificate has none of the names {wanted}; it has {has}")]
    Names { wanted: String, has: String },
    #[error("the client's certificate is none of those that are let in by their hash")]
    Hash,
}

impl TryFrom<&wire::CertificateRules> for ClientRules {
    type Error = String;

    fn try_from(wire: &wire::CertificateRules) -> Result<Self, String> {
        let hashes = |list: &[bytes::Bytes]| {
            let each = list.iter().map(|hash| <[u8; 32]>::try_from(&hash[..]));
            each.collect::<Result<Vec<_>, _>>().map_err(|_| "a hash that is no SHA-256".to_owned())
        };
        Ok(Self {
            names: wire.subject_alt_names.clone(),
            keys: hashes(&wire.spki_sha256)?,
            certificates: hashes(&wire.certificate_sha256)?,
        })
    }
}

impl ClientRules {
    /// These rules on top of what `inner` checks.
    #[must_use]
    pub fn over(self, inner: Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Ruled { rules: self, inner })
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Refused> {
        if !self.names.is_empty() {
            let has = names_of(leaf);
            if !has.iter().any(|name| self.names.contains(name)) {
                return Err(Refused::Names { wanted: self.names.join(" or "), has: has.join(", ") });
            }
        }
        let pinned = !self.keys.is_empty() || !self.certificates.is_empty();
        if pinned && !self.certificates.contains(&sha256(leaf)) && !self.keys.contains(&key_hash(leaf)?) {
            return Err(Refused::Hash);
        }
        Ok(())
    }
}

fn key_hash(leaf: &CertificateDer<'_>) -> Result<[u8; 32], Refused> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| Refused::Hash)?;
    Ok(sha256(certificate.public_key().raw))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A verifier with rules on top.
#[derive(Debug)]
struct Ruled {
    rules: ClientRules,
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Ruled {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(leaf, intermediates, now)?;
        let refuse = |why| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))));
        self.rules.check(leaf).map_err(refuse)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SanType};

    use super::*;

    fn rules(names: &[&str], keys: &[[u8; 32]], certificates: &[[u8; 32]]) -> ClientRules {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        ClientRules { names, keys: keys.to_vec(), certificates: certificates.to_vec() }
    }

    /// Names and hashes both count where both are there; of the two kinds of hashes one is enough.
    #[test]
    fn names_and_hashes() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("urn:a".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let leaf = params.self_signed(&key).unwrap();
        let leaf = leaf.der();
        let (this_key, this) = (sha256(&key.subject_public_key_info()), sha256(leaf));
        let other = [7; 32];
        for (rules, good) in [
            (rules(&[], &[], &[]), true),
            (rules(&["a.example"], &[], &[]), true),
            (rules(&["b", "urn:a"], &[], &[]), true),
            (rules(&["127.0.0.1"], &[], &[]), true),
            (rules(&["A.example"], &[], &[]), false),
            (rules(&["example"], &[], &[]), false),
            (rules(&["*.example"], &[], &[]), false),
            (rules(&[], &[this_key], &[]), true),
            (rules(&[], &[], &[this]), true),
            (rules(&[], &[other], &[this]), true),
            (rules(&[], &[this_key], &[other]), true),
            (rules(&[], &[this], &[this_key]), false),
            (rules(&[], &[other], &[other]), false),
            (rules(&["b"], &[this_key], &[this]), false),
            (rules(&["a.example"], &[other], &[]), false),
        ] {
            assert_eq!(rules.check(leaf).is_ok(), good, "{rules:?}");
        }
        let short = wire::CertificateRules { spki_sha256: vec![vec![1, 2].into()], ..Default::default() };
        assert!(ClientRules::try_from(&short).is_err());
    }
}
