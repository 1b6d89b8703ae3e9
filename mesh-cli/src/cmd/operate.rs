//! `meshctl stop` and `meshctl start`.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::args::{StartArgs, StopArgs};
use crate::local::api::{InstanceState, Mesh, Process, ProcessState};
use crate::local::client;
use crate::local::supervisor::Operation;

/// How long `start` waits for what it started.
const STARTING: Duration = Duration::from_secs(60);
/// The pause between looks.
const LOOK: Duration = Duration::from_millis(50);

/// Stops each, one after the other; returns when they have ended.
///
/// # Errors
/// When there is nothing of a name.
pub async fn stop(args: StopArgs) -> anyhow::Result<ExitCode> {
    for target in args.instances {
        let operation = Operation { target, kill: args.kill };
        println!("{}", client::operate(&args.mesh.name, "stop", &operation).await?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts all of them; returns when they are ready.
///
/// # Errors
/// When there is nothing of a name, or it does not get ready.
pub async fn start(args: StartArgs) -> anyhow::Result<ExitCode> {
    for target in &args.instances {
        let operation = Operation { target: target.clone(), kill: false };
        println!("{}", client::operate(&args.mesh.name, "start", &operation).await?);
    }
    let deadline = Instant::now() + STARTING;
    for target in &args.instances {
        loop {
            let mesh = client::mesh(&args.mesh.name).await?;
            match pending(&mesh, target) {
                None => break,
                Some(why) if Instant::now() >= deadline => {
                    anyhow::bail!("{target} runs but is not ready: {why}; see `meshctl logs {target}`")
                }
                Some(_) => sleep(LOOK).await,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Why what was started is not ready yet.
fn pending(mesh: &Mesh, target: &str) -> Option<String> {
    let not_running = |p: &Process| (p.state != ProcessState::Running).then(|| "it does not run".to_owned());
    if let Some(process) = mesh.control_plane.iter().find(|p| p.name == target) {
        return not_running(process);
    }
    let name = target.split('/').next().unwrap_or(target);
    let bare = name.split('.').next().unwrap_or(name);
    let instances = mesh.workloads.iter().flat_map(|w| w.instances.iter().map(move |i| (w, i)));
    let mut mine = instances.filter(|(w, i)| i.name == bare || w.name == bare);
    let waits =
        |state| matches!(state, InstanceState::Starting | InstanceState::Unready | InstanceState::Failed);
    mine.find_map(|(_, i)| waits(i.state).then(|| i.reason.clone().unwrap_or_default()))
}
