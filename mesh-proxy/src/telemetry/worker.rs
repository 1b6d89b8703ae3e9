//! A worker's end of telemetry. Not shared between threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::access_log::Clock;
use super::cache::Cache;
use super::labels::{self, Class};
use super::series::{ConnectionShard, RequestShard};
use super::{DryRun, Flags, LogEntry, Party, Reporter, RequestFacts, Route, Service, Shared, access_log};

/// Records what one worker did. Clone it freely within its thread.
#[derive(Debug, Clone)]
pub struct WorkerTelemetry {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    index: usize,
    requests: RefCell<Cache<RequestShard>>,
    clock: RefCell<Clock>,
}

impl WorkerTelemetry {
    pub(super) fn new(shared: Arc<Shared>, index: usize) -> Self {
        let inner = Inner {
            shared,
            index,
            requests: RefCell::new(Cache::new()),
            clock: RefCell::new(Clock::default()),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Counts a finished request.
    pub fn request(&self, facts: &RequestFacts<'_>) {
        let class = Class::request(facts.protocol, facts.status, facts.grpc_status, facts.flags);
        let mut cache = self.inner.requests.borrow_mut();
        let shard = cache.get(&facts.route, class.pack(&facts.route), || {
            self.inner.shared.requests.shard(labels::render(&facts.route, &class), self.inner.index)
        });
        shard.requests.add(1);
        // In thousandths of their units: microseconds of milliseconds.
        shard.duration.record(u64::try_from(facts.duration.as_micros()).unwrap_or(u64::MAX));
        shard.request_bytes.record(facts.request_bytes.saturating_mul(1000));
        shard.response_bytes.record(facts.response_bytes.saturating_mul(1000));
    }

    /// Counts a connection that forwards bytes as opened; the handle counts its bytes and its end.
    #[must_use]
    pub fn tcp_opened(&self, route: &Route<'_>) -> TcpConnection {
        let shard = self.connection_shard(route, Flags::NONE);
        shard.opened.add(1);
        TcpConnection {
            worker: self.clone(),
            shard,
            reporter: route.reporter,
            source: route.source.clone(),
            destination: route.destination.clone(),
            service: route.service.clone(),
            mtls: route.mtls,
            flags: Flags::NONE,
        }
    }

    /// Writes an access log line, if that is on. Never waits: when the writer cannot follow, the line is dropped and
    /// counted.
    pub fn log(&self, entry: &LogEntry<'_>) {
        if self.logs() {
            let mut clock = self.inner.clock.borrow_mut();
            self.inner.shared.log.write(self.inner.index, |line| access_log::write(entry, &mut clock, line));
        }
    }

    /// Counts what a dry run of an AuthorizationPolicy came to.
    pub fn dry_run(&self, dry_run: DryRun) {
        self.inner.shared.dry_runs.count(dry_run);
    }

    /// Whether [`Self::log`] does anything.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.inner.shared.log.is_enabled()
    }

    fn connection_shard(&self, route: &Route<'_>, flags: Flags) -> Arc<ConnectionShard> {
        let labels = labels::render(route, &Class::connection(flags));
        self.inner.shared.connections.shard(labels, self.inner.index)
    }
}

/// An open connection's counters. It counts as closed when this is dropped.
#[derive(Debug)]
pub struct TcpConnection {
    worker: WorkerTelemetry,
    shard: Arc<ConnectionShard>,
    reporter: Reporter,
    source: Arc<Party>,
    destination: Arc<Party>,
    service: Arc<Service>,
    mtls: bool,
    flags: Flags,
}

impl TcpConnection {
    /// Bytes from the client to the server since the last call.
    pub fn received(&self, bytes: u64) {
        self.shard.received.add(bytes);
    }

    /// Bytes from the server to the client since the last call.
    pub fn sent(&self, bytes: u64) {
        self.shard.sent.add(bytes);
    }

    /// The connection ended with these flags.
    pub fn closed(mut self, flags: Flags) {
        self.flags = flags;
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        if self.flags == Flags::NONE {
            return self.shard.closed.add(1);
        }
        let route = Route {
            reporter: self.reporter,
            source: &self.source,
            destination: &self.destination,
            service: &self.service,
            mtls: self.mtls,
        };
        self.worker.connection_shard(&route, self.flags).closed.add(1);
    }
}
