//! One pod: its sidecar, its containers, its readiness, its end.
//!
//! In: a template and an address. Out: a Pod object that is always true: it says ready only while the sidecar and every
//! container are. A pod that was stopped and started again is a new one (another uid) with the old name and address.

mod build;
mod inside;
mod pod;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::api::{self, GatewayAddress, InstanceState, Place, WorkloadKind};
use super::context::{Context, TOKEN_REFRESH};
use super::http::{self, Server};
use super::net::port;
use super::plan::{Template, Workload};
use super::probe::{self, Readiness, Verdict};
use super::process::Unit;
pub use inside::Inside;

/// How long to wait until nobody sends to a pod that is going away.
const WITHDRAWAL: Duration = Duration::from_secs(5);
/// How long a sidecar may take to drain.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a sidecar may take to end after its application has.
const SIDECAR_GRACE: Duration = Duration::from_secs(5);
/// How long applications wait for their sidecar before they start all the same.
const SIDECAR_FIRST: Duration = Duration::from_secs(15);

/// The shortest and the longest pause before a sidecar is asked again about its certificate.
const RENEWAL_CHECK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// How long it may take to answer.
const CERTS_PATIENCE: Duration = Duration::from_secs(5);

/// How a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Withdrawn, drained, then SIGTERM: nothing is lost.
    Drained,
    /// SIGKILL.
    Killed,
    /// SIGTERM at once, little patience: the whole mesh stops.
    Quick(Duration),
}

/// A running pod.
#[derive(Debug)]
pub struct Instance {
    context: Arc<Context>,
    kind: WorkloadKind,
    pub namespace: String,
    pub name: String,
    uid: String,
    created: String,
    index: u8,
    pub template: Template,
    ports: Vec<api::Port>,
    gateway: Option<GatewayAddress>,
    /// With `--netns`.
    inside: parking_lot::Mutex<Option<Inside>>,
    place: Option<Place>,
    pub sidecar: Unit,
    pub containers: Vec<Unit>,
    phase: watch::Sender<Phase>,
    minder: parking_lot::Mutex<Option<JoinHandle<()>>>,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    pub state: InstanceState,
    pub reason: Option<String>,
    deleted: Option<String>,
}

