//! The settings of a pilot on Kubernetes: from its environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::model::SpiffeId;
use mesh_proto::runtime::certificates::CaConfig;

use crate::mesh_config::MeshConfig;
use crate::snapshot::MeshSettings;
use crate::webhook::ControlPlane;

/// Our ServiceAccount.
const ACCOUNT: &str = "mesh-pilot";
/// The authority's ServiceAccount.
const AUTHORITY: &str = "mesh-ca";

/// Where a pilot is, and whom it talks to.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// The name of this pod: who leads is told by it.
    #[arg(long, env = "POD_NAME", default_value = "mesh-pilot")]
    pub pod_name: String,
    /// The namespace of the control plane.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub pod_namespace: String,
    /// Of all identities.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// The suffix of service names.
    #[arg(long, env = "CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// `host:port` of the authority [default: mesh-ca.<namespace>.svc:15012].
    #[arg(long, env = "CA_ADDR")]
    pub ca_addr: Option<String>,
    /// What metrics call this cluster.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Of this control plane.
    #[arg(long, env = "REVISION", default_value = "default")]
    pub revision: String,
    /// Where proxies ask for discovery (mTLS).
    #[arg(long, env = "MESH_PILOT_LISTEN", default_value = "0.0.0.0:15012")]
    pub listen: SocketAddr,
    /// Metrics and readiness.
    #[arg(long, env = "MESH_PILOT_ADMIN", default_value = "0.0.0.0:15014")]
    pub admin: SocketAddr,
    /// What is told on loopback alone: how objects stand.
    #[arg(long, env = "MESH_PILOT_DEBUG", default_value = "127.0.0.1:8080")]
    pub debug: SocketAddr,
    /// What survives a restart of the container: our certificate and the roots.
    #[arg(long, env = "MESH_STATE_DIR", default_value = "/etc/istio/proxy")]
    pub state_dir: PathBuf,
    /// Our projected token, of the audience `istio-ca`.
    #[arg(long, env = "MESH_TOKEN_FILE", default_value = "/var/run/secrets/tokens/istio-token")]
    pub token: PathBuf,
    /// Where the API server asks about pods and resources (HTTPS).
    #[arg(long, env = "MESH_PILOT_WEBHOOK", default_value = "0.0.0.0:15017")]
    pub webhook: SocketAddr,
    /// The mounted settings of the injector: values of the chart.
    #[arg(long, env = "MESH_INJECT_FILE", default_value = "/etc/istio/inject/values")]
    pub inject: PathBuf,
    /// The mounted MeshConfig.
    #[arg(long, env = "MESH_CONFIG_FILE", default_value = "/etc/istio/config/mesh")]
    pub mesh_config: PathBuf,
}

impl Settings {
    /// What all objects are read with: MeshConfig's words come before the environment's.
    ///
    /// # Errors
    /// When the trust domain is none.
    pub fn mesh(&self, config: &MeshConfig) -> anyhow::Result<MeshSettings> {
        Ok(MeshSettings {
            trust_domain: config.trust_domain.as_ref().unwrap_or(&self.trust_domain).parse()?,
            cluster_domain: Arc::from(self.cluster_domain.as_str()),
            root_namespace: Arc::from(config.root_namespace.as_ref().unwrap_or(&self.pod_namespace).as_str()),
        })
    }

    /// Where our certificate comes from.
    ///
    /// # Errors
    /// When the namespace is none.
    pub fn ca(&self, mesh: &MeshSettings) -> anyhow::Result<CaConfig> {
        let account = |name| SpiffeId::new(&mesh.trust_domain, &self.pod_namespace, name);
        Ok(CaConfig {
            address: self.ca_address(),
            roots: self.roots_file(),
            token: Some(self.token.clone()),
            identity: account(ACCOUNT)?,
            authority: account(AUTHORITY)?,
            state_dir: self.state_dir.join("certificates"),
            ttl: None,
        })
    }

    /// `host:port` of the authority.
    #[must_use]
    pub fn ca_address(&self) -> String {
        let beside_us = || format!("mesh-ca.{}.svc:15012", self.pod_namespace);
        self.ca_addr.clone().filter(|address| !address.is_empty()).unwrap_or_else(beside_us)
    }

    /// What injected proxies are told of us.
    #[must_use]
    pub fn control_plane(&self) -> ControlPlane {
        let suffix = if self.revision == "default" { String::new() } else { format!("-{}", self.revision) };
        ControlPlane {
            namespace: self.pod_namespace.clone(),
            revision: self.revision.clone(),
            trust_domain: self.trust_domain.clone(),
            cluster_domain: self.cluster_domain.clone(),
            cluster_id: self.cluster_id.clone(),
            ca_address: self.ca_address(),
            pilot_address: format!("mesh-pilot{suffix}.{}.svc:15012", self.pod_namespace),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Where the roots are kept.
    #[must_use]
    pub fn roots_file(&self) -> PathBuf {
        self.state_dir.join("root-cert.pem")
    }
}
