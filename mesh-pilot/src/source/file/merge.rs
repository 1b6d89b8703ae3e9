//! From files to objects: which document stands for which object, what is new, what is gone, what stays in force.
//!
//! In: listings. Out: events. No watching, no clock of its own; on disk only through [`LastGood`] and [`Vips`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::crd::service_entry::Resolution;
use mesh_proto::crd::{
    Document, Kind, Object, ObjectRef, Position, Problem, Refused, Resource, ServiceEntry, Severity, parse,
};
use tokio::time::Instant;

use super::last_good::LastGood;
use super::scan::{Content, Listing};
use super::vips::Vips;
use crate::mesh_config::in_files;
use crate::snapshot::MeshOptions;
use crate::source::{Event, Refusal};

/// An object that is missing from the user's files is deleted only when it is still missing after this time: editors
/// and `>` redirections empty or remove a file for a moment when they write it.
pub const GRACE: Duration = Duration::from_millis(150);

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The user's configuration.
    User,
    /// Pods and their state, written by the supervisor, by rename.
    State,
}

struct File {
    layer: Layer,
    content: Content,
    documents: Vec<Document>,
}

/// What was told about an object.
#[derive(Default)]
struct Told {
    layer: Option<Layer>,
    /// What is in force.
    applied: Option<Resource>,
    refusal: Option<Refusal>,
    /// The file that it came from last.
    file: Option<PathBuf>,
    missing_since: Option<Instant>,
}

/// The state of all files.
pub struct Files {
    files: BTreeMap<PathBuf, File>,
    told: BTreeMap<ObjectRef, Told>,
    file_problems: BTreeMap<PathBuf, Vec<Problem>>,
    last_good: LastGood,
    vips: Vips,
    /// MeshConfig in force.
    options: MeshOptions,
    started: bool,
}

/// What the files want, before it is compared with what was told.
#[derive(Default)]
struct Wanted {
    objects: BTreeMap<ObjectRef, (PathBuf, Layer, Want)>,
    problems: BTreeMap<PathBuf, Vec<Problem>>,
    /// Files of which a part could not be read: what came from them stays.
    opaque: BTreeSet<PathBuf>,
}

enum Want {
    Good(Resource),
    Bad(Refused),
}

impl Files {
    /// No files yet.
    pub fn new(last_good: LastGood, vips: Vips) -> Self {
        Self {
            files: BTreeMap::new(),
            told: BTreeMap::new(),
            file_problems: BTreeMap::new(),
            last_good,
            vips,
            options: MeshOptions::default(),
            started: false,
        }
    }

