//! A mesh on Kubernetes: found by a kubeconfig, asked through the API server.
//!
//! Nothing of the mesh is exposed for this: every question goes through a port-forward to loopback inside a pod, so that who
//! may ask is what RBAC says about `pods/portforward`.

pub mod client;
pub mod flags;
pub mod forward;
pub mod objects;
pub mod pilots;
pub mod pods;

pub use client::Cluster;
pub use flags::{ClusterFlags, Place, Reach};
