//! Where the signing certificate is kept.
//!
//! Either the operator has put one into the state directory (`ca-cert.pem`, `ca-key.pem` and, if it is not a root itself,
//! `root-cert.pem` and the intermediates in `cert-chain.pem`: Istio's names), or a self-signed root is created there once
//! (`authority.pem`, certificate and key in one file, so that they always belong together).

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::identity::{InvalidCertificate, read_certificates};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rcgen::{KeyUsagePurpose, SerialNumber};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::OffsetDateTime;

const OWN: &str = "authority.pem";
const PLUGGED_CERTIFICATE: &str = "ca-cert.pem";
const PLUGGED_KEY: &str = "ca-key.pem";
const PLUGGED_ROOT: &str = "root-cert.pem";
const PLUGGED_CHAIN: &str = "cert-chain.pem";
/// The life of a root that we create.
const ROOT_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);

/// Why there is no authority. The fault is with what is in the state directory.
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
    /// One of the two plugged-in files is missing.
    #[error("{0} is missing beside its counterpart")]
    Half(PathBuf),
    /// A file is not what it should be.
    #[error("{path}: {why}")]
    Invalid {
        /// Which.
        path: PathBuf,
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

/// A signing certificate with its key.
pub(super) struct Kept {
    pub(super) key: KeyPair,
    /// From the signing certificate to the root; never empty.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

pub(super) fn open(dir: &Path, domain: &TrustDomain) -> Result<Kept, OpenError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))?;
    let exists = |name: &str| dir.join(name).symlink_metadata().is_ok();
    match (exists(PLUGGED_CERTIFICATE), exists(PLUGGED_KEY)) {
        (true, true) => return plugged(dir),
        (true, false) => return Err(OpenError::Half(dir.join(PLUGGED_KEY))),
        (false, true) => return Err(OpenError::Half(dir.join(PLUGGED_CERTIFICATE))),
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
    let chain = certificates(&path, &pem)?;
    Ok(Kept { key: key(&path, &pem)?, chain })
}

fn plugged(dir: &Path) -> Result<Kept, OpenError> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map(|pem| (path.clone(), pem)).map_err(io_error(&path))
    };
    let (path, pem) = read(PLUGGED_KEY)?;
    let key = key(&path, &pem)?;
    let (path, pem) = read(PLUGGED_CERTIFICATE)?;
    let mut chain = certificates(&path, &pem)?;
    for name in [PLUGGED_CHAIN, PLUGGED_ROOT] {
        match read(name) {
            Ok((path, pem)) => {
                for certificate in certificates(&path, &pem)? {
                    if !chain.contains(&certificate) {
                        chain.push(certificate);
                    }
                }
            }
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(other) => return Err(other),
        }
    }
    tracing::info!(certificates = chain.len(), "using the plugged-in signing certificate");
    Ok(Kept { key, chain })
}

/// Creates the root. If another process was faster, its root counts.
fn create(dir: &Path, path: &Path, domain: &TrustDomain) -> Result<(), OpenError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, domain.as_str());
    params.distinguished_name.push(DnType::CommonName, "mesh root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(SerialNumber::from_slice(&super::new_serial()));
    let now = SystemTime::now();
    params.not_before = OffsetDateTime::from(now - super::BACKDATE);
    params.not_after = OffsetDateTime::from(now + ROOT_LIFE);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let text = format!("{}{}", root.key().serialize_pem(), root.pem());
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

/// The end of the first certificate of `chain` to end.
pub(super) fn not_after(chain: &[CertificateDer<'_>]) -> Result<SystemTime, OpenError> {
    let mut first = None;
    for certificate in chain {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|e| OpenError::Unusable(e.to_string()))?;
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let end = UNIX_EPOCH + Duration::from_secs(seconds);
        first = Some(first.map_or(end, |first: SystemTime| first.min(end)));
    }
    first.ok_or_else(|| OpenError::Unusable("no certificate".to_owned()))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let invalid = |e: InvalidCertificate| OpenError::Invalid { path: path.to_owned(), why: e.to_string() };
    read_certificates("certificates", pem).map_err(invalid)
}

fn key(path: &Path, pem: &[u8]) -> Result<KeyPair, OpenError> {
    let invalid = |why: String| OpenError::Invalid { path: path.to_owned(), why };
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| invalid(e.to_string()))?;
    KeyPair::try_from(&der).map_err(|e| invalid(e.to_string()))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path: path.clone(), source }
}
