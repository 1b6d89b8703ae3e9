//! What goes on beside: files watched, tokens renewed, logs kept small, the pilot's events passed on.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use super::Supervisor;
use crate::local::context::{Context, TOKEN_REFRESH};
use crate::local::dir;
use crate::local::files::Files;
use crate::local::http::Lines;
use crate::local::journal::Event;
use crate::local::plan::SYSTEM;
use crate::local::process::Unit;

/// Changes that come together are read together; an editor writes a file in several steps.
const QUIET: Duration = Duration::from_millis(60);
/// Without a watcher (inotify's limits) the files are read this often.
const WITHOUT_WATCHER: Duration = Duration::from_secs(1);
/// How often logs are looked at.
const LOG_CHECK: Duration = Duration::from_secs(10);
/// A log longer than this becomes `.1` (the state directory is often in memory).
const MAX_LOG: u64 = 32 << 20;
/// How often the pilot is asked which services there are.
const NAMES_CHECK: Duration = Duration::from_millis(500);
/// The pause before the pilot's events are asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// A process of the control plane, run with a configuration that is written at each start.
pub fn unit(
    context: &Arc<Context>,
    name: &'static str,
    what: &'static str,
    config: impl Fn(&Context) -> Value + Send + Sync + 'static,
) -> Unit {
    let shared = context.clone();
    let recipe = move || {
        let path = shared.dir.config_of(name);
        let text = serde_json::to_string_pretty(&config(&shared))?;
        dir::write(&path, text.as_bytes())?;
        shared.write_token(name, SYSTEM, name, name)?;
        let state = shared.dir.state_of(name);
        if !state.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&state)?;
        }
        let path = path.to_str().context("the state directory's path is not UTF-8")?;
        Ok(shared.myself(&["internal", what, "--config", path], shared.dir.log(name)))
    };
    Unit::new(name, context.journal.clone(), Box::new(recipe))
}

/// Runs until aborted.
pub async fn run(supervisor: Arc<Supervisor>) {
    tokio::join!(tokens(&supervisor), logs(&supervisor), events(&supervisor), names(&supervisor));
}

/// The pilot's token; those of pods are renewed by the pods.
async fn tokens(supervisor: &Supervisor) {
    let mut tick = interval(TOKEN_REFRESH);
    loop {
        tick.tick().await;
        if let Err(error) = supervisor.context.write_token("mesh-pilot", SYSTEM, "mesh-pilot", "mesh-pilot") {
            supervisor.context.journal.tell("failed", format!("cannot write the pilot's token: {error}"));
        }
    }
}

/// Services come and go: the names inside the namespaces with them.
async fn names(supervisor: &Supervisor) {
    if supervisor.context.hub.is_none() {
        return;
    }
    let mut tick = interval(NAMES_CHECK);
    loop {
        tick.tick().await;
        // Without an answer the names stay as they are.
        let _ = supervisor.context.pilot_status().await;
    }
}

/// Keeps logs from filling the memory: what is written is appended, so that a copy and a cut lose little.
async fn logs(supervisor: &Supervisor) {
    let mut tick = interval(LOG_CHECK);
    loop {
        tick.tick().await;
        let files = fs::read_dir(supervisor.context.dir.logs()).into_iter().flatten().flatten();
        for file in files.filter(|f| f.path().extension().is_some_and(|e| e == "log")) {
            if file.metadata().is_ok_and(|m| m.len() > MAX_LOG) {
                let _ = cut(&file.path());
            }
        }
    }
}

fn cut(log: &Path) -> std::io::Result<()> {
    fs::copy(log, log.with_extension("log.1"))?;
    fs::File::options().write(true).open(log)?.set_len(0)
}

/// Passes the pilot's events on to whoever looks at the journal.
async fn events(supervisor: &Supervisor) {
    loop {
        if let Ok(mut lines) = Lines::open(&supervisor.context.pilot(), "/debug/events").await {
            while let Some(line) = lines.next().await {
                if let Ok(Event { kind, text }) = serde_json::from_str(&line) {
                    supervisor.context.journal.tell(&kind, text);
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// A watcher of the user's files, and what it tells.
pub struct Watching {
    _watcher: Option<notify::RecommendedWatcher>,
    told: mpsc::Receiver<()>,
}

/// Begins to watch, before the files are read for the first time: no change is missed.
pub fn watch(paths: &[PathBuf]) -> Watching {
    let (sender, told) = mpsc::channel(1);
    let given = paths.to_vec();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let matters = match &event {
            Ok(event) => !event.kind.is_access() && event.paths.iter().any(|p| Files::concerns(&given, p)),
            Err(_) => true,
        };
        if matters {
            // Full: a reading is due anyway.
            let _ = sender.try_send(());
        }
    });
    let watcher = watcher.ok().and_then(|mut watcher| {
        for (directory, deep) in Files::new(paths.to_vec()).directories() {
            let mode = if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            watcher.watch(&directory, mode).ok()?;
        }
        Some(watcher)
    });
    Watching { _watcher: watcher, told }
}

/// Follows the user's files.
pub async fn follow(supervisor: &Supervisor, mut watching: Watching) {
    let blind = watching._watcher.is_none();
    if blind {
        let text = "files cannot be watched here; they are read once a second";
        supervisor.context.journal.tell("notice", text);
    }
    loop {
        if blind {
            sleep(WITHOUT_WATCHER).await;
        } else if watching.told.recv().await.is_none() {
            return std::future::pending().await;
        }
        sleep(QUIET).await;
        let _ = watching.told.try_recv();
        let plan = supervisor.read();
        if plan != *supervisor.plan.lock() {
            supervisor.write_implied(&plan);
            supervisor.apply(plan);
        }
    }
}
