//! The `mesh-proxy` process: `mesh-proxy --config FILE` on one machine; in a pod `mesh-proxy sidecar` and `mesh-proxy router`,
//! which read the environment, and `mesh-proxy wait`, which holds the application until its sidecar is ready;
//! `mesh-proxy capture` programs the rules that bring the pod's traffic to it, and `mesh-proxy sidecar capture` does that before
//! it serves.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mesh_proxy::admin::wait;
use mesh_proxy::app;
use mesh_proxy::capture::command;
use mesh_proxy::config::{Config, NodeKind, environment};

/// The data plane of the mesh: sidecar or gateway, as its bootstrap says.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The bootstrap, JSON.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve beside an application in its pod, as the environment says.
    Sidecar {
        #[command(subcommand)]
        first: Option<First>,
    },
    /// Serve as a gateway in a pod, as the environment says.
    Router,
    /// Wait until the sidecar of this pod is ready.
    Wait {
        /// How long, in seconds.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Program the rules that bring this network namespace's traffic to its sidecar.
    Capture(Box<command::Flags>),
}

/// What a sidecar does before it serves.
#[derive(Subcommand)]
enum First {
    /// Program the rules of this network namespace, as root, and give up root's rights for good.
    Capture(Box<command::Flags>),
}

/// `sysexits.h`: the command was used incorrectly.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let lookup = |name: &str| std::env::var(name).ok();
    let config = match (arguments.command, arguments.config) {
        (Some(Command::Wait { timeout }), _) => {
            return ended(wait::until_ready(wait::STATUS, Duration::from_secs(timeout)));
        }
        (Some(Command::Capture(flags)), _) => return command::run(&flags),
        (Some(Command::Sidecar { first }), _) => {
            // Before anything else: what comes from outside is read without root's rights.
            if let Some(First::Capture(flags)) = first
                && let Err(error) = command::for_oneself(&flags)
            {
                return ended(Err(error).context("sidecar capture"));
            }
            environment::config(NodeKind::Sidecar, &lookup).map_err(|e| e.to_string())
        }
        (Some(Command::Router), _) => {
            environment::config(NodeKind::Router, &lookup).map_err(|e| e.to_string())
        }
        (None, Some(file)) => Config::read(&file).map_err(|e| e.to_string()),
        (None, None) => Err("needs --config FILE, or a command (see --help)".to_owned()),
    };
    match config {
        Ok(config) => ended(app::run(config)),
        Err(error) => {
            eprintln!("mesh-proxy: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
