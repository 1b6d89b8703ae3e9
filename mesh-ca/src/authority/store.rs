//! Where the signing certificate is kept on a disk.
//!
//! Either the operator has put one into the state directory (`ca-cert.pem`, `ca-key.pem` and, if it is not a root itself,
//! `root-cert.pem` and the intermediates in `cert-chain.pem`: Istio's names), or a self-signed root is created there once
//! (`authority.pem`, certificate and key in one file, so that they always belong together).

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mesh_proto::model::TrustDomain;

use super::material::{self, CERTIFICATE, CHAIN, KEY, Material, ROOT, Texts};

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
    /// Certificate and key are readable, but what they sign is not good.
    #[error("what this authority signs is not good: {0}")]
    Unusable(String),
    /// rcgen cannot use it.
    #[error("signing certificate: {0}")]
    Issuer(#[from] rcgen::Error),
}

pub(super) fn open(dir: &Path, domain: &TrustDomain) -> Result<Material, OpenError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))?;
    let exists = |name: &str| dir.join(name).symlink_metadata().is_ok();
    let half = |name: &str| OpenError::Half(dir.join(name).display().to_string());
    match (exists(CERTIFICATE), exists(KEY)) {
        (true, true) => return plugged(dir),
        (true, false) => return Err(half(KEY)),
        (false, true) => return Err(half(CERTIFICATE)),
        (false, false) => {}
    }
    let path = dir.join(OWN);
    if !exists(OWN) {
        create(dir, &path, domain)?;
    }
    let facts = std::fs::metadata(&path).map_err(io_error(&path))?;
    if facts.uid() != nix::unistd::geteuid().as_raw() || facts.mode() & 0o077 != 0 {
        return Err(OpenError::NotPrivate(path));
    }
    let pem = std::fs::read(&path).map_err(io_error(&path))?;
    Material::read(Texts { certificate: &pem, key: &pem, chain: &[], root: &[] }, |_| {
        path.display().to_string()
    })
}

fn plugged(dir: &Path) -> Result<Material, OpenError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(io_error(&path))
    };
    let optional = |name: &str| match read(name) {
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    };
    let (certificate, key) = (read(CERTIFICATE)?, read(KEY)?);
    let (chain, root) = (optional(CHAIN)?, optional(ROOT)?);
    let texts = Texts { certificate: &certificate, key: &key, chain: &chain, root: &root };
    let material = Material::read(texts, |name| dir.join(name).display().to_string())?;
    tracing::info!(roots = material.roots.len(), "using the plugged-in signing certificate");
    Ok(material)
}

/// Creates the root. If another process was faster, its root counts.
fn create(dir: &Path, path: &Path, domain: &TrustDomain) -> Result<(), OpenError> {
    let (key, certificate) = material::self_signed(domain)?;
    let text = format!("{key}{certificate}");
    let new = dir.join(format!("{OWN}.{}", std::process::id()));
    write_new(&new, text.as_bytes(), 0o600).map_err(io_error(&new))?;
    // Unlike a rename, a link never takes the place of a file that is there.
    let linked = std::fs::hard_link(&new, path);
    std::fs::remove_file(&new).map_err(io_error(&new))?;
    match linked {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io_error(path)(e)),
        Err(_) => Ok(()),
        Ok(()) => {
            tracing::info!(trust_domain = %domain, path = %path.display(), "created a new root");
            Ok(())
        }
    }
}

/// Writes a file that everybody may read, by rename, so that readers see the old or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write_public(path: &Path, text: &str) -> Result<(), OpenError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let new = path.with_file_name(name);
    write_new(&new, text.as_bytes(), 0o644).map_err(io_error(&new))?;
    std::fs::rename(&new, path).map_err(io_error(path))
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
