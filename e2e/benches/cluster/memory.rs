//! Resident memory with 200 services: pilots, CA, gateway, a sidecar whose pod does nothing, a minute after its start.

use std::time::Duration;

use anyhow::Context as _;
use e2e::cluster::SYSTEM;
use e2e::pause;

use super::fixture::{Fixture, SERVICES};
use super::node::{self, Process};
use super::report::Report;

/// The age at which memory is at rest.
const REST: Duration = Duration::from_secs(60);

/// Measures.
pub async fn measure(fixture: &Fixture, report: &mut Report) -> anyhow::Result<()> {
    pause(REST.saturating_sub(fixture.since.elapsed())).await;
    eprintln!("memory");
    let parts = [
        ("pilot", "app=mesh-pilot", "mesh-pilot", Some(60.0)),
        ("CA", "app=mesh-ca", "mesh-ca", Some(25.0)),
        ("gateway", "app=istio-ingressgateway", "mesh-proxy", None),
    ];
    for (what, selector, process, goal) in parts {
        let pods = fixture.pods(SYSTEM, selector).await?;
        let uid = |pod: &serde_json::Value| pod["metadata"]["uid"].as_str().map(str::to_owned);
        let uids = pods.iter().map(uid).collect::<Option<Vec<_>>>().context("a pod has a UID")?;
        let all = node::processes(&fixture.cluster, process, &uids).await?;
        let largest = all.iter().copied().max_by(|a, b| a.rss.total_cmp(&b.rss));
        tell(report, what, largest.with_context(|| format!("no {what}"))?, goal, all.len());
    }
    let uid = fixture.uid("idle").await?;
    let idle = node::processes(&fixture.cluster, "mesh-proxy", &[uid]).await?;
    tell(report, "idle sidecar", idle[0], Some(15.0), 1);
    Ok(())
}

fn tell(report: &mut Report, what: &str, process: Process, goal: Option<f64>, of: usize) {
    let note = format!("at most {:.1} MB so far, the largest of {of}, {SERVICES} services", process.peak);
    let what = format!("RSS of the {what}");
    match goal {
        Some(goal) => report.goal(&what, process.rss, "MB", goal, &note),
        None => report.add(&what, process.rss, "MB", &note),
    }
}
