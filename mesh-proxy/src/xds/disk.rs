//! The last good resources of this instance on disk, so that a restarted proxy serves names used before while the pilot
//! is away (design §3.3, "State on disk").
//!
//! In: changes, batched. Out: one file per resource, replaced by rename, readable by nobody else, bound to the pod's uid.
//! What cannot be read is left out, and said.

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mesh_proto::model::ResourceName;
use mesh_proto::model::resource::version as hash;
use mesh_proto::wire::envoy::service::discovery::v3::Resource;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::store::writer::{Held, Incoming};

/// The first line of every file.
const MAGIC: &str = "mesh-state 1";
/// The end of the names of files that hold a resource.
const SUFFIX: &str = ".resource";
/// A larger file is none of ours.
const MAX_FILE: u64 = 64 << 20;

/// A change to be written: `None` removes.
type Change = (ResourceName, Option<Held>);

/// Why a file is left out.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not written by this version")]
    Form,
    #[error("damaged")]
    Checksum,
    #[error("of another instance")]
    OtherInstance,
}

/// The directory.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    uid: String,
}

impl Disk {
    /// `<state_dir>/xds`, made if need be. `uid`: the pod's.
    ///
    /// # Errors
    /// When it cannot be made, belongs to somebody else, or others may look into it. Then there is no state on disk.
    pub fn open(state_dir: &Path, uid: &str) -> io::Result<Self> {
        let dir = state_dir.join("xds");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let found = fs::symlink_metadata(&dir)?;
        let own = found.uid() == nix::unistd::geteuid().as_raw();
        if !found.is_dir() || !own || found.mode() & 0o077 != 0 {
            let why = format!("{}: not a directory of our own with mode 0700", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Self { dir, uid: uid.to_owned() })
    }

    /// What was in force. Files that are not to be used are removed, and said.
    #[must_use]
    pub fn load(&self) -> Vec<Incoming> {
        let files = match fs::read_dir(&self.dir) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(dir = %self.dir.display(), %error, "state on disk cannot be read: starting empty");
                return Vec::new();
            }
        };
        let mut resources = Vec::new();
        for file in files.filter_map(Result::ok) {
            let path = file.path();
            // What is left of an interrupted write has another name.
            let whole = path.to_str().is_some_and(|p| p.ends_with(SUFFIX));
            match self.read(&path).map_err(|why| (whole, why)) {
                Ok(resource) if whole => resources.push(resource),
                Err((true, why)) => {
                    tracing::warn!(file = %path.display(), %why, "state on disk left out");
                    let _ = fs::remove_file(&path);
                }
                Ok(_) | Err((false, _)) => {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        resources
    }

    /// Writes and removes.
    ///
    /// # Errors
    /// The first one; what came before it is written.
    pub fn write(&self, changes: &[Change]) -> io::Result<()> {
        for (name, held) in changes {
            let path = self.path(name);
            match held {
                Some(held) => self.replace(&path, &self.encode(name, held))?,
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn path(&self, name: &ResourceName) -> PathBuf {
        self.dir.join(format!("{}{SUFFIX}", hash(name.to_string().as_bytes())))
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        // No sync: after a power failure the instance is another one.
        file.write_all(content)?;
        drop(file);
        fs::rename(&new, path)
    }

    fn encode(&self, name: &ResourceName, held: &Held) -> Vec<u8> {
        let any = prost_types::Any { type_url: name.kind.type_url().to_owned(), value: held.body.to_vec() };
        let resource =
            Resource { name: name.to_string(), version: held.version.to_string(), resource: Some(any) };
        let mut body = format!("{}\n", self.uid).into_bytes();
        body.extend(resource.encode_to_vec());
        let mut content = format!("{MAGIC}\n{}\n", hash(&body)).into_bytes();
        content.extend(body);
        content
    }

    fn read(&self, path: &Path) -> Result<Incoming, Unreadable> {
        if fs::symlink_metadata(path)?.len() > MAX_FILE {
            return Err(Unreadable::Form);
        }
        let content = Bytes::from(fs::read(path)?);
        let (magic, content) = line(&content).ok_or(Unreadable::Form)?;
        if magic != MAGIC.as_bytes() {
            return Err(Unreadable::Form);
        }
        let (checksum, content) = line(&content).ok_or(Unreadable::Form)?;
        if checksum != hash(&content).as_bytes() {
            return Err(Unreadable::Checksum);
        }
        let (uid, content) = line(&content).ok_or(Unreadable::Form)?;
        if uid != self.uid.as_bytes() {
            return Err(Unreadable::OtherInstance);
        }
        let resource = Resource::decode(content).map_err(|_| Unreadable::Form)?;
        let name: ResourceName = resource.name.parse().map_err(|_| Unreadable::Form)?;
        let any = resource.resource.filter(|any| any.type_url == name.kind.type_url());
        let body = Bytes::from(any.ok_or(Unreadable::Form)?.value);
        Ok(Incoming { name, version: Arc::from(resource.version), body })
    }
}

/// The first line, and the rest.
fn line(content: &Bytes) -> Option<(Bytes, Bytes)> {
    let end = content.iter().take(4096).position(|b| *b == b'\n')?;
    Some((content.slice(..end), content.slice(end + 1..)))
}

/// Writes on a thread of its own, in order, away from everything that serves.
#[derive(Debug)]
pub(super) struct DiskTask {
    changes: mpsc::UnboundedSender<Vec<Change>>,
    task: JoinHandle<()>,
}

impl DiskTask {
    pub(super) fn start(disk: Disk) -> Self {
        let (changes, mut incoming) = mpsc::unbounded_channel::<Vec<Change>>();
        let task = tokio::task::spawn_blocking(move || {
            let mut told = false;
            while let Some(changes) = incoming.blocking_recv() {
                match disk.write(&changes) {
                    Ok(()) => told = false,
                    Err(error) if !told => {
                        tracing::warn!(dir = %disk.dir.display(), %error, "state on disk cannot be written");
                        told = true;
                    }
                    Err(_) => {}
                }
            }
        });
        Self { changes, task }
    }

    /// Writes some time.
    pub(super) fn write(&self, changes: Vec<Change>) {
        // The task ends only after the sender.
        let _ = self.changes.send(changes);
    }

    /// Waits until everything is written.
    pub(super) async fn finish(self) {
        drop(self.changes);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "writing the state on disk failed");
        }
    }
}
