//! The pilot's configuration file (JSON), written by whoever starts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnet::{Ipv4Net, Ipv6Net};
use mesh_proto::model::TrustDomain;
use serde::Deserialize;

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where proxies ask for discovery (mTLS).
    pub listen: SocketAddr,
    /// Where people and tools ask how things are.
    pub admin: SocketAddr,
    /// Of all identities.
    pub trust_domain: String,
    /// The suffix of service names.
    #[serde(default = "cluster_domain")]
    pub cluster_domain: String,
    /// Where policies of the whole mesh live.
    #[serde(default = "root_namespace")]
    pub root_namespace: String,
    /// Where objects come from.
    pub source: SourceConfig,
    /// What survives a restart.
    pub state_dir: PathBuf,
    /// Who signs the pilot's certificate.
    pub ca: CaConfig,
    /// Where cluster IPs come from.
    pub vip_cidr: Ipv4Net,
    /// Where those of IPv6 come from; without it services have none.
    #[serde(default)]
    pub vip_cidr6: Option<Ipv6Net>,
    /// End when this process does.
    #[serde(default)]
    pub parent_pid: Option<u32>,
}

/// Where objects come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The user's files and directories.
    pub user_paths: Vec<PathBuf>,
    /// The supervisor's Pod files.
    pub state_pods: PathBuf,
}

/// Who signs the pilot's certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaConfig {
    /// `host:port`.
    pub address: String,
    /// PEM file with the roots.
    pub roots: PathBuf,
    /// File with the attestation token.
    #[serde(default)]
    pub token: Option<PathBuf>,
}

fn cluster_domain() -> String {
    "cluster.local".to_owned()
}

fn root_namespace() -> String {
    "istio-system".to_owned()
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, has unknown or missing fields, or a trust domain that is none.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let config: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        config.trust_domain()?;
        Ok(config)
    }

    /// The trust domain.
    ///
    /// # Errors
    /// When it is none.
    pub fn trust_domain(&self) -> anyhow::Result<TrustDomain> {
        Ok(self.trust_domain.parse()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_supervisor_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pilot.json");
        let text = r#"{"listen":"127.5.0.3:15012","admin":"127.5.0.3:15014","trust_domain":"cluster.local",
            "cluster_domain":"cluster.local","root_namespace":"istio-system",
            "source":{"user_paths":["a.yaml"],"state_pods":"s/pods"},"state_dir":"s",
            "ca":{"address":"127.5.0.2:15012","roots":"s/root.pem","token":"t"},
            "vip_cidr":"127.5.255.0/24","parent_pid":123}"#;
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        assert_eq!((config.listen.port(), config.parent_pid), (15012, Some(123)));
        std::fs::write(&path, text.replace("\"admin\"", "\"admim\"")).unwrap();
        let error = format!("{:#}", Config::read(&path).unwrap_err());
        assert!(error.contains("admim") && error.contains("pilot.json"), "{error}");
    }
}
