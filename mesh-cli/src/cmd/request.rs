//! `meshctl request`: to come.

use std::process::ExitCode;

use crate::args::MeshName;

/// `meshctl request`.
#[derive(Debug, Clone, clap::Args)]
pub struct RequestArgs {
    /// The URL
    pub url: String,
    #[command(flatten)]
    pub mesh: MeshName,
}

/// Sends the requests.
///
/// # Errors
/// When the mesh is not there.
pub async fn run(args: RequestArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("cannot request {} yet", args.url)
}
