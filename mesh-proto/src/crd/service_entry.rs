//! `networking.istio.io` ServiceEntry, all served versions (they have the same fields).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{Labels, ObjectMeta};

strict! {
    /// Names outside of the mesh, or in it without a Service.
    pub struct ServiceEntry {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: ServiceEntrySpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What a ServiceEntry wants.
    pub struct ServiceEntrySpec {
        /// Full names; may be wildcards.
        pub hosts: Vec<String>,
        /// Under which addresses applications know them: addresses or ranges.
        pub addresses: Vec<String>,
        /// Of all hosts.
        pub ports: Vec<EntryPort>,
        /// MESH_EXTERNAL when absent.
        pub location: Option<Location>,
        /// NONE when absent.
        pub resolution: Option<Resolution>,
        /// Who is there.
        pub endpoints: Vec<EntryEndpoint>,
        /// Who is there: pods of the same namespace.
        pub workload_selector: Option<EntrySelector>,
        /// `*`, `.`, `~` or namespaces. Empty: everywhere.
        pub export_to: Vec<String>,
        /// Whom TLS to them expects.
        pub subject_alt_names: Vec<String>,
    }

    /// One port of all hosts.
    pub struct EntryPort {
        /// The one that is asked for.
        pub number: u16,
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS.
        pub protocol: String,
        /// What endpoints call it.
        pub name: String,
        /// At the endpoints; the number when absent.
        pub target_port: Option<u16>,
    }

    /// One endpoint.
    pub struct EntryEndpoint {
        /// An address, or a name where `resolution` is DNS.
        pub address: String,
        /// By port name, where it is another one.
        pub ports: std::collections::BTreeMap<String, u16>,
        /// For subsets.
        pub labels: Labels,
        /// Of multi-network meshes.
        pub network: String,
        /// `region/zone/subzone`.
        pub locality: String,
        /// Relative to the others.
        pub weight: Option<u32>,
        /// Whose identity it has.
        pub service_account: String,
    }

    /// Pods by their labels.
    pub struct EntrySelector {
        /// All of them must hold.
        pub labels: Labels,
    }
}

/// Where the hosts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside: no mTLS of the mesh.
    #[default]
    MeshExternal,
    /// Part of the mesh.
    MeshInternal,
}

/// How the addresses behind a host are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address that the application dials.
    #[default]
    None,
    /// Those of the endpoints.
    Static,
    /// By DNS, all of them.
    Dns,
    /// By DNS, one at a time.
    DnsRoundRobin,
    /// By DNS, for each name of a wildcard.
    DynamicDns,
}

impl ServiceEntrySpec {
    /// `resolution`, with its default.
    #[must_use]
    pub fn resolved_by(&self) -> Resolution {
        self.resolution.unwrap_or_default()
    }

    /// Whether the hosts are outside of the mesh.
    #[must_use]
    pub fn is_external(&self) -> bool {
        self.location.unwrap_or_default() == Location::MeshExternal
    }
}
