//! The one TLS provider of the mesh: aws-lc-rs, whole or narrowed.
//!
//! In: [`TlsParameters`]. Out: what rustls is set up with. Post-quantum key exchange comes first where nothing else is said.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

use crate::model::TlsParameters;
use crate::model::tls::{CipherSuite, Group};

/// Makes aws-lc-rs the provider of this process. Call it first in every `main`; calling it again does nothing.
pub fn install_provider() {
    // An error means that a provider is installed already: by an earlier call, there is no other.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// The provider that all our TLS settings use: the installed one, so that its key exchange groups are shared.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    install_provider();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
}

/// The provider, narrowed to what may be spoken, and the versions of TLS.
#[must_use]
pub fn speaking(parameters: &TlsParameters) -> (Arc<CryptoProvider>, Vec<&'static SupportedProtocolVersion>) {
    let mut versions = Vec::with_capacity(2);
    versions.extend(parameters.tls13.then_some(&rustls::version::TLS13));
    versions.extend(parameters.tls12.then_some(&rustls::version::TLS12));
    if parameters.cipher_suites.is_empty() && parameters.groups.is_empty() {
        return (provider(), versions);
    }
    let mut narrowed = (*provider()).clone();
    if !parameters.cipher_suites.is_empty() {
        narrowed.cipher_suites.retain(|suite| matches!(suite, SupportedCipherSuite::Tls13(_)));
        narrowed.cipher_suites.extend(parameters.cipher_suites.iter().copied().map(suite));
    }
    if !parameters.groups.is_empty() {
        narrowed.kx_groups = parameters.groups.iter().copied().map(group).collect();
    }
    (Arc::new(narrowed), versions)
}

fn suite(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdheEcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn group(group: Group) -> &'static dyn SupportedKxGroup {
    match group {
        Group::X25519Mlkem768 => kx_group::X25519MLKEM768,
        Group::X25519 => kx_group::X25519,
        Group::P256 => kx_group::SECP256R1,
        Group::P384 => kx_group::SECP384R1,
    }
}

/// Within an implementation of a verifier of rustls: signatures of handshakes are checked by the provider, whoever signs.
#[macro_export]
macro_rules! signature_checks {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &::rustls::pki_types::CertificateDer<'_>,
            dss: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            let algorithms = $crate::runtime::crypto::provider().signature_verification_algorithms;
            ::rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &::rustls::pki_types::CertificateDer<'_>,
            dss: &::rustls::DigitallySignedStruct,
        ) -> Result<::rustls::client::danger::HandshakeSignatureValid, ::rustls::Error> {
            let algorithms = $crate::runtime::crypto::provider().signature_verification_algorithms;
            ::rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<::rustls::SignatureScheme> {
            $crate::runtime::crypto::provider().signature_verification_algorithms.supported_schemes()
        }
    };
}
pub use signature_checks;
