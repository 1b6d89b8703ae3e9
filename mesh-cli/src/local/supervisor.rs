//! The supervisor of a mesh: starts CA → pilot → everything else, follows the user's files, does what the control socket
//! asks, and takes all of it down again.

mod control;
mod operate;
mod tell;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::context::Context;
use super::dir;
use super::files::Files;
use super::instance::End;
use super::net::port;
use super::plan::{Key, Plan, SYSTEM};
use super::process::Unit;
use super::replicas::Replicas;
use crate::args::Mount;

pub use operate::Operation;

/// How long applications and sidecars may take when the whole mesh stops.
const QUICK: Duration = Duration::from_secs(3);
/// The pause between looks at whether a server has started.
const LOOK: Duration = Duration::from_millis(30);
/// The longest life of a certificate that the CA gives (90 days).
const MAX_CERT_TTL: u64 = 90 * 24 * 3600;

/// What a mesh is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub name: String,
    /// Absolute; empty: the bundled example.
    pub paths: Vec<PathBuf>,
    /// Directories of gateways.
    pub mounts: Vec<Mount>,
    pub cert_ttl: u64,
    /// Network namespaces, and everything captured.
    pub netns: bool,
}

/// A running mesh.
#[derive(Debug)]
pub struct Supervisor {
    context: Arc<Context>,
    paths: Vec<PathBuf>,
    ca: Unit,
    pilot: Unit,
    workloads: Mutex<BTreeMap<Key, Arc<Replicas>>>,
    files: Mutex<Files>,
    plan: Mutex<Plan>,
    ready: AtomicBool,
    ending: watch::Sender<bool>,
}

impl Supervisor {
    /// Takes the name, the network and the control socket. Must be called on the thread that stays.
    ///
    /// # Errors
    /// When the name is taken, or something cannot be written.
    pub fn new(settings: Settings) -> anyhow::Result<Arc<Self>> {
        let context =
            Arc::new(Context::new(&settings.name, settings.cert_ttl, settings.mounts, settings.netns)?);
        let mut paths = settings.paths;
        if paths.is_empty() {
            paths.push(super::example::write(&context.dir).context("cannot write the example's files")?);
        }
        let ca = upkeep::unit(&context, "mesh-ca", "ca", ca_config);
        let (context_of_pilot, user_paths) = (context.clone(), paths.clone());
        let pilot =
            upkeep::unit(&context_of_pilot, "mesh-pilot", "pilot", move |c| pilot_config(c, &user_paths));
        Ok(Arc::new(Self {
            files: Mutex::new(Files::new(paths.clone())),
            context,
            paths,
            ca,
            pilot,
            workloads: Mutex::default(),
            plan: Mutex::default(),
            ready: AtomicBool::new(false),
            ending: watch::Sender::new(false),
        }))
    }

    /// Runs the mesh until it is told to end; then nothing of it is left, no process and no file.
    ///
    /// # Errors
    /// When the control socket cannot be made.
    pub async fn run(self: Arc<Self>) -> anyhow::Result<()> {
        let control = control::listen(&self.context.dir.socket())?;
        let serving = tokio::spawn(control::serve(control, self.clone()));
        let upkeep = tokio::spawn(upkeep::run(self.clone()));
        let mut ending = self.ending.subscribe();
        {
            let life = self.clone().live();
            tokio::select! {
                () = life => {}
                signal = mesh_proto::runtime::shutdown::signal() => {
                    self.context.journal.tell("ending", format!("{} came", signal.unwrap_or("an unknown signal")));
                }
                _ = ending.wait_for(|end| *end) => {}
            }
        }
        upkeep.abort();
        self.take_down().await;
        self.context.journal.tell("ended", format!("mesh {} has ended", self.context.name));
        self.context.dir.clear(true).context("cannot remove the state directory")?;
        serving.abort();
        Ok(())
    }

    /// Asks [`Self::run`] to end.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// What happens.
    #[must_use]
    pub fn journal(&self) -> Arc<super::journal::Journal> {
        self.context.journal.clone()
    }

    /// Starts everything in order, then follows the files. Never ends by itself.
    async fn live(self: Arc<Self>) {
        let journal = &self.context.journal;
        journal.tell("progress", format!("mesh {} on {}", self.context.name, self.context.network.range()));
        let watching = upkeep::watch(&self.paths);
        let plan = self.read();
        self.write_implied(&plan);
        journal.tell("progress", "the certificate authority starts");
        self.ca.start();
        self.ca_serves().await;
        journal.tell("progress", "the pilot starts");
        self.pilot.start();
        self.pilot_has_loaded().await;
        journal.tell("progress", format!("{} workloads start", plan.workloads.len()));
        self.apply(plan);
        tokio::join!(self.settle(), upkeep::follow(&self, watching));
    }

    async fn ca_serves(&self) {
        let address = (self.context.network.ca(), port::GRPC);
        while !self.context.dir.roots().exists() || TcpStream::connect(address).await.is_err() {
            sleep(LOOK).await;
        }
    }

    async fn pilot_has_loaded(&self) {
        while !self.context.pilot_status().await.is_ok_and(|status| status.loaded) {
            sleep(LOOK).await;
        }
    }

