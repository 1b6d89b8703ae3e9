//! All streams together. In: snapshots, connections, requests. Out: what each stream may send next, and who is awake.
//!
//! One lock, held for the time of a look-up or of one response's making; nothing waits under it.

mod admission;
mod trust;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mesh_proto::discovery::TROUBLES_TYPE_URL;
use mesh_proto::model::{Kind, ResourceName, SpiffeId};
use mesh_proto::wire::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::admission::{Admission, Refusal};
use super::cache::Cache;
use super::node::{Node, NodeKind};
use super::resources::Compiler;
use super::stream::{Outgoing, Stream, Subject, TooManyNames};
use crate::snapshot::{Changes, Pod, PodKey, Snapshot, Viewer};

/// The most that is kept of what one gateway cannot serve.
const MAX_TROUBLES: usize = 1000;
/// The most characters of one of them.
const MAX_TROUBLE: usize = 1000;

/// Names a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// What became of a proxy's request.
#[derive(Debug, Default)]
pub struct Receipt {
    /// The names that it refused, and why.
    pub rejected: Vec<(ResourceName, Arc<str>)>,
    /// What it told that it cannot serve, if it told: all of it.
    pub troubles: Option<Vec<wire::Trouble>>,
}

/// How one proxy stands.
#[derive(Debug, Clone)]
pub struct ProxyReport {
    /// Its node id.
    pub node: Arc<str>,
    /// Its pod.
    pub pod: Arc<Pod>,
    /// Resources not yet acknowledged.
    pub pending: usize,
    /// Resources that it refuses, and why.
    pub rejected: Vec<(ResourceName, Arc<str>)>,
    /// What it cannot serve (gateways).
    pub troubles: Vec<wire::Trouble>,
    /// Since the last acknowledgement.
    pub last_ack: Option<std::time::Duration>,
}

/// All streams.
pub struct Hub {
    inner: Mutex<Inner>,
    /// Counts snapshots.
    published: watch::Sender<u64>,
}

struct Inner {
    snapshot: Arc<Snapshot>,
    cache: Cache,
    streams: HashMap<StreamId, Slot>,
    /// Who wants what: only names that change without a configuration change.
    interest: HashMap<ResourceName, BTreeSet<StreamId>>,
    pods: HashMap<PodKey, StreamId>,
    /// Whom to trust, as the authority tells it.
    told: Vec<wire::TrustBundle>,
    /// Identities revoked by name.
    tainted: BTreeSet<String>,
    next_id: u64,
}

struct Slot {
    node: Node,
    stream: Stream,
    wake: Arc<Notify>,
    troubles: Vec<wire::Trouble>,
    last_ack: Option<Instant>,
    /// Since when something waits to be sent.
    dirty_since: Option<Instant>,
    /// The same for what is under way.
    sent_since: Option<Instant>,
}

impl Slot {
    fn woken(&mut self) {
        self.dirty_since.get_or_insert_with(Instant::now);
        self.wake.notify_one();
    }
}

impl Hub {
    /// No streams yet.
    pub fn new(snapshot: Arc<Snapshot>, compiler: Box<dyn Compiler>) -> Self {
        let inner = Inner {
            snapshot,
            cache: Cache::new(compiler),
            streams: HashMap::new(),
            interest: HashMap::new(),
            pods: HashMap::new(),
            told: Vec::new(),
            tainted: BTreeSet::new(),
            next_id: 0,
        };
        Self { inner: Mutex::new(inner), published: watch::Sender::new(0) }
    }

    /// A new snapshot and what differs in it. Streams that it concerns are woken, nobody else.
    pub fn publish(&self, snapshot: Arc<Snapshot>, changes: &Changes) {
        let mut inner = self.inner.lock();
        let first = snapshot.loaded && !inner.snapshot.loaded;
        let before = std::mem::replace(&mut inner.snapshot, snapshot);
        if before.config.options.adds_otherwise(&inner.snapshot.config.options) {
            inner.retrust();
        }
        if changes.config || first {
            // Also the viewers: whether labels belong to them is a matter of configuration.
            let pods = inner.pods.keys().cloned().collect();
            inner.mark_pods(&pods);
            for slot in inner.streams.values_mut() {
                slot.stream.mark_all();
                slot.woken();
            }
            inner.cache.sweep();
        } else {
            inner.mark_pods(&changes.pods);
            let endpoints =
                changes.endpoints.iter().map(|n| ResourceName::new(Kind::Endpoints, &n.to_string()));
            let workloads =
                changes.workloads.iter().map(|ip| ResourceName::new(Kind::Workload, &ip.to_string()));
            for name in endpoints.chain(workloads) {
                inner.mark(&name);
            }
        }
        drop(inner);
        self.published.send_modify(|count| *count += 1);
    }

