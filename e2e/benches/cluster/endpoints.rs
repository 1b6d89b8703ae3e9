//! From the write of an EndpointSlice to every subscribed proxy's acting on it. Two instances take turns as the only endpoint of
//! a service; in each watching pod a client asks every 3 ms through its sidecar and says when another instance answered. So a
//! figure has everything in it (API server, watch, pilot, push, proxy, the first connection to the new endpoint) and is at most
//! 3 ms and one request too large.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use e2e::pause;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;

use super::Settings;
use super::fixture::{Fixture, SERVICES, WATCHERS, service, watcher};
use super::report::{Report, median, percentile, range};

/// A change that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(20);

struct Seen {
    watcher: usize,
    instance: String,
    /// Microseconds of the wall clock.
    at: f64,
}

/// Measures.
pub async fn measure(fixture: &Fixture, settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("{} changes of an endpoint", settings.changes);
    let mut instances = Vec::new();
    for app in ["web", "other"] {
        let pod = fixture.pod(&fixture.namespace, &format!("app={app}")).await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a running pod has it");
        instances.push((text(&pod["metadata"]["name"])?, text(&pod["status"]["podIP"])?));
    }
    fixture.cluster.apply(&fixture.namespace, &service("flip", &instances[0].1)).await?;
    let (tell, mut seen) = mpsc::unbounded_channel();
    let mut watchers = Vec::new();
    for number in 0..WATCHERS {
        watchers.push(watch(fixture, number, tell.clone())?);
    }
    all(&mut seen, &instances[0].0).await.context("the first endpoint")?;
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/flip", fixture.namespace);
    let (mut answered, mut sent) = (Vec::new(), Vec::new());
    for change in 1..=settings.changes {
        // Not in step with anything that has a period.
        pause(Duration::from_millis(60 + u64::try_from(change * 37 % 80)?)).await;
        let (instance, address) = &instances[change % 2];
        let patch = json!({"endpoints": [{"addresses": [address], "conditions": {"ready": true}}]});
        let before = now();
        fixture.api.merge(&path, &patch).await?;
        let after = now();
        let last = all(&mut seen, instance).await.with_context(|| format!("change {change}"))?;
        answered.push(((last - after) / 1e3).max(0.0));
        sent.push((last - before) / 1e3);
    }
    drop(watchers);
    let note = format!(
        "{WATCHERS} proxies, {SERVICES} services beside, {} changes, {}",
        sent.len(),
        range(&answered)
    );
    report.add("endpoint change in force everywhere, p50", median(&answered), "ms", &note);
    report.goal(
        "endpoint change in force everywhere, p99",
        percentile(&answered, 99.0),
        "ms",
        200.0,
        "from the write's answer",
    );
    report.goal(
        "the same from the write's beginning, p99",
        percentile(&sent, 99.0),
        "ms",
        200.0,
        &format!("p50 {:.1} ms", median(&sent)),
    );
    Ok(())
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1e6
}

/// Starts a client in a pod; what it sees arrives at `tell` until the handle is dropped.
fn watch(fixture: &Fixture, number: usize, tell: mpsc::UnboundedSender<Seen>) -> anyhow::Result<Child> {
    let pod = watcher(number);
    let client = ["--", "/usr/local/bin/e2e-client", "watch", "http://flip/"];
    let exec = [&["exec", "-i", "-n", &fixture.namespace, &pod, "-c", "client"], &client[..]].concat();
    let mut command = fixture.cluster.command("kubectl", &exec);
    command.stdin(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().context("a watching client")?;
    let mut lines = BufReader::new(child.stdout.take().context("it was asked for")?).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            let said: Value = serde_json::from_str(&line).unwrap_or_default();
            let instance = said["instance"].as_str().unwrap_or_default().to_owned();
            let at = said["at"].as_f64().unwrap_or_default();
            let _ = tell.send(Seen { watcher: number, instance, at });
        }
    });
    Ok(child)
}

/// Waits until every watcher has seen `instance`; when the last one did.
async fn all(seen: &mut mpsc::UnboundedReceiver<Seen>, instance: &str) -> anyhow::Result<f64> {
    let mut at = [None; WATCHERS];
    while at.iter().any(Option::is_none) {
        let next = tokio::time::timeout(PATIENCE, seen.recv()).await;
        let next = next.with_context(|| format!("not seen by all within {PATIENCE:?}: {at:?}"))?;
        let next = next.context("the clients have ended")?;
        ensure!(next.watcher < WATCHERS, "a watcher too many");
        if next.instance == instance {
            at[next.watcher].get_or_insert(next.at);
        }
    }
    Ok(at.into_iter().flatten().fold(0.0, f64::max))
}
