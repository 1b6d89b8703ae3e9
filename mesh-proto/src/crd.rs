//! Kubernetes and Istio resource types, and how they are read: text → [`yaml`] (a tree with positions) → JSON value → typed
//! objects → [`check`] (what a type cannot say). What is wrong is a [`Problem`] at the offending field.
//!
//! One bad document never affects another one. Istio kinds are strict (an unknown field is an error), Kubernetes' own kinds
//! are read for the fields that the mesh uses.

/// Structs of which every field is known: an unknown one is an error, an absent one its default.
macro_rules! strict {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$field_doc:meta])* pub $field:ident: $type:ty,)* })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(default, rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )+};
}

pub mod authorization_policy;
pub mod check;
mod decode;
pub mod destination_rule;
pub mod gateway;
mod load;
pub mod meta;
pub mod object;
pub mod peer_authentication;
pub mod problem;
pub mod request_authentication;
#[cfg(feature = "schema")]
pub mod schema;
pub mod service_entry;
pub mod target_ref;
pub mod unsupported;
pub mod values;
pub mod virtual_service;
pub mod workload;
pub mod yaml;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use gateway::Gateway;
pub use load::{
    Report, from_value, parse, parse_file, parse_path, validate_documents, validate_files, yaml_files,
};
pub use meta::{DEFAULT_NAMESPACE, Kind, Labels, ObjectMeta, ObjectRef};
pub use object::{Document, Object, Origin, Refused, Resource, Restriction, Targets};
pub use peer_authentication::PeerAuthentication;
pub use problem::{Position, Problem, Severity};
pub use request_authentication::RequestAuthentication;
pub use service_entry::ServiceEntry;
pub use values::{Duration, IntOrString, StringMatch};
pub use virtual_service::VirtualService;
pub use workload::{ConfigMap, Deployment, Namespace, Pod, Secret, Service, ServiceAccount};
