//! Helm releases of the charts, and what the control plane says of itself.

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
