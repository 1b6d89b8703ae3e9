//! The `mesh-pilot` process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The control plane of the mesh.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// The configuration file (JSON).
    #[arg(long)]
    config: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match mesh_pilot::Config::read(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("mesh-pilot: {error:#}");
            return ExitCode::from(64);
        }
    };
    match mesh_pilot::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-pilot: {error:#}");
            ExitCode::FAILURE
        }
    }
}
