//! The `mesh-ca` process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The certificate authority of the mesh.
#[derive(Parser)]
#[command(name = "mesh-ca", version, args_conflicts_with_subcommands = true)]
struct Args {
    /// The configuration of a local mesh, a JSON file.
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs on a cluster: settings from the environment (POD_NAMESPACE, TRUST_DOMAIN, CLUSTER_DOMAIN, REVISION), the API
    /// server from the pod or from KUBECONFIG.
    Kubernetes,
}

fn main() -> ExitCode {
    match Args::parse() {
        Args { command: Some(Command::Kubernetes), .. } => {
            start(mesh_ca::kubernetes::Settings::from_env(), mesh_ca::kubernetes::run)
        }
        Args { config, command: None } => {
            start(mesh_ca::config::Config::read(&config.unwrap_or_default()), mesh_ca::run)
        }
    }
}

fn start<S, E: std::fmt::Display>(
    settings: Result<S, E>,
    run: impl FnOnce(S) -> anyhow::Result<()>,
) -> ExitCode {
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("mesh-ca: {error}");
            // EX_USAGE: a restart will not help.
            return ExitCode::from(64);
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-ca: {error:#}");
            ExitCode::FAILURE
        }
    }
}
