//! Files in, documents out: every document is accepted, refused by name, or told to be of no use here.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check;
use super::decode::decode;
use super::meta::{Kind, ObjectMeta, ObjectRef};
use super::object::{Document, Object, Origin, Place, Places, Refused, Resource, Restriction, Targets};
use super::problem::{Finding, Findings, Position, Problem, Severity};
use super::unsupported::{targets, unsupported};
use super::yaml::{self, Chunk, MAX_BYTES, MAX_DOCUMENTS};
use header::{Header, guess_reference};

mod header;

/// What validating some files found.
#[derive(Debug, Default)]
pub struct Report {
    /// Every document of every file, in order.
    pub documents: Vec<Document>,
    /// Everything that there is to say, in order; also about files that cannot be read.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether anything is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// Reads the documents of one YAML (or JSON) file. Never panics; what cannot be read is a refused document. A refused
/// document without a reference may be any of those that the file held before.
#[must_use]
pub fn parse(file: &str, text: &str) -> Vec<Document> {
    let file: Arc<str> = Arc::from(file);
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes", text.len());
        return vec![unreadable(&file, Position::default(), message, format!("at most {MAX_BYTES}"))];
    }
    let chunks = yaml::split(text);
    if chunks.len() > MAX_DOCUMENTS {
        let message = format!("the file has {} documents", chunks.len());
        return vec![unreadable(&file, Position::default(), message, format!("at most {MAX_DOCUMENTS}"))];
    }
    chunks.into_iter().flat_map(|chunk| chunk_documents(&file, chunk)).collect()
}

fn chunk_documents(file: &Arc<str>, chunk: Chunk<'_>) -> Vec<Document> {
    match yaml::read(chunk) {
        Ok(None) => Vec::new(),
        Ok(Some(tree)) => {
            let origin = Origin { file: Arc::clone(file), places: Places(Arc::new(tree.places)) };
            expand(tree.value, origin)
        }
        Err(error) => {
            let mut document = unreadable(file, error.position, error.message, String::new());
            if let Document::Refused(refused) = &mut document {
                refused.reference = guess_reference(chunk.text);
                for problem in &mut refused.problems {
                    problem.object.clone_from(&refused.reference);
                }
                // Whom it selects cannot be read: whoever it may be for, if it is of a kind that restricts.
                refused.restriction = restriction(
                    refused.reference.as_ref(),
                    &Value::Null,
                    refused.origin.location(""),
                    &refused.problems,
                );
            }
            vec![document]
        }
    }
}

/// Reads one file.
#[must_use]
pub fn parse_file(path: &Path) -> Vec<Document> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&file, &text),
        Err(error) => {
            vec![unreadable(&Arc::from(file), Position::default(), error.to_string(), String::new())]
        }
    }
}

/// Reads one object that is JSON already: from an API server, or the last good version from disk.
#[must_use]
pub fn from_value(value: Value, origin: Origin) -> Document {
    let header = match Header::of(&value) {
        Ok(header) => header,
        Err(finding) if finding.severity == Severity::Warning => {
            return Document::Ignored(place(finding, None, &origin));
        }
        Err(finding) => return refuse(None, &value, origin, vec![finding]),
    };
    let mut findings = Findings::default();
    header.check(&mut findings);
    let reference = header.reference();
    if let Some(why) = unsupported(header.kind) {
        let closed = matches!(targets(header.kind, &value), Some(Targets::Workloads(_)));
        let then = if closed { "; the workloads that it selects let nothing in" } else { "" };
        findings.error("kind", format!("{} {}{then}", header.kind, why.reason), "");
    }
    if findings.0.iter().any(|f| f.severity == Severity::Error) {
        return refuse(reference, &value, origin, findings.0);
    }
    let reference = reference.expect("a name was checked for");
    match decode_kind(header.kind, &reference, &value, &mut findings) {
        Ok(object) if findings.0.iter().all(|f| f.severity == Severity::Warning) => {
            let problems = findings.0.into_iter().map(|f| place(f, Some(&reference), &origin)).collect();
            Document::Accepted(Resource { reference, object, origin, value: Arc::new(value), problems })
        }
        Ok(_) => refuse(Some(reference), &value, origin, findings.0),
        Err(mut mistakes) => {
            mistakes.append(&mut findings.0);
            refuse(Some(reference), &value, origin, mistakes)
        }
    }
}

/// `kind: List` holds several objects.
fn expand(value: Value, origin: Origin) -> Vec<Document> {
    let is_list = value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "List");
    match value.get("items") {
        Some(Value::Array(items)) if is_list => {
            let below = |(index, item): (usize, &Value)| {
                let prefix = format!("items[{index}]");
                let strip = |(path, place): (&String, &Place)| {
                    let rest = path.strip_prefix(&prefix)?;
                    Some((rest.strip_prefix('.').unwrap_or(rest).to_owned(), *place))
                };
                let places: HashMap<String, Place> = origin.places.0.iter().filter_map(strip).collect();
                let origin = Origin { file: Arc::clone(&origin.file), places: Places(Arc::new(places)) };
                from_value(item.clone(), origin)
            };
            items.iter().enumerate().map(below).collect()
        }
        _ => vec![from_value(value, origin)],
    }
}

