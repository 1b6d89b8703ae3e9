//! Where the signing certificate is kept on a disk.
//!
//! Either the operator has put one into the state directory (`ca-cert.pem`, `ca-key.pem` and, if it is not a root itself,
//! `root-cert.pem` and the intermediates in `cert-chain.pem`: Istio's names), or a self-signed root is created there once
//! (`authority.pem`, certificate and key in one file, so that they always belong together).

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

use super::hex;
use super::material::{CERTIFICATE, CHAIN, KEY, Material, ROOT, Texts};
use crate::shelf::Found;

const OWN: &str = "authority.pem";

/// Why there is no authority. The fault is with what is kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or directory cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change the key.
    #[error(
        "{0}: others than the owner have access to it (0600 and 0700 are expected), or it is somebody else's"
    )]
    NotPrivate(PathBuf),
    /// One of the two plugged-in texts is missing.
    #[error("{0} is missing beside its counterpart")]
    Half(String),
    /// A text is not what it should be.
    #[error("{place}: {why}")]
    Invalid {
        /// Which.
        place: String,
        /// Why.
        why: String,
    },
    /// The state is one of another version of this program.
    #[error(
        "{place}: {why}: a newer authority has kept it, and this one gives nobody certificates, as it does not know whom that one \
         refuses: run the newer one; what it takes to go back to this one says \"Roll back\" in the charts' README.md"
    )]
    Newer {
        /// Where it is.
        place: String,
        /// What is not known of it.
        why: String,
    },
    /// Certificate and key are readable, but what they sign is not good.
    #[error("what this authority signs is not good: {0}")]
    Unusable(String),
    /// rcgen cannot use it.
    #[error("signing certificate: {0}")]
    Issuer(#[from] rcgen::Error),
}

/// The signing certificate in `dir`, if there is one. The directory is made where it is missing.
///
/// # Errors
/// When what is there cannot be used.
pub fn find(dir: &Path) -> Result<Option<Found>, OpenError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))?;
    check_owned(dir)?;
    let exists = |name: &str| dir.join(name).symlink_metadata().is_ok();
    let half = |name: &str| OpenError::Half(dir.join(name).display().to_string());
    match (exists(CERTIFICATE), exists(KEY)) {
        (true, true) => return plugged(dir).map(Some),
        (true, false) => return Err(half(KEY)),
        (false, true) => return Err(half(CERTIFICATE)),
        (false, false) => {}
    }
    let path = dir.join(OWN);
    let Some(pem) = read_private(&path)? else { return Ok(None) };
    let texts = Texts { certificate: &pem, key: &pem, chain: &[], root: &[] };
    let material = Material::read(texts, |_| path.display().to_string())?;
    Ok(Some(Found { material, version: version(OWN, &[&pem]), plugged: false }))
}

/// Keeps a self-signed root. If another process was faster, its root counts.
///
/// # Errors
/// When it cannot be written.
pub fn create(dir: &Path, certificate: &str, key: &str) -> Result<(), OpenError> {
    let path = dir.join(OWN);
    let new = dir.join(format!("{OWN}.{}", std::process::id()));
    write_new(&new, format!("{key}{certificate}").as_bytes(), 0o600).map_err(io_error(&new))?;
    // Unlike a rename, a link never takes the place of a file that is there.
    let linked = std::fs::hard_link(&new, &path);
    std::fs::remove_file(&new).map_err(io_error(&new))?;
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error(&path)(e)),
        Err(_) => Ok(()),
        Ok(()) => {
            tracing::info!(path = %path.display(), "created a new root");
            Ok(())
        }
    }
}

/// Keeps another self-signed root in the place of the one that is there.
///
/// # Errors
/// When it cannot be written.
pub fn replace(dir: &Path, certificate: &str, key: &str) -> Result<(), OpenError> {
    write_private(&dir.join(OWN), format!("{key}{certificate}").as_bytes())
}

/// A file that only we can read; `None` if there is none.
///
/// # Errors
/// When it cannot be read, or others could.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path)(e)),
        Ok(_) => check_private(path)?,
    }
    std::fs::read(path).map(Some).map_err(io_error(path))
}

/// Writes a file that only we can read, by rename.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, text: &[u8]) -> Result<(), OpenError> {
    write_by_rename(path, text, 0o600)
}

/// Others may look into the directory, where each file has its own mode, but not put anything there.
fn check_owned(dir: &Path) -> Result<(), OpenError> {
    let facts = std::fs::metadata(dir).map_err(io_error(dir))?;
    if facts.uid() != nix::unistd::geteuid().as_raw() || facts.mode() & 0o022 != 0 {
        return Err(OpenError::NotPrivate(dir.to_owned()));
    }
    Ok(())
}

fn check_private(path: &Path) -> Result<(), OpenError> {
    let facts = std::fs::metadata(path).map_err(io_error(path))?;
    if facts.uid() != nix::unistd::geteuid().as_raw() || facts.mode() & 0o077 != 0 {
        return Err(OpenError::NotPrivate(path.to_owned()));
    }
    Ok(())
}

fn version(place: &str, texts: &[&[u8]]) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    for text in texts {
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    format!("{place}/{}", hex(hash.finish().as_ref()))
}

fn plugged(dir: &Path) -> Result<Found, OpenError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(io_error(&path))
    };
    let optional = |name: &str| match read(name) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    let path = dir.join(KEY);
    let gone = || io_error(&path)(io::ErrorKind::NotFound.into());
    let key = read_private(&path)?.ok_or_else(gone)?;
    let (certificate, chain, root) = (read(CERTIFICATE)?, optional(CHAIN)?, optional(ROOT)?);
    let texts = Texts { certificate: &certificate, key: &key, chain: &chain, root: &root };
    let material = Material::read(texts, |name| dir.join(name).display().to_string())?;
    Ok(Found { material, version: version("plugged", &[&certificate, &key, &chain, &root]), plugged: true })
}

/// Writes a file that everybody may read, by rename, so that readers see the old or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write_public(path: &Path, text: &str) -> Result<(), OpenError> {
    write_by_rename(path, text.as_bytes(), 0o644)
}

fn write_by_rename(path: &Path, text: &[u8], mode: u32) -> Result<(), OpenError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    write_new(&new, text, mode).map_err(io_error(&new))?;
    std::fs::rename(&new, path).map_err(io_error(path))?;
    // The rename itself must survive a crash too.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error(dir))
}

fn write_new(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}
