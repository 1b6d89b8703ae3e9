//! What the data path tells: Istio's standard metrics and access log, without slowing it.
//!
//! In: [`RequestFacts`], [`TcpFacts`] and [`LogEntry`] from the workers. Out: Prometheus text ([`Telemetry::render`]) and
//! log lines on a writer thread. A worker finds a series by the identity of its label facts in a small table of its own,
//! and adds to counters that only it writes; they are summed at scrape. Source: Istio's standard metrics, design §3.3.

mod access_log;
mod cache;
mod dry_run;
mod exposition;
mod flags;
mod labels;
mod registry;
mod series;
mod sink;
#[cfg(test)]
mod tests;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dry_run::DryRuns;
pub use dry_run::{Carries, DryRun};
pub use flags::Flags;
pub use labels::{Party, Service};
use registry::Family;
use series::{ConnectionShard, RequestShard};
use sink::LogSink;
pub use worker::{TcpConnection, WorkerTelemetry};

/// Which side of a request this proxy was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar, or a gateway.
    Source,
    /// The server's sidecar.
    Destination,
}

/// `request_protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// Anything of HTTP that is not gRPC.
    Http,
    /// `content-type: application/grpc*`.
    Grpc,
}

/// Who spoke with whom about what: the labels that a connection already knows.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Our side.
    pub reporter: Reporter,
    /// The client's workload.
    pub source: &'a Arc<Party>,
    /// The server's workload.
    pub destination: &'a Arc<Party>,
    /// What was asked for.
    pub service: &'a Arc<Service>,
    /// The mesh leg is mTLS with verified identities.
    pub mtls: bool,
}

/// One finished request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Who with whom.
    pub route: Route<'a>,
    /// HTTP or gRPC.
    pub protocol: RequestProtocol,
    /// Status of the answer; 0: none was sent.
    pub status: u16,
    /// `grpc-status` of the trailers or of the head.
    pub grpc_status: Option<u32>,
    /// What went wrong.
    pub flags: Flags,
    /// From the first byte of the request to the last of the answer.
    pub duration: Duration,
    /// Bytes of the request (body).
    pub request_bytes: u64,
    /// Bytes of the answer (body).
    pub response_bytes: u64,
}

/// The fields of one access log line; `None` and empty are printed as `-`.
#[derive(Debug, Clone, Copy)]
pub struct LogEntry<'a> {
    /// When the request began.
    pub start: SystemTime,
    /// Empty for bytes.
    pub method: &'a str,
    /// `:path` as the client sent it.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/2`; empty for bytes.
    pub protocol: &'a str,
    /// 0: none.
    pub status: u16,
    /// Response flags.
    pub flags: Flags,
    /// Who did it: `via_upstream`, `route_not_found`, ...
    pub details: &'a str,
    /// Why the connection was ended.
    pub termination: &'a str,
    /// Why TLS or the connection to the upstream failed.
    pub transport_failure: &'a str,
    /// Bytes received from the client.
    pub bytes_received: u64,
    /// Bytes sent to the client.
    pub bytes_sent: u64,
    /// The whole request.
    pub duration: Duration,
    /// `x-envoy-upstream-service-time`.
    pub upstream_time: Option<Duration>,
    /// Header.
    pub forwarded_for: Option<&'a [u8]>,
    /// Header.
    pub user_agent: Option<&'a [u8]>,
    /// Header.
    pub request_id: Option<&'a [u8]>,
    /// `:authority` or Host.
    pub authority: &'a str,
    /// Where the request went.
    pub upstream_host: Option<SocketAddr>,
    /// `outbound|80|v1|reviews.default.svc.cluster.local`
    pub upstream_cluster: &'a str,
    /// Our end of that connection.
    pub upstream_local: Option<SocketAddr>,
    /// Our end of the client's connection.
    pub downstream_local: Option<SocketAddr>,
    /// The client's end.
    pub downstream_remote: Option<SocketAddr>,
    /// SNI.
    pub server_name: &'a str,
    /// Name of the rule.
    pub route_name: &'a str,
    /// What policies say that decide nothing; stands behind everything else where there is something.
    pub policies: &'a str,
}

/// Enough for a sidecar that talks to hundreds of workloads. A series is about 1.5 KiB and 512 bytes per worker.
pub const DEFAULT_SERIES_LIMIT: usize = 5000;

/// How telemetry is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many workers there are.
    pub workers: usize,
    /// Whether the access log is written (to standard output).
    pub access_log: bool,
    /// How many series are kept of each kind; what comes later counts in one overflow series. See
    /// [`DEFAULT_SERIES_LIMIT`].
    pub series_limit: usize,
    /// For `istio_build`.
    pub version: &'static str,
}

/// The process's telemetry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Telemetry {
    shared: Arc<Shared>,
}

/// What the workers and the control thread share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    requests: Family<RequestShard>,
    connections: Family<ConnectionShard>,
    log: Arc<LogSink>,
    dry_runs: DryRuns,
}

impl Telemetry {
    /// The access log goes to standard output.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with_output(settings, Box::new(std::io::stdout()))
    }

    /// The access log goes to `output`.
    #[must_use]
    pub fn with_output(settings: Settings, output: Box<dyn std::io::Write + Send>) -> Self {
        let log = LogSink::new(settings.workers, output);
        log.set_enabled(settings.access_log);
        let shared = Shared {
            requests: Family::new(settings.workers, settings.series_limit, labels::request_overflow()),
            connections: Family::new(settings.workers, settings.series_limit, labels::connection_overflow()),
            log,
            dry_runs: DryRuns::default(),
            settings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The end of worker `index`, for its thread alone: its counters have one writer.
    #[must_use]
    pub fn worker(&self, index: usize) -> WorkerTelemetry {
        let workers = self.shared.settings.workers;
        assert!(index < workers, "worker {index} is one of {workers}");
        WorkerTelemetry::new(self.shared.clone(), index)
    }

    /// Turns the access log on or off (SelfConfig).
    pub fn set_access_log(&self, on: bool) {
        self.shared.log.set_enabled(on);
    }

    /// Writes what is still buffered of the access log; for the end of the process.
    pub fn flush(&self) {
        self.shared.log.flush();
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        exposition::render(&self.shared)
    }

    /// Requests and connections per worker, and what was lost, for `/stats`.
    #[must_use]
    pub fn stats(&self) -> serde_json::Value {
        let requests = self.shared.requests.per_worker(RequestShard::requests);
        let connections = self.shared.connections.per_worker(ConnectionShard::opened);
        let workers = requests.iter().zip(&connections);
        let workers: Vec<_> = workers
            .map(|(requests, connections)| serde_json::json!({"requests": requests, "tcp_connections": connections}))
            .collect();
        serde_json::json!({
            "workers": workers,
            "series": self.shared.requests.len() + self.shared.connections.len(),
            "series_overflowed": self.shared.requests.overflowed() + self.shared.connections.overflowed(),
            "access_log_lines_dropped": self.shared.log.dropped(),
        })
    }
}
