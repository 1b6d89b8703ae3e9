//! The composition root: builds the process, runs it until it is told to stop, drains it.
//!
//! Threads: this one (certificates, discovery, admin, metrics) and one for each worker, which accepts, serves and dials for
//! itself. Order: admin ports → certificate → discovery → (first answers) → sockets → ready.

pub mod listeners;
pub mod ports;
pub mod state;
pub mod termination;

use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use mesh_proto::model::ResourceName;
use mesh_proto::runtime::{crypto, log, shutdown};
use mesh_proto::wire::mesh::v1 as wire;
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::{Addresses, Servers};
use crate::config::{Config, NodeKind};
use crate::dns::System;
use crate::drain::{Drain, Drained};
use crate::gateway::keeper::Keeper;
use crate::store::writer::Writer;
use crate::store::{Place, Store};
use crate::telemetry::{Settings, Telemetry};
use crate::worker::Shared;
use crate::{identity, xds};

use self::state::State;

/// How many series metrics keep.
const SERIES: usize = 10_000;
/// How often to look whether the supervisor still lives.
const PARENT: Duration = Duration::from_secs(1);

/// Runs a proxy until SIGTERM or SIGINT, or the death of its parent.
///
/// # Errors
/// When it cannot start.
pub fn run(config: Config) -> anyhow::Result<()> {
    log::init("mesh-proxy");
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    shutdown::die_with_parent(config.parent_pid)?;
    let parent = config.parent_pid;
    run_until(config, async move {
        tokio::select! {
            signal = shutdown::signal() => tracing::info!(?signal, "told to stop"),
            () = orphaned(parent) => tracing::info!("the supervisor is gone"),
        }
    })
}

/// Runs a proxy until `stop` resolves; then drains it.
///
/// # Errors
/// When it cannot start.
pub fn run_until(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    crypto::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let state = State::new(config);
        let mut stop = std::pin::pin!(async {
            tokio::select! {
                () = stop => {}
                () = state.termination.told_to_quit() => tracing::info!("told to stop"),
            }
        });
        let admin = serve_admin(&state).await?;
        let started = tokio::select! {
            started = start(&state) => Some(started?),
            () = &mut stop => None,
        };
        if let Some(workers) = started {
            tokio::select! {
                () = &mut stop => {}
                () = follow_settings(&state) => {}
            }
            finish(&state, workers).await;
        }
        admin.abort();
        Ok(())
    })
}

async fn serve_admin(state: &Arc<State>) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let Config { status, metrics, admin, .. } = *state.config;
    let agent = state.config.agent.as_ref().map(|a| a.listen);
    let servers = Servers::bind(&Addresses { status, metrics, admin, agent }).await?;
    let sources = Arc::new(state::sources(state));
    Ok(tokio::spawn(async move { servers.serve(sources).await }))
}

/// The threads that serve.
struct Workers {
    threads: Vec<JoinHandle<()>>,
    /// Ends the discovery client; what has changed is on disk then.
    discovery: Discovery,
}

