//! What is watched, and under which resource: of core kinds that is known, of others the API server is asked.

use kube::Client;
use kube::core::ApiResource;
use mesh_proto::crd::Kind;
use mesh_proto::crd::unsupported::unsupported;

/// A kind of object that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Watched {
    /// For the places that pods run in.
    Node,
    /// Who is behind a service.
    EndpointSlice,
    /// A kind that the mesh has objects of.
    Object(Kind),
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node => f.write_str("Node"),
            Self::EndpointSlice => f.write_str("EndpointSlice"),
            Self::Object(Kind::KubernetesGateway) => f.write_str("Gateway (gateway.networking.k8s.io)"),
            Self::Object(kind) => kind.fmt(f),
        }
    }
}

/// Why a kind cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum NotServed {
    /// The API server does not serve it in a version that we know.
    #[error("the API server does not serve {kind} in {versions}")]
    Missing {
        /// The kind.
        kind: String,
        /// The versions that would do.
        versions: String,
    },
    /// It could not be asked.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl Watched {
    /// Everything that is watched. Not: what only the local supervisor acts on (Deployments), and what nothing here reads
    /// (ServiceAccounts: a pod names its own; ConfigMaps: [`crate::cluster`] watches the one that counts).
    pub fn all() -> impl Iterator<Item = Self> {
        let unused = |kind: &Kind| matches!(kind, Kind::Deployment | Kind::ServiceAccount | Kind::ConfigMap);
        let kinds = Kind::ALL.iter().copied().filter(move |kind| !unused(kind));
        [Self::Node, Self::EndpointSlice].into_iter().chain(kinds.map(Self::Object))
    }

    /// `kind:` in objects.
    #[must_use]
    pub fn kind_name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::EndpointSlice => "EndpointSlice",
            Self::Object(Kind::KubernetesGateway) => "Gateway",
            Self::Object(kind) => kind.as_str(),
        }
    }

    /// The API group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Node => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::Object(kind) => kind.group(),
        }
    }

    /// Whether somebody misses it when it is not served: not kinds that would be refused, and restrict nobody.
    #[must_use]
    pub fn is_missed(self) -> bool {
        match self {
            Self::Node | Self::EndpointSlice => true,
            Self::Object(kind) => unsupported(kind).is_none(),
        }
    }

    /// The resource of a kind that every API server has.
    fn built_in(self) -> Option<ApiResource> {
        let plural = match self {
            Self::Node => "nodes",
            Self::EndpointSlice => "endpointslices",
            Self::Object(Kind::Namespace) => "namespaces",
            Self::Object(Kind::Service) => "services",
            Self::Object(Kind::Pod) => "pods",
            Self::Object(Kind::Secret) => "secrets",
            Self::Object(_) => return None,
        };
        Some(resource(self, "v1", plural))
    }

    /// Under which resource and in which version the API server has it: the first one of those that we know.
    ///
    /// # Errors
    /// When there is none, or the API server does not say.
    pub async fn discover(self, client: &Client) -> Result<ApiResource, NotServed> {
        let (Self::Object(kind), None) = (self, self.built_in()) else {
            return Ok(self.built_in().expect("only objects are not built in"));
        };
        for version in kind.versions() {
            let group_version = format!("{}/{version}", kind.group());
            let served = match client.list_api_group_resources(&group_version).await {
                Ok(served) => served.resources,
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error.into()),
            };
            let named = |r: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource| {
                r.kind == self.kind_name() && !r.name.contains('/')
            };
            if let Some(found) = served.iter().find(named) {
                return Ok(resource(self, version, &found.name));
            }
        }
        let versions = kind.versions().iter().map(|version| format!("{}/{version}", kind.group()));
        let versions = versions.collect::<Vec<_>>().join(", ");
        Err(NotServed::Missing { kind: self.kind_name().to_owned(), versions })
    }
}

fn resource(watched: Watched, version: &str, plural: &str) -> ApiResource {
    let group = watched.group();
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        kind: watched.kind_name().to_owned(),
        plural: plural.to_owned(),
    }
}
