//! The last good version of each configuration object, in a ConfigMap of our namespace: what keeps it in force when a pilot
//! starts while the object is broken. Written by the leader, read by every pilot before it begins.
//!
//! One key for each object, its text as the value. The ConfigMap is bounded ([`MAX_BYTES`]): what restricts comes first,
//! what has no room is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use mesh_proto::crd::{Document, Kind, ObjectRef, Origin, from_value};
use mesh_proto::model::resource;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::bundle::MANAGER;
use crate::source::kube::merge::{LastGood, is_configuration};

/// The ConfigMap's name.
pub const NAME: &str = "mesh-last-good";
/// An API server takes objects of about 1 MiB.
const MAX_BYTES: usize = 800 << 10;
/// Between two writes.
const PERIOD: Duration = Duration::from_secs(10);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);

/// The good versions, filled by the source and written from here. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Versions>>);

#[derive(Debug, Default)]
struct Versions {
    objects: BTreeMap<ObjectRef, Arc<Value>>,
    /// Counts changes.
    changes: u64,
}

impl Kept {
    /// This version is good.
    pub fn keep(&self, reference: &ObjectRef, value: &Arc<Value>) {
        let mut versions = self.0.lock();
        versions.objects.insert(reference.clone(), value.clone());
        versions.changes += 1;
    }

    /// The object is gone.
    pub fn forget(&self, reference: &ObjectRef) {
        let mut versions = self.0.lock();
        if versions.objects.remove(reference).is_some() {
            versions.changes += 1;
        }
    }

    fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// What is written, within the bound, and how many objects have no room.
    fn data(&self) -> (BTreeMap<String, String>, usize) {
        let versions = self.0.lock();
        let mut objects: Vec<_> = versions.objects.iter().collect();
        objects.sort_by_key(|(reference, _)| (!restricts(reference.kind), (*reference).clone()));
        let (mut data, mut bytes, mut left_out) = (BTreeMap::new(), 0, 0);
        for (reference, value) in objects {
            let (key, text) = (key(reference), value.to_string());
            // Each key is named once more by the API server, as ours.
            let size = 2 * key.len() + text.len();
            if bytes + size > MAX_BYTES {
                left_out += 1;
                continue;
            }
            bytes += size;
            data.insert(key, text);
        }
        (data, left_out)
    }
}

fn restricts(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::RequestAuthentication
            | Kind::DestinationRule
    )
}

/// Names may be longer than a key.
fn key(reference: &ObjectRef) -> String {
    resource::version(reference.to_string().as_bytes())
}

/// What the leader has written; asks until there is an answer.
pub async fn load(client: &Client, namespace: &str) -> LastGood {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    loop {
        match api.get_opt(NAME).await {
            Ok(map) => return read(map.and_then(|map| map.data).unwrap_or_default()),
            Err(error) => {
                tracing::warn!(%error, namespace, name = NAME, "the last good versions cannot be read; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What is good today; what is not any more is left out.
fn read(data: BTreeMap<String, String>) -> LastGood {
    let version = |text: String| {
        let value: Value = serde_json::from_str(&text).ok()?;
        let Document::Accepted(resource) = from_value(value.clone(), Origin::default()) else { return None };
        is_configuration(resource.reference.kind).then_some((resource.reference, value))
    };
    data.into_values().filter_map(version).collect()
}

/// Writes what changed while we lead.
///
/// # Errors
/// Never: what fails is told and tried again.
pub async fn write(
    client: Client,
    namespace: String,
    kept: Kept,
    mut leads: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let mut written = None;
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
        let changes = kept.changes();
        if written == Some(changes) || !*leads.borrow() {
            continue;
        }
        let (data, left_out) = kept.data();
        if left_out > 0 {
            tracing::warn!(left_out, bytes = MAX_BYTES, "no room for the last good versions of some objects");
        }
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data});
        match api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await {
            Ok(_) => written = Some(changes),
            Err(error) => {
                tracing::warn!(%error, namespace, name = NAME, "cannot keep the last good versions; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: &str, group: &str, name: &str, spec: &Value) -> Arc<Value> {
        Arc::new(json!({"apiVersion": format!("{group}/v1"), "kind": kind,
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}))
    }

    #[test]
    fn what_is_written_is_what_is_read_as_far_as_it_is_good() {
        let kept = Kept::default();
        let rule = ObjectRef::new(Kind::DestinationRule, "default", "a");
        let good = value("DestinationRule", "networking.istio.io", "a", &json!({"host": "a"}));
        kept.keep(&rule, &good);
        let other = ObjectRef::new(Kind::VirtualService, "default", "b");
        kept.keep(&other, &value("VirtualService", "networking.istio.io", "b", &json!({"hostz": 1})));
        let (data, left_out) = kept.data();
        assert_eq!((data.len(), left_out), (2, 0));
        assert_eq!(read(data), LastGood::from([(rule, (*good).clone())]));
        let before = kept.changes();
        kept.forget(&other);
        kept.forget(&other);
        assert_eq!(kept.changes(), before + 1);
        assert!(read(BTreeMap::from([("k".into(), "{".into())])).is_empty());
    }

    #[test]
    fn what_restricts_has_room_first() {
        let kept = Kept::default();
        for number in 0..20 {
            let name = format!("v-{number}");
            let large =
                value("VirtualService", "networking.istio.io", &name, &json!({"x": "y".repeat(60 << 10)}));
            kept.keep(&ObjectRef::new(Kind::VirtualService, "default", &name), &large);
        }
        let policy = ObjectRef::new(Kind::PeerAuthentication, "default", "z");
        kept.keep(&policy, &value("PeerAuthentication", "security.istio.io", "z", &json!({})));
        let (data, left_out) = kept.data();
        assert!(data.contains_key(&key(&policy)) && left_out == 20 - (data.len() - 1), "{left_out}");
        assert!(data.values().map(String::len).sum::<usize>() <= MAX_BYTES);
    }
}
