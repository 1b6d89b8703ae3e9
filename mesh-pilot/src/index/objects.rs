//! All objects but pods, and how each stands: in force, refused, with an older version in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use mesh_proto::crd::{Object, ObjectMeta, ObjectRef, Problem, Resource, Restriction};

use super::convert;
use crate::snapshot::{Config, Held, Labels, MeshOptions, MeshSettings, Service, Shadowed};
use crate::source::Refusal;

/// How an object stands with the pilot itself.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Which object.
    pub reference: ObjectRef,
    /// `file:line`, or empty.
    pub location: String,
    /// Counted by the API server: of the newest version, refused or not.
    pub generation: Option<i64>,
    /// The version in force, if any.
    pub revision: Option<u64>,
    /// Why the newest version is refused, if it is.
    pub refused: Option<Vec<Problem>>,
    /// Warnings about the version in force.
    pub warnings: Vec<Problem>,
}

#[derive(Default)]
struct Entry {
    applied: Option<(Resource, u64)>,
    refusal: Option<Refusal>,
}

/// The objects.
#[derive(Default)]
pub struct Objects {
    entries: BTreeMap<ObjectRef, Entry>,
    files: BTreeMap<PathBuf, Vec<Problem>>,
    revision: u64,
    /// While a listing is under way: what it has not named yet.
    unnamed: Option<BTreeSet<ObjectRef>>,
}

impl Objects {
    pub(super) fn begin_listing(&mut self) {
        self.unnamed = Some(self.entries.keys().cloned().collect());
    }

    /// What the listing did not name.
    pub(super) fn end_listing(&mut self) -> BTreeSet<ObjectRef> {
        self.unnamed.take().unwrap_or_default()
    }

    pub(super) fn seen(&mut self, reference: &ObjectRef) {
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.remove(reference);
        }
    }

    pub(super) fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    pub(super) fn apply(&mut self, resource: Resource, revision: Option<u64>) {
        self.seen(&resource.reference);
        let revision = revision.unwrap_or_else(|| self.next_revision());
        let entry = self.entries.entry(resource.reference.clone()).or_default();
        *entry = Entry { applied: Some((resource, revision)), refusal: None };
    }

    /// Whether configuration changes by it: only what it restricts does.
    pub(super) fn refuse(&mut self, refusal: Refusal) -> bool {
        self.seen(&refusal.reference);
        let entry = self.entries.entry(refusal.reference.clone()).or_default();
        let restriction = |r: &Option<Refusal>| r.as_ref().and_then(|r| r.refused.restriction.clone());
        let before = restriction(&entry.refusal);
        entry.refusal = Some(refusal);
        before != restriction(&entry.refusal)
    }

    /// Whether it was there.
    pub(super) fn delete(&mut self, reference: &ObjectRef) -> bool {
        self.entries.remove(reference).is_some()
    }

    pub(super) fn set_file(&mut self, path: PathBuf, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.files.remove(&path);
        } else {
            self.files.insert(path, problems);
        }
    }

    pub(super) fn files(&self) -> &BTreeMap<PathBuf, Vec<Problem>> {
        &self.files
    }

    pub(super) fn location(&self, reference: &ObjectRef) -> String {
        let applied = self.entries.get(reference).and_then(|entry| entry.applied.as_ref());
        applied.map(|(resource, _)| resource.origin.location("")).unwrap_or_default()
    }

    pub(super) fn standings(&self) -> Vec<Standing> {
        let standing = |(reference, entry): (&ObjectRef, &Entry)| {
            let origin = match (&entry.refusal, &entry.applied) {
                (Some(refusal), _) => Some(&refusal.refused.origin),
                (None, Some((resource, _))) => Some(&resource.origin),
                (None, None) => None,
            };
            let applied = entry.applied.as_ref();
            Standing {
                reference: reference.clone(),
                generation: match &entry.refusal {
                    Some(refusal) => refusal.generation,
                    None => applied.and_then(|(resource, _)| resource.object.metadata().generation),
                },
                location: origin.map(|origin| origin.location("")).unwrap_or_default(),
                revision: applied.map(|(_, revision)| *revision),
                refused: entry.refusal.as_ref().map(|refusal| refusal.refused.problems.clone()),
                warnings: applied.map(|(resource, _)| resource.problems.to_vec()).unwrap_or_default(),
            }
        };
        self.entries.iter().map(standing).collect()
    }

    pub(super) fn config(
        &self,
        revision: u64,
        mesh: MeshSettings,
        options: MeshOptions,
        services: BTreeMap<Arc<str>, Arc<Held<Service>>>,
        shadowed: Vec<Shadowed>,
    ) -> Config {
        let mut config = Config { revision, options, services, shadowed, ..Config::empty(mesh) };
        for (reference, entry) in &self.entries {
            if !reference.namespace.is_empty() {
                config.namespaces.entry(reference.namespace.clone()).or_default();
            }
            if let Some((resource, revision)) = &entry.applied {
                add(&mut config, resource, *revision);
            } else if let Some(restriction) =
                entry.refusal.as_ref().and_then(|r| r.refused.restriction.clone())
            {
                config.restrictions.push(restriction);
            }
        }
        // No other Secret is anybody's business here.
        let named = crate::compile::named_secrets(&config.gateways, &config.destination_rules);
        config.secrets.retain(|(_, name), _| named.contains(&**name));
        by_age(&mut config.virtual_services, |o| &o.metadata);
        by_age(&mut config.destination_rules, |o| &o.metadata);
        by_age(&mut config.gateways, |o| &o.metadata);
        by_age(&mut config.peer_authentications, |o| &o.metadata);
        config.restrictions.sort_by(|a: &Restriction, b| a.reference.cmp(&b.reference));
        config.label_scoped =
            config.destination_rules.iter().any(|rule| rule.spec.spec.workload_selector.is_some());
        config
    }
}

