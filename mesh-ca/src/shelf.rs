//! Where an authority keeps what it must not lose: its signing certificate, its state, and the roots for everybody.
//!
//! In files for a local mesh, in Secrets and a ConfigMap on Kubernetes. What several replicas share is written only by who
//! has seen the newest version ([`NotKept::Conflict`] otherwise), and each object in one piece.

pub mod files;

use mesh_proto::model::TrustDomain;
use rustls::pki_types::CertificateDer;

use crate::authority::OpenError;
use crate::authority::material::Material;
use crate::kubernetes::shelf::Secrets;
use crate::rotation::State;
use files::Files;

/// Why something is not kept, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// Another replica was faster: read again.
    #[error("{0} was changed by another replica meanwhile")]
    Conflict(String),
    /// What is there cannot be used.
    #[error(transparent)]
    Bad(#[from] OpenError),
    /// The API server did not do it.
    #[error("{place}: {why}")]
    Api {
        /// Which object.
        place: String,
        /// Why not.
        why: String,
    },
}

/// A signing certificate and where it was.
#[derive(Debug)]
pub struct Found {
    /// What an authority is made of.
    pub material: Material,
    /// Where, and which version: the same text is the same content.
    pub version: String,
    /// The operator has put it there.
    pub plugged: bool,
}

/// The state, as it was kept.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// It.
    pub state: State,
    /// Which version; `None`: nothing was kept yet.
    pub version: Option<String>,
}

/// The state that is kept at `place`.
pub(crate) fn read_state(place: String, text: &[u8]) -> Result<State, OpenError> {
    serde_json::from_slice(text).map_err(|e| match e.classify() {
        // JSON, but not what we would have written.
        serde_json::error::Category::Data => OpenError::Newer { place, why: e.to_string() },
        _ => OpenError::Invalid { place, why: e.to_string() },
    })
}

/// Where.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Shelf {
    /// A directory.
    Files(Files),
    /// A namespace.
    Secrets(Secrets),
}

impl Shelf {
    /// The signing certificate, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub async fn signing(&self) -> Result<Option<Found>, NotKept> {
        match self {
            Self::Files(files) => Ok(files.signing()?),
            Self::Secrets(secrets) => secrets.find().await,
        }
    }

    /// A new self-signed root. If another replica was faster, its root counts.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn create(&self, certificate: &str, key: &str) -> Result<Found, NotKept> {
        match self {
            Self::Files(files) => Ok(files.create(certificate, key)?),
            Self::Secrets(secrets) => secrets.create(certificate, key).await,
        }
    }

    /// Puts a self-signed root into the place of the one that was read as `version`.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn replace(&self, certificate: &str, key: &str, version: &str) -> Result<(), NotKept> {
        match self {
            Self::Files(files) => Ok(files.replace(certificate, key)?),
            Self::Secrets(secrets) => secrets.replace(certificate, key, version).await,
        }
    }

    /// The state; a new one if none was kept.
    ///
    /// # Errors
    /// When it cannot be read: never an empty one instead.
    pub async fn state(&self) -> Result<Kept, NotKept> {
        match self {
            Self::Files(files) => Ok(files.state()?),
            Self::Secrets(secrets) => secrets.state().await,
        }
    }

    /// Keeps `state` in the place of what was read as `over`.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn save(&self, state: &State, over: &Kept) -> Result<Kept, NotKept> {
        match self {
            Self::Files(files) => Ok(files.save(state)?),
            Self::Secrets(secrets) => secrets.save(state, over).await,
        }
    }

    /// Has everybody told `roots`. Does nothing where they are told already.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn publish(&self, roots: &[CertificateDer<'static>]) -> Result<(), NotKept> {
        match self {
            Self::Files(files) => Ok(files.publish(roots)?),
            Self::Secrets(secrets) => secrets.publish(roots).await,
        }
    }

    /// Whether replicas share it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Secrets(_))
    }

    /// A new self-signed root of `domain`: certificate and key, PEM.
    ///
    /// # Errors
    /// When there is no randomness: never.
    pub fn new_root(domain: &TrustDomain, life: std::time::Duration) -> Result<(String, String), OpenError> {
        let (key, certificate) = crate::authority::material::self_signed(domain, life)?;
        Ok((certificate, key))
    }
}
