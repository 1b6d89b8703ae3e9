//! What the admin ports may ask of the process, and the signals that end it.
//!
//! In: handles, as soon as there are any. Out: [`sources`] for the admin servers.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mesh_proto::runtime::certificates::{Rotation, describe};
use mesh_proto::runtime::identity::Identity;
use serde_json::{Value, json};

use super::termination::Termination;
use crate::admin::{self, Sources};
use crate::cluster::metrics;
use crate::config::Config;
use crate::drain::{Drain, Drained};
use crate::store::Store;
use crate::telemetry::Telemetry;

/// How long `/drain` waits when it is not told.
const DRAIN: Duration = Duration::from_secs(30);

/// The process.
pub struct State {
    /// The bootstrap.
    pub config: Arc<Config>,
    /// Ends what comes from outside.
    pub inbound: Drain,
    /// Ends what comes from the application.
    pub outbound: Drain,
    /// Ends the workers.
    pub end: Drain,
    /// The end of the pod.
    pub termination: Termination,
    known: OnceLock<Known>,
    serving: AtomicBool,
}

/// What there is once the certificate is.
pub struct Known {
    /// Certificate and roots.
    pub identity: Identity,
    /// Renews them as long as it is held.
    pub rotation: Rotation,
    /// What discovery told.
    pub store: Arc<Store>,
    /// Metrics.
    pub telemetry: Telemetry,
}

impl State {
    /// A process that has only its bootstrap.
    #[must_use]
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self {
            termination: Termination::new(config.termination),
            config: Arc::new(config),
            inbound: Drain::new(),
            outbound: Drain::new(),
            end: Drain::new(),
            known: OnceLock::new(),
            serving: AtomicBool::new(false),
        })
    }

    /// There is a certificate, and a store.
    pub fn known(&self, known: Known) {
        // Set once, by the only caller.
        let _ = self.known.set(known);
    }

    /// What is known, if anything is.
    #[must_use]
    pub fn get(&self) -> Option<&Known> {
        self.known.get()
    }

    /// All sockets are open.
    pub fn serving(&self) {
        self.serving.store(true, Ordering::Release);
    }

    /// Whether traffic may come; if not, why.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        if self.inbound.has_begun() {
            return Err("draining".to_owned());
        }
        let known = self.get().ok_or("waiting for a certificate")?;
        let readiness = known.store.readiness().borrow().clone();
        if !readiness.ready() {
            return Err(format!("waiting for the pilot: {readiness:?}"));
        }
        if !self.serving.load(Ordering::Acquire) {
            return Err("opening sockets".to_owned());
        }
        Ok(())
    }

    fn config_dump(&self) -> Value {
        let Some(known) = self.get() else { return json!({ "resources": [] }) };
        let resources: Vec<Value> = known
            .store
            .held()
            .into_iter()
            .map(|(name, held)| json!({ "name": name.to_string(), "version": held.version }))
            .collect();
        let refused: Vec<Value> = known
            .store
            .refused()
            .into_iter()
            .map(|r| json!({ "name": r.resource, "version": r.version, "reason": r.reason }))
            .collect();
        let mut told = json!({
            "node": self.config.node.name,
            "namespace": self.config.node.namespace,
            "generation": known.store.generation(),
            "resources": resources,
            "refused": refused,
        });
        if let Some(told) = told.as_object_mut() {
            told.append(&mut known.store.dump());
        }
        told
    }

    fn metrics(known: &Known) -> String {
        let mut told = known.telemetry.render();
        told.push_str(&metrics::render(&known.store.clusters()));
        told
    }

    fn clusters(&self) -> Value {
        let clusters = self.get().map(|known| known.store.clusters()).unwrap_or_default();
        clusters.iter().filter_map(|cell| cell.load_full()).map(|view| view.dump()).collect()
    }

    fn certs(&self) -> Value {
        let Some(known) = self.get() else { return json!({ "identity": null }) };
        let mut told = describe(&known.identity);
        let rotation = known.rotation.status();
        told["renewals"] = rotation.renewals.into();
        told["last_error"] = rotation.last_error.into();
        told
    }
}

/// What the admin servers show of `state`.
#[must_use]
pub fn sources(state: &Arc<State>) -> Sources {
    let of = || state.clone();
    let (ready, metrics, dump, certs, stats, clusters) = (of(), of(), of(), of(), of(), of());
    Sources {
        ready: Box::new(move || ready.ready()),
        metrics: Box::new(move || metrics.get().map(State::metrics).unwrap_or_default()),
        config_dump: Box::new(move || dump.config_dump()),
        certs: Box::new(move || certs.certs()),
        stats: Box::new(move || {
            let mut told = stats.get().map(|k| k.telemetry.stats()).unwrap_or_else(|| json!({}));
            told["inbound_live"] = stats.inbound.live().into();
            told["outbound_live"] = stats.outbound.live().into();
            told
        }),
        clusters: Box::new(move || clusters.clusters()),
        drain: Box::new(Inbound(state.clone())),
        agent: state.config.agent.clone().map(|config| admin::agent::Agent {
            config,
            pod_ip: state.config.pod_ip,
            termination: Box::new(Pod(state.clone())),
        }),
    }
}

struct Pod(Arc<State>);

impl admin::agent::Termination for Pod {
    fn drain(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            let State { termination, inbound, .. } = &*self.0;
            let drained = termination.drain(inbound).await == Drained::Empty;
            termination.lift_later(inbound);
            drained
        })
    }

    fn quit(&self) {
        self.0.termination.quit();
    }
}

struct Inbound(Arc<State>);

impl admin::Drain for Inbound {
    fn drain(&self, limit: Option<Duration>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async move {
            self.0.inbound.begin();
            self.0.inbound.drained(limit.unwrap_or(DRAIN)).await == Drained::Empty
        })
    }
}
