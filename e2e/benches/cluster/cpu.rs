//! CPU per request of a pair of sidecars: 32 connections, as many requests as they take, from one pod to another, with sidecars
//! and without, round by round. The time is that of both proxies' processes; the application's and the client's is not in it.

use anyhow::Context as _;
use e2e::eventually;
use serde::Deserialize;

use super::Settings;
use super::fixture::{Fixture, watcher};
use super::node;
use super::report::{Report, median, range};

/// What Istio's pair takes on such a cluster, microseconds; a fifth of it is the goal.
const ISTIO: f64 = 542.0;

#[derive(Debug, Deserialize)]
struct Blast {
    requests: f64,
    lost: u64,
    seconds: f64,
    p50: f64,
    p99: f64,
}

#[derive(Default)]
struct Rounds {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, blast: &Blast) {
        self.rate.push(blast.requests / blast.seconds);
        self.p50.push(blast.p50 / 1e3);
        self.p99.push(blast.p99 / 1e3);
    }

    fn report(&self, what: &str, report: &mut Report) {
        let note = format!("p50 {:.2} ms, p99 {:.2} ms", median(&self.p50), median(&self.p99));
        report.add(&format!("{what}, 32 connections"), median(&self.rate), "requests/s", &note);
    }
}

/// Measures.
pub async fn measure(fixture: &Fixture, settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    eprintln!("{} rounds of load", settings.rounds);
    let server = fixture.pod(&fixture.namespace, "app=web").await?;
    let server = server["metadata"]["uid"].as_str().context("a pod has a UID")?.to_owned();
    let pair = [fixture.uid(&watcher(0)).await?, server];
    for (pod, url) in
        [(watcher(0), "http://web/status/200"), ("outside".to_owned(), "http://plain/status/200")]
    {
        eventually("it serves", async || fixture.client(&pod).get(url, &[]).await?.expect(200)).await?;
    }
    let (mut micros, mut with, mut without) = (Vec::new(), Rounds::default(), Rounds::default());
    for _ in 0..settings.rounds {
        let before = node::processes(&fixture.cluster, "mesh-proxy", &pair).await?;
        let blast = self::blast(fixture, &watcher(0), "http://web/status/200", settings.seconds).await?;
        let after = node::processes(&fixture.cluster, "mesh-proxy", &pair).await?;
        let spent: f64 = before.iter().zip(&after).map(|(before, after)| after.cpu - before.cpu).sum();
        micros.push(spent / blast.requests);
        with.add(&blast);
        without.add(&self::blast(fixture, "outside", "http://plain/status/200", settings.seconds).await?);
    }
    let note = format!("{} rounds of {} s, {}", micros.len(), settings.seconds, range(&micros));
    report.goal("CPU of a pair of sidecars", median(&micros), "us/request", ISTIO / 5.0, &note);
    with.report("with sidecars", report);
    without.report("without sidecars", report);
    Ok(())
}

async fn blast(fixture: &Fixture, pod: &str, url: &str, seconds: u64) -> anyhow::Result<Blast> {
    let seconds = seconds.to_string();
    let said = fixture
        .kubectl(&[
            "exec",
            pod,
            "-c",
            "client",
            "--",
            "/usr/local/bin/e2e-client",
            "blast",
            url,
            "--seconds",
            &seconds,
        ])
        .await?;
    let blast: Blast = serde_json::from_str(&said).with_context(|| said.clone())?;
    anyhow::ensure!(blast.lost == 0 && blast.requests > 0.0, "{pod} to {url}: {blast:?}");
    Ok(blast)
}
