//! The one TLS provider of the mesh: aws-lc-rs.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

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
