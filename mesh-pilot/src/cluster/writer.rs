//! Writes status conditions of configuration objects, for as long as we lead. In: the report of all replicas. Out: merge patches
//! of the status subresource, at most a few a second, none where nothing changed.
//!
//! An object is read before it is written: conditions that are others' stay, and one that changed in between is left for
//! the next round (the patch names the version that was read). A new leader finds what the old one wrote and writes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
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
/// So many are looked at before it is asked again what there is to write: what has come meanwhile does not wait for all the rest.
const ROUND: usize = 10;
/// After a failure, that object is left alone for so long.
const RETRY: Duration = Duration::from_secs(30);
/// The same when it is another version by now: what is to be said of that comes.
const CHANGED: Duration = Duration::from_secs(2);
/// One request takes no longer.
const REQUEST: Duration = Duration::from_secs(10);

/// What was written, or found to be there.
type Said = HashMap<ObjectRef, (i64, Vec<Condition>)>;

/// The writer.
pub struct Writer {
    client: Client,
    status: Arc<Status>,
    replicas: Replicas,
    said: Said,
    /// Objects that could not be written, and until when they are left alone.
    later: HashMap<ObjectRef, Instant>,
    resources: HashMap<Kind, ApiResource>,
}

impl Writer {
    /// A writer of this report, and of what other replicas add to it.
    #[must_use]
    pub fn new(client: Client, status: Arc<Status>, replicas: Replicas) -> Self {
        let (said, later, resources) = (Said::new(), HashMap::new(), HashMap::new());
        Self { client, status, replicas, said, later, resources }
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
            self.later.retain(|reference, _| there.contains(reference));
            let mut due: Vec<_> = wanted.into_iter().map(|(r, generation, c)| (r, (generation, c))).collect();
            due.retain(|(reference, wanted)| {
                let left_alone = self.later.get(reference).is_some_and(|until| Instant::now() < *until);
                !left_alone && self.said.get(reference) != Some(wanted)
            });
            for (reference, wanted) in in_turns(due).into_iter().take(ROUND) {
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
            Ok(Ok(false)) => {
                self.later.insert(reference, Instant::now() + CHANGED);
            }
            Ok(Err(error)) => {
                self.resources.remove(&reference.kind);
                self.later.insert(reference.clone(), Instant::now() + RETRY);
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
        let Some(object) = api.get_opt(&reference.name).await? else {
            // It is gone, or its kind is served in another version by now: both are answered with 404.
            self.resources.remove(&reference.kind);
            return Ok(false);
        };
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

/// One of each namespace, the next one of each, and so on: who has much to be told keeps nobody waiting who has little.
fn in_turns<T>(objects: Vec<(ObjectRef, T)>) -> Vec<(ObjectRef, T)> {
    let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
    let mut numbered: Vec<_> = objects
        .into_iter()
        .map(|object| {
            let count = counts.entry(object.0.namespace.clone()).or_default();
            *count += 1;
            (*count, object)
        })
        .collect();
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, object)| object).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_with_much_to_be_told_keeps_nobody_waiting() {
        let object = |namespace, name: &str| (ObjectRef::new(Kind::VirtualService, namespace, name), ());
        let mut objects: Vec<_> = (0..500).map(|number| object("a", &format!("bad-{number}"))).collect();
        objects.extend([object("b", "one"), object("b", "two"), object("c", "one")]);
        let order: Vec<String> =
            in_turns(objects).iter().map(|(r, ())| format!("{}/{}", r.namespace, r.name)).collect();
        assert_eq!(order[..6], ["a/bad-0", "b/one", "c/one", "a/bad-1", "b/two", "a/bad-2"]);
        assert_eq!((order.len(), order[502].as_str()), (503, "a/bad-499"));
    }
}
