//! The user's YAML, read again at every change. In: paths; out: the objects that count now.
//!
//! The same rule as in the pilot: an object that turned bad keeps its last good version, and a file that cannot be read
//! keeps all that it held. So a half-written file disturbs nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_proto::crd::{self, Document, ObjectRef, Resource};

/// What the files said last.
#[derive(Debug, Default)]
pub struct Files {
    paths: Vec<PathBuf>,
    good: BTreeMap<Arc<str>, Vec<Resource>>,
}

impl Files {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, good: BTreeMap::new() }
    }

    /// Reads all files: one of each object; of two with the same name the first one counts. What is wrong with them is the
    /// pilot's to tell.
    pub fn read(&mut self) -> Vec<Resource> {
        let mut read = BTreeMap::new();
        let mut order = Vec::new();
        for file in self.listing() {
            let documents = crd::parse_file(&file);
            let name: Arc<str> = Arc::from(file.display().to_string());
            let held = self.good.get(&name).map_or(&[][..], Vec::as_slice);
            read.insert(name.clone(), merge(documents, held));
            order.push(name);
        }
        self.good = read;
        let mut seen = HashSet::new();
        let all = order.iter().filter_map(|name| self.good.get(name)).flatten();
        all.filter(|r| seen.insert(r.reference.clone())).cloned().collect()
    }

    /// The files that are there now. A path that has gone is a deleted file.
    fn listing(&self) -> Vec<PathBuf> {
        let one = |path: &PathBuf| crd::yaml_files(std::slice::from_ref(path)).unwrap_or_default();
        let mut seen = HashSet::new();
        self.paths.iter().flat_map(one).filter(|file| file.exists() && seen.insert(file.clone())).collect()
    }

    /// The directories in which changes can happen: those given, and those that hold the files given (an editor replaces a
    /// file instead of writing into it).
    #[must_use]
    pub fn directories(&self) -> Vec<(PathBuf, bool)> {
        let place = |path: &PathBuf| {
            if path.is_dir() {
                (path.clone(), true)
            } else {
                (path.parent().unwrap_or(Path::new("/")).to_owned(), false)
            }
        };
        self.paths.iter().map(place).collect()
    }

    /// Whether a change of `path` can matter.
    #[must_use]
    pub fn concerns(paths: &[PathBuf], path: &Path) -> bool {
        paths.iter().any(|given| path.starts_with(given))
    }
}

/// A file's new documents, with what it held before in place of what cannot be read now.
fn merge(documents: Vec<Document>, held: &[Resource]) -> Vec<Resource> {
    let mut unreadable = false;
    let mut refused: HashSet<ObjectRef> = HashSet::new();
    let mut merged = Vec::new();
    for document in documents {
        match document {
            Document::Accepted(resource) => merged.push(resource),
            Document::Refused(bad) => match bad.reference {
                Some(reference) => drop(refused.insert(reference)),
                None => unreadable = true,
            },
            Document::Ignored(_) => {}
        }
    }
    let present: HashSet<ObjectRef> = merged.iter().map(|r| r.reference.clone()).collect();
    let kept = held.iter().filter(|r| !present.contains(&r.reference));
    merged.extend(kept.filter(|r| unreadable || refused.contains(&r.reference)).cloned());
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    const ACCOUNT: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: b}\n";

    fn names(resources: &[Resource]) -> Vec<String> {
        resources.iter().map(|r| r.reference.to_string()).collect()
    }

    #[test]
    fn what_turns_bad_keeps_its_last_good_version_until_it_is_deleted() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a.yaml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let mut files = Files::new(vec![place.path().to_owned()]);
        write(&format!("{SERVICE}---\n{ACCOUNT}"));
        let both = ["Service default/a", "ServiceAccount default/b"];
        assert_eq!(names(&files.read()), both);
        // Half a file: nothing is lost.
        write(&format!("{SERVICE}---\n\"half"));
        assert_eq!(names(&files.read()), both);
        // A document that is gone is gone.
        write(ACCOUNT);
        assert_eq!(names(&files.read()), ["ServiceAccount default/b"]);
        std::fs::remove_file(&file).unwrap();
        assert!(names(&files.read()).is_empty());
    }
}
