//! Kubernetes and Istio resource types.
