//! A worker's end of telemetry. Not shared between threads.

use std::time::Duration;

use super::{Flags, LogEntry, RequestFacts, Route};

/// Records what one worker did. Clone it freely within its thread.
#[derive(Debug, Clone)]
pub struct WorkerTelemetry {}

impl WorkerTelemetry {
    /// Counts a finished request.
    pub fn request(&self, facts: &RequestFacts<'_>) {
        let _ = facts;
    }

    /// Counts a connection that forwards bytes as opened; the handle counts its bytes and its end.
    #[must_use]
    pub fn tcp_opened(&self, route: &Route<'_>) -> TcpConnection {
        let _ = route;
        TcpConnection {}
    }

    /// Writes an access log line, if that is on. Never waits: when the writer cannot follow, the line is dropped and counted.
    pub fn log(&self, entry: &LogEntry<'_>) {
        let _ = entry;
    }

    /// Whether [`Self::log`] does anything.
    #[must_use]
    pub fn logs(&self) -> bool {
        false
    }
}

/// An open connection's counters.
#[derive(Debug)]
pub struct TcpConnection {}

impl TcpConnection {
    /// Bytes from the client to the server since the last call.
    pub fn received(&self, bytes: u64) {
        let _ = bytes;
    }

    /// Bytes from the server to the client since the last call.
    pub fn sent(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The connection ended.
    pub fn closed(self, flags: Flags, lasted: Duration) {
        let _ = (flags, lasted);
    }
}
