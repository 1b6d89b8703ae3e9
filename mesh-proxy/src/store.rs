//! What the proxy knows: maps of handles, read by every worker, written only by [`crate::xds`].
//!
//! In: parsed resources from the discovery stream or the disk. Out: destinations, clusters, listeners, workloads, this
//! workload's own settings. Nothing here blocks a reader; a reader keeps a cell and sees each later value in it.

pub mod cell;
pub mod destination;
mod dump;
mod handles;
pub mod listener;
pub mod secret;
pub mod self_config;
#[cfg(test)]
pub(crate) mod testing;
pub mod workload;
pub mod writer;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use cell::{Cell, Phase};
pub use destination::{Destination, InvalidDestination};
pub use listener::{InvalidListener, Listener, VirtualHost};
pub use secret::{InvalidSecret, Secret};
pub use self_config::{InvalidSelf, MtlsMode, SelfConfig};
pub use workload::{InvalidWorkload, Workload, WorkloadPort};
pub use writer::{Held, Writer};

use self::handles::Handles;

use crate::cluster::ClusterHandle;
use crate::config::Mount;
use crate::destination::{Catalogue, Lookup, PodAddress, Resolved, resolve};
use crate::tls::files::Files;
use crate::tls::originate::Originations;

/// How long a request waits for the first answer about a name (design §3.3).
pub const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// How long after the loss of its stream the pilot may take to answer about such a name: one that was killed is started
/// again within it. After that it is away, and there is no more patience than with one that is silent.
pub const RESTART: Duration = Duration::from_secs(10);

/// The most names whose contents are held: an application that walks through names or ports must not fill the memory.
pub const MAX_DEMANDED: usize = 20_000;

/// The handle of one destination.
pub type DestinationCell = Cell<Destination>;
/// The handle of one workload.
pub type WorkloadCell = Cell<Workload>;

/// Clusters by name; the writer keeps them.
type Registry = Arc<RwLock<BTreeMap<HostPort, ClusterHandle>>>;

/// Why a destination or workload cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Demand {
    /// No answer from the pilot in time. Detail `discovery_timeout`.
    #[error("no answer from the control plane about {0} in time")]
    Timeout(ResourceName),
    /// The pilot says that it does not exist.
    #[error("{0} does not exist")]
    Absent(ResourceName),
    /// The pilot sent what this proxy cannot do; fail closed.
    #[error("{0} was refused: {1}")]
    Rejected(ResourceName, Arc<str>),
    /// [`MAX_DEMANDED`] is reached.
    #[error("{0} not asked for: {MAX_DEMANDED} names are held already")]
    Full(ResourceName),
}

/// What the store must know about its proxy.
#[derive(Debug, Clone)]
pub struct Place {
    /// The proxy's own namespace: short names mean it.
    pub namespace: String,
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Worker threads (clusters keep state for each).
    pub workers: usize,
    /// A gateway holds listeners and asks for nothing.
    pub gateway: bool,
    /// Where the directories of certificate files are.
    pub mounts: Vec<Mount>,
}

/// What is still missing before the proxy may say that it is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// `self/self` is in force.
    pub self_config: bool,
    /// At least one trust bundle is in force.
    pub trust_bundle: bool,
    /// The pilot's first response was applied, or there was state on disk.
    pub answered: bool,
    /// Resources that a listener needs and that have not come (gateways).
    pub missing: usize,
}

impl Readiness {
    /// Everything is there.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.self_config && self.trust_bundle && self.answered && self.missing == 0
    }
}

/// Read by every worker; written by the one [`Writer`].
#[derive(Debug)]
pub struct Store {
    place: Place,
    catalogue: ArcSwap<Catalogue>,
    self_config: ArcSwapOption<SelfConfig>,
    listeners: ArcSwap<Vec<Arc<Listener>>>,
    secrets: ArcSwap<HashMap<String, Arc<Secret>>>,
    destinations: Handles<HostPort, Destination>,
    workloads: Handles<IpAddr, Workload>,
    clusters: Registry,
    /// TLS to servers outside of the mesh.
    originations: Arc<Originations>,
    generation: AtomicU64,
    changed: watch::Sender<u64>,
    readiness: watch::Sender<Readiness>,
    wanted: mpsc::UnboundedSender<ResourceName>,
    /// When the last stream to the pilot ended.
    lost: Mutex<Option<Instant>>,
    /// Everything in force as it came, for the disk, for resuming and for the admin port.
    held: RwLock<BTreeMap<ResourceName, Held>>,
    /// What was refused at its newest version.
    refused: RwLock<BTreeMap<ResourceName, wire::Rejected>>,
}

