//! The `mesh-pilot` process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mesh_pilot::cluster;

/// The control plane of the mesh.
#[derive(Parser)]
#[command(version, about, subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
struct Args {
    /// The configuration file (JSON) of a mesh without Kubernetes.
    #[arg(long, required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a Kubernetes cluster: the one that this pod is in, else that of KUBECONFIG.
    Kubernetes(cluster::Settings),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match (args.command, args.config) {
        (Some(Command::Kubernetes(settings)), _) => cluster::run(settings),
        (None, Some(config)) => match mesh_pilot::Config::read(&config) {
            Ok(config) => mesh_pilot::run(config),
            Err(error) => {
                eprintln!("mesh-pilot: {error:#}");
                return ExitCode::from(64);
            }
        },
        (None, None) => unreachable!("clap wants one of them"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-pilot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
