//! Leaf and key on disk: one file, so that they always belong together, written by rename, only ours to read.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::super::identity::{InvalidCertificate, Leaf};
use crate::model::SpiffeId;

const FILE: &str = "identity.pem";
/// Leaf, intermediates and key are a few KiB.
const MAX_FILE: u64 = 256 << 10;

/// Why a stored leaf is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoredError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is not only ours: owner or permissions (0700/0600) differ")]
    NotOurs(PathBuf),
    #[error("{0} is larger than a certificate")]
    TooLarge(PathBuf),
    #[error("{path}: {source}")]
    Invalid { path: PathBuf, source: InvalidCertificate },
}

/// A leaf of before, with the time it was stored.
pub(super) struct Stored {
    pub(super) leaf: Leaf,
    pub(super) at: SystemTime,
}

/// The stored leaf of `id`, if there is one. Whether it is still valid is the caller's question.
pub(super) fn load(dir: &Path, id: &SpiffeId) -> Result<Option<Stored>, StoredError> {
    let path = dir.join(FILE);
    let io = |source| StoredError::Io { path: path.clone(), source };
    let facts = match std::fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io)?,
    };
    let us = nix::unistd::geteuid().as_raw();
    if !facts.is_file() || facts.uid() != us || facts.mode() & 0o077 != 0 {
        return Err(StoredError::NotOurs(path));
    }
    if facts.len() > MAX_FILE {
        return Err(StoredError::TooLarge(path));
    }
    let pem = std::fs::read(&path).map_err(io)?;
    let invalid = |source| StoredError::Invalid { path: path.clone(), source };
    let leaf = Leaf::from_pem(&pem, &pem).map_err(invalid)?;
    if leaf.id != *id {
        return Err(invalid(InvalidCertificate::OtherIdentity { got: leaf.id, expected: id.clone() }));
    }
    let at = facts.modified().map_err(io)?;
    Ok(Some(Stored { leaf, at }))
}

/// Stores chain and key in the place of what was there.
pub(super) fn store(dir: &Path, chain_pem: &str, key_pem: &str) -> Result<(), StoredError> {
    let io = |path: &Path, source| StoredError::Io { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| io(dir, e))?;
    let facts = std::fs::metadata(dir).map_err(|e| io(dir, e))?;
    if facts.uid() != nix::unistd::geteuid().as_raw() || facts.mode() & 0o077 != 0 {
        return Err(StoredError::NotOurs(dir.to_owned()));
    }
    let (path, new) = (dir.join(FILE), dir.join(format!("{FILE}.new")));
    let write = || {
        // Not ours to trust if it is there: a file of a crashed write, or a link that somebody put there.
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(key_pem.as_bytes())?;
        file.write_all(chain_pem.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(|e| io(&path, e))
}
