//! The process: the only place where the stages are put together.
//!
//! ```text
//! source ─ events ─► index ─ snapshot, changes ─► hub ─► streams
//!                      └ notices ─► /debug/events      └─► /debug/status
//! ```

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mesh_proto::runtime::certificates::{self, CaConfig};
use mesh_proto::runtime::identity::Identity;
use mesh_proto::runtime::tls::{ClientAuth, server_config};
use mesh_proto::runtime::{crypto, drain, grpc, log, shutdown};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::{Admin, Audience};
use crate::config::Config;
use crate::index::{Index, Notice};
use crate::keys::{self, Reach, Wanted};
use crate::push::{Discovery, Hub, Standings, rules::Rules};
use crate::snapshot::{MeshSettings, Snapshot};
use crate::source::Event;
use crate::source::file::{FileSource, Settings};
use crate::status::{LiveEvent, Status, Told};
use crate::trust::{SETTLED, Trust};

/// Events that a watcher may lag behind before it misses some.
const EVENTS: usize = 1024;
/// How long proxies wait for the first answers of issuers when the first listing is done.
const FIRST_KEYS: Duration = Duration::from_secs(5);
/// Batches of events that may wait for the index.
pub(crate) const FINDS: usize = 16;
/// Seconds that a change takes to be in force at a proxy.
const BUCKETS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// How long open streams get at the end.
const GRACE: Duration = Duration::from_secs(3);

/// How long questions to webhooks and to the admin port may take at the end.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long the last words to the authority may take, and those questions.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Becomes true when this replica serves no more.
pub(crate) type Ended = watch::Receiver<bool>;

/// Runs the pilot until SIGTERM, SIGINT or the death of its parent.
///
/// # Errors
/// What keeps it from starting: addresses in use, a state directory that cannot be written, a parent that is gone.
pub fn run(config: Config) -> anyhow::Result<()> {
    prepare();
    shutdown::die_with_parent(config.parent_pid)?;
    until_signal(|ended| serve(config, ended), Duration::ZERO, async {})
}

/// What comes before anything else in a pilot's process.
pub(crate) fn prepare() {
    log::init("mesh-pilot");
    crypto::install_provider();
}

