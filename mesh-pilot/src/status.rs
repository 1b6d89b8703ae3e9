//! For every object: is it in force, where, and if not, why. In: what the index knows, what the proxies acknowledged.
//! Out: the JSON of `/debug/status` and the lines of `/debug/events`.

mod live;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use mesh_proto::crd::{ObjectRef, Problem};
use mesh_proto::model::Protocol;
use parking_lot::Mutex;
use serde::Serialize;

pub use self::live::LiveEvent;
use crate::index::Standing;
use crate::push::{Hub, Observers, ProxyReport};
use crate::snapshot::{Note, Pod, Snapshot};

/// What the pilot says of its objects, without the proxies' part. Replaced as a whole.
#[derive(Debug, Default)]
pub struct Told {
    /// Each object.
    pub standings: Vec<Standing>,
    /// What is wrong with files.
    pub files: BTreeMap<PathBuf, Vec<Problem>>,
    /// What is wrong between objects.
    pub notes: Vec<Note>,
}

/// Answers for the status endpoints.
pub struct Status {
    hub: Arc<Hub>,
    told: ArcSwap<Told>,
    /// What the first listing waits for.
    waiting: OnceLock<Waiting>,
    /// Discovery is served: there is a certificate.
    serving: AtomicBool,
}

/// What the first listing waits for, for whoever asks; empty when it is done.
pub type Waiting = Arc<Mutex<Vec<String>>>;

/// `/debug/status`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Configuration objects, and files that have something wrong with them.
    pub resources: Vec<ResourceReport>,
    /// Sidecars and gateways.
    pub proxies: Vec<ProxyStatus>,
    /// Services and their endpoints.
    pub services: Vec<ServiceStatus>,
    /// The first listing is done.
    pub loaded: bool,
}

/// One object.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct ResourceReport {
    /// Its kind; `File` for a file.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name; the path of a file.
    pub name: String,
    /// `file:line`.
    pub location: String,
    /// Counted by the API server: of the version that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// In force or not.
    pub state: State,
    /// Why not, or what else there is to say about the state.
    pub message: String,
    /// What deserves a look though it is in force.
    pub warnings: Vec<String>,
    /// Which proxies have it.
    pub observers: ObserversReport,
}

/// How an object stands.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Every proxy that wants something of it has acknowledged it.
    InForce,
    /// Good; no proxy wants it, or not all have acknowledged it yet.
    Accepted,
    /// Its newest version is not in force (an older one may be).
    Refused,
    /// Good, and without effect: another object takes its place.
    Superseded,
}

/// Which proxies have an object.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
pub struct ObserversReport {
    /// Have acknowledged it.
    pub acked: usize,
    /// Want it.
    pub subscribed: usize,
}

/// One proxy.
#[derive(Debug, Clone, Serialize)]
pub struct ProxyStatus {
    /// Its node id; empty while it is not connected.
    pub node: String,
    /// Of its pod.
    pub namespace: String,
    /// Of its pod.
    pub name: String,
    /// Of its certificate.
    pub identity: String,
    /// It has a stream.
    pub connected: bool,
    /// It has acknowledged everything.
    pub synced: bool,
    /// Resources that it has not acknowledged yet.
    pub pending: usize,
    /// Resources that it refuses.
    pub rejected: Vec<RejectedReport>,
    /// Milliseconds since it acknowledged something.
    pub last_ack_ms: Option<u64>,
}

/// A resource that a proxy refuses.
#[derive(Debug, Clone, Serialize)]
pub struct RejectedReport {
    /// `kind/name`.
    pub resource: String,
    /// The proxy's words.
    pub reason: String,
}

/// One service.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceStatus {
    /// FQDN.
    pub host: String,
    /// Its cluster IP; empty if it has none.
    pub vip: String,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// The pods behind it.
    pub endpoints: Vec<EndpointStatus>,
}

/// A service port.
#[derive(Debug, Clone, Serialize)]
pub struct PortStatus {
    /// Its number.
    pub number: u16,
    /// `http`, `tcp` ... or `auto`.
    pub protocol: &'static str,
    /// Its name.
    pub name: String,
}

