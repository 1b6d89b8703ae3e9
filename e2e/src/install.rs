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

/// `helm upgrade --install`, waiting until what it made is ready.
///
/// # Errors
/// When Helm fails.
pub async fn helm(
    cluster: &Cluster,
    release: &str,
    from: &str,
    namespace: &str,
    values: &[&str],
) -> anyhow::Result<String> {
    let (path, images) = (chart(from), image_values());
    let mut arguments = vec!["upgrade", "--install", release, &path, "--namespace", namespace];
    arguments.extend(["--create-namespace", "--wait", "--timeout", "240s"]);
    for value in images.iter().map(String::as_str).chain(values.iter().copied()) {
        arguments.extend(["--set", value]);
    }
    cluster.run("helm", &arguments).await
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
    .await
}
