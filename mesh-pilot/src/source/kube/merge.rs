//! What the tasks saw, merged: a pure state machine. In: [`Sighting`]s of kinds. Out: [`Event`]s.
//!
//! A listing after the first one is compared with what is known: only what differs is told. An object whose newest version
//! is refused keeps its last good one, from before or from [`LastGood`]. Pods are told with the place of their node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::crd::{
    Document, Kind, Labels, Object, ObjectRef, Origin, Pod, Position, Problem, Refused, Resource, Severity,
    from_value,
};
use mesh_proto::model::resource;
use serde_json::Value;

use super::kinds::Watched;
use super::slice;
use super::watch::Sighting;
use crate::cluster::last_good::Kept;
use crate::source::{Event, ObjectName, Refusal};

/// The labels of a Node that say where it is, and that its pods get where they lack them (as newer versions of Kubernetes
/// do themselves).
pub const TOPOLOGY: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// The last good versions of objects, from before this process began.
pub type LastGood = BTreeMap<ObjectRef, Value>;

/// The state.
#[derive(Default)]
pub struct Merge {
    kinds: BTreeMap<Watched, Known>,
    /// The topology labels of nodes, by name.
    nodes: BTreeMap<Arc<str>, Labels>,
    last_good: LastGood,
    kept: Kept,
    begun: bool,
    done: bool,
}

/// What is known of a kind.
#[derive(Default)]
struct Known {
    /// It has been listed, or cannot be because it is not served.
    listed: bool,
    objects: BTreeMap<ObjectName, Told>,
    /// While a listing is under way: what it has not named yet.
    unnamed: Option<BTreeSet<ObjectName>>,
    /// Why it is not served.
    missing: Option<String>,
    /// Why it cannot be read.
    failing: Option<String>,
}

/// What was told of an object.
#[derive(Default)]
struct Told {
    /// Of the newest version, narrowed.
    hash: String,
    /// A good version was told.
    applied: bool,
    /// A pod, without its place: told again when its node moves.
    pod: Option<Resource>,
}

impl Merge {
    /// A state that knows the last good versions, and tells `kept` of each that there is.
    #[must_use]
    pub fn new(last_good: LastGood, kept: Kept) -> Self {
        for (reference, value) in &last_good {
            kept.keep(reference, &Arc::new(value.clone()));
        }
        Self {
            kept,
            kinds: Watched::all().map(|watched| (watched, Known::default())).collect(),
            last_good,
            ..Self::default()
        }
    }