fn decode_kind(
    kind: Kind,
    reference: &ObjectRef,
    value: &Value,
    findings: &mut Findings,
) -> Result<Object, Vec<Finding>> {
    macro_rules! object {
        ($variant:ident) => {{
            let mut object = decode_one(value)?;
            fill(&mut object, reference, |o: &mut super::$variant| &mut o.metadata);
            Object::$variant(Arc::new(object))
        }};
    }
    let object = match kind {
        Kind::Namespace => object!(Namespace),
        Kind::ServiceAccount => object!(ServiceAccount),
        Kind::Service => object!(Service),
        Kind::Deployment => object!(Deployment),
        Kind::Pod => object!(Pod),
        Kind::Secret => object!(Secret),
        Kind::ConfigMap => object!(ConfigMap),
        Kind::VirtualService => object!(VirtualService),
        Kind::DestinationRule => object!(DestinationRule),
        Kind::Gateway => object!(Gateway),
        Kind::PeerAuthentication => object!(PeerAuthentication),
        Kind::AuthorizationPolicy => object!(AuthorizationPolicy),
        Kind::RequestAuthentication => object!(RequestAuthentication),
        Kind::ServiceEntry => object!(ServiceEntry),
        other => {
            findings.error("kind", format!("{other} is not in force yet"), "");
            return Err(Vec::new());
        }
    };
    check::object(&object, findings);
    Ok(object)
}

fn decode_one<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Finding>> {
    decode(value)
}

fn fill<T>(object: &mut T, reference: &ObjectRef, metadata: impl Fn(&mut T) -> &mut ObjectMeta) {
    reference.namespace.as_ref().clone_into(&mut metadata(object).namespace);
}

fn place(finding: Finding, object: Option<&ObjectRef>, origin: &Origin) -> Problem {
    let at = origin.places.of(&finding.path);
    let about_key = finding.message.starts_with("unknown field");
    Problem {
        file: Arc::clone(&origin.file),
        position: if about_key { at.key } else { at.value },
        object: object.cloned(),
        path: finding.path,
        message: finding.message,
        expected: finding.expected,
        severity: finding.severity,
    }
}

fn refuse(reference: Option<ObjectRef>, value: &Value, origin: Origin, findings: Vec<Finding>) -> Document {
    let problems: Vec<Problem> =
        findings.into_iter().map(|finding| place(finding, reference.as_ref(), &origin)).collect();
    let restriction = restriction(reference.as_ref(), value, origin.location(""), &problems);
    Document::Refused(Refused { reference, restriction, origin, problems })
}

/// Who must fail closed while a refused object has no good version.
fn restriction(
    reference: Option<&ObjectRef>,
    value: &Value,
    location: String,
    problems: &[Problem],
) -> Option<Restriction> {
    let reference = reference?;
    let targets = targets(reference.kind, value)?;
    let reason = problems.iter().find(|p| p.is_error()).map(Problem::text).unwrap_or_default();
    Some(Restriction { reference: reference.clone(), targets, location, reason })
}

fn unreadable(file: &Arc<str>, position: Position, message: String, expected: String) -> Document {
    let problem = Problem {
        file: Arc::clone(file),
        position,
        object: None,
        path: String::new(),
        message,
        expected,
        severity: Severity::Error,
    };
    let origin = Origin { file: Arc::clone(file), ..Origin::default() };
    Document::Refused(Refused { reference: None, restriction: None, origin, problems: vec![problem] })
}

/// The files behind some paths: a file is itself, a directory all `.yaml`, `.yml` and `.json` files in it and below, in
/// name order; hidden ones are left out.
///
/// # Errors
/// A path that does not exist or a directory that cannot be read.
pub fn yaml_files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        let kind = std::fs::metadata(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        if kind.is_dir() {
            directory(path, &mut files, 0)?;
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn directory(path: &Path, files: &mut Vec<PathBuf>, depth: usize) -> io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        let hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        // A link that leads back up ends at the depth.
        if entry.is_dir() && depth < 16 {
            directory(&entry, files, depth + 1)?;
        } else if entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            files.push(entry);
        }
    }
    Ok(())
}

/// Reads and checks files and directories, and tells of objects that are there twice.
#[must_use]
pub fn validate_files(paths: &[PathBuf]) -> Report {
    validate_documents(paths.iter().flat_map(|path| parse_path(path)).collect())
}

/// Reads the documents of a file, or of all files of a directory.
#[must_use]
pub fn parse_path(path: &Path) -> Vec<Document> {
    match yaml_files(&[path.to_owned()]) {
        Ok(files) => files.iter().flat_map(|file| parse_file(file)).collect(),
        Err(error) => {
            let file = Arc::from(path.display().to_string());
            vec![unreadable(&file, Position::default(), error.to_string(), String::new())]
        }
    }
}

/// Everything that there is to say about these documents, and which of their objects are there twice.
#[must_use]
pub fn validate_documents(documents: Vec<Document>) -> Report {
    let mut report = Report { documents, problems: Vec::new() };
    let mut seen: BTreeMap<&ObjectRef, String> = BTreeMap::new();
    for document in &report.documents {
        report.problems.extend(document.problems().iter().cloned());
        let Document::Accepted(resource) = document else { continue };
        if let Some(first) = seen.insert(&resource.reference, resource.origin.location("")) {
            let message = format!("the object is there twice; this one replaces the one at {first}");
            let finding = Finding {
                path: String::new(),
                message,
                expected: String::new(),
                severity: Severity::Warning,
            };
            report.problems.push(place(finding, Some(&resource.reference), &resource.origin));
        }
    }
    report
}

#[cfg(test)]
mod tests;
