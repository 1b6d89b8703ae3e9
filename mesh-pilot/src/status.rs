//! For every object: is it in force, where, and if not, why. In: what the index knows, what the proxies acknowledged.
//! Out: the JSON of `/debug/status` and the lines of `/debug/events`.

mod live;
mod replicas;
mod report;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use mesh_proto::crd::{ObjectRef, Problem};
use mesh_proto::model::Protocol;
use mesh_proto::wire::mesh::v1::ObjectStanding;
use parking_lot::Mutex;

pub use self::live::LiveEvent;
pub use self::replicas::Others;
pub use self::report::{
    EndpointStatus, ObserversReport, PortStatus, ProxyStatus, RejectedReport, Report, ResourceReport,
    ServiceStatus, State,
};
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

impl Status {
    /// Nothing told yet.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub, told: ArcSwap::default(), waiting: OnceLock::new(), serving: AtomicBool::new(false) }
    }

    /// The pilot's part changed.
    pub fn tell(&self, told: Told) {
        self.told.store(Arc::new(told));
    }

    /// Everything that this replica knows, as of now.
    pub fn report(&self) -> Report {
        let snapshot = self.hub.snapshot();
        let connected = self.hub.proxies();
        let troubles = troubles(&connected);
        Report {
            resources: resources(&self.told.load(), &self.hub.observers(), &troubles, &Others::default()),
            proxies: proxies(connected, &snapshot),
            services: services(&snapshot),
            loaded: snapshot.loaded,
        }
    }

    /// How each object stands with the proxies of all replicas: ours, and what the others told.
    pub fn resources(&self, others: &Others) -> Vec<ResourceReport> {
        let mut troubles = troubles(&self.hub.proxies());
        for (key, text) in others.troubles() {
            troubles.entry(key.clone()).or_default().push(text.clone());
        }
        resources(&self.told.load(), &self.hub.observers(), &troubles, others)
    }

    /// For another replica: how objects stand with our proxies. Those that none wants are not told.
    pub fn standing(&self) -> Vec<ObjectStanding> {
        let mut troubles = troubles(&self.hub.proxies());
        let observers = self.hub.observers();
        let told = self.told.load();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let object = |standing: &Standing| {
            let observers = standing.revision.and_then(|r| observers.get(&r)).copied().unwrap_or_default();
            let (kind, namespace, name) = key(&standing.reference);
            let troubles = troubles.remove(&key(&standing.reference)).unwrap_or_default();
            (observers.subscribed > 0 || !troubles.is_empty()).then(|| ObjectStanding {
                kind,
                namespace,
                name,
                generation: standing.generation.unwrap_or_default(),
                acked: count(observers.acked),
                subscribed: count(observers.subscribed),
                troubles,
            })
        };
        told.standings.iter().filter_map(object).collect()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.hub.snapshot()
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
type Troubles = HashMap<replicas::Key, Vec<String>>;

fn key(reference: &ObjectRef) -> replicas::Key {
    (reference.kind.to_string(), reference.namespace.to_string(), reference.name.to_string())
}

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

fn resources(
    told: &Told,
    observers: &HashMap<u64, Observers>,
    troubles: &Troubles,
    others: &Others,
) -> Vec<ResourceReport> {
    let mut notes: HashMap<&ObjectRef, Vec<&Note>> = HashMap::new();
    for note in &told.notes {
        notes.entry(&note.reference).or_default().push(note);
    }
    let objects = told.standings.iter().map(|standing| {
        let mut observers = standing.revision.and_then(|r| observers.get(&r)).copied().unwrap_or_default();
        let theirs = others.observers(standing);
        observers.acked += theirs.acked;
        observers.subscribed += theirs.subscribed;
        let reference = &standing.reference;
        let mut report = resource(standing, notes.get(reference).map_or(&[], Vec::as_slice), observers);
        if let Some(troubles) = troubles.get(&key(reference)) {
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
                    address: endpoint.reached_at(),
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
            vips: service.vips.iter().map(ToString::to_string).collect(),
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
