//! `meshctl exec`: any program inside an instance of a mesh with namespaces (`up --netns`), as its application would run it:
//! what it opens goes through the sidecar, and services have their names. In: an instance and a command. Out: that program,
//! in place of this process.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use super::fault::find;
use crate::args::MeshName;
use crate::local::{client, netns};

/// Variables that would send a program past the capture, to a proxy of this terminal's.
const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// `meshctl exec`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  meshctl exec client-0 -- curl -s http://reviews:9080/")]
pub struct InsideArgs {
    /// An instance (reviews-v2-0, client-0)
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    #[command(flatten)]
    pub mesh: MeshName,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// Becomes the program. Returns only on failure.
///
/// # Errors
/// When there is no such instance, or it has no namespace.
pub async fn run(args: InsideArgs) -> anyhow::Result<ExitCode> {
    let mesh = client::mesh(&args.mesh.name).await?;
    let instance = find(&mesh, &args.instance)?;
    let name = &instance.name;
    if mesh.hub.is_none() {
        bail!(
            "{name} has no network namespace: mesh {} was started without --netns. `meshctl request --from WORKLOAD` sends \
             requests as its application would",
            mesh.name
        );
    }
    let Some(place) = &instance.place else {
        bail!("{name} is not running (`meshctl start {name}` brings it back)");
    };
    netns::enter(&place.netns).with_context(|| format!("cannot enter the namespace of {name}"))?;
    netns::see_as(&place.files()).with_context(|| format!("cannot show the names of {name}"))?;
    let (program, arguments) = args.command.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(arguments).env("POD_NAME", name).env("POD_IP", instance.pod_ip.to_string());
    for variable in PROXIES {
        command.env_remove(variable);
    }
    Err(anyhow::anyhow!("cannot run {}: {}", program.to_string_lossy(), command.exec()))
}
