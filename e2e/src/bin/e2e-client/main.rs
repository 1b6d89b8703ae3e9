//! The suite's client: raw sockets that never retry, in a pod of each test's namespace (and outside, for gateways).
//!
//! In: a command line (`wait`, `request`, `load`, `blast`, `watch`, `collect`, `counted`, `sniff`). Out: JSON on standard output. It knows nothing of
//! the mesh: what it sends is captured by its pod's sidecar as any program's traffic is.

mod blast;
mod collect;
mod http1;
mod http2;
mod load;
mod request;
mod sniff;
mod target;
mod watch;

use std::process::ExitCode;

use clap::Parser;

/// Sends, counts, and says what came back.
#[derive(Debug, Parser)]
#[command(name = "e2e-client", version)]
enum Cli {
    /// Does nothing until SIGTERM: the pod from which requests are sent
    Wait,
    /// Sends requests one after another and prints one JSON object for each answer
    Request(request::RequestArgs),
    /// Sends steadily until standard input ends, then prints one JSON object: what was sent and what was lost
    Load(load::LoadArgs),
    /// Sends as much as some connections can take for a while, then prints one JSON object: how much and how fast
    Blast(blast::BlastArgs),
    /// Asks until standard input ends and prints one JSON object whenever another instance answers
    Watch(watch::WatchArgs),
    /// Counts the ids that applications report, one a line, on a TCP port
    Collect(collect::CollectArgs),
    /// Asks a collector what it counted
    Counted(collect::CountedArgs),
    /// Looks for a canary in an address's packets
    Sniff(sniff::SniffArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli {
        Cli::Wait => terminated().await,
        Cli::Request(args) => request::run(args).await,
        Cli::Load(args) => load::run(args).await,
        Cli::Blast(args) => blast::run(args).await,
        Cli::Watch(args) => watch::run(args).await,
        Cli::Collect(args) => tokio::select! {
            collected = collect::run(args) => collected,
            ended = terminated() => ended,
        },
        Cli::Counted(args) => collect::ask(args).await,
        Cli::Sniff(args) => sniff::run(&args),
    }
}

/// A process that is number 1 of its container gets no default action for SIGTERM.
async fn terminated() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