    /// Whether each kind has been listed once.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.done
    }

    /// The kinds that have not been listed yet, and why; empty when all have.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let waiting = self.kinds.iter().filter(|(_, known)| !known.listed);
        waiting
            .map(|(watched, known)| match &known.failing {
                Some(why) => format!("{watched}: {why}"),
                None => watched.to_string(),
            })
            .collect()
    }

    /// Takes one sighting; what follows from it is added to `events`.
    pub fn take(&mut self, watched: Watched, sighting: Sighting, events: &mut Vec<Event>) {
        if !self.begun {
            self.begun = true;
            events.push(Event::Init);
        }
        let known = self.kinds.entry(watched).or_default();
        match sighting {
            Sighting::Init => {
                known.unnamed = Some(known.objects.keys().cloned().collect());
            }
            Sighting::Apply { namespace, name, value } => {
                let name = (Arc::from(namespace), Arc::from(name));
                if let Some(unnamed) = &mut known.unnamed {
                    unnamed.remove(&name);
                }
                self.apply(watched, name, value, events);
            }
            Sighting::Gone { namespace, name } => {
                self.gone(watched, &(Arc::from(namespace), Arc::from(name)), events);
            }
            Sighting::InitDone => {
                let unnamed = known.unnamed.take().unwrap_or_default();
                known.listed = true;
                known.failing = None;
                if known.missing.take().is_some() {
                    events.push(missing(watched, None));
                }
                for name in unnamed {
                    self.gone(watched, &name, events);
                }
                self.forget_deleted(watched);
            }
            // What is known stays: an API server that is just starting says so too, and objects of a CRD that is deleted
            // are deleted one by one before.
            Sighting::Missing(why) => {
                known.listed = true;
                known.failing = None;
                if known.missing.as_ref() != Some(&why) {
                    events.push(missing(watched, Some(&why)));
                    known.missing = Some(why);
                }
            }
            Sighting::Failing(why) => {
                if known.failing.as_ref() != Some(&why) {
                    tracing::warn!(kind = %watched, why, "cannot be read from the API server; trying again");
                    known.failing = Some(why);
                }
                return;
            }
        }
        if !self.done && self.kinds.values().all(|known| known.listed) {
            self.done = true;
            events.push(Event::InitDone);
        }
    }

    /// Objects that were deleted before this process began have no last good version.
    fn forget_deleted(&mut self, watched: Watched) {
        let (Watched::Object(kind), Some(known)) = (watched, self.kinds.get(&watched)) else { return };
        let there = |r: &ObjectRef| known.objects.contains_key(&(r.namespace.clone(), r.name.clone()));
        let deleted = |reference: &ObjectRef| reference.kind == kind && !there(reference);
        for reference in self.last_good.keys().filter(|reference| deleted(reference)) {
            self.kept.forget(reference);
        }
        self.last_good.retain(|reference, _| !deleted(reference));
    }

    fn apply(&mut self, watched: Watched, name: ObjectName, value: Value, events: &mut Vec<Event>) {
        let hash = resource::version(value.to_string().as_bytes());
        let known = self.kinds.entry(watched).or_default();
        known.failing = None;
        let told = known.objects.entry(name.clone()).or_default();
        if told.hash == hash {
            return;
        }
        told.hash = hash;
        match watched {
            Watched::Node => self.apply_node(name.1, &value, events),
            Watched::EndpointSlice => match slice::slice(value) {
                Ok(slice) => events.push(Event::Slice { name, slice: slice.map(Box::new) }),
                Err(error) => {
                    tracing::warn!(name = %name.1, namespace = %name.0, error, "an unreadable EndpointSlice");
                }
            },
            Watched::Object(kind) => self.apply_object(kind, name, value, events),
        }
    }

    fn apply_object(&mut self, kind: Kind, name: ObjectName, value: Value, events: &mut Vec<Event>) {
        let reference = ObjectRef::new(kind, &name.0, &name.1);
        let known = self.kinds.entry(Watched::Object(kind)).or_default();
        let told = known.objects.entry(name).or_default();
        let generation = value.pointer("/metadata/generation").and_then(Value::as_i64);
        match from_value(value, Origin::default()) {
            Document::Accepted(resource) => {
                told.applied = true;
                let mut resource = resource;
                if is_configuration(kind) {
                    self.kept.keep(&reference, &resource.value);
                } else {
                    // Their text is never needed again.
                    resource.value = Arc::new(Value::Null);
                }
                if kind == Kind::Pod {
                    told.pod = Some(resource.clone());
                    resource = placed(resource, &self.nodes);
                } else {
                    self.last_good.remove(&reference);
                }
                events.push(Event::Apply(Box::new(resource)));
            }
            Document::Refused(refused) => {
                if !told.applied
                    && let Some(good) = self.last_good.remove(&reference).and_then(restore)
                {
                    told.applied = true;
                    events.push(Event::Apply(Box::new(good)));
                }
                let last_good = told.applied;
                let refused = named(refused, &reference);
                events.push(Event::Refused(Box::new(Refusal { reference, generation, refused, last_good })));
            }
            Document::Ignored(problem) => {
                tracing::warn!(object = %reference, %problem, "an object of no use");
            }
        }
    }

    fn apply_node(&mut self, name: Arc<str>, value: &Value, events: &mut Vec<Event>) {
        let labels = value.pointer("/metadata/labels").cloned().unwrap_or_default();
        let labels: Labels = serde_json::from_value(labels).unwrap_or_default();
        if self.nodes.get(&name) == Some(&labels) {
            return;
        }
        self.nodes.insert(name.clone(), labels);
        let Some(pods) = self.kinds.get(&Watched::Object(Kind::Pod)) else { return };
        for told in pods.objects.values() {
            if let Some(resource) = told.pod.as_ref().filter(|r| node_of(r) == Some(&*name)) {
                events.push(Event::Apply(Box::new(placed(resource.clone(), &self.nodes))));
            }
        }
    }

    fn gone(&mut self, watched: Watched, name: &ObjectName, events: &mut Vec<Event>) {
        let known = self.kinds.entry(watched).or_default();
        if let Some(unnamed) = &mut known.unnamed {
            unnamed.remove(name);
        }
        if known.objects.remove(name).is_none() {
            return;
        }
        match watched {
            // Its pods keep their place for as long as they are told to be there.
            Watched::Node => {
                self.nodes.remove(&name.1);
            }
            Watched::EndpointSlice => events.push(Event::Slice { name: name.clone(), slice: None }),
            Watched::Object(kind) => {
                let reference = ObjectRef::new(kind, &name.0, &name.1);
                self.last_good.remove(&reference);
                self.kept.forget(&reference);
                events.push(Event::Delete(reference));
            }
        }
    }
}

/// Whether objects of a kind are written by people, for the mesh.
#[must_use]
pub fn is_configuration(kind: Kind) -> bool {
    kind.group().ends_with("istio.io") || kind.group() == "gateway.networking.k8s.io"
}

fn restore(value: Value) -> Option<Resource> {
    match from_value(value, Origin::default()) {
        Document::Accepted(resource) => Some(resource),
        Document::Refused(_) | Document::Ignored(_) => None,
    }
}

/// Even an object whose header cannot be read has the name that the API server knows.
fn named(mut refused: Refused, reference: &ObjectRef) -> Refused {
    refused.reference.get_or_insert_with(|| reference.clone());
    for problem in &mut refused.problems {
        problem.object.get_or_insert_with(|| reference.clone());
    }
    refused
}

fn pod(resource: &Resource) -> Option<&Arc<Pod>> {
    match &resource.object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

fn node_of(resource: &Resource) -> Option<&str> {
    pod(resource).map(|pod| pod.spec.node_name.as_str())
}

/// The pod with its node's topology labels, where it has none of its own.
fn placed(resource: Resource, nodes: &BTreeMap<Arc<str>, Labels>) -> Resource {
    let place = node_of(&resource).and_then(|node| nodes.get(node)).filter(|labels| !labels.is_empty());
    let (Some(place), Some(pod)) = (place, pod(&resource)) else { return resource };
    let mut pod = Pod::clone(pod);
    for (name, value) in place {
        pod.metadata.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Resource { object: Object::Pod(Arc::new(pod)), ..resource }
}

/// A kind that is not served, as status tells it; `None`: it is served (again).
fn missing(watched: Watched, why: Option<&str>) -> Event {
    let path = PathBuf::from(format!("CustomResourceDefinition {}.{}", watched.kind_name(), watched.group()));
    let problem = |why: &str| Problem {
        file: Arc::from(path.display().to_string()),
        position: Position::default(),
        object: None,
        path: String::new(),
        message: why.to_owned(),
        expected: "the CRDs of the chart `base`; it is looked for again".to_owned(),
        severity: Severity::Warning,
    };
    // Kinds that are not in force anyway are missed by nobody.
    let problems = why.filter(|_| watched.is_missed()).map(problem).into_iter().collect();
    Event::File { path, problems }
}