    /// Compares the listings with what was told before. Also when to look again even if nothing happens.
    pub fn update(&mut self, user: Listing, state: Listing, now: Instant) -> (Vec<Event>, Option<Instant>) {
        self.read(user, state);
        let mut wanted = self.wanted();
        let mut events = Vec::new();
        let mut recheck = None;
        if !self.started {
            events.push(Event::Init);
        }
        let opaque = wanted.opaque;
        let gone = self.told.keys().filter(|r| !wanted.objects.contains_key(r)).cloned().collect::<Vec<_>>();
        for (reference, (path, layer, want)) in wanted.objects {
            self.tell(reference, path, layer, want, &mut events);
        }
        for reference in gone {
            self.tell_gone(&reference, &opaque, now, &mut recheck, &mut events);
        }
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.restore(&opaque, &mut events);
        }
        self.tell_options(&mut wanted.problems, &mut events);
        self.tell_problems(wanted.problems, &mut events);
        if first {
            events.push(Event::InitDone);
        }
        (events, recheck)
    }

    /// What the ConfigMap in force says of the whole mesh; without one, what is the default.
    fn tell_options(&mut self, problems: &mut BTreeMap<PathBuf, Vec<Problem>>, events: &mut Vec<Event>) {
        let told = self.told.get(&ObjectRef::new(Kind::ConfigMap, "istio-system", "istio"));
        let map = told.and_then(|told| Some((told.applied.as_ref()?, told.file.as_ref()?)));
        let mut options = Some(MeshOptions::default());
        if let Some((map, file)) = map
            && let Some((said, wrong)) = in_files::said(map)
        {
            options = said;
            if !wrong.is_empty() {
                problems.entry(file.clone()).or_default().extend(wrong);
            }
        }
        if let Some(options) = options.filter(|options| *options != self.options) {
            self.options = options.clone();
            events.push(Event::Options(Box::new(options)));
        }
    }

    /// Parses what is new.
    fn read(&mut self, user: Listing, state: Listing) {
        let mut before = std::mem::take(&mut self.files);
        let layers = [(Layer::State, state), (Layer::User, user)];
        for (layer, listing) in layers {
            for (path, content) in listing {
                let known =
                    before.remove(&path).filter(|file| file.content == content && file.layer == layer);
                let file = known.unwrap_or_else(|| {
                    let name = path.display().to_string();
                    let documents = match &content {
                        Content::Text(text) => parse(&name, text),
                        Content::Unreadable(_) => Vec::new(),
                    };
                    File { layer, content, documents }
                });
                self.files.insert(path, file);
            }
        }
    }

    /// The first document by path wins; the user's files come before the supervisor's.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for layer in [Layer::User, Layer::State] {
            for (path, file) in self.files.iter().filter(|(_, file)| file.layer == layer) {
                if let Content::Unreadable(why) = &file.content {
                    wanted.opaque.insert(path.clone());
                    wanted.problems.entry(path.clone()).or_default().push(unreadable(path, why));
                }
                for document in &file.documents {
                    wanted.add(path, layer, document);
                }
            }
        }
        wanted.problems.retain(|_, problems| !problems.is_empty());
        wanted
    }

    fn tell(
        &mut self,
        reference: ObjectRef,
        path: PathBuf,
        layer: Layer,
        want: Want,
        events: &mut Vec<Event>,
    ) {
        let told = self.told.entry(reference.clone()).or_default();
        told.missing_since = None;
        told.layer = Some(layer);
        told.file = Some(path);
        match want {
            Want::Good(resource) => {
                let resource = with_address(resource, &mut self.vips);
                if layer == Layer::User && !matches!(resource.object, Object::Secret(_)) {
                    self.last_good.keep(&resource);
                }
                if told.applied.as_ref() != Some(&resource) || told.refusal.take().is_some() {
                    told.refusal = None;
                    told.applied = Some(resource.clone());
                    events.push(Event::Apply(Box::new(resource)));
                }
            }
            Want::Bad(refused) => {
                if told.applied.is_none()
                    && let Some(good) = self.last_good.get(&reference)
                {
                    let good = with_address(good, &mut self.vips);
                    told.applied = Some(good.clone());
                    events.push(Event::Apply(Box::new(good)));
                }
                let refusal =
                    Refusal { reference, generation: None, refused, last_good: told.applied.is_some() };
                if told.refusal.as_ref() != Some(&refusal) {
                    told.refusal = Some(refusal.clone());
                    events.push(Event::Refused(Box::new(refusal)));
                }
            }
        }
    }

    /// An object is in no file that can be read.
    fn tell_gone(
        &mut self,
        reference: &ObjectRef,
        opaque: &BTreeSet<PathBuf>,
        now: Instant,
        recheck: &mut Option<Instant>,
        events: &mut Vec<Event>,
    ) {
        let Some(told) = self.told.get_mut(reference) else { return };
        if told.file.as_ref().is_some_and(|file| opaque.contains(file)) {
            told.missing_since = None;
            return;
        }
        if told.layer == Some(Layer::User) {
            let since = *told.missing_since.get_or_insert(now);
            let due = since + GRACE;
            if now < due {
                *recheck = Some(recheck.map_or(due, |at: Instant| at.min(due)));
                return;
            }
            self.last_good.forget(reference);
        }
        for name in told.applied.iter().flat_map(addressed) {
            self.vips.release(&name);
        }
        self.told.remove(reference);
        events.push(Event::Delete(reference.clone()));
    }

    fn tell_problems(&mut self, problems: BTreeMap<PathBuf, Vec<Problem>>, events: &mut Vec<Event>) {
        for path in self.file_problems.keys().filter(|path| !problems.contains_key(*path)) {
            events.push(Event::File { path: path.clone(), problems: Vec::new() });
        }
        for (path, problems) in &problems {
            if self.file_problems.get(path) != Some(problems) {
                events.push(Event::File { path: path.clone(), problems: problems.clone() });
            }
        }
        self.file_problems = problems;
    }

    /// At the start: what an earlier run had from files that cannot be read now stays in force; what was deleted
    /// meanwhile is forgotten.
    fn restore(&mut self, opaque: &BTreeSet<PathBuf>, events: &mut Vec<Event>) {
        for path in opaque {
            for reference in self.last_good.of_file(&path.display().to_string()) {
                if self.told.contains_key(&reference) {
                    continue;
                }
                let Some(good) = self.last_good.get(&reference) else { continue };
                let good = with_address(good, &mut self.vips);
                let told = Told {
                    layer: Some(Layer::User),
                    applied: Some(good.clone()),
                    file: Some(path.clone()),
                    ..Told::default()
                };
                self.told.insert(reference, told);
                events.push(Event::Apply(Box::new(good)));
            }
        }
        for reference in self.last_good.references() {
            if !self.told.contains_key(&reference) {
                self.last_good.forget(&reference);
            }
        }
    }
}

