//! MeshConfig's `caCertificates`: whom to trust beside whom the authority tells.

use mesh_proto::model::TrustDomain;
use rustls::pki_types::CertificateDer;

/// Roots, and whose identities they vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedRoots {
    /// The trust domains; our own if there are none.
    pub domains: Vec<TrustDomain>,
    /// At least one.
    pub roots: Vec<CertificateDer<'static>>,
}
