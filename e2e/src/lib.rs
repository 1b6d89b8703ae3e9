//! The end-to-end harness: a kind cluster, the charts and the images, put together and watched.
//!
//! The cluster suite arrives with Kubernetes support. Until then `tests/main.rs` says why it skips.
