//! meshctl: run, look into and explain a mesh.
//!
//! `main → args → cmd`: the command line is parsed into typed commands, each command is one file under `cmd/`. The same
//! executable is every process of a local mesh: `meshctl internal proxy|pilot|ca|exec|daemon`.

mod app;
mod args;
mod cluster;
mod cmd;
mod local;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