/// A pod behind a service.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointStatus {
    /// Of the pod.
    pub uid: String,
    /// `ip:port` for the service's first port that leads there.
    pub address: String,
    /// It gets traffic.
    pub ready: bool,
}

impl Status {
    /// Nothing told yet.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, told: ArcSwap::default(), waiting: OnceLock::new(), serving: AtomicBool::new(false) }
    }

    /// The pilot's part changed.
    pub fn tell(&self, told: Told) {
        self.told.store(Arc::new(told));
    }

    /// Everything, as of now.
    pub fn report(&self) -> Report {
        let snapshot = self.hub.snapshot();
        let connected = self.hub.proxies();
        Report {
            resources: resources(&self.told.load(), &self.hub.observers(), &troubles(&connected)),
            proxies: proxies(connected, &snapshot),
            services: services(&snapshot),
            loaded: snapshot.loaded,
        }
    }

    /// The source says here what its first listing waits for.
    pub fn wait_for(&self, waiting: Waiting) {
        // There is one source.
        let _ = self.waiting.set(waiting);
    }

    /// What the first listing waits for, as far as the source says.
    pub fn waiting(&self) -> Vec<String> {
        self.waiting.get().map(|waiting| waiting.lock().clone()).unwrap_or_default()
    }

    /// The first listing is done.
    pub fn is_loaded(&self) -> bool {
        self.hub.is_loaded()
    }

    /// Discovery is served from now on.
    pub fn set_serving(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }

    /// The first listing is done; and where a balancer chooses pilots by this answer (a source that says what it waits
    /// for is a cluster's), discovery is served.
    pub fn is_ready(&self) -> bool {
        let chosen_by_it = self.waiting.get().is_some();
        self.is_loaded() && (!chosen_by_it || self.serving.load(Ordering::Relaxed))
    }
}

/// What gateways cannot serve, by kind, namespace and name of the object.
type Troubles = HashMap<(String, String, String), Vec<String>>;

fn troubles(proxies: &[ProxyReport]) -> Troubles {
    let mut troubles = Troubles::new();
    for (proxy, trouble) in proxies.iter().flat_map(|proxy| proxy.troubles.iter().map(move |t| (proxy, t))) {
        let Some(origin) = trouble.origin.clone() else { continue };
        let server = origin.rule.map(|index| format!("servers[{index}]: ")).unwrap_or_default();
        let text = format!("{server}{} (at {})", trouble.message, proxy.pod.name);
        troubles.entry((origin.kind, origin.namespace, origin.name)).or_default().push(text);
    }
    troubles
}

fn resources(told: &Told, observers: &HashMap<u64, Observers>, troubles: &Troubles) -> Vec<ResourceReport> {
    let mut notes: HashMap<&ObjectRef, Vec<&Note>> = HashMap::new();
    for note in &told.notes {
        notes.entry(&note.reference).or_default().push(note);
    }
    let objects = told.standings.iter().map(|standing| {
        let observers = standing.revision.and_then(|r| observers.get(&r)).copied().unwrap_or_default();
        let reference = &standing.reference;
        let mut report = resource(standing, notes.get(reference).map_or(&[], Vec::as_slice), observers);
        let key = (report.kind.clone(), report.namespace.clone(), report.name.clone());
        if let Some(troubles) = troubles.get(&key) {
            // The proxies have it, and cannot do all that it says.
            if report.state == State::InForce {
                report.state = State::Accepted;
                report.message = troubles.join("; ");
            } else {
                report.warnings.extend(troubles.iter().cloned());
            }
        }
        report
    });
    let files = told.files.iter().map(|(path, problems)| {
        let errors: Vec<_> = problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
        let warnings = problems.iter().filter(|p| !p.is_error()).map(ToString::to_string).collect();
        ResourceReport {
            kind: "File".to_owned(),
            namespace: String::new(),
            name: path.display().to_string(),
            location: problems
                .first()
                .map_or_else(|| path.display().to_string(), |p| format!("{}:{}", p.file, p.position.line)),
            generation: None,
            state: if errors.is_empty() { State::Accepted } else { State::Refused },
            message: errors.join("; "),
            warnings,
            observers: ObserversReport { acked: 0, subscribed: 0 },
        }
    });
    objects.chain(files).collect()
}

