//! What the mesh costs on a cluster: how much later a pod is ready, how soon a changed endpoint is in force, memory at rest, CPU
//! per request of a pair of sidecars.
//!
//! `e2e/run --bench` makes release images, installs the mesh and runs this; alone: `cargo bench -p e2e --bench cluster`, against
//! the mesh that is there. The cluster must be kind's on this machine: processes are read through their node's container, and
//! moments in pods are compared with moments here, which is one clock. `BENCH_ONLY` (comma-separated: ready, endpoints, memory,
//! cpu) chooses parts, `BENCH_PODS` (12), `BENCH_CHANGES` (200), `BENCH_ROUNDS` (6) and `BENCH_SECONDS` (4) their size.

mod api;
mod cpu;
mod endpoints;
mod fixture;
mod memory;
mod node;
mod ready;
mod report;

use anyhow::Context as _;
use e2e::Cluster;

use self::fixture::Fixture;
use self::report::Report;

/// The run's parameters, from the environment.
pub struct Settings {
    /// Pods of each kind whose start is measured.
    pub pods: usize,
    /// Changes of an endpoint.
    pub changes: usize,
    /// Rounds of load.
    pub rounds: usize,
    /// Seconds of each.
    pub seconds: u64,
    only: Vec<String>,
}

impl Settings {
    fn from_env() -> anyhow::Result<Self> {
        let number = |name: &str, default: usize| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is no number")),
            Err(_) => Ok(default),
        };
        let only = std::env::var("BENCH_ONLY").unwrap_or_default();
        Ok(Self {
            pods: number("BENCH_PODS", 12)?,
            changes: number("BENCH_CHANGES", 200)?,
            rounds: number("BENCH_ROUNDS", 6)?,
            seconds: u64::try_from(number("BENCH_SECONDS", 4)?)?,
            only: only.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        })
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = match Cluster::find().await {
            Ok(cluster) => cluster,
            Err(error) => {
                println!("skipped: {error:#}");
                return Ok(());
            }
        };
        let fixture = Fixture::make(cluster).await?;
        let outcome = measure(&fixture, &settings).await;
        fixture.remove().await;
        outcome?.print();
        Ok(())
    })
}

async fn measure(fixture: &Fixture, settings: &Settings) -> anyhow::Result<Report> {
    let mut report = Report::default();
    if settings.wants("endpoints") {
        endpoints::measure(fixture, settings, &mut report).await?;
    }
    if settings.wants("cpu") {
        cpu::measure(fixture, settings, &mut report).await?;
    }
    if settings.wants("ready") {
        ready::measure(fixture, settings, &mut report).await?;
    }
    if settings.wants("memory") {
        memory::measure(fixture, &mut report).await?;
    }
    Ok(report)
}
