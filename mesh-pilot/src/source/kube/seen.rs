//! An object as an API server has it, narrowed while it is read to what the mesh uses: an object at a time is whole in
//! memory, never a page of them.
//!
//! Reading never fails for what an object holds: what cannot be used is refused later, by name, and costs no other one.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;

use kube::core::{ApiResource, DynamicResourceScope};
use kube::core::{ObjectMeta, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Annotations that are never used and may be as large as the object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What of a kind of objects is used.
pub trait Shape: Debug + Clone + Send + Sync + 'static {
    /// Drops the rest. `metadata` is narrowed already.
    fn narrow(object: &mut Map<String, Value>);
}

/// One object.
#[derive(Debug, Clone)]
pub struct Seen<S> {
    /// What the watch needs: name, namespace, resource version.
    pub metadata: ObjectMeta,
    /// The narrowed object. Without what changes though nothing that counts does (the resource version).
    pub value: Value,
    shape: PhantomData<S>,
}

impl<'de, S: Shape> Deserialize<'de> for Seen<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Map::deserialize(deserializer)?;
        let metadata = narrow_metadata(&mut object);
        S::narrow(&mut object);
        Ok(Self { metadata, value: Value::Object(object), shape: PhantomData })
    }
}

impl<S: Shape> Resource for Seen<S> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn narrow_metadata(object: &mut Map<String, Value>) -> ObjectMeta {
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else { return ObjectMeta::default() };
    let text = |metadata: &Map<String, Value>, field: &str| {
        metadata.get(field).and_then(Value::as_str).map(ToOwned::to_owned)
    };
    let kept = ObjectMeta {
        name: text(metadata, "name"),
        namespace: text(metadata, "namespace"),
        resource_version: text(metadata, "resourceVersion"),
        ..ObjectMeta::default()
    };
    keep(
        metadata,
        &[
            "name",
            "namespace",
            "uid",
            "labels",
            "annotations",
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
        ],
    );
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
    }
    kept
}

fn keep(map: &mut Map<String, Value>, names: &[&str]) {
    map.retain(|name, _| names.contains(&name.as_str()));
}

fn keep_in(map: &mut Map<String, Value>, field: &str, names: &[&str]) {
    if let Some(Value::Object(inner)) = map.get_mut(field) {
        keep(inner, names);
    }
}

fn keep_in_each(map: &mut Map<String, Value>, list: &str, names: &[&str]) {
    for item in map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(item) = item {
            keep(item, names);
        }
    }
}

/// Configuration: all but status. Fields beside `spec` stay (a misspelt one is told).
#[derive(Debug, Clone)]
pub struct Configuration;

impl Shape for Configuration {
    fn narrow(object: &mut Map<String, Value>) {
        object.remove("status");
    }
}

/// Namespaces: what metadata says.
#[derive(Debug, Clone)]
pub struct Namespaces;

impl Shape for Namespaces {
    fn narrow(object: &mut Map<String, Value>) {
        keep(object, &["metadata"]);
    }
}

/// Services.
#[derive(Debug, Clone)]
pub struct Services;

impl Shape for Services {
    fn narrow(object: &mut Map<String, Value>) {
        keep(object, &["metadata", "spec"]);
        keep_in(
            object,
            "spec",
            &[
                "clusterIP",
                "clusterIPs",
                "type",
                "externalName",
                "ports",
                "selector",
                "publishNotReadyAddresses",
            ],
        );
    }
}

/// Pods: who they are, which ports they have, whether they are ready.
#[derive(Debug, Clone)]
pub struct Pods;

impl Shape for Pods {
    fn narrow(object: &mut Map<String, Value>) {
        keep(object, &["metadata", "spec", "status"]);
        keep_in(object, "spec", &["containers", "serviceAccountName", "nodeName", "hostNetwork"]);
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            keep_in_each(spec, "containers", &["name", "ports"]);
        }
        keep_in(object, "status", &["phase", "podIP", "podIPs", "conditions"]);
        if let Some(Value::Object(status)) = object.get_mut("status") {
            if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
                conditions.retain(|c| c.get("type").and_then(Value::as_str) == Some("Ready"));
            }
            keep_in_each(status, "conditions", &["type", "status"]);
        }
    }
}

/// EndpointSlices.
#[derive(Debug, Clone)]
pub struct Slices;

impl Shape for Slices {
    fn narrow(object: &mut Map<String, Value>) {
        keep(object, &["metadata", "addressType", "ports", "endpoints"]);
        // The time of the last change of a pod: changes more often than the endpoints.
        keep_in(object, "metadata", &["name", "namespace", "labels"]);
        keep_in_each(object, "endpoints", &["addresses", "conditions", "targetRef"]);
    }
}

/// Nodes: where they are.
#[derive(Debug, Clone)]
pub struct Nodes;

impl Shape for Nodes {
    fn narrow(object: &mut Map<String, Value>) {
        keep(object, &["metadata"]);
        keep_in(object, "metadata", &["name", "labels"]);
        let labels = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("labels"));
        if let Some(Value::Object(labels)) = labels {
            labels.retain(|name, _| super::merge::TOPOLOGY.contains(&name.as_str()));
        }
    }
}

/// The keys of a Secret that TLS servers and clients are made of (Istio's and Kubernetes' names). No authority's key is
/// among them.
const SECRET_KEYS: &[&str] =
    &["tls.crt", "tls.key", "ca.crt", "ca.crl", "cert", "key", "cacert", "crl", "tls.ocsp-staple"];

/// Secrets: what TLS needs. A Secret without any of that keeps its name alone.
#[derive(Debug, Clone)]
pub struct Secrets;

impl Shape for Secrets {
    fn narrow(object: &mut Map<String, Value>) {
        keep(object, &["metadata", "type", "data"]);
        keep_in(object, "data", SECRET_KEYS);
    }
}

impl Secrets {
    /// Whether anything is left that somebody could want.
    #[must_use]
    pub fn matters(value: &Value) -> bool {
        value.get("data").and_then(Value::as_object).is_some_and(|data| !data.is_empty())
    }
}
