//! Names and versions of discovery resources.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What a resource is. The text form is the first part of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `self/self`: the receiving workload.
    SelfConfig,
    /// `catalogue/<namespace>`: the names of a namespace.
    Catalogue,
    /// `trust_bundle/<trust domain>`.
    TrustBundle,
    /// `endpoints/<host>:<port>`.
    Endpoints,
    /// `cluster/<host>:<port>`.
    Cluster,
    /// `destination/<host>:<port>`: routes.
    Destination,
    /// `workload/<ip>`.
    Workload,
    /// `secret/<namespace>/<name>`, gateways only.
    Secret,
    /// `listener/<port>`, gateways only.
    Listener,
}

impl Kind {
    /// All kinds, in the order in which a response should be applied (what is named before what names it).
    pub const ALL: [Self; 9] = [
        Self::TrustBundle,
        Self::SelfConfig,
        Self::Endpoints,
        Self::Cluster,
        Self::Destination,
        Self::Workload,
        Self::Secret,
        Self::Listener,
        Self::Catalogue,
    ];

    /// The first part of a resource's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SelfConfig => "self",
            Self::Catalogue => "catalogue",
            Self::TrustBundle => "trust_bundle",
            Self::Endpoints => "endpoints",
            Self::Cluster => "cluster",
            Self::Destination => "destination",
            Self::Workload => "workload",
            Self::Secret => "secret",
            Self::Listener => "listener",
        }
    }

    /// The type URL of the message in the resource's Any.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::SelfConfig => "type.googleapis.com/mesh.v1.SelfConfig",
            Self::Catalogue => "type.googleapis.com/mesh.v1.Catalogue",
            Self::TrustBundle => "type.googleapis.com/mesh.v1.TrustBundle",
            Self::Endpoints => "type.googleapis.com/mesh.v1.Endpoints",
            Self::Cluster => "type.googleapis.com/mesh.v1.Cluster",
            Self::Destination => "type.googleapis.com/mesh.v1.Destination",
            Self::Workload => "type.googleapis.com/mesh.v1.Workload",
            Self::Secret => "type.googleapis.com/mesh.v1.Secret",
            Self::Listener => "type.googleapis.com/mesh.v1.Listener",
        }
    }
}

/// `kind/name`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName {
    /// What it is.
    pub kind: Kind,
    name: Arc<str>,
}

/// Why a text is no resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no resource name (kind/name)")]
pub struct InvalidResourceName(String);

impl ResourceName {
    /// `kind/name`.
    #[must_use]
    pub fn new(kind: Kind, name: &str) -> Self {
        Self { kind, name: Arc::from(name) }
    }

    /// The second part.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for ResourceName {
    type Err = InvalidResourceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = text.split_once('/').ok_or_else(|| InvalidResourceName(text.to_owned()))?;
        let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind);
        match kind {
            Some(kind) if !name.is_empty() => Ok(Self::new(kind, name)),
            _ => Err(InvalidResourceName(text.to_owned())),
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The version of a resource: the hash of its encoded bytes (XXH3, 128 bits, hexadecimal). Replicas and restarts agree.
#[must_use]
pub fn version(encoded: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(encoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in Kind::ALL {
            let name = ResourceName::new(kind, "a.b:80");
            assert_eq!(name.to_string().parse::<ResourceName>().unwrap(), name);
        }
        for bad in ["", "cluster", "cluster/", "clusters/a:1", "/a"] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad:?}");
        }
    }
}
