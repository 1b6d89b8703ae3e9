//! Names and metadata that every resource has.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where an object without a namespace is.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A pod's annotation: its ports below 1024 are served at this much more. Written by the local supervisor where it may not
/// bind them.
pub const LOW_PORT_OFFSET: &str = "mesh.local/low-port-offset";

/// A pod's annotation: `separate` or `sidecar`, who programs its rules of capture. Before the chart's
/// `global.proxy_init.container`.
pub const PROXY_INIT_CONTAINER: &str = "mesh.local/proxy-init-container";

/// Labels and annotations.
pub type Labels = BTreeMap<String, String>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $group:literal [$($version:literal),+] $scope:ident;)+) => {
        /// Every kind of resource that this mesh knows by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $kind,)+ }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// As in `kind:`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)+ }
            }

            /// The API group; empty for core kinds.
            #[must_use]
            pub fn group(self) -> &'static str {
                match self { $(Self::$kind => $group,)+ }
            }

            /// The versions that are accepted, the preferred one first.
            #[must_use]
            pub fn versions(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($version),+],)+ }
            }

            /// Whether objects of this kind live in a namespace.
            #[must_use]
            pub fn is_namespaced(self) -> bool {
                match self { $(Self::$kind => scope!($scope),)+ }
            }
        }
    };
}
macro_rules! scope {
    (namespaced) => {
        true
    };
    (cluster) => {
        false
    };
}

kinds! {
    /// A namespace and its labels.
    Namespace: "" ["v1"] cluster;
    /// The account whose identity a workload has.
    ServiceAccount: "" ["v1"] namespaced;
    /// A name in front of workloads.
    Service: "" ["v1"] namespaced;
    /// Replicated pods.
    Deployment: "apps" ["v1"] namespaced;
    /// One instance of a workload.
    Pod: "" ["v1"] namespaced;
    /// Certificates and keys.
    Secret: "" ["v1"] namespaced;
    /// Settings for applications.
    ConfigMap: "" ["v1"] namespaced;
    /// Routes.
    VirtualService: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Subsets, balancing and connections of a host.
    DestinationRule: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Listeners of a gateway workload, or (group gateway.networking.k8s.io) [`Kind::KubernetesGateway`].
    Gateway: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Whether peers must use mTLS.
    PeerAuthentication: "security.istio.io" ["v1", "v1beta1"] namespaced;
    /// Not in force yet.
    ServiceEntry: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Not in force yet.
    Sidecar: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Not in force yet.
    WorkloadEntry: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Not in force yet.
    WorkloadGroup: "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] namespaced;
    /// Refused: the native alternatives are named.
    EnvoyFilter: "networking.istio.io" ["v1alpha3"] namespaced;
    /// Not in force yet.
    ProxyConfig: "networking.istio.io" ["v1beta1"] namespaced;
    /// Not in force yet; restricts.
    AuthorizationPolicy: "security.istio.io" ["v1", "v1beta1"] namespaced;
    /// Not in force yet; restricts.
    RequestAuthentication: "security.istio.io" ["v1", "v1beta1"] namespaced;
    /// Not in force yet.
    Telemetry: "telemetry.istio.io" ["v1", "v1alpha1"] namespaced;
    /// Not in force.
    WasmPlugin: "extensions.istio.io" ["v1alpha1"] namespaced;
    /// Not in force.
    TrafficExtension: "extensions.istio.io" ["v1alpha1"] namespaced;
    /// `Gateway` of the group gateway.networking.k8s.io. Not in force yet.
    KubernetesGateway: "gateway.networking.k8s.io" ["v1", "v1beta1", "v1alpha2"] namespaced;
    /// Not in force yet.
    GatewayClass: "gateway.networking.k8s.io" ["v1", "v1beta1", "v1alpha2"] cluster;
    /// Not in force yet.
    HTTPRoute: "gateway.networking.k8s.io" ["v1", "v1beta1", "v1alpha2"] namespaced;
    /// Not in force yet.
    GRPCRoute: "gateway.networking.k8s.io" ["v1", "v1alpha2"] namespaced;
    /// Not in force yet.
    TLSRoute: "gateway.networking.k8s.io" ["v1", "v1alpha3", "v1alpha2"] namespaced;
    /// Not in force yet.
    TCPRoute: "gateway.networking.k8s.io" ["v1", "v1alpha2"] namespaced;
    /// Not in force yet.
    UDPRoute: "gateway.networking.k8s.io" ["v1", "v1alpha2"] namespaced;
    /// Not in force yet.
    ReferenceGrant: "gateway.networking.k8s.io" ["v1", "v1beta1", "v1alpha2"] namespaced;
    /// Not in force yet; restricts (it verifies backends).
    BackendTLSPolicy: "gateway.networking.k8s.io" ["v1", "v1alpha3"] namespaced;
}

impl Kind {
    /// The kind of an `apiVersion` and `kind`, whatever the version; `None` for kinds that we don't know.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        let named = |k: &Self| {
            let name = if *k == Self::KubernetesGateway { "Gateway" } else { k.as_str() };
            name == kind && k.group() == group
        };
        Self::ALL.iter().copied().find(named)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds that live in none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// `kind namespace/name`; the namespace is dropped for kinds that live in none, and `default` when empty.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = match (kind.is_namespaced(), namespace) {
            (false, _) => "",
            (true, "") => DEFAULT_NAMESPACE,
            (true, namespace) => namespace,
        };
        Self { kind, namespace: Arc::from(namespace), name: Arc::from(name) }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl fmt::Debug for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The part of Kubernetes' ObjectMeta that the mesh uses. Other fields are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Unique in its namespace and kind.
    pub name: String,
    /// Filled in with `default` when the object is loaded; empty for kinds that live in none.
    pub namespace: String,
    /// Given by whoever made the object; empty in a file.
    pub uid: String,
    /// What selectors look at.
    pub labels: Labels,
    /// What other tools wrote.
    pub annotations: Labels,
    /// RFC 3339, in UTC.
    pub creation_timestamp: Option<String>,
    /// Set while the object is going away.
    pub deletion_timestamp: Option<String>,
    /// Counted by an API server.
    pub generation: Option<i64>,
    /// Given by an API server.
    pub resource_version: Option<String>,
}

impl ObjectMeta {
    /// Sorts the oldest first, ties by name, then namespace (as Istio does). Objects without a time are the oldest.
    #[must_use]
    pub fn age(&self) -> (Option<&str>, &str, &str) {
        (self.creation_timestamp.as_deref(), &self.name, &self.namespace)
    }
}

/// Istio's `selector: {matchLabels}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    /// All of them must hold.
    pub match_labels: Labels,
}

impl WorkloadSelector {
    /// Whether a workload with these labels is selected. An empty selector selects all.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        holds_all(&self.match_labels, labels)
    }
}

/// Whether an object can have a label of this name at all: `[domain/]name`.
#[must_use]
pub fn is_label_name(text: &str) -> bool {
    let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    !name.is_empty() && is_label_value(name) && domain.is_none_or(crate::model::identity::is_kubernetes_name)
}

/// Whether a label can have this value at all: letters, digits, and between them `-`, `_`, `.`; none of it is a wildcard.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().all(|b| inside(*b)) && edge(bytes.first()) && edge(bytes.last())
}

/// Whether a pair of a selector leaves open whom its author meant: without a name, or with wildcards, which there are not.
/// Any other one that no object can have selects nobody.
pub(super) fn leaves_open(name: &str, value: &str) -> bool {
    name.is_empty() || name.contains('*') || value.contains('*')
}

/// Whether `labels` has every pair of `wanted`.
#[must_use]
pub fn holds_all(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
