//! In files: `authority.pem` or what is plugged in (see [`crate::authority::store`]), `state.json`, and the roots where
//! everybody reads them. Each is 0600 (but for the roots) and written by rename.

use std::path::{Path, PathBuf};

use mesh_proto::runtime::identity::pem;
use rustls::pki_types::CertificateDer;

use super::{Found, Kept};
use crate::authority::{OpenError, store};
use crate::rotation::State;

const STATE: &str = "state.json";

/// A directory of ours, and the file of the roots.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
    roots: PathBuf,
}

impl Files {
    /// State in `dir`, roots for everybody in `roots`.
    #[must_use]
    pub fn new(dir: &Path, roots: &Path) -> Self {
        Self { dir: dir.to_owned(), roots: roots.to_owned() }
    }

    pub(super) fn signing(&self) -> Result<Option<Found>, OpenError> {
        store::find(&self.dir)
    }

    pub(super) fn create(&self, certificate: &str, key: &str) -> Result<Found, OpenError> {
        store::create(&self.dir, certificate, key)?;
        let place = self.dir.display().to_string();
        let gone = || OpenError::Invalid { place, why: "gone again".to_owned() };
        store::find(&self.dir)?.ok_or_else(gone)
    }

    pub(super) fn replace(&self, certificate: &str, key: &str) -> Result<(), OpenError> {
        store::replace(&self.dir, certificate, key)
    }

    pub(super) fn state(&self) -> Result<Kept, OpenError> {
        let path = self.dir.join(STATE);
        let Some(text) = store::read_private(&path)? else { return Ok(Kept::default()) };
        let state = super::read_state(path.display().to_string(), &text)?;
        Ok(Kept { state, version: Some(String::new()) })
    }

    pub(super) fn save(&self, state: &State) -> Result<Kept, OpenError> {
        let path = self.dir.join(STATE);
        let invalid = |e: serde_json::Error| OpenError::Invalid {
            place: path.display().to_string(),
            why: e.to_string(),
        };
        let text = serde_json::to_vec(state).map_err(invalid)?;
        store::write_private(&path, &text)?;
        Ok(Kept { state: state.clone(), version: Some(String::new()) })
    }

    pub(super) fn publish(&self, roots: &[CertificateDer<'static>]) -> Result<(), OpenError> {
        let text: String = roots.iter().map(|root| pem(root)).collect();
        if std::fs::read(&self.roots).is_ok_and(|told| told == text.as_bytes()) {
            return Ok(());
        }
        store::write_public(&self.roots, &text)
    }
}
