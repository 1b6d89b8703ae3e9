//! The `mesh-proxy` process: `mesh-proxy --config FILE`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use mesh_proxy::app;
use mesh_proxy::config::Config;

/// The data plane of the mesh: sidecar or gateway, as its bootstrap says.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The bootstrap, JSON.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// `sysexits.h`: the command was used incorrectly.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("mesh-proxy: {error}");
            return ExitCode::from(USAGE);
        }
    };
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
