//! What happens in a mesh, as lines: kept in the supervisor's log, streamed to whoever looks on.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// How many lines a slow reader may be behind before it loses some.
const BACKLOG: usize = 1024;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What kind of thing: `progress`, `started`, `exited`, `ready`, `unready`, `draining`, `stopped`, `files`, ... or one
    /// of the pilot's (`endpoint_up`, `applied`, ...).
    pub kind: String,
    /// For people.
    pub text: String,
}

/// The one place where events go.
#[derive(Debug)]
pub struct Journal {
    log: Mutex<File>,
    live: broadcast::Sender<Event>,
}

impl Journal {
    /// Appends to the log file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let log = File::options().create(true).append(true).open(path)?;
        Ok(Self { log: Mutex::new(log), live: broadcast::Sender::new(BACKLOG) })
    }

    /// Tells everybody.
    pub fn tell(&self, kind: &str, text: impl Into<String>) {
        let event = Event { kind: kind.to_owned(), text: text.into() };
        let now = jiff::Timestamp::now();
        // A full disk must not stop the mesh; those who look on still see it.
        let _ = writeln!(self.log.lock(), "{now:.3} {} {}", event.kind, event.text);
        let _ = self.live.send(event);
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.live.subscribe()
    }
}
