//! This proxy's certificate: from the bootstrap's settings to an identity that stays fresh.
//!
//! In: [`Config`]. Out: [`Identity`] and its [`Rotation`], and what `/certs` tells. The work is done by
//! `mesh_proto::runtime::certificates`, which the pilot uses too.

use std::time::{SystemTime, UNIX_EPOCH};

use mesh_proto::runtime::certificates::{self, CaConfig, Rotation};
use mesh_proto::runtime::identity::Identity;

use crate::config::{Config, InvalidConfig};

/// Waits for the first certificate (a stored one that is still good counts) and keeps it fresh. The identity and its
/// connections survive every renewal. Dropping the [`Rotation`] ends the renewals.
///
/// # Errors
/// When the bootstrap names no identity. An authority that is away is waited for.
pub async fn obtain(config: &Config) -> Result<(Identity, Rotation), InvalidConfig> {
    Ok(certificates::obtain(settings(config)?).await)
}

/// What the authority is asked with.
fn settings(config: &Config) -> Result<CaConfig, InvalidConfig> {
    Ok(CaConfig {
        address: config.ca.address.to_string(),
        roots: config.ca.roots.clone(),
        token: Some(config.ca.token.clone()),
        identity: config.identity()?,
        authority: config.ca_identity()?,
        // A directory of its own: only this one must be closed to everybody else.
        state_dir: config.state_dir.join("identity"),
        ttl: config.ca.life,
    })
}

/// The document of `GET /certs`: no secrets, times as Unix seconds.
#[must_use]
pub fn certs(identity: &Identity, rotation: &Rotation) -> serde_json::Value {
    let status = rotation.status();
    let mut told = certificates::describe(identity);
    let due = status.renew_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    told["renewal"] = serde_json::json!({
        "due": due,
        "overdue": status.renew_at < SystemTime::now(),
        "renewals": status.renewals,
        "last_error": status.last_error,
    });
    told
}

#[cfg(test)]
mod tests;
