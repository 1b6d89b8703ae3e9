//! The replicas of one workload: what a Deployment's controller does.
//!
//! Scaling adds and takes away at the end. A changed template is rolled out with one extra replica, so that there are never
//! fewer than wanted: the extra one starts, then each old one is drained and replaced under its own name, then the extra
//! one goes. A newer change interrupts a roll-out that waits for a pod that never gets ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::api::{self, InstanceState, WorkloadKind};
use super::context::Context;
use super::instance::{End, Inside, Instance};
use super::plan::Workload;

/// How long a new pod may take before the roll-out says that it waits.
const SLOW: Duration = Duration::from_secs(30);

/// The replicas of a workload.
#[derive(Debug)]
pub struct Replicas {
    context: Arc<Context>,
    wanted: watch::Sender<Workload>,
    slots: Mutex<BTreeMap<u32, Arc<Slot>>>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
}

/// The place of one replica: its name and address, and the pod that is there now.
#[derive(Debug)]
pub struct Slot {
    pub name: String,
    index: u8,
    content: Mutex<Content>,
    /// One start or stop at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Content {
    instance: Option<Arc<Instance>>,
    /// `meshctl stop`: it stays away until `meshctl start`.
    stopped: bool,
    /// Why there is none.
    failed: Option<String>,
}

impl Replicas {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(context: Arc<Context>, wanted: Workload) -> Arc<Self> {
        Arc::new(Self {
            context,
            wanted: watch::Sender::new(wanted),
            slots: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// What is wanted now.
    #[must_use]
    pub fn wanted(&self) -> Workload {
        self.wanted.borrow().clone()
    }

    /// Wants something else; [`Self::reconcile`] does it.
    pub fn want(&self, wanted: Workload) {
        self.wanted.send_replace(wanted);
    }

    /// The slot of an instance.
    #[must_use]
    pub fn slot(&self, instance: &str) -> Option<Arc<Slot>> {
        self.slots.lock().values().find(|slot| slot.name == instance).cloned()
    }

    /// All slots.
    #[must_use]
    pub fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().values().cloned().collect()
    }

    /// Makes what runs what is wanted.
    pub async fn reconcile(self: Arc<Self>) {
        let _turn = self.turn.lock().await;
        let mut newer = self.wanted.subscribe();
        let wanted = newer.borrow_and_update().clone();
        self.shrink(wanted.replicas).await;
        for ordinal in 0..wanted.replicas {
            let Some(slot) = self.make(&wanted, ordinal) else { return };
            if slot.instance().is_none() && !slot.is_stopped() {
                slot.start(&self.context, &wanted).await;
            }
        }
        self.roll_out(&wanted, &mut newer).await;
    }

    /// Replaces what runs an older template. Interrupted only while it waits for a pod to get ready, never within a drain.
    async fn roll_out(&self, wanted: &Workload, newer: &mut watch::Receiver<Workload>) {
        let outdated: Vec<Arc<Slot>> =
            self.slots().into_iter().filter(|slot| slot.is_outdated(wanted)).collect();
        if outdated.is_empty() {
            return;
        }
        self.context
            .journal
            .tell("rollout", format!("{} changes: {} to replace", wanted.name, outdated.len()));
        // A pod that the user named cannot be there twice.
        if wanted.kind != WorkloadKind::Pod {
            let Some(extra) = self.make(wanted, wanted.replicas) else { return };
            extra.start(&self.context, wanted).await;
            if !self.ready(&extra, newer).await {
                return;
            }
        }
        for slot in outdated {
            slot.end(End::Drained).await;
            slot.start(&self.context, wanted).await;
            if !self.ready(&slot, newer).await {
                return;
            }
        }
        self.shrink(wanted.replicas).await;
    }

    /// Waits until the slot's pod gets traffic: false when something newer is wanted first.
    async fn ready(&self, slot: &Slot, newer: &mut watch::Receiver<Workload>) -> bool {
        let instance = slot.instance();
        let ready = async {
            let Some(instance) = instance else { return std::future::pending().await };
            if timeout(SLOW, instance.ready()).await.is_err() {
                let why = instance.phase().reason.unwrap_or_default();
                let text = format!("the roll-out waits for {}, the old replicas go on: {why}", slot.name);
                self.context.journal.tell("rollout_waits", text);
                instance.ready().await;
            }
        };
        tokio::select! {
            () = ready => true,
            _ = newer.changed() => false,
        }
    }

    /// Ends the replicas from `count` on.
    async fn shrink(&self, count: u32) {
        let surplus: Vec<(u32, Arc<Slot>)> =
            self.slots.lock().range(count..).map(|(ordinal, slot)| (*ordinal, slot.clone())).collect();
        let ends = surplus.iter().map(|(_, slot)| slot.end(End::Drained));
        futures_util::future::join_all(ends).await;
        for (ordinal, slot) in surplus {
            self.slots.lock().remove(&ordinal);
            self.context.subnets.lock().give_back(slot.index);
        }
        self.context.changed();
    }

    fn make(&self, wanted: &Workload, ordinal: u32) -> Option<Arc<Slot>> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&ordinal) {
            return Some(slot.clone());
        }
        let Some(index) = self.context.subnets.lock().take() else {
            let text = format!("no address for another instance of {}: a mesh has 254", wanted.name);
            self.context.journal.tell("failed", text);
            return None;
        };
        let slot = Arc::new(Slot {
            name: wanted.instance(ordinal),
            index,
            content: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        });
        slots.insert(ordinal, slot.clone());
        Some(slot)
    }