fn add(config: &mut Config, resource: &Resource, revision: u64) {
    match &resource.object {
        Object::VirtualService(spec) => config.virtual_services.push(held(resource, revision, spec)),
        Object::DestinationRule(spec) => config.destination_rules.push(held(resource, revision, spec)),
        Object::Gateway(spec) => config.gateways.push(held(resource, revision, spec)),
        Object::Secret(spec) => {
            let key = (resource.reference.namespace.clone(), resource.reference.name.clone());
            config.secrets.insert(key, held(resource, revision, spec));
        }
        Object::PeerAuthentication(spec) => config.peer_authentications.push(held(resource, revision, spec)),
        Object::AuthorizationPolicy(spec) => {
            config.authorization_policies.push(held(resource, revision, spec));
        }
        Object::RequestAuthentication(spec) => {
            config.request_authentications.push(held(resource, revision, spec));
        }
        Object::Namespace(namespace) => {
            let labels: Labels = namespace.metadata.labels.clone();
            config.namespaces.insert(resource.reference.name.clone(), labels);
        }
        Object::Service(service) => {
            if let Some(alias) = convert::alias(service, &config.mesh) {
                let (reference, origin) = (resource.reference.clone(), resource.origin.clone());
                let host = alias.host.clone();
                config.aliases.insert(host, Arc::new(Held { reference, revision, origin, spec: alias }));
            }
        }
        Object::ServiceAccount(_)
        | Object::Deployment(_)
        | Object::Pod(_)
        | Object::ServiceEntry(_)
        | Object::ConfigMap(_) => {}
    }
}

fn held<T>(resource: &Resource, revision: u64, spec: &Arc<T>) -> Arc<Held<Arc<T>>> {
    Arc::new(Held {
        reference: resource.reference.clone(),
        revision,
        origin: resource.origin.clone(),
        spec: spec.clone(),
    })
}

fn by_age<T>(list: &mut [Arc<Held<Arc<T>>>], metadata: impl Fn(&T) -> &ObjectMeta) {
    list.sort_by(|a, b| metadata(&a.spec).age().cmp(&metadata(&b.spec).age()));
}
