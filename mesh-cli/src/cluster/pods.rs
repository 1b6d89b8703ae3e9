//! Pods by name, and what a pod is to the mesh.

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::Api;
use kube::api::ListParams;

use super::client::Cluster;
use super::forward::Target;

/// The container of a sidecar or gateway (Istio's name).
pub const SIDECAR: &str = "istio-proxy";
/// The admin port of a proxy, on loopback.
pub const ADMIN: u16 = 15000;

/// `NAME[.NAMESPACE]`, as people type it.
#[must_use]
pub fn split<'a>(text: &'a str, default: &'a str) -> (&'a str, &'a str) {
    text.rsplit_once('.')
        .filter(|(name, namespace)| !name.is_empty() && !namespace.is_empty())
        .unwrap_or((text, default))
}

/// The pod that `text` names: a pod, or a workload (`reviews`, `deploy/reviews`), of which a ready pod is taken.
///
/// # Errors
/// When there is none.
pub async fn find(cluster: &Cluster, text: &str) -> anyhow::Result<Pod> {
    let (name, namespace) = split(text, &cluster.namespace);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let what = format!("pods of namespace {namespace}");
    if let Some(pod) = cluster.ask(&what, pods.get_opt(name)).await? {
        return Ok(pod);
    }
    let all = cluster.ask(&what, pods.list(&ListParams::default())).await?.items;
    let wanted = name.rsplit_once('/').map_or(name, |(_, name)| name);
    let mut of_workload: Vec<&Pod> =
        all.iter().filter(|pod| workload(pod).as_deref() == Some(wanted)).collect();
    of_workload.sort_by_key(|pod| (!is_ready(pod), pod.metadata.name.clone()));
    if let Some(pod) = of_workload.first() {
        return Ok((*pod).clone());
    }
    let mut known: Vec<&str> = all.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    known.sort_unstable();
    known.truncate(20);
    match known.as_slice() {
        [] => bail!("no pod {name:?}: namespace {namespace} has no pods (-n NAMESPACE names another one)"),
        known => {
            bail!("no pod or workload {name:?} in namespace {namespace}; there are: {}", known.join(", "))
        }
    }
}

/// The Deployment, StatefulSet, DaemonSet or Job that a pod belongs to.
#[must_use]
pub fn workload(pod: &Pod) -> Option<String> {
    let owner =
        pod.metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))?;
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => owner.name.strip_suffix(&format!("-{hash}")).map(ToOwned::to_owned),
        _ => Some(owner.name.clone()),
    }
}

/// Whether its Ready condition is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The container that is the proxy, if the pod has one.
#[must_use]
pub fn sidecar(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref()?;
    let native = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(native).find(|container| container.name == SIDECAR)
}

/// The version in an image's name.
#[must_use]
pub fn image_version(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    name.split_once(':').map_or("latest", |(_, tag)| tag).to_owned()
}

/// The admin port of the proxy of a pod.
///
/// # Errors
/// When the pod has none, or it does not run.
pub fn admin(cluster: &Cluster, pod: &Pod) -> anyhow::Result<Target> {
    port(cluster, pod, ADMIN)
}

/// A port of the proxy of a pod.
///
/// # Errors
/// When the pod has none, or it does not run.
pub fn port(cluster: &Cluster, pod: &Pod, port: u16) -> anyhow::Result<Target> {
    let name = pod.metadata.name.clone().context("a pod without a name")?;
    let namespace = pod.metadata.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
    if sidecar(pod).is_none() {
        bail!(
            "pod {namespace}/{name} has no sidecar: label its namespace (`kubectl label namespace {namespace} \
             istio-injection=enabled`) and start it anew (`kubectl -n {namespace} rollout restart ...`)"
        );
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    if phase != "Running" && phase != "Pending" {
        bail!("pod {namespace}/{name} does not run: it is {phase}");
    }
    Ok(Target { cluster: cluster.clone(), namespace, pod: name, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(split("a", "d"), ("a", "d"));
        assert_eq!(split("a.shop", "d"), ("a", "shop"));
        assert_eq!(split("deploy/a.shop", "d"), ("deploy/a", "shop"));
        assert_eq!(split(".shop", "d"), (".shop", "d"));
    }

    #[test]
    fn a_pod_says_what_it_belongs_to_and_whether_it_has_a_sidecar() {
        let native = pod(serde_json::json!({
            "metadata": {
                "name": "reviews-5d-x", "labels": { "pod-template-hash": "5d" },
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-5d", "uid": "u", "controller": true,
                }],
            },
            "spec": {
                "containers": [{ "name": "app", "image": "app" }],
                "initContainers": [{ "name": "istio-proxy", "image": "registry:5000/mesh/proxy:0.1.0" }],
            },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        }));
        assert_eq!(workload(&native).as_deref(), Some("reviews"));
        assert!(is_ready(&native));
        assert_eq!(image_version(sidecar(&native).unwrap()), "0.1.0");
        let bare = pod(
            serde_json::json!({ "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "app" }] } }),
        );
        assert!(sidecar(&bare).is_none() && !is_ready(&bare) && workload(&bare).is_none());
    }
}
