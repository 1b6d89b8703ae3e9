//! One child process: started, restarted with backoff when it ends by itself, stopped when told to.
//!
//! Children are spawned from the supervisor's only thread (its runtime is a current-thread one that blocks on the main
//! thread): `PR_SET_PDEATHSIG`, which each child sets for itself, fires when the *thread* that spawned it ends. Each child
//! leads a process group of its own, so that Ctrl-C at the terminal reaches only the supervisor, and so that whatever a
//! user's program has started ends with it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::api::{Process, ProcessState};
use super::journal::Journal;

/// This executable: not by its path, as the file may have been replaced by a newer build since.
pub const MYSELF: &str = "/proc/self/exe";
/// The pause before the first restart; it doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest pause before a restart.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How much of a log is looked at for a process's last words.
const LAST_WORDS: u64 = 400;
/// A process that ran this long starts again with the first backoff.
const STEADY: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, String)>,
    pub directory: Option<PathBuf>,
    pub log: PathBuf,
}

/// Makes what to run, anew at each start: tokens expire and services come.
pub type Recipe = Box<dyn Fn() -> anyhow::Result<Program> + Send + Sync>;

/// What is wanted of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Not before the first start.
    Nothing,
    Running,
    /// SIGTERM, and SIGKILL after this long.
    Stopped(Duration),
    Killed,
    /// As stopped, and the task that minds it ends.
    Gone(Duration),
}

/// What a process does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: ProcessState,
    pub pid: Option<i32>,
    pub restarts: u32,
    pub last_exit: Option<String>,
}

/// A handle on a minded process; clones are the same process.
#[derive(Debug, Clone)]
pub struct Unit {
    name: Arc<str>,
    wanted: Arc<watch::Sender<Wanted>>,
    status: watch::Receiver<Status>,
}

impl Unit {
    /// Minds a process that is not running yet.
    #[must_use]
    pub fn new(name: &str, journal: Arc<Journal>, recipe: Recipe) -> Self {
        let (wanted, wish) = watch::channel(Wanted::Nothing);
        let first = Status { state: ProcessState::Waiting, pid: None, restarts: 0, last_exit: None };
        let (status, seen) = watch::channel(first);
        let name: Arc<str> = Arc::from(name);
        let minder = Minder {
            name: name.clone(),
            wish,
            status,
            journal,
            recipe,
            backoff: FIRST_BACKOFF,
            starts: 0,
            log: PathBuf::new(),
        };
        tokio::spawn(minder.mind());
        Self { name, wanted: Arc::new(wanted), status: seen }
    }

    /// Its name for `logs`, `stop`, `start`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Wants it to run.
    pub fn start(&self) {
        self.wanted.send_replace(Wanted::Running);
    }

    /// SIGTERM, SIGKILL after `grace`; returns when it has ended.
    pub async fn stop(&self, grace: Duration) {
        self.wanted.send_replace(Wanted::Stopped(grace));
        self.ended().await;
    }

    /// SIGKILL; returns when it has ended.
    pub async fn kill(&self) {
        self.wanted.send_replace(Wanted::Killed);
        self.ended().await;
    }

    /// Stops it for good.
    pub async fn remove(&self, grace: Duration) {
        self.wanted.send_replace(Wanted::Gone(grace));
        self.ended().await;
    }

    /// Whether somebody stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(*self.wanted.borrow(), Wanted::Stopped(_) | Wanted::Killed | Wanted::Gone(_))
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Changes of what it does.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// For the API.
    #[must_use]
    pub fn tell(&self) -> Process {
        let Status { state, pid, restarts, last_exit } = self.status();
        Process { name: self.name.to_string(), state, pid, restarts, last_exit }
    }

    async fn ended(&self) {
        let mut status = self.status.clone();
        // An error means that the minding task is gone, and its process with it.
        let _ = status.wait_for(|status| status.state == ProcessState::Stopped).await;
    }
}

/// The task that minds one process.
struct Minder {
    name: Arc<str>,
    wish: watch::Receiver<Wanted>,
    status: watch::Sender<Status>,
    journal: Arc<Journal>,
    recipe: Recipe,
    backoff: Duration,
    starts: u32,
    log: PathBuf,
}