    /// Counts the snapshots published: to wait for the next one.
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Whether the first listing is done.
    pub fn is_loaded(&self) -> bool {
        self.inner.lock().snapshot.loaded
    }

    /// The present snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.inner.lock().snapshot.clone()
    }

    /// How often anything was encoded.
    pub fn encodes(&self) -> u64 {
        self.inner.lock().cache.encodes()
    }

    /// A proxy connects. A stream that the same pod had before is closed: it is the dead end of a broken connection.
    pub fn connect(&self, node: Node, identity: &SpiffeId) -> Admission {
        let mut inner = self.inner.lock();
        let key = (node.namespace.clone(), node.pod.clone());
        let Some(pod) = inner.snapshot.pods.get(&key).cloned() else { return Admission::UnknownPod };
        if let Err(refusal) = admission::check(&node, &pod, identity) {
            return Admission::Refused(refusal);
        }
        if inner.tainted.contains(identity.as_str()) {
            return Admission::Refused(Refusal::Tainted(identity.clone()));
        }
        inner.next_id += 1;
        let id = StreamId(inner.next_id);
        let stream = Stream::new(inner.subject(&node, pod));
        let wake = Arc::new(Notify::new());
        if let Some(old) = inner.pods.insert(key, id) {
            inner.remove(old);
        }
        let slot = Slot {
            node,
            stream,
            wake: wake.clone(),
            troubles: Vec::new(),
            last_ack: None,
            dirty_since: None,
            sent_since: None,
        };
        inner.streams.insert(id, slot);
        inner.gauge();
        Admission::Open(id, wake)
    }

    /// The proxy is gone.
    pub fn disconnect(&self, id: StreamId) {
        let mut inner = self.inner.lock();
        inner.remove(id);
        inner.pods.retain(|_, stream| *stream != id);
        inner.gauge();
    }

    /// A request of the proxy. `None` = the stream was replaced.
    pub fn request(
        &self,
        id: StreamId,
        request: &DeltaDiscoveryRequest,
    ) -> Result<Option<Receipt>, TooManyNames> {
        let mut inner = self.inner.lock();
        let Some(slot) = inner.streams.get_mut(&id) else { return Ok(None) };
        let answered = slot.stream.request(request)?;
        if answered.matched {
            let now = Instant::now();
            slot.last_ack = Some(now);
            if let Some(since) = slot.sent_since.take() {
                metrics::histogram!("pilot_proxy_convergence_time").record(now.duration_since(since));
            }
        }
        if !answered.rejected.is_empty() {
            metrics::counter!("pilot_total_xds_rejects").increment(answered.rejected.len() as u64);
        }
        let troubles = troubles(request);
        if let Some(troubles) = &troubles {
            slot.troubles.clone_from(troubles);
        }
        inner.update_interest(id);
        Ok(Some(Receipt { rejected: answered.rejected, troubles }))
    }

    /// What the stream may send now.
    pub fn next(&self, id: StreamId) -> Option<Outgoing> {
        let mut inner = self.inner.lock();
        let Inner { snapshot, cache, streams, .. } = &mut *inner;
        let slot = streams.get_mut(&id)?;
        let outgoing = slot.stream.next(snapshot, cache);
        if outgoing.is_some() {
            slot.sent_since = slot.dirty_since.take().or_else(|| Some(Instant::now()));
        } else if !slot.stream.is_dirty() {
            slot.dirty_since = None;
        }
        inner.update_interest(id);
        let outgoing = outgoing?;
        for encoded in &outgoing.resources {
            metrics::counter!("pilot_xds_pushes", "type" => encoded.name.kind.as_str()).increment(1);
        }
        Some(outgoing)
    }

    /// Whether the stream still is its pod's.
    pub fn is_open(&self, id: StreamId) -> bool {
        self.inner.lock().streams.contains_key(&id)
    }

    /// How each connected proxy stands, by namespace and name.
    pub fn proxies(&self) -> Vec<ProxyReport> {
        let inner = self.inner.lock();
        let mut reports: Vec<_> = inner.streams.values().map(Slot::report).collect();
        reports.sort_by(|a, b| (&a.pod.namespace, &a.pod.name).cmp(&(&b.pod.namespace, &b.pod.name)));
        reports
    }

    /// For each object's revision: how many proxies want a resource that holds it, and how many of them have in force
    /// every such resource in its newest version.
    pub fn observers(&self) -> HashMap<u64, Observers> {
        let mut inner = self.inner.lock();
        let Inner { snapshot, cache, streams, .. } = &mut *inner;
        let mut observers: HashMap<u64, Observers> = HashMap::new();
        for slot in streams.values() {
            let mut of_proxy: HashMap<u64, bool> = HashMap::new();
            for (encoded, acked) in slot.stream.standing(snapshot, cache) {
                for revision in encoded.holds.iter() {
                    *of_proxy.entry(*revision).or_insert(true) &= acked;
                }
            }
            for (revision, acked) in of_proxy {
                let of_object = observers.entry(revision).or_default();
                of_object.subscribed += 1;
                of_object.acked += usize::from(acked);
            }
        }
        observers
    }
}

