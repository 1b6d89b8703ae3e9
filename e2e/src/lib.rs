//! The end-to-end harness: a cluster, the images and the charts, put together and watched.
//!
//! It drives `kubectl` and `helm` as a user would. Each test has a temporary namespace ([`namespace::test`]) with
//! [`workload`]s of the sample application in it, and sends from a [`client`] in a pod. On failure the namespace is
//! [`dump`]ed. `e2e/run` brings the cluster up, loads the images and installs the mesh; the suite alone skips without them.

pub mod client;
pub mod cluster;
pub mod dump;
pub mod eventually;
pub mod finally;
pub mod images;
pub mod install;
pub mod namespace;
pub mod pki;
mod times;
mod turn;
pub mod workload;

pub use client::{Answer, Client, Report};
pub use cluster::Cluster;
pub use eventually::{eventually, pause, within};
pub use finally::finally;
pub use namespace::{Company, Namespace, test};
