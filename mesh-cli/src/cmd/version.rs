//! `meshctl version`: of this program, and of the meshes that run here.

use std::process::ExitCode;

use serde_json::json;

use crate::args::{Format, VersionArgs};
use crate::local::client;
use crate::local::dir::StateDir;

/// Prints the versions.
///
/// # Errors
/// When the output cannot be written.
pub async fn run(args: VersionArgs) -> anyhow::Result<ExitCode> {
    let mut running = Vec::new();
    if let Some(name) = args.name {
        let version = client::mesh(&name).await?.version;
        running.push((name, version));
    } else {
        for name in StateDir::names() {
            // One that starts or ends right now has nothing to say.
            let Ok(mesh) = client::mesh(&name).await else { continue };
            running.push((name, mesh.version));
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    if args.output.output == Format::Json {
        let meshes: Vec<_> = running.iter().map(|(name, v)| json!({"name": name, "version": v})).collect();
        println!("{}", json!({"meshctl": version, "meshes": meshes}));
    } else {
        println!("meshctl {version}");
        for (name, version) in running {
            println!("mesh {name}: {version}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