/// Who has an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observers {
    /// Proxies that want a resource that holds it.
    pub subscribed: usize,
    /// Those of them that have acknowledged all of these.
    pub acked: usize,
}

impl Slot {
    fn report(&self) -> ProxyReport {
        let mut rejected: Vec<_> =
            self.stream.rejected().map(|(name, reason)| (name.clone(), reason.clone())).collect();
        rejected.sort();
        ProxyReport {
            node: self.node.id.clone(),
            pod: self.stream.subject().pod.clone(),
            pending: self.stream.pending(),
            rejected,
            troubles: self.troubles.clone(),
            last_ack: self.last_ack.map(|at| at.elapsed()),
        }
    }
}

impl Inner {
    fn subject(&self, node: &Node, pod: Arc<Pod>) -> Subject {
        // What makes it a gateway may also be taken from it under way.
        let router = node.kind == NodeKind::Router && pod.gateway;
        let scoped = router || self.snapshot.config.label_scoped;
        let labels = if scoped { pod.labels.clone() } else { Default::default() };
        let viewer = Viewer { namespace: pod.namespace.clone(), router, labels: Arc::new(labels) };
        Subject { pod, viewer }
    }

    /// Pods changed: the streams' own workloads. One that is gone keeps what it was: it is on its way out.
    fn mark_pods(&mut self, pods: &BTreeSet<PodKey>) {
        for key in pods {
            let (Some(id), Some(pod)) = (self.pods.get(key).copied(), self.snapshot.pods.get(key)) else {
                continue;
            };
            let Some(slot) = self.streams.get(&id) else { continue };
            let known = &slot.stream.subject().pod;
            let pod = if known.is_same_workload(pod) { known.clone() } else { pod.clone() };
            let subject = self.subject(&slot.node, pod);
            if let Some(slot) = self.streams.get_mut(&id)
                && slot.stream.set_subject(subject)
            {
                slot.woken();
            }
        }
    }

    fn mark(&mut self, name: &ResourceName) {
        for id in self.interest.get(name).into_iter().flatten() {
            if let Some(slot) = self.streams.get_mut(id) {
                slot.stream.mark(name);
                slot.woken();
            }
        }
    }

    fn update_interest(&mut self, id: StreamId) {
        let Some(slot) = self.streams.get_mut(&id) else { return };
        for (name, wanted) in slot.stream.take_interest() {
            if !matches!(name.kind, Kind::Endpoints | Kind::Workload) {
                continue;
            }
            if wanted {
                self.interest.entry(name).or_default().insert(id);
            } else {
                forget(&mut self.interest, &name, id);
            }
        }
    }

    fn remove(&mut self, id: StreamId) {
        let Some(slot) = self.streams.remove(&id) else { return };
        for name in slot.stream.names() {
            forget(&mut self.interest, name, id);
        }
        slot.wake.notify_one();
    }

    fn gauge(&self) {
        metrics::gauge!("pilot_xds").set(self.streams.len() as f64);
    }
}

/// What a gateway says that it cannot serve, if the request is about that. Bounded: it is kept.
fn troubles(request: &DeltaDiscoveryRequest) -> Option<Vec<wire::Trouble>> {
    if !request.response_nonce.is_empty() {
        return None;
    }
    let mut details = request.error_detail.as_ref()?.details.iter();
    let told = details.find(|any| any.type_url == TROUBLES_TYPE_URL)?;
    let mut troubles = wire::Troubles::decode(told.value.as_slice()).ok()?.troubles;
    troubles.truncate(MAX_TROUBLES);
    for trouble in &mut troubles {
        trouble.message = trouble.message.chars().take(MAX_TROUBLE).collect();
    }
    Some(troubles)
}

fn forget(interest: &mut HashMap<ResourceName, BTreeSet<StreamId>>, name: &ResourceName, id: StreamId) {
    if let Some(streams) = interest.get_mut(name) {
        streams.remove(&id);
        if streams.is_empty() {
            interest.remove(name);
        }
    }
}
