//! Obtaining our certificate from the authority, and rotating it.
//!
//! In: [`CaConfig`]. Out: an [`Identity`] that always holds the newest leaf, and a [`Rotation`] that renews it at half of
//! its life. The wire is `istio.v1.auth.IstioCertificateService`.

mod client;
mod disk;
mod rotation;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use client::ObtainError;
pub use rotation::{Rotation, RotationStatus, obtain, obtain_once};

use super::identity::Identity;
use crate::model::{SpiffeId, TrustDomain};

/// Where our certificate comes from.
#[derive(Debug, Clone)]
pub struct CaConfig {
    /// `host:port` of the authority.
    pub address: String,
    /// PEM file with the roots of our trust domain; it is read again when it changes.
    pub roots: PathBuf,
    /// The file with our attestation token, read at each use. Without one only a stored certificate can be renewed.
    pub token: Option<PathBuf>,
    /// Who we are: a certificate for somebody else is refused.
    pub identity: SpiffeId,
    /// Who the authority is: nobody else is asked. [`authority_id`], or the `mesh-ca` of another namespace.
    pub authority: SpiffeId,
    /// Where leaf and key are kept (`identity.pem`, 0600 in a 0700 directory), for a start while the authority is away.
    pub state_dir: PathBuf,
    /// The life to ask for; the authority's default if `None`.
    pub ttl: Option<Duration>,
}

/// The identity of the mesh's certificate authority.
///
/// # Panics
/// Never: the names are constants that are valid.
#[must_use]
pub fn authority_id(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::new(domain, "istio-system", "mesh-ca").expect("valid names")
}

/// The identity of the mesh's pilot.
///
/// # Panics
/// Never: the names are constants that are valid.
#[must_use]
pub fn pilot_id(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::new(domain, "istio-system", "mesh-pilot").expect("valid names")
}

/// What an admin endpoint tells of an identity: times are Unix seconds, roots hexadecimal serial and subject.
#[must_use]
pub fn describe(identity: &Identity) -> serde_json::Value {
    let leaf = identity.leaf();
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut roots = Vec::new();
    for (domain, of) in identity.roots().domains() {
        for certificate in &of.certificates {
            let mut root = serde_json::json!({ "trust_domain": domain.as_str() });
            if let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) {
                root["subject"] = parsed.subject().to_string().into();
                root["serial"] = parsed.raw_serial_as_string().replace(':', "").into();
                root["not_after"] = parsed.validity().not_after.timestamp().into();
            }
            roots.push(root);
        }
    }
    let now = SystemTime::now();
    serde_json::json!({
        "identity": identity.id().as_str(),
        "serial": leaf.serial,
        "not_before": seconds(leaf.not_before),
        "not_after": seconds(leaf.not_after),
        "valid": leaf.is_valid_at(now),
        "seconds_left": leaf.not_after.duration_since(now).map_or(0, |d| d.as_secs()),
        "generation": identity.generation(),
        "roots": roots,
    })
}
