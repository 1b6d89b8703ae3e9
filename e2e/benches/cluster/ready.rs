//! How much later a pod is ready with its sidecar: from the request that creates it to the event that says Ready, pods with and
//! without in turn, one at a time.
//!
//! Beside them pods whose sidecar programs its rules of capture itself (one init container), and pods with two init
//! containers that do nothing, one that ends and one that stays as a native sidecar does: the kubelet looks at what has
//! become of its containers once a second, and goes on from one init container to the next only then, whatever they do. What
//! a sidecar takes beyond that is the mesh's own.

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
    let (mut with, mut own, mut without, mut idle) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..settings.pods {
        with.push(ready(fixture, &format!("with-{number}"), Kind::Injected).await?);
        own.push(ready(fixture, &format!("own-{number}"), Kind::Own).await?);
        without.push(ready(fixture, &format!("without-{number}"), Kind::Plain).await?);
        idle.push(ready(fixture, &format!("idle-{number}"), Kind::Idle).await?);
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
    let note = format!("medians of {}: {:.0} ms ({}) with", own.len(), median(&own), range(&own));
    let later = median(&own) - median(&without);
    report.goal("the same with a sidecar that programs its rules itself", later, "ms", 1000.0, &note);
    let note = format!("medians of {}: {:.0} ms ({})", idle.len(), median(&idle), range(&idle));
    let later = median(&idle) - median(&without);
    report.add("the same with two init containers that do nothing, no mesh", later, "ms", &note);
    Ok(())
}

/// What a pod has beside its one container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Plain,
    /// What the webhook gives it.
    Injected,
    /// The same without a container for the rules of capture.
    Own,
    /// Init containers in the places of the webhook's.
    Idle,
}

impl Kind {
    fn init_containers(self) -> Value {
        let container = |name: &str, command: &str| json!({"name": name, "image": image("e2e"), "imagePullPolicy": "IfNotPresent", "args": [command]});
        if self != Self::Idle {
            return json!([]);
        }
        let mut stays = container("stays", "wait");
        stays["restartPolicy"] = "Always".into();
        json!([container("ends", "--help"), stays])
    }
}

/// Milliseconds until a new pod is ready; it is gone afterwards.
async fn ready(fixture: &Fixture, name: &str, kind: Kind) -> anyhow::Result<f64> {
    let pods = format!("/api/v1/namespaces/{}/pods", fixture.namespace);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name,
            "labels": {"sidecar.istio.io/inject": matches!(kind, Kind::Injected | Kind::Own).to_string()},
            "annotations": {"mesh.local/proxy-init-container": if kind == Kind::Own { "sidecar" } else { "separate" }}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "initContainers": kind.init_containers(),
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