    /// Ends all of them for good.
    pub async fn remove(&self, how: End) {
        let mut nothing = self.wanted();
        nothing.replicas = 0;
        self.want(nothing);
        if how == End::Drained {
            let _turn = self.turn.lock().await;
            return self.shrink(0).await;
        }
        // In a hurry: nothing is waited for but the ends themselves.
        let slots = self.slots();
        futures_util::future::join_all(slots.iter().map(|slot| slot.end(how))).await;
    }

    /// Brings an instance back.
    pub async fn start(&self, slot: &Slot) {
        slot.content.lock().stopped = false;
        if slot.instance().is_none() {
            slot.start(&self.context, &self.wanted()).await;
        }
    }

    /// For the API.
    #[must_use]
    pub fn tell(&self) -> api::Workload {
        let wanted = self.wanted();
        api::Workload {
            kind: wanted.kind,
            identity: self.context.identity(&wanted.namespace, &wanted.template.service_account),
            instances: self.slots().iter().map(|slot| slot.tell(&self.context)).collect(),
            namespace: wanted.namespace,
            name: wanted.name,
            service_account: wanted.template.service_account,
            labels: wanted.template.labels,
        }
    }

    /// Whether every replica that should run is ready, or cannot run.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let slots = self.slots();
        slots.len() >= self.wanted.borrow().replicas as usize && slots.iter().all(|slot| slot.is_settled())
    }
}

impl Slot {
    /// The pod that is there.
    #[must_use]
    pub fn instance(&self) -> Option<Arc<Instance>> {
        self.content.lock().instance.clone()
    }

    /// Whether `meshctl stop` took it away.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.content.lock().stopped
    }

    fn is_outdated(&self, wanted: &Workload) -> bool {
        self.content.lock().instance.as_ref().is_some_and(|instance| instance.template != wanted.template)
    }

    fn is_settled(&self) -> bool {
        let content = self.content.lock();
        content.stopped
            || content.failed.is_some()
            || content.instance.as_ref().is_some_and(|i| i.phase().state == InstanceState::Ready)
    }

    async fn start(&self, context: &Arc<Context>, wanted: &Workload) {
        let _turn = self.turn.lock().await;
        let started = match Inside::make(context, wanted, &self.name, self.index).await {
            Ok(inside) => Instance::start(context.clone(), wanted, &self.name, self.index, inside),
            Err(error) => Err(error),
        };
        let mut content = self.content.lock();
        match started {
            Ok(instance) => (content.instance, content.failed) = (Some(instance), None),
            Err(error) => {
                context.journal.tell("failed", format!("{} cannot start: {error:#}", self.name));
                content.failed = Some(format!("{error:#}"));
            }
        }
        context.changed();
    }

    /// Ends the pod that is there.
    pub async fn end(&self, how: End) {
        let _turn = match how {
            End::Drained => Some(self.turn.lock().await),
            // A kill does not wait for a drain that is under way.
            End::Killed | End::Quick(_) => None,
        };
        let Some(instance) = self.instance() else { return };
        instance.end(how).await;
        let mut content = self.content.lock();
        if content.instance.as_ref().is_some_and(|now| Arc::ptr_eq(now, &instance)) {
            content.instance = None;
        }
    }

    /// Ends the pod and keeps it away.
    pub async fn stop(&self, how: End) {
        self.content.lock().stopped = true;
        self.end(how).await;
    }

    fn tell(&self, context: &Context) -> api::Instance {
        let content = self.content.lock();
        match &content.instance {
            Some(instance) => instance.tell(),
            None => {
                api::Instance::absent(&self.name, context.network.pod(self.index), content.failed.clone())
            }
        }
    }
}