impl Instance {
    /// Starts the pod `name` of a workload at the subnet `index`.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn start(
        context: Arc<Context>,
        workload: &Workload,
        name: &str,
        index: u8,
        inside: Option<Inside>,
    ) -> anyhow::Result<Arc<Self>> {
        let (instance, readiness) = build::build(context, workload, name, index, inside)?;
        let instance = Arc::new(instance);
        instance.write_pod();
        let minder = tokio::spawn(instance.clone().mind(readiness));
        *instance.minder.lock() = Some(minder);
        Ok(instance)
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.context.network.pod(self.index)
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Waits until it gets traffic.
    pub async fn ready(&self) {
        let mut phase = self.phase.subscribe();
        let _ = phase.wait_for(|phase| phase.state == InstanceState::Ready).await;
    }

    fn at(&self, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip(), port)
    }

    /// Its proxy's admin address: on loopback, where the pod has one of its own.
    fn admin(&self) -> SocketAddrV4 {
        match self.place {
            Some(_) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, port::ADMIN),
            None => self.at(port::ADMIN),
        }
    }

    fn admin_server(&self) -> Server {
        match &self.place {
            Some(place) => Server::Within(place.netns.clone(), self.admin()),
            None => Server::Tcp(self.admin()),
        }
    }

    /// For the API.
    #[must_use]
    pub fn tell(&self) -> api::Instance {
        let Phase { state, reason, .. } = self.phase();
        api::Instance {
            name: self.name.clone(),
            uid: self.uid.clone(),
            pod_ip: self.ip(),
            place: self.place.clone(),
            state,
            reason,
            ports: self.ports.clone(),
            http_proxy: match self.place {
                Some(_) => port::LOCAL_HTTP_PROXY,
                None => self.at(port::OUTBOUND),
            },
            admin: self.admin(),
            metrics: self.at(port::METRICS),
            status: self.at(port::STATUS),
            gateway: self.gateway.clone(),
            containers: self.containers.iter().map(Unit::tell).collect(),
            sidecar: self.sidecar.tell(),
        }
    }

    /// Starts the processes in order and keeps the Pod object true.
    async fn mind(self: Arc<Self>, readiness: Vec<Readiness>) {
        let mut verdicts = vec![watch_verdict(probe::sidecar(self.at(port::STATUS)), &self.sidecar)];
        let containers = readiness.into_iter().zip(&self.containers);
        verdicts.extend(containers.map(|(readiness, unit)| watch_verdict(readiness, unit)));
        self.sidecar.start();
        let starting = self.start_containers(verdicts[0].clone());
        tokio::join!(starting, self.keep_true(verdicts), self.tell_renewals());
    }

    /// A line for each new certificate of the sidecar. It is asked again when its next renewal is due.
    async fn tell_renewals(&self) {
        let server = self.admin_server();
        let mut serial = None;
        loop {
            let mut pause = RENEWAL_CHECK.0;
            if let Ok(answer) = http::get(&server, "/certs", CERTS_PATIENCE).await
                && let Ok(told) = serde_json::from_slice::<serde_json::Value>(&answer.body)
                && let Some(new) = told["serial"].as_str().map(str::to_owned)
            {
                let before = serial.replace(new.clone());
                if before.is_some_and(|before| before != new) {
                    let left = told["seconds_left"].as_u64().unwrap_or_default();
                    let text = format!("{} has a new certificate, good for {left} s", self.name);
                    self.context.journal.tell("certificate_renewed", text);
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let due = told["renewal"]["due"].as_u64().unwrap_or_default();
                pause = Duration::from_secs(due.saturating_sub(now)).clamp(RENEWAL_CHECK.0, RENEWAL_CHECK.1);
            }
            sleep(pause).await;
        }
    }

    /// Applications start when their sidecar can be used, or after a while all the same.
    async fn start_containers(&self, mut sidecar: watch::Receiver<Verdict>) {
        let _ = timeout(SIDECAR_FIRST, sidecar.wait_for(Result::is_ok)).await;
        // The services' addresses become variables; without an answer the last known ones do.
        let _ = self.context.pilot_status().await;
        for unit in &self.containers {
            unit.start();
        }
    }

    async fn keep_true(&self, mut verdicts: Vec<watch::Receiver<Verdict>>) {
        let mut refresh = tokio::time::interval(TOKEN_REFRESH);
        loop {
            let bad = verdicts.iter_mut().find_map(|v| v.borrow_and_update().clone().err());
            self.judge(bad);
            let changes = verdicts.iter_mut().map(|v| Box::pin(v.changed()));
            tokio::select! {
                _ = futures_util::future::select_all(changes) => {}
                _ = refresh.tick() => self.refresh_token(),
            }
        }
    }

    /// The state that follows from what the probes say; what goes away or was stopped stays so.
    fn judge(&self, bad: Option<String>) {
        let before = self.phase();
        let state = match (before.state, &bad) {
            (InstanceState::Draining | InstanceState::Stopped, _) => return,
            (_, None) => InstanceState::Ready,
            (InstanceState::Starting, Some(_)) => InstanceState::Starting,
            (_, Some(_)) => InstanceState::Unready,
        };
        self.enter(Phase { state, reason: bad, deleted: None });
        if before.state != state {
            let (kind, text) = match state {
                InstanceState::Ready => ("ready", format!("{} is ready", self.name)),
                _ => (
                    "unready",
                    format!("{} is not ready: {}", self.name, self.phase().reason.unwrap_or_default()),
                ),
            };
            self.context.journal.tell(kind, text);
        }
    }

    fn enter(&self, phase: Phase) {
        let changed = self.phase.send_if_modified(|now| {
            let changed = *now != phase;
            *now = phase;
            changed
        });
        if changed {
            self.write_pod();
            self.context.changed();
        }
    }

    /// Ends the pod. Its name and address can be used again afterwards.
    pub async fn end(&self, how: End) {
        match how {
            End::Drained => self.drain().await,
            End::Killed => {
                let all = self.containers.iter().chain([&self.sidecar]);
                futures_util::future::join_all(all.map(Unit::kill)).await;
            }
            End::Quick(grace) => {
                self.enter(self.going(InstanceState::Draining));
                futures_util::future::join_all(self.containers.iter().map(|u| u.stop(grace))).await;
                self.sidecar.stop(grace).await;
            }
        }
        if let Some(minder) = self.minder.lock().take() {
            minder.abort();
        }
        for unit in self.containers.iter().chain([&self.sidecar]) {
            unit.remove(Duration::ZERO).await;
        }
        self.phase.send_replace(self.going(InstanceState::Stopped));
        self.clean_up();
        self.context.changed();
        self.context.journal.tell("stopped", format!("{} is stopped", self.name));
    }

    fn going(&self, state: InstanceState) -> Phase {
        let deleted = self.phase().deleted.or_else(|| Some(pod::now()));
        Phase { state, reason: None, deleted }
    }

    /// Not ready → withdrawn everywhere → in flight to zero → only then SIGTERM to the application, then to the sidecar.
    async fn drain(&self) {
        self.enter(self.going(InstanceState::Draining));
        self.context.journal.tell("draining", format!("{} is being drained", self.name));
        self.withdrawn().await;
        let server = self.admin_server();
        let path = format!("/drain?timeout={}", DRAIN.as_secs());
        if let Err(error) = http::post(&server, &path, Bytes::new(), DRAIN + SIDECAR_GRACE).await {
            self.context
                .journal
                .tell("drain_failed", format!("{} could not be drained: {error:#}", self.name));
        }
        let grace = self.template.grace;
        futures_util::future::join_all(self.containers.iter().map(|unit| unit.stop(grace))).await;
        self.sidecar.stop(SIDECAR_GRACE).await;
    }

    /// Waits until the pilot has seen that the pod goes and every proxy that it talks to has acknowledged it.
    async fn withdrawn(&self) {
        let deadline = Instant::now() + WITHDRAWAL;
        let ip = self.ip().to_string();
        while Instant::now() < deadline {
            match self.context.pilot_status().await {
                Ok(status) if status.is_withdrawn(&ip) => return,
                Ok(_) => sleep(Duration::from_millis(20)).await,
                Err(error) => {
                    let text = format!("{} goes without the pilot knowing: {error:#}", self.name);
                    return self.context.journal.tell("withdrawal_unknown", text);
                }
            }
        }
        let text = format!("not every proxy has acknowledged in time that {} goes", self.name);
        self.context.journal.tell("withdrawal_late", text);
    }
}

/// Runs a probe as long as its verdict is watched.
fn watch_verdict(readiness: Readiness, unit: &Unit) -> watch::Receiver<Verdict> {
    let (sender, receiver) = watch::channel(Err(format!("{} waits", unit.name())));
    tokio::spawn(probe::run(readiness, unit.clone(), sender));
    receiver
}
