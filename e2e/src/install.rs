//! Helm releases of the charts, and what the control plane says of itself.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::cluster::{Cluster, SYSTEM};
use crate::eventually::eventually;
use crate::images;

/// A chart's directory.
#[must_use]
pub fn chart(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts").join(name).display().to_string()
}

/// The values that name the suite's images.
#[must_use]
pub fn image_values() -> Vec<String> {
    vec![format!("global.hub={}", images::hub()), format!("global.tag={}", images::tag())]
}

/// Waits until the control plane is whole again after a test disturbed it.
///
/// # Errors
/// When it is not.
pub async fn whole(cluster: &Cluster) -> anyhow::Result<()> {
    for deployment in ["deployment/mesh-ca", "deployment/mesh-pilot"] {
        cluster.rolled_out(SYSTEM, deployment).await?;
    }
    eventually("the injection webhook answers", async || {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: probe\n  labels: {sidecar.istio.io/inject: \"true\"}\n\
                   spec:\n  containers: [{name: app, image: none}]\n";
        let dry = ["apply", "-n", "default", "--dry-run=server", "-o", "json", "-f", "-"];
        let made: Value = serde_json::from_str(&cluster.fed("kubectl", &dry, pod).await?)?;
        let annotation = &made["metadata"]["annotations"]["sidecar.istio.io/status"];
        anyhow::ensure!(annotation.is_string(), "a pod was not injected: {}", made["metadata"]);
        Ok(())
    })
    .await?;
    closed(cluster).await
}

/// The pilot's containers, and how often each was started again.
///
/// # Errors
/// When the API server does not answer.
pub async fn pilots(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, u64>> {
    let pods = cluster.json(&["get", "pods", "-n", SYSTEM, "-l", "app=mesh-pilot"]).await?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let restarts = pods.iter().flat_map(|pod| {
        let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        containers.map(|container| {
            let name = format!("{} {}", pod["metadata"]["name"], container["name"]);
            (name, container["restartCount"].as_u64().unwrap_or_default())
        })
    });
    Ok(restarts.collect())
}

/// No container of the pilot has ended by itself since: other tests may roll it out meanwhile.
///
/// # Errors
/// When one has.
pub async fn alive_since(cluster: &Cluster, before: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    for (container, restarts) in pilots(cluster).await? {
        let were = before.get(&container).copied().unwrap_or_default();
        anyhow::ensure!(restarts == were, "{container} was started again {} times", restarts - were);
    }
    Ok(())
}

/// Waits until nothing is stored that the pilot was not asked about: charts leave that to it.
///
/// # Errors
/// When it is not.
pub async fn closed(cluster: &Cluster) -> anyhow::Result<()> {
    eventually("the pilot has closed the validating webhook", async || {
        let name = format!("istio-validator-{SYSTEM}");
        let found = cluster.json(&["get", "validatingwebhookconfiguration", &name]).await?;
        for webhook in found["webhooks"].as_array().into_iter().flatten() {
            anyhow::ensure!(
                webhook["failurePolicy"] == "Fail",
                "{}: {}",
                webhook["name"],
                webhook["failurePolicy"]
            );
        }
        Ok(())
    })
    .await
}