/// Runs until the end of `serving`, or `linger` after a signal, then `ending`. What serves is told that its end has come,
/// and has [`LAST_WORDS`] to say so.
pub(crate) fn until_signal<S: Future<Output = anyhow::Result<()>>>(
    serving: impl FnOnce(Ended) -> S,
    linger: Duration,
    ending: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (end, ended) = watch::channel(false);
    let result = runtime.block_on(async {
        let mut serving = std::pin::pin!(serving(ended));
        let result = tokio::select! {
            result = &mut serving => result,
            signal = shutdown::after_signal(linger) => match signal {
                Ok(()) => {
                    end.send_replace(true);
                    tokio::time::timeout(LAST_WORDS, serving).await.unwrap_or(Ok(()))
                }
                Err(error) => Err(error).context("listening for signals"),
            },
        };
        ending.await;
        result
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// Serves until an error or the end.
async fn serve(config: Config, ended: Ended) -> anyhow::Result<()> {
    let (discovery, admin) = (bind(config.listen).await?, bind(config.admin).await?);
    serve_files(config, discovery, admin, ended).await
}

/// A listening socket.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address}"))
}

/// [`serve`] on sockets that are there already.
async fn serve_files(
    config: Config,
    discovery: TcpListener,
    admin: TcpListener,
    ended: Ended,
) -> anyhow::Result<()> {
    let trust_domain = config.trust_domain()?;
    let mesh = MeshSettings {
        trust_domain: trust_domain.clone(),
        cluster_domain: Arc::from(config.cluster_domain.as_str()),
        root_namespace: Arc::from(config.root_namespace.as_str()),
    };
    let source = FileSource::open(Settings {
        user_paths: config.source.user_paths.clone(),
        state_pods: config.source.state_pods.clone(),
        state_dir: config.state_dir.clone(),
        vip_cidr: config.vip_cidr,
        vip_cidr6: config.vip_cidr6,
    });
    let source = source.with_context(|| config.state_dir.display().to_string())?;
    let (found, finds) = mpsc::channel(FINDS);
    let pilot = Pilot {
        index: Index::new(mesh),
        finds,
        found: found.clone(),
        reach: Reach::Loopback,
        ca: CaConfig {
            address: config.ca.address.clone(),
            roots: config.ca.roots.clone(),
            token: config.ca.token.clone(),
            identity: certificates::pilot_id(&trust_domain),
            authority: certificates::authority_id(&trust_domain),
            state_dir: config.state_dir.join("certificates"),
            ttl: None,
        },
        name: "mesh-pilot".to_owned(),
        ended,
        beside: Box::new(move |_, tasks| {
            tasks.spawn(async {
                source.run(found).await;
                Ok(())
            });
        }),
    };
    pilot.serve_on(Sockets { discovery, admin: vec![(admin, Audience::Us)] }).await
}

/// Where a pilot listens.
pub(crate) struct Sockets {
    /// Discovery.
    pub discovery: TcpListener,
    /// Numbers and answers, and who asks there.
    pub admin: Vec<(TcpListener, Audience)>,
}

/// What a pilot is made of, whatever its source.
pub(crate) struct Pilot {
    /// Empty.
    pub index: Index,
    /// From the source.
    pub finds: mpsc::Receiver<Vec<Event>>,
    /// The way there, for what is found beside it: issuers' keys.
    pub found: mpsc::Sender<Vec<Event>>,
    /// Whom fetching them may ask.
    pub reach: Reach,
    /// Where our certificate comes from.
    pub ca: CaConfig,
    /// What this replica is called.
    pub name: String,
    /// When to end.
    pub ended: Ended,
    /// Starts what runs beside it: the source, and what only this kind of mesh has. An error of one ends the pilot.
    pub beside: Box<Beside>,
}

/// What runs beside a pilot.
pub(crate) type Beside = dyn FnOnce(Parts, &mut JoinSet<anyhow::Result<()>>) + Send;

/// What others may hold on to.
pub(crate) struct Parts {
    /// How things are.
    pub status: Arc<Status>,
    /// Our certificate, as soon as there is one.
    pub identity: watch::Receiver<Option<Identity>>,
    /// The end.
    pub drain: drain::Watch,
}

impl Pilot {
    /// Serves until an error, or until the end and our last words are said. Being dropped ends it too.
    pub(crate) async fn serve_on(self, sockets: Sockets) -> anyhow::Result<()> {
        let Sockets { discovery, admin } = sockets;
        let metrics = recorder()?;
        let Self { mut index, finds, found, reach, ca, name, ended, beside } = self;
        let (snapshot, _) = index.snapshot();
        let hub = Arc::new(Hub::new(snapshot, Box::new(Rules)));
        let status = Arc::new(Status::new(hub.clone()));
        let (events, _) = broadcast::channel(EVENTS);
        let (drain, watch) = drain::channel();

        // Everything that is spawned ends with this function.
        let mut tasks = JoinSet::new();
        tasks.spawn(upkeep(metrics.clone()));
        for (listener, audience) in admin {
            let (status, events, metrics) = (status.clone(), events.clone(), metrics.clone());
            tasks.spawn(Admin { status, events, metrics, audience }.serve(listener, watch.clone()));
        }
        let (keys, wanted) = watch::channel(Wanted::new());
        tasks.spawn(keys::keep(wanted, found, reach));
        let stages = Stages { index, keys, hub: hub.clone(), status: status.clone(), events: events.clone() };
        tasks.spawn(stages.run(finds));
        let mut others = JoinSet::new();
        let (certified, identity) = watch::channel(None);
        beside(Parts { status: status.clone(), identity, drain: watch.clone() }, &mut others);

        let authority = ca.clone();
        let serving = async {
            let (identity, _rotation) = certificates::obtain(ca).await;
            certified.send_replace(Some(identity.clone()));
            let (known, mut told) = watch::channel(false);
            let trust = Trust {
                hub: hub.clone(),
                identity: identity.clone(),
                ca: authority,
                name,
                settles: SETTLED,
                known,
                ended,
            };
            let mut following = JoinSet::new();
            following.spawn(trust.follow());
            // Whom not to trust is known before anybody is told anything.
            let _ = told.wait_for(|known| *known).await;
            let tls = server_config(&identity, ClientAuth::Required, &[b"h2"]);
            let standings = Standings::service(status.clone(), identity.id().clone());
            let routes = tonic::service::Routes::new(Discovery::service(hub, events)).add_service(standings);
            tracing::info!(address = ?discovery.local_addr().ok(), "serving discovery");
            status.set_serving();
            let settings = grpc::ServeSettings { grace: GRACE, ..grpc::ServeSettings::default() };
            tokio::select! {
                () = grpc::serve_with(settings, discovery, tls, routes, watch) => {}
                _ = following.join_next() => {}
            }
        };
        tokio::pin!(serving);
        loop {
            tokio::select! {
                () = &mut serving => break,
                Some(ended) = others.join_next() => ended.context("BUG: a task has panicked")??,
            }
        }
        // The API server keeps its connections to webhooks: it is told to go elsewhere, and what it asks is answered.
        drain.finish(GOODBYE).await;
        Ok(())
    }
}

/// Counts for the whole process: a second pilot of the same one (tests) shares the recorder of the first.
fn recorder() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new().set_buckets(BUCKETS)?.build_recorder();
    let metrics = recorder.handle();
    let _ = metrics::set_global_recorder(recorder);
    Ok(metrics)
}

/// The recorder keeps every value of its histograms until it is told to fold them.
async fn upkeep(metrics: PrometheusHandle) {
    loop {
        tokio::time::sleep(Duration::from_secs(30)).await;
        metrics.run_upkeep();
    }
}

/// Never, if there is no time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// From events to what is pushed.
struct Stages {
    index: Index,
    /// Where issuers' keys come from.
    keys: watch::Sender<Wanted>,
    hub: Arc<Hub>,
    status: Arc<Status>,
    events: broadcast::Sender<LiveEvent>,
}

impl Stages {
    async fn run(mut self, mut finds: mpsc::Receiver<Vec<Event>>) {
        // Since the first listing is done, while the first answers of issuers are not.
        let mut give_up: Option<Instant> = None;
        loop {
            let mut found = tokio::select! {
                found = finds.recv() => match found {
                    Some(found) => found,
                    None => return,
                },
                () = until(give_up) => {
                    tracing::warn!("not all issuers of tokens have answered yet; proxies are served without their keys");
                    self.index.stop_waiting();
                    Vec::new()
                }
            };
            // What has come meanwhile goes into the same snapshot.
            while let Ok(more) = finds.try_recv() {
                found.extend(more);
            }
            self.step(found);
            let waits = self.index.waits_for_keys();
            give_up = waits.then(|| give_up.unwrap_or_else(|| Instant::now() + FIRST_KEYS));
        }
    }

    fn step(&mut self, found: Vec<Event>) {
        let was_loaded = self.hub.is_loaded();
        for event in found {
            self.index.apply(event);
        }
        let (snapshot, changes) = self.index.snapshot();
        metrics::gauge!("pilot_services").set(snapshot.config.services.len() as f64);
        if !changes.is_empty() || snapshot.loaded != was_loaded {
            self.hub.publish(snapshot.clone(), &changes);
        }
        if changes.config {
            let wanted = crate::compile::key_sources(&snapshot.config);
            self.keys.send_if_modified(|now| wanted != std::mem::replace(now, wanted.clone()));
        }
        let notices = self.index.take_notices();
        // Pods that come and go change nothing about how objects stand.
        let endpoint = |notice: &Notice| matches!(notice, Notice::EndpointUp(_) | Notice::EndpointDown(_));
        if !notices.iter().all(endpoint) || changes.config || snapshot.loaded != was_loaded {
            self.tell(&snapshot);
        }
        for notice in notices {
            let event = LiveEvent::from(notice);
            tracing::info!(kind = event.kind, "{}", event.text);
            // The first listing is no news, but for what is wrong in it.
            if was_loaded || event.kind == "refused" {
                let _ = self.events.send(event);
            }
        }
    }

    fn tell(&self, snapshot: &Snapshot) {
        let (standings, files) = self.index.standings();
        let notes = crate::compile::notes(&snapshot.config);
        self.status.tell(Told { standings, files, notes });
    }
}
