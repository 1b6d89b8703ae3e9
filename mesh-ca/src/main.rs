//! The `mesh-ca` process.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The certificate authority of the mesh.
#[derive(Parser)]
#[command(name = "mesh-ca", version)]
struct Args {
    /// The configuration, a JSON file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match mesh_ca::config::Config::read(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("mesh-ca: {error}");
            // EX_USAGE: a restart will not help.
            return ExitCode::from(64);
        }
    };
    match mesh_ca::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-ca: {error:#}");
            ExitCode::FAILURE
        }
    }
}
