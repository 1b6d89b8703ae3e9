//! The index: all objects and their joins, as a pure state machine. In: [`Event`]s. Out: [`Snapshot`]s, and what differs
//! between one and the next.
//!
//! ```text
//! Service ─ selector ─► Pod        endpoints of a service port = ready pods x the target port
//!    └ ports ─ targetPort ─► containerPort
//! ```
//! In a cluster the cluster's EndpointSlices take the place of selectors ([`Index::with_slices`]).
//! It holds each object once; what it derives is bounded by services x selected pods.

mod convert;
mod entries;
mod join;
mod objects;
mod slices;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::crd::{Object, ObjectRef, Problem, Resource};

pub use self::convert::locality;
use self::entries::Claims;
use self::objects::Objects;
pub use self::objects::Standing;
use self::slices::Slices;
use crate::keys::{KeySource, Keys};
use crate::snapshot::{
    Changes, Config, EndpointSet, Held, Labels, MeshOptions, MeshSettings, Pod, PodKey, Service, Snapshot,
};
use crate::source::{Event, Refusal};

/// Something that people want to see as it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A pod gets traffic from now on.
    EndpointUp(Arc<Pod>),
    /// A pod gets none any more.
    EndpointDown(Arc<Pod>),
    /// An object is in force (as of now accepted by the pilot).
    Applied(ObjectRef, String),
    /// An object's newest version is refused.
    Refused(ObjectRef, Vec<Problem>),
    /// An object is gone.
    Removed(ObjectRef),
    /// Something is wrong with a file.
    File(PathBuf, Vec<Problem>),
}

/// All objects and what follows from them.
pub struct Index {
    mesh: MeshSettings,
    objects: Objects,
    services: BTreeMap<Arc<str>, Arc<Held<Service>>>,
    claims: Claims,
    pods: BTreeMap<PodKey, Arc<Pod>>,
    endpoints: Arc<BTreeMap<mesh_proto::model::HostPort, Arc<EndpointSet>>>,
    workloads: Arc<BTreeMap<IpAddr, Arc<Pod>>>,
    published_pods: Arc<BTreeMap<PodKey, Arc<Pod>>>,
    config: Arc<Config>,
    options: MeshOptions,
    /// The first listing is done, and each issuer's keys have been asked for once, or nobody waits for that any longer:
    /// proxies are not told of keys that are not there because nobody has asked yet.
    ready: bool,
    /// See [`Self::stop_waiting`].
    waited: bool,
    /// What is known of issuers' keys.
    keys: Arc<BTreeMap<KeySource, Keys>>,
    loaded: bool,
    /// Endpoints as the cluster says them; `None`: as selectors and pods do.
    slices: Option<Slices>,
    /// While a listing is under way: the pods that it has not named yet.
    unnamed_pods: BTreeSet<PodKey>,
    /// What changed since the last snapshot.
    dirty_config: bool,
    dirty_services: BTreeSet<Arc<str>>,
    dirty_pods: BTreeSet<PodKey>,
    notices: Vec<Notice>,
}

impl Index {
    /// An empty mesh.
    #[must_use]
    pub fn new(mesh: MeshSettings) -> Self {
        Self {
            config: Arc::new(Config::empty(mesh.clone())),
            mesh,
            objects: Objects::default(),
            services: BTreeMap::new(),
            claims: Claims::default(),
            pods: BTreeMap::new(),
            endpoints: Arc::default(),
            workloads: Arc::default(),
            published_pods: Arc::default(),
            options: MeshOptions::default(),
            ready: false,
            waited: false,
            keys: Arc::default(),
            loaded: false,
            slices: None,
            unnamed_pods: BTreeSet::new(),
            dirty_config: false,
            dirty_services: BTreeSet::new(),
            dirty_pods: BTreeSet::new(),
            notices: Vec::new(),
        }
    }

    /// An empty mesh whose services get their endpoints from [`Event::Slice`], not from selectors.
    #[must_use]
    pub fn with_slices(mesh: MeshSettings) -> Self {
        Self { slices: Some(Slices::default()), ..Self::new(mesh) }
    }