impl Minder {
    async fn mind(mut self) {
        loop {
            let wanted = *self.wish.borrow_and_update();
            match wanted {
                Wanted::Running => {
                    self.run_once().await;
                    continue;
                }
                Wanted::Nothing => {}
                Wanted::Stopped(_) | Wanted::Killed => self.stopped(),
                Wanted::Gone(_) => return self.stopped(),
            }
            if self.wish.changed().await.is_err() {
                return self.stopped();
            }
        }
    }

    /// One life of the process, with the pause that follows when it ended by itself.
    async fn run_once(&mut self) {
        let born = Instant::now();
        let ended = match self.spawn() {
            Ok(child) => {
                self.starts += 1;
                self.live(child).await
            }
            Err(error) => Some(format!("cannot start: {error:#}")),
        };
        let Some(why) = ended else {
            self.backoff = FIRST_BACKOFF;
            return;
        };
        if born.elapsed() >= STEADY {
            self.backoff = FIRST_BACKOFF;
        }
        let pause = self.backoff;
        self.backoff = (pause * 2).min(MAX_BACKOFF);
        self.journal.tell("exited", format!("{} {why}; starts again in {} ms", self.name, pause.as_millis()));
        self.status.send_modify(|status| {
            status.state = ProcessState::Backoff;
            status.pid = None;
            status.restarts += 1;
            status.last_exit = Some(why);
        });
        let _ = timeout(pause, self.wish.changed()).await;
    }

    fn spawn(&mut self) -> anyhow::Result<Child> {
        let program = (self.recipe)()?;
        self.log.clone_from(&program.log);
        let log = File::options().create(true).append(true).open(&program.log)?;
        let mut command = Command::new(&program.program);
        if program.program == *MYSELF {
            command.arg0("meshctl");
        }
        command
            .args(&program.arguments)
            .envs(program.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        if let Some(directory) = &program.directory {
            command.current_dir(directory);
        }
        Ok(command.spawn()?)
    }

    /// Until the child ends: `None` when that was wanted, else how it ended.
    async fn live(&mut self, mut child: Child) -> Option<String> {
        let group = child.id().map(|pid| Pid::from_raw(pid.cast_signed()))?;
        let starts = self.starts;
        self.status.send_modify(|status| {
            status.state = ProcessState::Running;
            status.pid = Some(group.as_raw());
        });
        self.journal.tell("started", format!("{} runs (process {group}, start {starts})", self.name));
        let mut told = None;
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break ended,
                changed = self.wish.changed() => {
                    let wanted = if changed.is_err() { Wanted::Killed } else { *self.wish.borrow_and_update() };
                    told = end(group, wanted, &self.name, &self.journal).or(told);
                }
                () = sleep_until(told.flatten()), if told.is_some() => {
                    let _ = killpg(group, Signal::SIGKILL);
                    told = Some(None);
                }
            }
        };
        // What the program started and left behind ends with it.
        let _ = killpg(group, Signal::SIGKILL);
        match ended {
            _ if told.is_some() => None,
            Ok(status) => Some(describe(status) + &last_words(&self.log)),
            Err(error) => Some(format!("cannot be waited for: {error}")),
        }
    }

    fn stopped(&self) {
        self.status.send_modify(|status| {
            status.state = ProcessState::Stopped;
            status.pid = None;
        });
    }
}

/// Sends the signal for a wish: `Some(when to kill)` when the process is to end.
fn end(group: Pid, wanted: Wanted, name: &str, journal: &Journal) -> Option<Option<Instant>> {
    match wanted {
        Wanted::Nothing | Wanted::Running => None,
        Wanted::Killed => {
            journal.tell("killed", format!("{name} gets SIGKILL"));
            let _ = killpg(group, Signal::SIGKILL);
            Some(None)
        }
        Wanted::Stopped(grace) | Wanted::Gone(grace) => {
            let _ = killpg(group, Signal::SIGTERM);
            Some(Some(Instant::now() + grace))
        }
    }
}

/// Never, when there is no time.
async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => sleep(when.saturating_duration_since(Instant::now())).await,
        None => std::future::pending().await,
    }
}

