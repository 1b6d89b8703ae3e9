//! The file source: the user's YAML files and the supervisor's Pod files, watched.
//!
//! In: paths. Out: [`Event`]s. A notification of the file system only says "look"; what changed is found by comparing
//! content, and a look every two seconds makes up for notifications that never came.

pub mod last_good;
pub mod merge;
pub mod scan;
pub mod vips;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::last_good::LastGood;
use self::merge::Files;
use self::scan::Scanner;
use self::vips::Vips;
use super::Event;

/// How often to look without being told.
const SAFETY: Duration = Duration::from_secs(2);

/// What to read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The user's files and directories.
    pub user_paths: Vec<PathBuf>,
    /// Where the supervisor writes Pods.
    pub state_pods: PathBuf,
    /// Where the last good versions and the cluster IPs are kept.
    pub state_dir: PathBuf,
    /// Where cluster IPs come from.
    pub vip_cidr: Ipv4Net,
    /// Where those of the other family come from, if services have one.
    pub vip_cidr6: Option<Ipv6Net>,
}

/// The source.
pub struct FileSource {
    settings: Settings,
    files: Files,
    users: Scanner,
    states: Scanner,
}

impl FileSource {
    /// Reads what an earlier run has left.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn open(settings: Settings) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.state_dir)?;
        let last_good = LastGood::open(settings.state_dir.join("last_good"))?;
        let vips = Vips::open(settings.vip_cidr, settings.vip_cidr6, settings.state_dir.join("vips.json"));
        Ok(Self {
            settings,
            files: Files::new(last_good, vips),
            users: Scanner::default(),
            states: Scanner::default(),
        })
    }

    /// Looks once: what changed, and when to look again at the latest.
    pub fn look(&mut self, now: Instant) -> (Vec<Event>, Option<Instant>) {
        let user = self.users.scan(&self.settings.user_paths);
        let state = self.states.scan(std::slice::from_ref(&self.settings.state_pods));
        self.files.update(user, state, now)
    }

    /// Watches until nobody listens any more. Each message is everything that one look found.
    pub async fn run(mut self, events: mpsc::Sender<Vec<Event>>) {
        let (told, mut notified) = mpsc::channel(1);
        let mut watches = Watches::new(told);
        loop {
            watches.renew(&self.settings);
            // Reading files blocks; the rest of the process does not wait for a slow disk.
            let looked = tokio::task::spawn_blocking(move || {
                let found = self.look(Instant::now());
                (self, found)
            });
            let Ok((source, (found, recheck))) = looked.await else {
                return tracing::error!("BUG: the file source has panicked");
            };
            self = source;
            if !found.is_empty() && events.send(found).await.is_err() {
                return;
            }
            let safety = Instant::now() + SAFETY;
            tokio::select! {
                _ = notified.recv() => {}
                () = tokio::time::sleep_until(recheck.map_or(safety, |at| at.min(safety))) => {}
                () = events.closed() => return,
            }
        }
    }
}

/// Notifications for the directories involved. Files are watched through their directory: they may be replaced.
struct Watches {
    watcher: Option<notify::RecommendedWatcher>,
    watched: Vec<PathBuf>,
}

impl Watches {
    fn new(told: mpsc::Sender<()>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change, and would wake us for our own looks.
            let concerns =
                event.as_ref().map_or(true, |event| !event.kind.is_access() || is_close_write(event));
            if concerns {
                // Full: a look is due anyway.
                let _ = told.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, "files are not watched; they are looked at every 2 s"),
            )
            .ok();
        Self { watcher, watched: Vec::new() }
    }

    /// Watches what came to exist since.
    fn renew(&mut self, settings: &Settings) {
        let Some(watcher) = &mut self.watcher else { return };
        self.watched.retain(|path| path.exists());
        for path in settings.user_paths.iter().chain([&settings.state_pods]) {
            let (directory, mode) = if path.is_dir() {
                (path.as_path(), RecursiveMode::Recursive)
            } else {
                (
                    path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")),
                    RecursiveMode::NonRecursive,
                )
            };
            if self.watched.iter().any(|watched| watched == directory) || !directory.exists() {
                continue;
            }
            match watcher.watch(directory, mode) {
                Ok(()) => self.watched.push(directory.to_owned()),
                Err(error) => {
                    tracing::debug!(path = %directory.display(), %error, "not watched, looked at every 2 s");
                }
            }
        }
    }
}

fn is_close_write(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}
