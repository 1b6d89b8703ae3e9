//! Writes status conditions of configuration objects, for as long as we lead. In: the report of all replicas. Out: merge patches
//! of the status subresource, at most a few a second, none where nothing changed.
//!
//! An object is read before it is written: conditions that are others' stay, and one that changed in between is left for
//! the next round (the patch names the version that was read). A new leader finds what the old one wrote and writes nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use mesh_proto::crd::{Kind, ObjectRef};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bundle::MANAGER;
use super::conditions::{Condition, conditions, merged};
use super::replicas::Replicas;
use crate::source::kube::kinds::Watched;
use crate::status::{ResourceReport, Status};

/// How often to look for what changed.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two objects that are looked at: four a second, each a read and at most one write.
const PACE: Duration = Duration::from_millis(250);
/// After a failure, that object is left alone for so long.
const RETRY: Duration = Duration::from_secs(30);
/// One request takes no longer.
const REQUEST: Duration = Duration::from_secs(10);

/// What was written, or found to be there.
type Said = HashMap<ObjectRef, (i64, Vec<Condition>)>;

/// The writer.
pub struct Writer {
    client: Client,
    status: std::sync::Arc<Status>,
    replicas: Replicas,
    said: Said,
    /// Objects that could not be written, and until when they are left alone.
    failed: HashMap<ObjectRef, Instant>,
    resources: HashMap<Kind, ApiResource>,
}

impl Writer {
    /// A writer of this report, and of what other replicas add to it.
    #[must_use]
    pub fn new(client: Client, status: std::sync::Arc<Status>, replicas: Replicas) -> Self {
        let (said, failed, resources) = (Said::new(), HashMap::new(), HashMap::new());
        Self { client, status, replicas, said, failed, resources }
    }

    /// Writes while we lead.
    ///
    /// # Errors
    /// Never: what fails is told and tried again.
    pub async fn run(mut self, mut leads: watch::Receiver<bool>) -> anyhow::Result<()> {
        loop {
            if leads.wait_for(|leads| *leads).await.is_err() {
                return Ok(());
            }
            // What others wrote while we did not lead is not known.
            self.said.clear();
            tokio::select! {
                () = self.write() => {}
                _ = leads.wait_for(|leads| !*leads) => {}
            }
        }
    }

    async fn write(&mut self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            if !self.status.is_ready() {
                continue;
            }
            let others = self.replicas.ask(&self.status.snapshot()).await;
            let wanted: Vec<_> = self.status.resources(&others).iter().filter_map(wanted).collect();
            let there: HashSet<_> = wanted.iter().map(|(reference, ..)| reference).collect();
            self.said.retain(|reference, _| there.contains(reference));
            self.failed.retain(|reference, _| there.contains(reference));
            for (reference, generation, conditions) in wanted {
                let wanted = (generation, conditions);
                let left_alone = self.failed.get(&reference).is_some_and(|until| Instant::now() < *until);
                if left_alone || self.said.get(&reference) == Some(&wanted) {
                    continue;
                }
                self.object(reference, wanted).await;
                tokio::time::sleep(PACE).await;
            }
        }
    }

    async fn object(&mut self, reference: ObjectRef, wanted: (i64, Vec<Condition>)) {
        match tokio::time::timeout(REQUEST, self.bring(&reference, &wanted)).await {
            Ok(Ok(true)) => {
                self.said.insert(reference, wanted);
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                // It may be served in another version by now.
                self.resources.remove(&reference.kind);
                self.failed.insert(reference.clone(), Instant::now() + RETRY);
                tracing::warn!(object = %reference, %error, "cannot write its status; trying again");
            }
            Err(_) => tracing::warn!(object = %reference, "no answer to the write of its status"),
        }
    }

    /// Whether its status says what it should now.
    async fn bring(&mut self, reference: &ObjectRef, wanted: &(i64, Vec<Condition>)) -> anyhow::Result<bool> {
        let (generation, conditions) = wanted;
        let resource = match self.resources.get(&reference.kind) {
            Some(resource) => resource.clone(),
            None => {
                let found = Watched::Object(reference.kind).discover(&self.client).await?;
                self.resources.insert(reference.kind, found.clone());
                found
            }
        };
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &reference.namespace, &resource);
        let Some(object) = api.get_opt(&reference.name).await? else { return Ok(false) };
        if object.metadata.generation != Some(*generation) {
            // Another version than that which was judged: its own verdict comes.
            return Ok(false);
        }
        let before = object.data.get("status").unwrap_or(&Value::Null);
        let now = k8s_openapi::jiff::Timestamp::now().round(k8s_openapi::jiff::Unit::Second)?.to_string();
        let Some(status) = merged(before, conditions, *generation, &now) else { return Ok(true) };
        let patch = json!({
            "metadata": {"resourceVersion": object.metadata.resource_version},
            "status": status,
        });
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_status(&reference.name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            // It changed since it was read.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            // It is gone, or its CRD has no status: the report tells of it no more, or there is nothing to say it in.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::debug!(object = %reference, "has no status to write");
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What an object's status should say; `None` for what has no status of ours (files, Kubernetes' own kinds, and those of
/// the Gateway API, whose status has a form of its own).
fn wanted(report: &ResourceReport) -> Option<(ObjectRef, i64, Vec<Condition>)> {
    let kind = Kind::ALL.iter().copied().find(|kind| kind.as_str() == report.kind)?;
    if !kind.group().ends_with("istio.io") {
        return None;
    }
    let reference = ObjectRef::new(kind, &report.namespace, &report.name);
    Some((reference, report.generation?, conditions(report)))
}
