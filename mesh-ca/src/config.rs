//! The configuration: a JSON file in, typed settings out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_proto::model::TrustDomain;
use serde::{Deserialize, Deserializer};

use crate::authority::material::ROOT_LIFE;
use crate::bundle::serve::WebCertificate;
use crate::federation::Federated;
use crate::limit::Rate;

/// Why a configuration cannot be used. The fault is with whoever wrote it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// The settings of the authority.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the certificate service listens.
    pub listen: SocketAddr,
    /// The trust domain of every identity that it signs.
    #[serde(deserialize_with = "trust_domain")]
    pub trust_domain: TrustDomain,
    /// Where the root is kept, or `ca-cert.pem` and `ca-key.pem` are plugged in.
    pub state_dir: PathBuf,
    /// The key of local attestation tokens (64 hexadecimal digits). Without it no token is accepted.
    #[serde(default)]
    pub local_token_key: Option<PathBuf>,
    /// The life of a leaf when the caller asks for none.
    #[serde(rename = "leaf_ttl_seconds", default = "leaf_ttl", deserialize_with = "seconds")]
    pub leaf_ttl: Duration,
    /// The longest life of a leaf, whatever the caller asks for.
    #[serde(rename = "max_leaf_ttl_seconds", default = "max_leaf_ttl", deserialize_with = "seconds")]
    pub max_leaf_ttl: Duration,
    /// The shortest life of a leaf, whatever the caller asks for.
    #[serde(rename = "min_leaf_ttl_seconds", default = "min_leaf_ttl", deserialize_with = "seconds")]
    pub min_leaf_ttl: Duration,
    /// The life of a self-signed root.
    #[serde(rename = "root_ttl_seconds", default = "root_ttl", deserialize_with = "seconds")]
    pub root_ttl: Duration,
    /// The share of its life, in percent, that a self-signed root has left when another one takes its place; 0: never.
    #[serde(default = "root_grace_percent", deserialize_with = "percent")]
    pub root_grace_percent: u8,
    /// The certificates that one identity may have.
    #[serde(default)]
    pub rate_limit: Rate,
    /// The socket that takes an operator's commands; only its owner can open it. Without it none are taken.
    #[serde(default)]
    pub admin_socket: Option<PathBuf>,
    /// Where other trust domains read our bundle.
    #[serde(default)]
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// Other trust domains whose identities are believed.
    #[serde(default)]
    pub federation: Vec<Federated>,
    /// Where to write the roots for everyone to read.
    pub root_out: PathBuf,
    /// Where `/metrics` and `/healthz/ready` are served.
    pub admin: SocketAddr,
    /// The process whose end is also ours.
    #[serde(default)]
    pub parent_pid: Option<u32>,
}

/// The endpoint of our bundle.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleEndpoint {
    /// Where it listens.
    pub listen: SocketAddr,
    /// A certificate of the Web's (profile `https_web`); without it the authority's own (`https_spiffe`).
    #[serde(default)]
    pub web: Option<WebCertificate>,
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read or has other settings than these.
    pub fn read(path: &Path) -> Result<Self, InvalidConfig> {
        let text =
            std::fs::read(path).map_err(|source| InvalidConfig::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| InvalidConfig::Parse { path: path.to_owned(), source })
    }
}

fn leaf_ttl() -> Duration {
    Duration::from_secs(24 * 3600)
}

/// Istio's limit: 90 days.
fn max_leaf_ttl() -> Duration {
    Duration::from_secs(90 * 24 * 3600)
}

fn min_leaf_ttl() -> Duration {
    Duration::from_secs(1)
}

fn root_ttl() -> Duration {
    ROOT_LIFE
}

/// Istio's.
fn root_grace_percent() -> u8 {
    20
}

/// At most 90: a root that is always to be replaced would be for ever.
fn percent<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let percent = u8::deserialize(from)?;
    if percent > 90 {
        return Err(serde::de::Error::custom("must be between 0 and 90"));
    }
    Ok(percent)
}

/// A life of at most twenty years: nothing that is added to a time of now overflows.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let seconds = u64::deserialize(from)?;
    if !(1..=20 * 365 * 86400).contains(&seconds) {
        return Err(serde::de::Error::custom("must be between one second and twenty years"));
    }
    Ok(Duration::from_secs(seconds))
}

fn trust_domain<'de, D: Deserializer<'de>>(from: D) -> Result<TrustDomain, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"listen":"127.1.0.2:15012","trust_domain":"cluster.local","state_dir":"s","local_token_key":"k",
        "leaf_ttl_seconds":86400,"max_leaf_ttl_seconds":7776000,"root_out":"s/root.pem","admin":"127.1.0.2:15014","parent_pid":123}"#;

    #[test]
    fn reads_what_the_supervisor_writes() {
        let config: Config = serde_json::from_str(GOOD).unwrap();
        assert_eq!(config.leaf_ttl, Duration::from_secs(86400));
        assert_eq!(config.max_leaf_ttl, Duration::from_secs(7_776_000));
        assert_eq!(config.parent_pid, Some(123));
    }

    #[test]
    fn refuses_what_it_does_not_know_or_cannot_be() {
        for (good, bad) in [
            ("\"admin\"", "\"admim\""),
            ("cluster.local", "Cluster.Local"),
            (":86400", ":0"),
            (":7776000", ":99999999999"),
            ("127.1.0.2:15012", "nowhere"),
        ] {
            assert!(serde_json::from_str::<Config>(&GOOD.replacen(good, bad, 1)).is_err(), "{bad}");
        }
    }
}
