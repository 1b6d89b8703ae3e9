//! One object of any kind, and where it came from.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::authorization_policy::AuthorizationPolicy;
use super::destination_rule::DestinationRule;
use super::gateway::Gateway;
use super::meta::{Labels, ObjectMeta, ObjectRef};
use super::peer_authentication::PeerAuthentication;
use super::problem::{Position, Problem};
use super::request_authentication::RequestAuthentication;
use super::service_entry::ServiceEntry;
use super::virtual_service::VirtualService;
use super::workload::{ConfigMap, Deployment, Namespace, Pod, Secret, Service, ServiceAccount};

/// An object that was accepted. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Object {
    Namespace(Arc<Namespace>),
    ServiceAccount(Arc<ServiceAccount>),
    Service(Arc<Service>),
    Deployment(Arc<Deployment>),
    Pod(Arc<Pod>),
    Secret(Arc<Secret>),
    ConfigMap(Arc<ConfigMap>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Gateway(Arc<Gateway>),
    PeerAuthentication(Arc<PeerAuthentication>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    RequestAuthentication(Arc<RequestAuthentication>),
    ServiceEntry(Arc<ServiceEntry>),
}

impl Object {
    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(o) => &o.metadata,
            Self::ServiceAccount(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::Deployment(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::Secret(o) => &o.metadata,
            Self::ConfigMap(o) => &o.metadata,
            Self::VirtualService(o) => &o.metadata,
            Self::DestinationRule(o) => &o.metadata,
            Self::Gateway(o) => &o.metadata,
            Self::PeerAuthentication(o) => &o.metadata,
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::RequestAuthentication(o) => &o.metadata,
            Self::ServiceEntry(o) => &o.metadata,
        }
    }
}

/// Where the fields of an object are in its file. Empty for objects from an API server. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Places(pub(super) Arc<HashMap<String, Place>>);

/// Where one field is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Of its key (of the item itself in lists).
    pub key: Position,
    /// Of its value.
    pub value: Position,
}

impl Places {
    /// The place of a field, or of the nearest field around it that is there.
    #[must_use]
    pub fn of(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.0.get("").copied().unwrap_or_default(),
            }
        }
    }
}

/// Where an object came from. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Origin {
    /// The file; empty for an API server.
    pub file: Arc<str>,
    /// Where its fields are.
    pub places: Places,
}

impl Origin {
    /// `file:line` of a field (`""`: of the object), or an empty string where there is no file.
    #[must_use]
    pub fn location(&self, path: &str) -> String {
        if self.file.is_empty() {
            return String::new();
        }
        match self.places.of(path).key.line {
            0 => self.file.to_string(),
            line => format!("{}:{line}", self.file),
        }
    }
}

/// An accepted object with all that is known about it. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Which object it is.
    pub reference: ObjectRef,
    /// What it says.
    pub object: Object,
    /// Where it came from.
    pub origin: Origin,
    /// As it was written, without nulls; what is kept on disk as the last good version ([`super::from_value`] reads it).
    pub value: Arc<Value>,
    /// Warnings.
    pub problems: Arc<[Problem]>,
}

/// Whom a refused object was meant to restrict. Its targets fail closed for as long as there is no good version of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Restriction {
    /// The refused object.
    pub reference: ObjectRef,
    /// Whom.
    pub targets: Targets,
    /// `file:line`, or empty.
    pub location: String,
    /// Why it is not in force, for the answers that fail closed.
    pub reason: String,
}

/// Whom a restriction is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Workloads of the object's namespace with these labels (of every namespace, if that is the root namespace). With no
    /// labels: all workloads of the namespace. That also stands for whatever could not be read.
    Workloads(Labels),
    /// Clients of this host (as written), from a DestinationRule that was to secure connections to it.
    Host(String),
}

/// One document of a file, or one object of an API server.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// In force as far as it can be.
    Accepted(Resource),
    /// Not in force; an older version of it may be.
    Refused(Refused),
    /// A kind that this mesh has no use for (an HPA, a Role ...): told, not refused.
    Ignored(Problem),
}

/// A refused object.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// As far as it could be read. `None`: anything that the file held before may be meant.
    pub reference: Option<ObjectRef>,
    /// Whom it was to restrict.
    pub restriction: Option<Restriction>,
    /// Where it came from.
    pub origin: Origin,
    /// At least one error.
    pub problems: Vec<Problem>,
}

impl Document {
    /// Everything that there is to say about it.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Accepted(resource) => &resource.problems,
            Self::Refused(refused) => &refused.problems,
            Self::Ignored(problem) => std::slice::from_ref(problem),
        }
    }

    /// Which object it is, as far as it could be read.
    #[must_use]
    pub fn reference(&self) -> Option<&ObjectRef> {
        match self {
            Self::Accepted(resource) => Some(&resource.reference),
            Self::Refused(refused) => refused.reference.as_ref(),
            Self::Ignored(_) => None,
        }
    }
}
