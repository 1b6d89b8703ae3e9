//! When a process is to end: signals, and the death of the process that started it.

use std::io;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal as listen};

/// Waits for SIGTERM or SIGINT and says which one came.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn signal() -> io::Result<&'static str> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// How long a pod that ends may still be found through its Service: the nodes learn of it one after the other.
pub const LINGER: Duration = Duration::from_secs(5);

/// As [`signal`]; after a SIGTERM, says so and lets the caller serve on for `linger`, or until another signal.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn after_signal(linger: Duration) -> io::Result<()> {
    let first = signal().await?;
    tracing::info!(signal = first, "ending");
    if first == "SIGTERM" {
        let _ = tokio::time::timeout(linger, signal()).await;
    }
    Ok(())
}

/// From now on this process gets SIGTERM when the thread that started it ends. With `parent_pid`, an error if that
/// process is gone already: its death would never be told.
///
/// # Errors
/// When the parent is gone, or the kernel refuses.
pub fn die_with_parent(parent_pid: Option<u32>) -> io::Result<()> {
    let Some(expected) = parent_pid else {
        return Ok(());
    };
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    let parent = nix::unistd::getppid().as_raw();
    if u32::try_from(parent) == Ok(expected) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the process {expected} that started this one is gone (parent is {parent})"
    )))
}
