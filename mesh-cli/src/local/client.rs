//! Talks to a running mesh's supervisor over its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::api::Mesh;
use super::dir::StateDir;
use super::http::{self, Answer, Lines, Server};
use super::supervisor::Operation;

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long stopping an instance may take: withdrawal, drain, the application's own time.
const STOPPING: Duration = Duration::from_secs(120);
/// How long a mesh may take to end.
const ENDING: Duration = Duration::from_secs(60);
/// The pause between looks.
const LOOK: Duration = Duration::from_millis(30);

/// The control socket of the mesh `name`.
fn server(name: &str) -> anyhow::Result<Server> {
    let dir = StateDir::of(name);
    if dir.is_locked() {
        return Ok(Server::Unix(dir.socket()));
    }
    let others: Vec<String> =
        StateDir::names().into_iter().filter(|other| StateDir::of(other).is_locked()).collect();
    let others = match others.as_slice() {
        [] => String::new(),
        others => format!(" (running: {})", others.join(", ")),
    };
    let up = if name == "default" { "meshctl up".to_owned() } else { format!("meshctl up --name {name}") };
    bail!("no mesh named {name:?} runs here{others}; start it with `{up}`{}", of_root())
}

/// Where root has meshes (`up --netns`) and we are somebody else: that they are root's to talk to.
fn of_root() -> &'static str {
    let hidden = !nix::unistd::geteuid().is_root() && Path::new("/tmp/mesh-0").exists();
    if hidden { " (root has meshes here: `sudo meshctl` talks to those)" } else { "" }
}

/// What the supervisor of the mesh `name` tells now.
///
/// # Errors
/// When no such mesh runs.
pub async fn mesh(name: &str) -> anyhow::Result<Mesh> {
    read(http::get(&server(name)?, "/mesh", PATIENCE).await?)
}

/// Stops (`stop`) or starts (`start`) something; returns what was done.
///
/// # Errors
/// When there is nothing of that name, or no such mesh.
pub async fn operate(name: &str, what: &str, operation: &Operation) -> anyhow::Result<String> {
    let body = Bytes::from(serde_json::to_vec(operation)?);
    let done: Value = read(http::post(&server(name)?, &format!("/{what}"), body, STOPPING).await?)?;
    Ok(done["done"].as_str().unwrap_or_default().to_owned())
}

/// What happens from now on.
///
/// # Errors
/// When no such mesh runs.
pub async fn events(name: &str) -> anyhow::Result<Lines> {
    Lines::open(&server(name)?, "/events").await
}

/// The log file of an instance or process.
///
/// # Errors
/// When there is nothing of that name, or no such mesh.
pub async fn log(name: &str, target: &str) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(
        target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/')),
        "{target:?} is not an instance's name"
    );
    let found: Value = read(http::get(&server(name)?, &format!("/log?{target}"), PATIENCE).await?)?;
    Ok(found["path"].as_str().context("the supervisor named no file")?.into())
}

/// What `down` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// It ran and has ended.
    Ended,
    /// Its supervisor had died; what it left is removed.
    Cleared,
    /// There was none.
    Absent,
}

/// Ends the mesh `name`; returns when nothing of it is left.
///
/// # Errors
/// When it does not end in time.
pub async fn down(name: &str) -> anyhow::Result<Down> {
    let dir = StateDir::of(name);
    if !dir.exists() {
        return Ok(Down::Absent);
    }
    if !dir.is_locked() {
        dir.clear(true).with_context(|| format!("cannot remove {}", dir.path().display()))?;
        return Ok(Down::Cleared);
    }
    let deadline = Instant::now() + ENDING;
    let supervisor = dir.holder();
    // A supervisor that is starting or ending has no socket: asked again, until it is gone.
    while dir.exists() || supervisor.is_some_and(runs) {
        if dir.is_locked() {
            let _ = http::post(&Server::Unix(dir.socket()), "/down", Bytes::new(), PATIENCE).await;
        }
        if Instant::now() >= deadline {
            bail!("mesh {name:?} has not ended within {} s; see {}", ENDING.as_secs(), dir.logs().display());
        }
        sleep(LOOK).await;
    }
    Ok(Down::Ended)
}

/// Whether a process runs; one that only waits for its parent to notice its end does not.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn read<T: DeserializeOwned>(answer: Answer) -> anyhow::Result<T> {
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body)
            .context("the supervisor answers in another form: is it of another version of meshctl?");
    }
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    bail!("{}", told["error"].as_str().unwrap_or("the supervisor refused"))
}