struct Discovery {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// Everything up to serving.
async fn start(state: &Arc<State>) -> anyhow::Result<Workers> {
    let config = &state.config;
    let (identity, rotation) = identity::obtain(config).await?;
    let gateway = config.node.kind == NodeKind::Router;
    let (store, asked) = Store::new(Place {
        namespace: config.node.namespace.clone(),
        pod_ip: config.pod_ip,
        cluster_domain: config.cluster_domain.clone(),
        workers: config.workers.get(),
        gateway,
        mounts: config.mounts.clone(),
    });
    let (tell, of_servers) = watch::channel(Vec::new());
    let troubles = follow_troubles(&store, of_servers);
    let discovery = discover(config, &identity, &store, (asked, troubles))?;
    let telemetry = Telemetry::new(Settings {
        workers: config.workers.get(),
        access_log: config.access_log,
        series_limit: SERIES,
        version: env!("CARGO_PKG_VERSION"),
    });
    state.known(state::Known {
        identity: identity.clone(),
        rotation,
        store: store.clone(),
        telemetry: telemetry.clone(),
    });
    let mut readiness = store.readiness();
    readiness.wait_for(crate::store::Readiness::ready).await.context("the store is gone")?;
    let mut keeper = Keeper::new(
        store.clone(),
        identity.clone(),
        (config.node.namespace.clone(), config.mounts.clone()),
        tell,
    );
    let terminations = keeper.terminations();
    if gateway {
        keeper.look();
        tokio::spawn(keeper.run());
    }
    let shared = Shared {
        config: config.clone(),
        store,
        identity,
        terminations,
        telemetry,
        inbound: state.inbound.watch(),
        outbound: state.outbound.watch(),
    };
    let threads = spawn_workers(&shared, &state.end).await?;
    state.serving();
    tracing::info!(node = %config.node.name, "serving");
    Ok(Workers { threads, discovery })
}

/// Keeps TLS to the outside in order; gives what cannot be served, of servers and of that.
fn follow_troubles(
    store: &Arc<Store>,
    mut of_servers: watch::Receiver<Vec<wire::Trouble>>,
) -> watch::Receiver<Vec<wire::Trouble>> {
    let originations = store.originations();
    let mut outside = originations.troubles();
    let secrets = store.clone();
    tokio::spawn(originations.run(store.changes(), move || secrets.secrets()));
    let (tell, troubles) = watch::channel(Vec::new());
    tokio::spawn(async move {
        loop {
            let mut all = of_servers.borrow_and_update().clone();
            all.extend(outside.borrow_and_update().iter().cloned());
            tell.send_replace(all);
            tokio::select! {
                Ok(()) = of_servers.changed() => {}
                changed = outside.changed() => if changed.is_err() { return },
            }
        }
    });
    troubles
}

fn discover(
    config: &Config,
    identity: &mesh_proto::runtime::identity::Identity,
    store: &Arc<Store>,
    (asked, troubles): (mpsc::UnboundedReceiver<ResourceName>, watch::Receiver<Vec<wire::Trouble>>),
) -> anyhow::Result<Discovery> {
    let node = xds::Node {
        gateway: config.node.kind == NodeKind::Router,
        ip: config.pod_ip,
        pod: config.node.name.clone(),
        namespace: config.node.namespace.clone(),
        cluster_domain: config.cluster_domain.clone(),
    };
    let disk = match xds::Disk::open(&config.state_dir, &config.node.uid) {
        Ok(disk) => Some(disk),
        Err(error) => {
            tracing::warn!(%error, "nothing will be kept for a restart");
            None
        }
    };
    let writer = Writer::new(store.clone(), identity.roots_handle().clone());
    let channel = xds::channel(&config.pilot.address, config.pilot_identity()?, identity)?;
    let client = xds::Client::new(channel, node, writer, asked, disk).telling(troubles);
    let client = client.resolving(System::new(config.name_servers.clone()));
    let (stop, stopped) = oneshot::channel();
    // A dropped sender is a stop too.
    let task = tokio::spawn(client.run(async move { drop(stopped.await) }));
    Ok(Discovery { stop, task })
}

async fn spawn_workers(shared: &Shared, end: &Drain) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for index in 0..shared.config.workers.get() {
        let (bound, outcome) = oneshot::channel();
        let (shared, end) = (shared.clone(), end.watch());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || listeners::run(&shared, index, bound, &end))
            .context("cannot start a worker")?;
        outcome.await.context("a worker ended before it listened")??;
        threads.push(thread);
    }
    Ok(threads)
}

/// The settings that change while running and belong to the process.
async fn follow_settings(state: &State) {
    let Some(known) = state.get() else { return std::future::pending().await };
    let mut changes = known.store.changes();
    loop {
        let asked = known.store.self_config().is_some_and(|c| c.access_log);
        known.telemetry.set_access_log(asked || state.config.access_log);
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What came from outside ends first: the application still answers it, and may still ask others.
async fn finish(state: &State, workers: Workers) {
    let limit = state.config.termination.shutdown;
    state.termination.before_the_end(state.config.node.kind, &state.inbound, &state.outbound).await;
    for (what, drain) in [("inbound", &state.inbound), ("outbound", &state.outbound)] {
        drain.begin();
        if let Drained::TimedOut(left) = drain.drained(limit).await {
            tracing::warn!(what, left, "connections were still open when the drain's time was up");
        }
    }
    state.end.begin();
    for thread in workers.threads {
        if thread.join().is_err() {
            tracing::error!("BUG: a worker panicked");
        }
    }
    // A closed channel means that it has ended already.
    let _ = workers.discovery.stop.send(());
    let _ = workers.discovery.task.await;
    if let Some(known) = state.get() {
        known.telemetry.flush();
    }
}

/// Resolves when the process that started this one is gone.
async fn orphaned(parent: Option<u32>) {
    let Some(parent) = parent.and_then(|p| i32::try_from(p).ok()) else {
        return std::future::pending().await;
    };
    while nix::unistd::getppid().as_raw() == parent {
        tokio::time::sleep(PARENT).await;
    }
}
