//! The stream's life: connect, say what is held and wanted, answer, and again after every loss.
//!
//! In: a channel to the pilot and the names that workers ask for. Out: requests and answers; the store and the disk follow.

use std::time::Duration;

use mesh_proto::discovery::{MAX_MESSAGE, TROUBLES_TYPE_URL, TYPE_URL};
use mesh_proto::model::ResourceName;
use mesh_proto::wire::envoy::config::core::v3 as core;
use mesh_proto::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mesh_proto::wire::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use mesh_proto::wire::mesh::v1::{Trouble, Troubles};
use prost::Message as _;
use prost_types::Any;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::backoff::Backoff;
use super::disk::{Disk, DiskTask};
use super::{Node, answer};
use crate::dns;
use crate::store::Writer;

/// How long the pilot may take to accept the stream, connecting included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// Changes within this time are one write to the disk.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// How often unused names are looked for.
const SWEEP: Duration = Duration::from_secs(600);
/// A stream that lived that long was a good one.
const SETTLED: Duration = Duration::from_secs(5);
/// The longest time between two tries while somebody waits for an answer.
const URGENT: Duration = Duration::from_secs(1);
/// The most names of one request; more go into the next one.
const BATCH: usize = 4096;

/// How a stream ended.
#[derive(Debug)]
pub struct Session {
    /// Whether the pilot answered at all.
    pub answered: bool,
    /// Why it ended.
    pub why: Status,
}

/// The client. It owns the writer: nobody else writes the store.
pub struct Client {
    channel: Channel,
    node: Node,
    writer: Writer,
    asked: mpsc::UnboundedReceiver<ResourceName>,
    /// What DNS has for names of endpoints.
    answers: mpsc::UnboundedReceiver<dns::Answer>,
    disk: Option<DiskTask>,
    /// What this gateway cannot serve.
    troubles: watch::Receiver<Vec<Trouble>>,
    flush_at: Option<Instant>,
    sweep: Interval,
}

/// One stream's way out.
type Requests = mpsc::UnboundedSender<DeltaDiscoveryRequest>;

impl Client {
    /// A client that has not connected yet, with the state of `disk` loaded. `asked`: the names that workers demand,
    /// from [`crate::store::Store::new`]. Must be called within a runtime.
    #[must_use]
    pub fn new(
        channel: Channel,
        node: Node,
        mut writer: Writer,
        asked: mpsc::UnboundedReceiver<ResourceName>,
        disk: Option<Disk>,
    ) -> Self {
        let disk = disk.map(|disk| {
            let resources = disk.load();
            if !resources.is_empty() {
                tracing::info!(resources = resources.len(), "serving what was in force before the restart");
            }
            writer.load(resources);
            DiskTask::start(disk)
        });
        let mut sweep = tokio::time::interval_at(Instant::now() + SWEEP, SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Nobody tells anything yet, and a closed channel never does.
        let troubles = watch::channel(Vec::new()).1;
        let answers = mpsc::unbounded_channel().1;
        Self { channel, node, writer, asked, answers, disk, troubles, flush_at: None, sweep }
    }

    /// Tells the pilot what this gateway cannot serve, whenever that changes.
    #[must_use]
    pub fn telling(mut self, troubles: watch::Receiver<Vec<Trouble>>) -> Self {
        self.troubles = troubles;
        self
    }

    /// Asks `source` for the names of endpoints. Must be called within a runtime.
    #[must_use]
    pub fn resolving(mut self, source: impl dns::Source) -> Self {
        self.answers = dns::start(self.writer.names(), source);
        self
    }

    /// Runs until `shutdown` is done; then what has changed is on disk.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) {
        {
            let forever = self.reconnect();
            tokio::select! {
                () = shutdown => {}
                () = forever => {}
            }
        }
        self.flush();
        if let Some(disk) = self.disk.take() {
            disk.finish().await;
        }
    }

    async fn reconnect(&mut self) {
        let mut backoff = Backoff::default();
        let mut told = String::new();
        loop {
            let opened = Instant::now();
            let session = self.session().await;
            if session.answered {
                told.clear();
            }
            // A pilot that answers and fails at once is not met any faster than one that is away.
            if session.answered && opened.elapsed() >= SETTLED {
                backoff.reset();
            }
            let wait = backoff.next(&mut rand::rng());
            let why = explain(&session.why);
            // One line per reason, not per try.
            if why != told {
                tracing::warn!(%why, "no control plane; serving what is known and trying again");
                told = why;
            }
            self.wait(wait).await;
        }
    }

