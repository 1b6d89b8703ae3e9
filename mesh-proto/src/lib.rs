//! The shared language of the mesh.
//!
//! [`wire`] holds the generated protobuf types, [`model`] the names that cannot be wrong (identities, host:port,
//! resource names), [`discovery`] the rules of the discovery stream. Feature `crd` adds the Kubernetes and Istio
//! resource types with their YAML parser, feature `runtime` what every server shares.

pub mod discovery;
pub mod model;
pub mod wire;

#[cfg(feature = "crd")]
pub mod crd;
#[cfg(all(feature = "crd", feature = "runtime", any(test, feature = "fuzzing")))]
pub mod fuzz;
#[cfg(feature = "runtime")]
pub mod runtime;