impl Store {
    /// A new store, empty, and the names that its readers ask for.
    #[must_use]
    pub fn new(place: Place) -> (Arc<Self>, mpsc::UnboundedReceiver<ResourceName>) {
        let (wanted, asked) = mpsc::unbounded_channel();
        let originations = Arc::new(Originations::new(Files::new(place.mounts.clone())));
        let store = Self {
            originations,
            place,
            catalogue: ArcSwap::from_pointee(Catalogue::default()),
            self_config: ArcSwapOption::empty(),
            listeners: ArcSwap::from_pointee(Vec::new()),
            secrets: ArcSwap::default(),
            destinations: Handles::default(),
            workloads: Handles::default(),
            clusters: Registry::default(),
            generation: AtomicU64::new(1),
            changed: watch::Sender::new(1),
            readiness: watch::Sender::new(Readiness::default()),
            wanted,
            lost: Mutex::default(),
            held: RwLock::default(),
            refused: RwLock::default(),
        };
        (Arc::new(store), asked)
    }

    /// Where a connection or request goes (design §3.2). Waits for nothing: on [`Resolved::AskWorkload`] call
    /// [`Store::demand_workload`] and resolve again.
    #[must_use]
    pub fn resolve(&self, lookup: &Lookup<'_>) -> Resolved {
        let own = self.self_config.load();
        let own = own.as_deref();
        let pod = |at: SocketAddr| match at.ip() {
            ip if ip == self.place.pod_ip => {
                PodAddress::Own(own.and_then(|s| s.ports.get(&at.port())).and_then(|p| p.names.clone()))
            }
            ip => match self.workloads.find(&ip) {
                Some(cell) => match (cell.load_full(), cell.phase()) {
                    (Some(w), _) => {
                        PodAddress::Workload(w.ports.get(&at.port()).and_then(|p| p.names.clone()))
                    }
                    (None, Phase::Absent) => PodAddress::Absent,
                    (None, _) => PodAddress::Unknown,
                },
                None => PodAddress::Unknown,
            },
        };
        // Nothing is known yet: closed.
        let allow_any = own.is_some_and(|s| s.allow_any_outbound);
        resolve(&self.catalogue.load(), lookup, allow_any, pod)
    }

