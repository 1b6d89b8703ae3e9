//! The last good version of each object, on disk: what keeps it in force over a restart while its file is broken.
//!
//! One JSON file for each object, named by the hash of its reference, written by rename.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_proto::crd::object::Places;
use mesh_proto::crd::{Document, ObjectRef, Origin, Resource, from_value};
use mesh_proto::model::resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The versions on disk. Errors of the disk are told and cost only what they concern.
#[derive(Debug)]
pub struct LastGood {
    directory: PathBuf,
    entries: BTreeMap<ObjectRef, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The file that the object came from, and the places in it: a restart must not change what proxies are told.
    origin: Origin,
    value: Arc<Value>,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    file: String,
    #[serde(default)]
    places: Places,
    value: Value,
}

impl LastGood {
    /// What an earlier run has left in `directory`; entries that cannot be read are dropped.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let mut entries = BTreeMap::new();
        for item in std::fs::read_dir(&directory)? {
            let path = item?.path();
            let read = std::fs::read(&path).map_err(|e| e.to_string());
            let read =
                read.and_then(|text| serde_json::from_slice::<OnDisk>(&text).map_err(|e| e.to_string()));
            let read = read.map(|on_disk| {
                let origin = Origin { file: Arc::from(on_disk.file.as_str()), places: on_disk.places };
                (restore(&origin, on_disk.value), on_disk.file)
            });
            match read {
                Ok((Some(resource), _)) => {
                    let entry = Entry { origin: resource.origin, value: resource.value };
                    entries.insert(resource.reference, entry);
                }
                Ok((None, file)) => tracing::warn!(file, "a last good version is none any more; dropped"),
                Err(error) => tracing::warn!(path = %path.display(), error, "unreadable last good version"),
            }
        }
        Ok(Self { directory, entries })
    }

    /// The last good version of an object.
    pub fn get(&self, reference: &ObjectRef) -> Option<Resource> {
        let entry = self.entries.get(reference)?;
        restore(&entry.origin, (*entry.value).clone())
    }

    /// The objects whose last good version came from that file.
    pub fn of_file(&self, file: &str) -> Vec<ObjectRef> {
        self.entries.iter().filter(|(_, entry)| *entry.origin.file == *file).map(|(r, _)| r.clone()).collect()
    }

    /// All objects.
    pub fn references(&self) -> Vec<ObjectRef> {
        self.entries.keys().cloned().collect()
    }

    /// Remembers a good version.
    pub fn keep(&mut self, resource: &Resource) {
        let origin = resource.origin.clone();
        let same = |entry: &Entry| entry.origin == origin && entry.value == resource.value;
        if self.entries.get(&resource.reference).is_some_and(same) {
            return;
        }
        let on_disk = OnDisk {
            file: origin.file.to_string(),
            places: origin.places.clone(),
            value: (*resource.value).clone(),
        };
        let written = serde_json::to_vec(&on_disk)
            .map_err(io::Error::other)
            .and_then(|text| write_by_rename(&self.path(&resource.reference), &text));
        if let Err(error) = written {
            tracing::warn!(object = %resource.reference, %error, "cannot keep the last good version");
        }
        self.entries.insert(resource.reference.clone(), Entry { origin, value: resource.value.clone() });
    }

    /// Forgets an object that was deleted.
    pub fn forget(&mut self, reference: &ObjectRef) {
        if self.entries.remove(reference).is_some()
            && let Err(error) = std::fs::remove_file(self.path(reference))
        {
            tracing::warn!(object = %reference, %error, "cannot forget the last good version");
        }
    }

    fn path(&self, reference: &ObjectRef) -> PathBuf {
        self.directory.join(format!("{}.json", resource::version(reference.to_string().as_bytes())))
    }
}

/// Reads a version as it would be read today; what was good for an older build may not be any more.
fn restore(origin: &Origin, value: Value) -> Option<Resource> {
    match from_value(value, origin.clone()) {
        Document::Accepted(resource) => Some(resource),
        Document::Refused(_) | Document::Ignored(_) => None,
    }
}

/// Writes a file so that nobody ever sees half of it.
pub fn write_by_rename(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, content)?;
    std::fs::rename(&temporary, path)
}
