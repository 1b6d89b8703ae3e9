//! The replicas of the control plane, and what they say together.

use std::collections::BTreeMap;

use anyhow::bail;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use super::client::Cluster;
use super::forward::Target;
use super::pods;
use crate::local::pilot::{Observers, PilotStatus, ProxyStatus, ResourceStatus, ServiceStatus};

/// Where a pilot tells everything, on its pod's loopback.
const PILOT: u16 = 8080;
/// Where a CA tells its numbers.
pub const CA: u16 = 15014;

/// A replica of pilot or CA.
#[derive(Debug, Clone, Serialize)]
pub struct Replica {
    pub pod: String,
    pub ready: bool,
    pub version: String,
    /// Why it did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The pods behind the Services that begin with `name` (each revision has its own).
///
/// # Errors
/// When the API server does not answer.
pub async fn replicas(cluster: &Cluster, name: &str) -> anyhow::Result<Vec<Pod>> {
    let what = format!("services of namespace {}", cluster.system);
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), &cluster.system);
    let services = cluster.ask(&what, services.list(&ListParams::default())).await?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.system);
    let mut found = BTreeMap::new();
    for service in services {
        let is_ours = service.metadata.name.as_deref().is_some_and(|of| {
            of.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        let Some(selector) = service.spec.and_then(|spec| spec.selector).filter(|_| is_ours) else {
            continue;
        };
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let params = ListParams::default().labels(&labels.join(","));
        let what = format!("pods of namespace {}", cluster.system);
        for pod in cluster.ask(&what, api.list(&params)).await? {
            found.insert(pod.metadata.name.clone().unwrap_or_default(), pod);
        }
    }
    Ok(found.into_values().collect())
}

/// The pilot's replicas.
///
/// # Errors
/// When there is none: no mesh is installed.
pub async fn pilots(cluster: &Cluster) -> anyhow::Result<Vec<Pod>> {
    let found = replicas(cluster, "mesh-pilot").await?;
    if found.is_empty() {
        bail!(
            "no mesh in namespace {} of {}: install one with `meshctl install`, or name its namespace with -i NAMESPACE",
            cluster.system,
            cluster.name
        );
    }
    Ok(found)
}

/// What a replica is, before it is asked.
#[must_use]
pub fn replica(pod: &Pod) -> Replica {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    Replica {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        ready: pods::is_ready(pod),
        version: container.map(pods::image_version).unwrap_or_default(),
        error: None,
    }
}

/// A pilot's port for questions.
#[must_use]
pub fn target(cluster: &Cluster, pod: &Pod) -> Target {
    port(cluster, pod, PILOT)
}

/// A port of a replica of the control plane.
#[must_use]
pub fn port(cluster: &Cluster, pod: &Pod, port: u16) -> Target {
    Target {
        cluster: cluster.clone(),
        namespace: cluster.system.clone(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        port,
    }
}

/// Asks every replica of the pilot.
///
/// # Errors
/// When no mesh is installed. A replica that does not answer is told as such.
pub async fn ask(cluster: &Cluster) -> anyhow::Result<(Vec<Replica>, PilotStatus)> {
    let pods = pilots(cluster).await?;
    let asked = pods.iter().map(|pod| async move {
        let told = target(cluster, pod).get("/debug/status").await;
        let told = told.and_then(|answer| Ok(serde_json::from_slice::<PilotStatus>(&answer.body)?));
        let mut replica = replica(pod);
        match told {
            Ok(status) => (replica, Some(status)),
            Err(error) => {
                replica.error = Some(format!("{error:#}"));
                (replica, None)
            }
        }
    });
    let (replicas, told): (Vec<_>, Vec<_>) = futures_util::future::join_all(asked).await.into_iter().unzip();
    let mut whole = merge(told.into_iter().flatten().collect());
    whole.resources.iter_mut().for_each(ResourceStatus::explain);
    Ok((replicas, whole))
}

/// One account of several replicas' ones. Each proxy is connected to one of them, so that what is counted adds up.
#[must_use]
pub fn merge(told: Vec<PilotStatus>) -> PilotStatus {
    let mut resources: BTreeMap<(String, String, String), ResourceStatus> = BTreeMap::new();
    let mut proxies: BTreeMap<(String, String), ProxyStatus> = BTreeMap::new();
    let mut services: BTreeMap<String, ServiceStatus> = BTreeMap::new();
    let loaded = !told.is_empty() && told.iter().all(|status| status.loaded);
    for status in told {
        for resource in status.resources {
            let key = (resource.kind.clone(), resource.namespace.clone(), resource.name.clone());
            match resources.get_mut(&key) {
                Some(known) => join(known, resource),
                None => drop(resources.insert(key, resource)),
            }
        }
        for proxy in status.proxies {
            let known = proxies.entry((proxy.namespace.clone(), proxy.name.clone()));
            let known = known.or_insert_with(|| proxy.clone());
            if proxy.connected && !known.connected {
                *known = proxy;
            }
        }
        for service in status.services {
            services.entry(service.host.clone()).or_insert(service);
        }
    }
    PilotStatus {
        loaded,
        resources: resources.into_values().collect(),
        proxies: proxies.into_values().collect(),
        services: services.into_values().collect(),
    }
}

/// Another replica's account of the same resource.
fn join(known: &mut ResourceStatus, other: ResourceStatus) {
    let sum = Observers {
        acked: known.observers.acked + other.observers.acked,
        subscribed: known.observers.subscribed + other.observers.subscribed,
    };
    known.observers = sum;
    let settled = |state: &str| matches!(state, "refused" | "superseded");
    if settled(&known.state) {
        return;
    }
    if settled(&other.state) {
        (known.state, known.message) = (other.state, other.message);
    } else if sum.subscribed > 0 && sum.acked == sum.subscribed {
        (known.state, known.message) = ("in_force".to_owned(), String::new());
    } else {
        (known.state, known.message) = ("accepted".to_owned(), String::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(state: &str, acked: u64, subscribed: u64) -> ResourceStatus {
        ResourceStatus {
            kind: "VirtualService".to_owned(),
            name: "a".to_owned(),
            state: state.to_owned(),
            observers: Observers { acked, subscribed },
            ..ResourceStatus::default()
        }
    }

    fn proxy(name: &str, connected: bool) -> ProxyStatus {
        ProxyStatus { name: name.to_owned(), connected, synced: connected, ..ProxyStatus::default() }
    }

    fn status(resource: ResourceStatus, proxies: Vec<ProxyStatus>) -> PilotStatus {
        PilotStatus { loaded: true, resources: vec![resource], proxies, ..PilotStatus::default() }
    }

    #[test]
    fn replicas_add_up() {
        let one = status(resource("in_force", 2, 2), vec![proxy("a", true), proxy("b", false)]);
        let two = status(resource("accepted", 0, 0), vec![proxy("a", false), proxy("b", true)]);
        let both = merge(vec![one.clone(), two]);
        assert_eq!(both.resources.len(), 1);
        assert_eq!((both.resources[0].state.as_str(), both.resources[0].observers.acked), ("in_force", 2));
        assert!(both.loaded && both.proxies.iter().all(|p| p.connected));
        // What is in force for one replica's proxies only is not in force.
        let behind = status(resource("accepted", 1, 3), vec![]);
        let both = merge(vec![one.clone(), behind]);
        assert_eq!(both.resources[0].state, "accepted");
        assert_eq!((both.resources[0].observers.acked, both.resources[0].observers.subscribed), (3, 5));
        let refused = merge(vec![one, status(resource("refused", 0, 0), vec![])]);
        assert_eq!(refused.resources[0].state, "refused");
        assert!(!merge(vec![]).loaded);
    }
}