    /// The names that this proxy may see.
    #[must_use]
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.load_full()
    }

    /// The handle of a destination that was asked for before.
    #[must_use]
    pub fn destination(&self, name: &HostPort) -> Option<Arc<DestinationCell>> {
        self.destinations.find(name)
    }

    /// The handle of a destination that has a value; asks the pilot when there is none, and waits [`FIRST_ANSWER`], or
    /// [`RESTART`] where the pilot has just gone.
    ///
    /// # Errors
    /// See [`Demand`]. A negative answer holds until the pilot sends another one.
    pub async fn demand(&self, name: &HostPort) -> Result<Arc<DestinationCell>, Demand> {
        let resource = || ResourceName::new(Kind::Destination, &name.to_string());
        self.wait(self.destinations.find_or_make(name, MAX_DEMANDED), resource).await
    }

    /// The facts about a pod's address, if they were asked for before.
    #[must_use]
    pub fn workload(&self, ip: IpAddr) -> Option<Arc<WorkloadCell>> {
        self.workloads.find(&ip)
    }

    /// The facts about a pod's address; asks the pilot when there are none, and waits [`FIRST_ANSWER`],
    /// or [`RESTART`] where the pilot has just gone.
    ///
    /// # Errors
    /// See [`Demand`]. `Absent` means that the address is nobody's in the mesh.
    pub async fn demand_workload(&self, ip: IpAddr) -> Result<Arc<WorkloadCell>, Demand> {
        let resource = || ResourceName::new(Kind::Workload, &ip.to_string());
        self.wait(self.workloads.find_or_make(&ip, MAX_DEMANDED), resource).await
    }

    /// This workload's own settings, once they have come.
    #[must_use]
    pub fn self_config(&self) -> Option<Arc<SelfConfig>> {
        self.self_config.load_full()
    }

    /// The listeners of a gateway, by port.
    #[must_use]
    pub fn listeners(&self) -> Arc<Vec<Arc<Listener>>> {
        self.listeners.load_full()
    }

    /// The clusters that some route names, for metrics and the admin port.
    #[must_use]
    pub fn clusters(&self) -> Vec<ClusterHandle> {
        self.clusters.read().values().cloned().collect()
    }

    /// TLS to servers outside of the mesh, of all clusters.
    #[must_use]
    pub fn originations(&self) -> Arc<Originations> {
        self.originations.clone()
    }

    /// The Secrets of a gateway, by `namespace/name`.
    #[must_use]
    pub fn secrets(&self) -> Arc<HashMap<String, Arc<Secret>>> {
        self.secrets.load_full()
    }

    fn change_secrets(&self, change: impl FnOnce(&mut HashMap<String, Arc<Secret>>)) {
        let mut secrets = (*self.secrets()).clone();
        change(&mut secrets);
        self.secrets.store(Arc::new(secrets));
    }

    /// Grows whenever a look-up by name may have another answer than before: a connection that remembers a cell looks
    /// it up again when this differs. (New contents of a cell are seen in the cell.)
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells of every change of [`Self::generation`], of the catalogue (VIPs), of this workload's settings and of the
    /// listeners: live connections are re-decided and sockets opened and closed then.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is still missing before the proxy is ready.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Whether the proxy has what it needs to serve.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.readiness.borrow().ready()
    }

    /// Everything in force, as it came, for the admin port.
    #[must_use]
    pub fn held(&self) -> Vec<(ResourceName, Held)> {
        self.held.read().iter().map(|(name, held)| (name.clone(), held.clone())).collect()
    }

    /// The resources whose newest version this proxy refused, and why.
    #[must_use]
    pub fn refused(&self) -> Vec<wire::Rejected> {
        self.refused.read().values().cloned().collect()
    }

    fn publish_destination(&self, destination: Arc<Destination>) {
        if let Some(cell) = self.destinations.find(&destination.name) {
            cell.publish(destination);
        }
    }

    fn clear_destination(&self, name: &ResourceName, phase: Phase) {
        if let Some(cell) = name.name().parse().ok().and_then(|name| self.destinations.find(&name)) {
            cell.clear(phase);
        }
    }

    fn clear_workload(&self, name: &ResourceName, phase: Phase) {
        if let Some(cell) = name.name().parse().ok().and_then(|ip| self.workloads.find(&ip)) {
            cell.clear(phase);
        }
    }

    /// Forgets a handle that nobody uses.
    fn forget(&self, name: &ResourceName) {
        match name.kind {
            Kind::Destination => {
                let _ = name.name().parse().map(|name| self.destinations.remove(&name));
            }
            Kind::Workload => {
                let _ = name.name().parse().map(|ip| self.workloads.remove(&ip));
            }
            _ => {}
        }
    }

    /// To be called after each change that [`Self::changes`] names: by the writer, and by the keeper of certificates.
    pub(crate) fn bump(&self) {
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.send_replace(generation);
    }

    async fn wait<T>(
        &self,
        cell: Option<(Arc<Cell<T>>, bool)>,
        name: impl Fn() -> ResourceName,
    ) -> Result<Arc<Cell<T>>, Demand> {
        let (cell, new) = cell.ok_or_else(|| Demand::Full(name()))?;
        if new {
            // A closed channel means that the process ends; the wait below times out.
            let _ = self.wanted.send(name());
        }
        let phase = match cell.phase() {
            Phase::Pending => tokio::select! {
                answered = cell.answered() => answered,
                () = self.patience() => Phase::Pending,
            },
            known => known,
        };
        match phase {
            Phase::Present => Ok(cell),
            Phase::Absent => Err(Demand::Absent(name())),
            Phase::Rejected(why) => Err(Demand::Rejected(name(), why)),
            Phase::Pending => Err(Demand::Timeout(name())),
        }
    }

    /// To be called when a stream to the pilot has ended.
    pub(crate) fn lost_control_plane(&self) {
        *self.lost.lock() = Some(Instant::now());
    }

    /// As long as a request waits that begins to wait now. The stream may be lost meanwhile.
    async fn patience(&self) {
        let start = Instant::now();
        let mut until = start + FIRST_ANSWER;
        loop {
            tokio::time::sleep_until(until).await;
            let back = self.lost.lock().map(|lost| lost.min(start) + RESTART);
            match back {
                Some(back) if back > until => until = back,
                _ => return,
            }
        }
    }
}
