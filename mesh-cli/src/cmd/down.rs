//! `meshctl down`.

use std::process::ExitCode;

use crate::args::DownArgs;
use crate::local::client::{self, Down};

/// Ends a mesh. None there: nothing to do, and that is said.
///
/// # Errors
/// When it does not end in time.
pub async fn run(args: DownArgs) -> anyhow::Result<ExitCode> {
    let name = &args.mesh.name;
    match client::down(name).await? {
        Down::Ended => println!("mesh {name} has ended"),
        Down::Cleared => println!("mesh {name} had died; what it left behind is removed"),
        Down::Absent => println!("no mesh named {name} runs here"),
    }
    Ok(ExitCode::SUCCESS)
}
