//! One file per command; this one hands each its arguments and the runtime that it wants.

pub mod request;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::args::{Cli, Command};

/// Runs one command to its end.
///
/// # Errors
/// What the person at the terminal should read.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Request(args) => block_on(request::run(args)),
        Command::App(args) => crate::app::run(args),
        other => anyhow::bail!("{other:?} is not there yet"),
    }
}

/// Runs a command's future on a runtime of one thread.
fn block_on<F: Future<Output = anyhow::Result<ExitCode>>>(future: F) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(future)
}