    /// One stream, from its opening to its end.
    pub(super) async fn session(&mut self) -> Session {
        let (requests, outgoing) = mpsc::unbounded_channel();
        self.subscribe_all();
        let _ = requests.send(self.first_request());
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE);
        let open = client.delta_aggregated_resources(UnboundedReceiverStream::new(outgoing));
        let opened = tokio::time::timeout(OPEN_TIMEOUT, open).await;
        let mut responses = match opened {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(why)) => return Session { answered: false, why },
            Err(_) => {
                let why = Status::deadline_exceeded("the control plane did not accept the stream in time");
                return Session { answered: false, why };
            }
        };
        tracing::info!("connected to the control plane");
        let mut answered = false;
        let mut names = Vec::new();
        if !self.troubles.borrow_and_update().is_empty() {
            let _ = requests.send(self.tell_troubles());
        }
        let why = loop {
            tokio::select! {
                Ok(()) = self.troubles.changed() => drop(requests.send(self.tell_troubles())),
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        answered = true;
                        let answer = answer::apply(&mut self.writer, response);
                        let _ = requests.send(answer);
                        self.debounce();
                    }
                    Ok(None) => break Status::unavailable("the control plane ended the stream"),
                    Err(why) => break why,
                },
                _ = self.asked.recv_many(&mut names, BATCH) => self.ask(&requests, &mut names),
                Some(answer) = self.answers.recv() => self.writer.resolved(answer),
                _ = self.sweep.tick() => self.forget_idle(Some(&requests)),
                () = until(self.flush_at) => self.flush(),
            }
        };
        self.writer.store().lost_control_plane();
        Session { answered, why }
    }

    /// Waits, while the disk and the clock go on. Somebody who needs an answer now shortens it.
    async fn wait(&mut self, wait: Duration) {
        let start = Instant::now();
        let mut deadline = start + wait;
        let mut names = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return,
                _ = self.asked.recv_many(&mut names, BATCH) => {
                    for name in names.drain(..) {
                        self.writer.subscribe(name);
                    }
                    deadline = deadline.min(start + URGENT);
                }
                Some(answer) = self.answers.recv() => self.writer.resolved(answer),
                _ = self.sweep.tick() => self.forget_idle(None),
                () = until(self.flush_at) => self.flush(),
            }
        }
    }

    /// Takes over what was asked for while there was no stream.
    fn subscribe_all(&mut self) {
        while let Ok(name) = self.asked.try_recv() {
            self.writer.subscribe(name);
        }
    }

    fn first_request(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(core::Node {
                id: self.node.id(),
                cluster: String::new(),
                metadata: None,
                user_agent_name: "mesh-proxy".to_owned(),
                user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            type_url: TYPE_URL.to_owned(),
            resource_names_subscribe: self.writer.subscribed().map(ToString::to_string).collect(),
            initial_resource_versions: self.writer.versions(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn tell_troubles(&mut self) -> DeltaDiscoveryRequest {
        let troubles = Troubles { troubles: self.troubles.borrow_and_update().clone() };
        let details = vec![Any { type_url: TROUBLES_TYPE_URL.to_owned(), value: troubles.encode_to_vec() }];
        let message = format!("{} servers are not served as they should be", troubles.troubles.len());
        DeltaDiscoveryRequest {
            type_url: TYPE_URL.to_owned(),
            error_detail: Some(mesh_proto::wire::google::rpc::Status { code: 0, message, details }),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn ask(&mut self, requests: &Requests, names: &mut Vec<ResourceName>) {
        let new = names.drain(..).filter(|name| self.writer.subscribe(name.clone()));
        let names: Vec<_> = new.map(|name| name.to_string()).collect();
        if !names.is_empty() {
            let _ = requests.send(DeltaDiscoveryRequest {
                type_url: TYPE_URL.to_owned(),
                resource_names_subscribe: names,
                ..DeltaDiscoveryRequest::default()
            });
        }
    }

    /// Names that nobody uses any more. A request of its own: in one request with a new subscription of the same name the
    /// pilot could not tell which came first.
    fn forget_idle(&mut self, requests: Option<&Requests>) {
        let gone = self.writer.forget_idle(Instant::now());
        if let Some(requests) = requests.filter(|_| !gone.is_empty()) {
            tracing::debug!(names = gone.len(), "unused names forgotten");
            let _ = requests.send(DeltaDiscoveryRequest {
                type_url: TYPE_URL.to_owned(),
                resource_names_unsubscribe: gone.iter().map(ToString::to_string).collect(),
                ..DeltaDiscoveryRequest::default()
            });
        }
        self.debounce();
    }

    fn debounce(&mut self) {
        if self.disk.is_some() && self.writer.has_changes() {
            self.flush_at.get_or_insert_with(|| Instant::now() + DEBOUNCE);
        }
    }

    fn flush(&mut self) {
        self.flush_at = None;
        let changes = self.writer.take_changes();
        if let Some(disk) = self.disk.as_ref().filter(|_| !changes.is_empty()) {
            disk.write(changes);
        }
    }
}

/// Never, if there is no time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A status with its causes: what failed is often only in the last one (an identity that is not the pilot's).
pub(super) fn explain(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let error_text = error.to_string();
        if !text.contains(&error_text) {
            text.push_str(": ");
            text.push_str(&error_text);
        }
        cause = error.source();
    }
    text
}