impl Wanted {
    fn add(&mut self, path: &Path, layer: Layer, document: &Document) {
        let problems = self.problems.entry(path.to_owned()).or_default();
        let (reference, want) = match document {
            // The user's Pod is a wish; the supervisor's Pod of the same name is what came of it.
            Document::Accepted(resource) if layer == Layer::User && resource.reference.kind == Kind::Pod => {
                return;
            }
            Document::Accepted(resource) => (resource.reference.clone(), Want::Good(resource.clone())),
            Document::Refused(refused) => match &refused.reference {
                Some(reference) => (reference.clone(), Want::Bad(refused.clone())),
                None => {
                    problems.extend(refused.problems.iter().cloned());
                    self.opaque.insert(path.to_owned());
                    return;
                }
            },
            Document::Ignored(problem) => return problems.push(problem.clone()),
        };
        if let Some((first, ..)) = self.objects.get(&reference) {
            problems.push(duplicate(path, &reference, first, document));
            return;
        }
        self.objects.insert(reference, (path.to_owned(), layer, want));
    }
}

/// What of an object has addresses given by us: a Service, each host of a ServiceEntry.
fn addressed(resource: &Resource) -> Vec<String> {
    let name = format!("{}/{}", resource.reference.namespace, resource.reference.name);
    match &resource.object {
        Object::Service(_) => vec![name],
        Object::ServiceEntry(entry) => {
            entry.spec.hosts.iter().map(|host| format!("{name}/{}", host.to_ascii_lowercase())).collect()
        }
        _ => Vec::new(),
    }
}

/// Gives the hosts of a ServiceEntry that brings no address one each, as Istio does: only with it are bytes known to be
/// for them. Not where the address dialled is the endpoint, nor to wildcards.
fn with_addresses(resource: Resource, vips: &mut Vips) -> Resource {
    let Object::ServiceEntry(entry) = &resource.object else { return resource };
    if !entry.spec.addresses.is_empty() || entry.spec.resolved_by() == Resolution::None {
        return resource;
    }
    let names = addressed(&resource);
    let hosts = entry.spec.hosts.iter().map(|host| host.to_ascii_lowercase()).zip(names);
    let plain = hosts.filter(|(host, _)| !host.starts_with('*'));
    let given = plain.filter_map(|(host, name)| {
        Some(serde_json::json!({"value": vips.allocate(&name, None)?, "host": host}))
    });
    let status = serde_json::json!({"addresses": given.collect::<Vec<_>>()});
    let entry = ServiceEntry { status, ..(**entry).clone() };
    Resource { object: Object::ServiceEntry(Arc::new(entry)), ..resource }
}

/// Gives a Service its cluster IP.
fn with_address(resource: Resource, vips: &mut Vips) -> Resource {
    let Object::Service(service) = &resource.object else { return with_addresses(resource, vips) };
    if service.is_headless() || service.spec.r#type == "ExternalName" {
        return resource;
    }
    let name = format!("{}/{}", resource.reference.namespace, resource.reference.name);
    let address = vips.allocate(&name, service.spec.cluster_ip.parse().ok());
    if address.is_none() {
        tracing::warn!(service = name, "no cluster IP is left");
    }
    let mut service = (**service).clone();
    let both = address.into_iter().chain(address.and_then(|ip| vips.v6_of(ip)));
    service.spec.cluster_ips = both.map(|ip| ip.to_string()).collect();
    service.spec.cluster_ip = address.map(|ip| ip.to_string()).unwrap_or_default();
    Resource { object: Object::Service(Arc::new(service)), ..resource }
}

fn unreadable(path: &Path, why: &str) -> Problem {
    Problem {
        file: Arc::from(path.display().to_string()),
        position: Position::default(),
        object: None,
        path: String::new(),
        message: why.to_owned(),
        expected: "a readable YAML file".to_owned(),
        severity: Severity::Error,
    }
}

fn duplicate(path: &Path, reference: &ObjectRef, first: &Path, document: &Document) -> Problem {
    let position = match document {
        Document::Accepted(resource) => resource.origin.places.of("").key,
        Document::Refused(refused) => refused.origin.places.of("").key,
        Document::Ignored(_) => Position::default(),
    };
    Problem {
        file: Arc::from(path.display().to_string()),
        position,
        object: Some(reference.clone()),
        path: String::new(),
        message: format!("{reference} is already defined in {}, which is the one in force", first.display()),
        expected: "one definition".to_owned(),
        severity: Severity::Error,
    }
}
