//! Where log lines go: a bounded buffer per worker, emptied by a thread of its own. A worker never waits for the output.

use std::fmt;
use std::io::Write;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

/// A worker's lines that wait for the writer. At 300 bytes a line, a writer that stalls for a second loses nothing at
/// 3,000 requests a second.
const BUFFER: usize = 1 << 20;
/// How long the writer lets lines gather: one system call for many.
const GATHER: Duration = Duration::from_millis(20);
/// How long the end of the process waits for a writer that hangs.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The lines of all workers.
pub(super) struct LogSink {
    enabled: AtomicBool,
    buffers: Vec<Mutex<Vec<u8>>>,
    dropped: AtomicU64,
    output: Mutex<Output>,
    /// The writer, once the log has been turned on.
    writer: Mutex<Option<Thread>>,
}

struct Output {
    to: Box<dyn Write + Send>,
    /// Swapped with the buffers, so that both keep their memory.
    spare: Vec<u8>,
}

impl fmt::Debug for LogSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSink")
            .field("enabled", &self.enabled)
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl LogSink {
    pub(super) fn new(workers: usize, to: Box<dyn Write + Send>) -> Arc<Self> {
        Arc::new(Self {
            enabled: AtomicBool::new(false),
            buffers: (0..workers).map(|_| Mutex::default()).collect(),
            dropped: AtomicU64::new(0),
            output: Mutex::new(Output { to, spare: Vec::new() }),
            writer: Mutex::new(None),
        })
    }

    pub(super) fn set_enabled(self: &Arc<Self>, on: bool) {
        let mut writer = self.writer.lock();
        if on && writer.is_none() {
            let sink = Arc::downgrade(self);
            let spawned =
                thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&sink));
            match spawned {
                Ok(thread) => *writer = Some(thread.thread().clone()),
                Err(error) => return tracing::error!(%error, "no access log: its thread cannot be started"),
            }
        }
        self.enabled.store(on, Ordering::Relaxed);
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Lines that were lost because the output did not keep up.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Appends the line that `line` makes, unless the worker's buffer is full.
    pub(super) fn write(&self, worker: usize, line: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = self.buffers[worker].lock();
        if buffer.len() >= BUFFER {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let first = buffer.is_empty();
        line(&mut buffer);
        drop(buffer);
        // The writer knows of the others already.
        if first && let Some(writer) = &*self.writer.lock() {
            writer.unpark();
        }
    }

    /// Writes what is there, unless the writer hangs in its output: the process must be able to end.
    pub(super) fn flush(&self) {
        if let Some(mut output) = self.output.try_lock_for(FLUSH_LIMIT) {
            self.drain(&mut output);
        }
    }

    fn drain(&self, output: &mut Output) {
        let Output { to, spare } = output;
        for buffer in &self.buffers {
            mem::swap(&mut *buffer.lock(), spare);
            if !spare.is_empty() && to.write_all(spare).is_err() {
                // Nobody reads any more; there is nowhere left to say so.
                self.enabled.store(false, Ordering::Relaxed);
            }
            spare.clear();
        }
        let _ = to.flush();
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        self.flush();
        if let Some(writer) = self.writer.get_mut() {
            writer.unpark();
        }
    }
}

/// The writer's thread: ends with the sink.
fn write_all(sink: &Weak<LogSink>) {
    loop {
        thread::park();
        thread::park_timeout(GATHER);
        match sink.upgrade() {
            Some(sink) => sink.drain(&mut sink.output.lock()),
            None => return,
        }
    }
}
