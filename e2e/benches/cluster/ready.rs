//! How much later a pod is ready with its sidecar: from the request that creates it to the event that says Ready, pods with and
//! without in turn, one at a time.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use e2e::images::image;
use e2e::pause;
use serde_json::{Value, json};

use super::Settings;
use super::fixture::Fixture;
use super::report::{Report, median, range};

/// No pod takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures.
pub async fn measure(fixture: &Fixture, settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("{} pods of each kind", settings.pods);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..settings.pods {
        with.push(ready(fixture, &format!("with-{number}"), true).await?);
        without.push(ready(fixture, &format!("without-{number}"), false).await?);
    }
    let later = median(&with) - median(&without);
    let note = format!(
        "medians of {}: {:.0} ms ({}) with, {:.0} ms ({}) without",
        with.len(),
        median(&with),
        range(&with),
        median(&without),
        range(&without)
    );
    report.goal("pod ready with its sidecar later by", later, "ms", 1000.0, &note);
    Ok(())
}

/// Milliseconds until a new pod is ready; it is gone afterwards.
async fn ready(fixture: &Fixture, name: &str, injected: bool) -> anyhow::Result<f64> {
    let pods = format!("/api/v1/namespaces/{}/pods", fixture.namespace);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"sidecar.istio.io/inject": injected.to_string()}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "client", "image": image("e2e"), "imagePullPolicy": "IfNotPresent", "args": ["wait"]}],
        },
    });
    let mut events =
        fixture.api.watch(&format!("{pods}?watch=1&fieldSelector=metadata.name%3D{name}")).await?;
    let began = Instant::now();
    fixture.api.create(&pods, &pod).await?;
    let became = async {
        loop {
            let event = events.next().await?;
            if is_ready(&event["object"]) {
                return anyhow::Ok(began.elapsed());
            }
        }
    };
    let took =
        tokio::time::timeout(PATIENCE, became).await.with_context(|| format!("{name} is not ready"))??;
    fixture.api.delete(&format!("{pods}/{name}?gracePeriodSeconds=0")).await?;
    // The kubelet is busy with its end for a while.
    pause(Duration::from_millis(2500)).await;
    Ok(took.as_secs_f64() * 1e3)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