/// The last line that a process wrote: mostly why it ended.
fn last_words(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        std::io::Result::Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().unwrap_or_default();
    match text.lines().next_back().map(str::trim) {
        Some(line) if !line.is_empty() => format!(": {line}"),
        _ => String::new(),
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal().and_then(|n| Signal::try_from(n).ok())) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _place: tempfile::TempDir,
        journal: Arc<Journal>,
        log: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            let journal = Arc::new(Journal::open(&place.path().join("journal")).unwrap());
            Self { log: place.path().join("out"), journal, _place: place }
        }

        fn unit(&self, script: &str) -> Unit {
            let (log, script) = (self.log.clone(), script.to_owned());
            let recipe = move || {
                Ok(Program {
                    program: "/bin/sh".into(),
                    arguments: vec!["-c".into(), script.clone().into()],
                    environment: vec![("GREETING".to_owned(), "hello".to_owned())],
                    directory: None,
                    log: log.clone(),
                })
            };
            Unit::new("it", self.journal.clone(), Box::new(recipe))
        }
    }

    async fn until(unit: &Unit, wanted: impl FnMut(&Status) -> bool) -> Status {
        let mut status = unit.watch();
        timeout(Duration::from_secs(10), status.wait_for(wanted)).await.expect("in time").unwrap().clone()
    }

    #[tokio::test]
    async fn it_starts_stops_and_starts_again() {
        let f = Fixture::new();
        let unit = f.unit("echo $GREETING; exec sleep 100");
        assert_eq!(unit.status().state, ProcessState::Waiting);
        unit.start();
        let first = until(&unit, |s| s.state == ProcessState::Running).await;
        unit.stop(Duration::from_secs(5)).await;
        assert_eq!(unit.status().pid, None);
        assert!(unit.is_stopped());
        unit.start();
        let second = until(&unit, |s| s.state == ProcessState::Running).await;
        assert_ne!(first.pid, second.pid);
        assert_eq!(second.restarts, 0);
        let greeted = async {
            while !std::fs::read_to_string(&f.log).is_ok_and(|text| text.starts_with("hello")) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), greeted).await.unwrap();
        unit.kill().await;
    }

    #[tokio::test]
    async fn what_ends_by_itself_comes_back_and_says_how_it_ended() {
        let f = Fixture::new();
        let unit = f.unit("echo no luck; exit 3");
        unit.start();
        let status = until(&unit, |s| s.restarts == 2).await;
        assert_eq!(status.last_exit.as_deref(), Some("ended with exit status 3: no luck"));
        unit.stop(Duration::ZERO).await;
        assert_eq!(unit.status().state, ProcessState::Stopped);
    }

    #[tokio::test]
    async fn what_ignores_sigterm_is_killed_after_its_grace() {
        let f = Fixture::new();
        let unit = f.unit("trap '' TERM; echo ready; while :; do sleep 1; done");
        unit.start();
        until(&unit, |s| s.state == ProcessState::Running).await;
        unit.stop(Duration::from_millis(50)).await;
        assert_eq!(unit.status().state, ProcessState::Stopped);
    }

    #[tokio::test]
    async fn what_it_started_ends_with_it() {
        let f = Fixture::new();
        let unit = f.unit("sleep 100 & echo $!; wait");
        unit.start();
        let written = async {
            loop {
                if let Ok(text) = std::fs::read_to_string(&f.log)
                    && let Ok(pid) = text.trim().parse::<i32>()
                {
                    return pid;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        let grandchild = timeout(Duration::from_secs(10), written).await.unwrap();
        unit.kill().await;
        let gone = async {
            // A zombie that init has not reaped yet is gone for us.
            while std::fs::read_to_string(format!("/proc/{grandchild}/stat"))
                .is_ok_and(|s| !s.contains(") Z "))
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_and_tried_again() {
        let f = Fixture::new();
        let recipe = move || anyhow::bail!("no such thing");
        let unit = Unit::new("it", f.journal.clone(), Box::new(recipe));
        unit.start();
        let status = until(&unit, |s| s.restarts > 0).await;
        assert_eq!(status.last_exit.as_deref(), Some("cannot start: no such thing"));
        unit.remove(Duration::ZERO).await;
    }
}
