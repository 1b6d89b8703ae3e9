//! `security.istio.io` PeerAuthentication.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{ObjectMeta, WorkloadSelector};

strict! {
    /// Whether peers of a workload must use mTLS.
    pub struct PeerAuthentication {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: PeerAuthenticationSpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What a PeerAuthentication wants.
    pub struct PeerAuthenticationSpec {
        /// Absent: the namespace; the whole mesh in the root namespace.
        pub selector: Option<WorkloadSelector>,
        /// For all ports.
        pub mtls: Option<Mtls>,
        /// By container port; only with a selector.
        pub port_level_mtls: BTreeMap<u16, Mtls>,
    }

    /// One mode.
    pub struct Mtls {
        /// UNSET when absent.
        pub mode: MtlsMode,
    }
}

/// UNSET inherits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MtlsMode {
    /// What the wider policy says.
    #[default]
    Unset,
    /// Plaintext only.
    Disable,
    /// Both.
    Permissive,
    /// mTLS only.
    Strict,
}