    /// Takes one event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Init => {
                self.objects.begin_listing();
                self.unnamed_pods = self.pods.keys().cloned().collect();
            }
            Event::Apply(resource) => self.apply_object(*resource),
            Event::Delete(reference) => self.delete(&reference),
            Event::Refused(refusal) => self.refuse(*refusal),
            Event::File { path, problems } => {
                if !problems.is_empty() {
                    self.notices.push(Notice::File(path.clone(), problems.clone()));
                }
                self.objects.set_file(path, problems);
            }
            Event::Slice { name, slice } => self.set_slice(name, slice.map(|slice| *slice)),
            Event::Keys { source, keys } => {
                if self.keys.get(&source) != Some(&keys) {
                    Arc::make_mut(&mut self.keys).insert(source, keys);
                    self.dirty_config = true;
                }
            }
            Event::Options(options) => {
                self.dirty_config |= self.options != *options;
                self.options = *options;
            }
            Event::InitDone => {
                for reference in self.objects.end_listing() {
                    self.delete(&reference);
                }
                for key in std::mem::take(&mut self.unnamed_pods) {
                    self.set_pod(key, None);
                }
                self.loaded = true;
            }
        }
    }

    /// The mesh as it is now, and what differs from the snapshot before.
    pub fn snapshot(&mut self) -> (Arc<Snapshot>, Changes) {
        let mut changes = Changes::default();
        self.join(&mut changes);
        if std::mem::take(&mut self.dirty_config) {
            let mut config = self.objects.config(
                self.config.revision + 1,
                self.mesh.clone(),
                self.options.clone(),
                self.services.clone(),
                self.claims.shadowed(),
            );
            // What nobody wants any more is not followed any more either.
            config.keys = self.keys.clone();
            let wanted = crate::compile::key_sources(&config);
            if self.keys.keys().any(|source| !wanted.contains_key(source)) {
                Arc::make_mut(&mut self.keys).retain(|source, _| wanted.contains_key(source));
                config.keys = self.keys.clone();
            }
            self.config = Arc::new(config);
            changes.config = true;
        }
        let asked =
            || crate::compile::key_sources(&self.config).keys().all(|source| self.keys.contains_key(source));
        self.ready = self.ready || self.loaded && (self.waited || asked());
        let snapshot = Snapshot {
            config: self.config.clone(),
            endpoints: self.endpoints.clone(),
            workloads: self.workloads.clone(),
            pods: self.published_pods.clone(),
            loaded: self.ready,
        };
        (Arc::new(snapshot), changes)
    }

    /// The first listing is done, and what proxies wait for is the first answers of issuers.
    #[must_use]
    pub fn waits_for_keys(&self) -> bool {
        self.loaded && !self.ready
    }

    /// Issuers had long enough to answer for the first time: no author of rules keeps all proxies from being served. From the
    /// next snapshot on.
    pub fn stop_waiting(&mut self) {
        self.waited = true;
    }

    /// What happened since the last call, for people.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// How each object stands with the pilot itself, and what is wrong with files.
    pub fn standings(&self) -> (Vec<Standing>, BTreeMap<PathBuf, Vec<Problem>>) {
        (self.objects.standings(), self.objects.files().clone())
    }

    fn apply_object(&mut self, resource: Resource) {
        let reference = resource.reference.clone();
        match &resource.object {
            Object::Pod(pod) => {
                let key = (reference.namespace, reference.name);
                self.unnamed_pods.remove(&key);
                self.set_pod(key, convert::pod(pod, &self.mesh));
                return;
            }
            Object::Service(service) => {
                let service = convert::service(service, &self.mesh);
                let revision = self.objects.next_revision();
                let held = |spec| Held {
                    reference: reference.clone(),
                    revision,
                    origin: resource.origin.clone(),
                    spec,
                };
                self.set_services(&resource, service.map(held).into_iter().collect());
                self.objects.apply(resource, Some(revision));
            }
            Object::ServiceEntry(entry) => {
                let revision = self.objects.next_revision();
                let held = |spec| Held {
                    reference: reference.clone(),
                    revision,
                    origin: resource.origin.clone(),
                    spec,
                };
                let services = entries::services(entry, &self.mesh).into_iter().map(held).collect();
                self.set_services(&resource, services);
                self.objects.apply(resource, Some(revision));
            }
            _ => self.objects.apply(resource, None),
        }
        self.dirty_config = true;
        let location = self.objects.location(&reference);
        self.notices.push(Notice::Applied(reference, location));
    }

    fn delete(&mut self, reference: &ObjectRef) {
        match reference.kind {
            mesh_proto::crd::Kind::Pod => {
                self.set_pod((reference.namespace.clone(), reference.name.clone()), None);
                return;
            }
            mesh_proto::crd::Kind::Service | mesh_proto::crd::Kind::ServiceEntry => {
                let changed = self.claims.take(reference, None, Vec::new());
                self.settle_services(changed);
            }
            _ => {}
        }
        if self.objects.delete(reference) {
            self.dirty_config = true;
            self.notices.push(Notice::Removed(reference.clone()));
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.notices.push(Notice::Refused(refusal.reference.clone(), refusal.refused.problems.clone()));
        self.dirty_config |= self.objects.refuse(refusal);
    }
}

/// Whether a pod has all labels of a selector; an empty selector selects nothing here.
fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && mesh_proto::crd::meta::holds_all(selector, labels)
}