    /// Waits until every instance is ready and every proxy has what it should have.
    async fn settle(&self) {
        let mut changes = self.context.changes();
        loop {
            let settled = self.workloads.lock().values().all(|w| w.is_settled());
            if settled && self.context.pilot_status().await.is_ok_and(|status| status.is_synced()) {
                break;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep(LOOK * 5) => {}
            }
        }
        self.ready.store(true, Ordering::Relaxed);
        self.context.journal.tell("up", format!("mesh {} is ready", self.context.name));
    }

    /// Reads the user's files.
    fn read(&self) -> Plan {
        let mut plan = Plan::of(&self.files.lock().read());
        if self.context.hub.is_none() {
            plan.tell_uncaptured();
        }
        plan
    }

    /// Makes what runs what the files say.
    fn apply(&self, plan: Plan) {
        let mut running = self.workloads.lock();
        for (key, wanted) in &plan.workloads {
            let replicas = running
                .entry(key.clone())
                .or_insert_with(|| Replicas::new(self.context.clone(), wanted.clone()))
                .clone();
            replicas.want(wanted.clone());
            tokio::spawn(replicas.reconcile());
        }
        let gone: Vec<Key> =
            running.keys().filter(|key| !plan.workloads.contains_key(*key)).cloned().collect();
        for replicas in gone.iter().filter_map(|key| running.remove(key)) {
            tokio::spawn(async move { replicas.remove(End::Drained).await });
        }
        drop(running);
        let before = std::mem::replace(&mut *self.plan.lock(), plan);
        let plan = self.plan.lock();
        for notice in plan.notices.iter().filter(|notice| !before.notices.contains(notice)) {
            self.context.journal.tell("notice", notice.clone());
        }
    }

    /// Writes the Services that no file declares, where the pilot reads them.
    fn write_implied(&self, plan: &Plan) {
        let mut wanted = BTreeMap::new();
        for service in &plan.implied {
            let metadata = &service.metadata;
            let ports: Vec<_> = service
                .spec
                .ports
                .iter()
                .map(|p| json!({"name": p.name, "port": p.port, "targetPort": p.port}))
                .collect();
            let object = json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": metadata.name, "namespace": metadata.namespace},
                "spec": {"selector": service.spec.selector, "ports": ports},
            });
            wanted.insert(format!("{}.{}.yaml", metadata.namespace, metadata.name), object.to_string());
        }
        let place = self.context.dir.generated();
        let old = std::fs::read_dir(&place).into_iter().flatten().flatten();
        for file in old.filter(|file| !wanted.contains_key(&*file.file_name().to_string_lossy())) {
            let _ = std::fs::remove_file(file.path());
        }
        for (name, text) in wanted {
            let path = place.join(name);
            if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
                continue;
            }
            if let Err(error) = dir::write(&path, text.as_bytes()) {
                self.context.journal.tell("failed", format!("cannot write {}: {error}", path.display()));
            }
        }
    }

    /// Gateways first (nothing new comes in), then applications with their sidecars, then the control plane.
    async fn take_down(&self) {
        self.context.journal.tell("ending", format!("mesh {} ends", self.context.name));
        let all: Vec<Arc<Replicas>> = self.workloads.lock().values().cloned().collect();
        let (gateways, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|w| w.wanted().kind == super::api::WorkloadKind::Gateway);
        for group in [gateways, others] {
            futures_util::future::join_all(group.iter().map(|w| w.remove(End::Quick(QUICK)))).await;
        }
        self.pilot.remove(QUICK).await;
        self.ca.remove(QUICK).await;
    }
}

fn ca_config(context: &Context) -> serde_json::Value {
    let ip = context.network.ca();
    json!({
        "listen": format!("{ip}:{}", port::GRPC),
        "trust_domain": context.trust_domain,
        "state_dir": context.dir.state_of("mesh-ca"),
        "local_token_key": context.key_file(),
        "leaf_ttl_seconds": context.cert_ttl,
        "max_leaf_ttl_seconds": MAX_CERT_TTL.max(context.cert_ttl),
        "root_out": context.dir.roots(),
        "admin_socket": context.dir.authority_socket(),
        "admin": format!("{ip}:{}", port::CONTROL_ADMIN),
        "parent_pid": std::process::id(),
    })
}

fn pilot_config(context: &Context, user_paths: &[PathBuf]) -> serde_json::Value {
    let ip = context.network.pilot();
    let mut user_paths = user_paths.to_vec();
    user_paths.push(context.dir.generated());
    json!({
        "listen": format!("{ip}:{}", port::GRPC),
        "admin": format!("{ip}:{}", port::CONTROL_ADMIN),
        "trust_domain": context.trust_domain,
        "cluster_domain": context.cluster_domain,
        "root_namespace": SYSTEM,
        "source": {"user_paths": user_paths, "state_pods": context.dir.pods()},
        "state_dir": context.dir.state_of("mesh-pilot"),
        "ca": {
            "address": format!("{}:{}", context.network.ca(), port::GRPC),
            "roots": context.dir.roots(),
            "token": context.dir.token_of("mesh-pilot"),
        },
        "vip_cidr": context.network.cluster_subnet(),
        "vip_cidr6": context.hub.as_ref().filter(|hub| hub.ipv6).map(|_| context.network.cluster_subnet6()),
        "parent_pid": std::process::id(),
    })
}
