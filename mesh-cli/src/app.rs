//! The sample application: to come.

use std::process::ExitCode;

/// `meshctl app`.
#[derive(Debug, Clone, clap::Args)]
pub struct AppArgs {}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When a port cannot be bound.
pub fn run(_args: AppArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the sample application is not there yet")
}