fn resource(standing: &Standing, notes: &[&Note], observers: Observers) -> ResourceReport {
    let Observers { acked, subscribed } = observers;
    let superseded = notes.iter().find(|note| note.superseded);
    let (state, message) = match (&standing.refused, superseded) {
        (Some(problems), _) => {
            let errors = problems.iter().filter(|p| p.is_error()).map(ToString::to_string);
            let kept = standing.revision.map(|_| "the last good version stays in force".to_owned());
            (State::Refused, errors.chain(kept).collect::<Vec<_>>().join("; "))
        }
        (None, Some(note)) => (State::Superseded, note.text.clone()),
        (None, None) if subscribed == 0 => (State::Accepted, String::new()),
        (None, None) if acked == subscribed => (State::InForce, String::new()),
        (None, None) => (State::Accepted, format!("{acked} of {subscribed} proxies have it in force")),
    };
    let warnings = standing.warnings.iter().map(ToString::to_string);
    let noted = notes.iter().filter(|note| !note.superseded).map(|note| note.text.clone());
    ResourceReport {
        kind: standing.reference.kind.to_string(),
        namespace: standing.reference.namespace.to_string(),
        name: standing.reference.name.to_string(),
        location: standing.location.clone(),
        generation: standing.generation,
        state,
        message,
        warnings: warnings.chain(noted).collect(),
        observers: ObserversReport { acked, subscribed },
    }
}

fn proxies(connected: Vec<ProxyReport>, snapshot: &Snapshot) -> Vec<ProxyStatus> {
    let proxy = |pod: &Pod| ProxyStatus {
        node: String::new(),
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        identity: pod.identity.to_string(),
        connected: false,
        synced: false,
        pending: 0,
        rejected: Vec::new(),
        last_ack_ms: None,
    };
    let here: std::collections::HashSet<_> =
        connected.iter().map(|p| (p.pod.namespace.clone(), p.pod.name.clone())).collect();
    let away = snapshot.pods.iter().filter(|(key, pod)| pod.injected && !here.contains(*key));
    let away: Vec<_> = away.map(|(_, pod)| proxy(pod)).collect();
    let mut all: Vec<_> = connected
        .into_iter()
        .map(|report| {
            let rejected = report.rejected.iter().map(|(resource, reason)| RejectedReport {
                resource: resource.to_string(),
                reason: reason.to_string(),
            });
            ProxyStatus {
                node: report.node.to_string(),
                connected: true,
                synced: report.pending == 0 && report.rejected.is_empty(),
                pending: report.pending,
                rejected: rejected.collect(),
                last_ack_ms: report.last_ack.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                ..proxy(&report.pod)
            }
        })
        .chain(away)
        .collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}

fn services(snapshot: &Snapshot) -> Vec<ServiceStatus> {
    let service = |service: &crate::snapshot::Service| {
        let mut endpoints: BTreeMap<Arc<str>, EndpointStatus> = BTreeMap::new();
        for port in &service.ports {
            let name = mesh_proto::model::HostPort::new(&service.host, port.number);
            for endpoint in snapshot.endpoints.get(&name).iter().flat_map(|set| &set.endpoints) {
                endpoints.entry(endpoint.pod.uid.clone()).or_insert_with(|| EndpointStatus {
                    uid: endpoint.pod.uid.to_string(),
                    address: endpoint.address.to_string(),
                    ready: endpoint.ready,
                });
            }
        }
        let ports = service.ports.iter().map(|port| PortStatus {
            number: port.number,
            protocol: protocol(port.protocol),
            name: port.name.to_string(),
        });
        ServiceStatus {
            host: service.host.to_string(),
            vip: service.vips.first().map(ToString::to_string).unwrap_or_default(),
            ports: ports.collect(),
            endpoints: endpoints.into_values().collect(),
        }
    };
    snapshot.config.services.values().map(|held| service(&held.spec)).collect()
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "auto",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
        Protocol::Tls => "tls",
        Protocol::Tcp => "tcp",
    }
}
