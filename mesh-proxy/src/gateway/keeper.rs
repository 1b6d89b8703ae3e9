//! Keeps every TLS server of a gateway in working order: certificates from Secrets and files, renewed as they change.
//!
//! In: the store (listeners, Secrets) and files. Out: [`Terminations`] for the workers, and what cannot be served, for the
//! pilot. What turns bad or is missing leaves the last good one in force; a Secret that is deleted does not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::runtime::identity::Identity;
use mesh_proto::wire::mesh::v1 as wire;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::termination::{Termination, Terminations, Vouching, mesh_config, server_config};
use crate::config::Mount;
use crate::store::Store;
use crate::store::listener::TlsSettings;
use crate::store::secret::{Secret, trust_of};
use crate::tls::files::Files;
use crate::tls::pem;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why a server cannot be served as it should be.
struct Problem {
    what: String,
    /// What was good before must not be used any more.
    revoked: bool,
}

impl Problem {
    fn keep(what: String) -> Self {
        Self { what, revoked: false }
    }
}

/// What one kind of server is made from.
#[derive(Default)]
struct Parts {
    pairs: Vec<Arc<CertifiedKey>>,
    clients: Vouching,
    trust: u64,
    /// Equal where nothing has changed.
    mark: Vec<u64>,
    mesh: bool,
}

/// One kind of server, over time.
#[derive(Default)]
struct Kept {
    mark: Vec<u64>,
    current: Option<Arc<Termination>>,
}

/// See above.
pub struct Keeper {
    store: Arc<Store>,
    identity: Identity,
    namespace: String,
    files: Files,
    kept: HashMap<Arc<[u8]>, Kept>,
    terminations: Arc<Terminations>,
    troubles: watch::Sender<Vec<wire::Trouble>>,
}

impl Keeper {
    /// A keeper that has not looked yet, for a gateway in `namespace`. `troubles` is told what cannot be served.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        identity: Identity,
        (namespace, mounts): (String, Vec<Mount>),
        troubles: watch::Sender<Vec<wire::Trouble>>,
    ) -> Self {
        let files = Files::new(mounts);
        let terminations = Arc::default();
        Self { store, identity, namespace, files, kept: HashMap::new(), terminations, troubles }
    }

    /// For the workers.
    #[must_use]
    pub fn terminations(&self) -> Arc<Terminations> {
        self.terminations.clone()
    }

    /// Looks whenever something may have changed, for ever.
    pub async fn run(mut self) {
        let mut changes = self.store.changes();
        loop {
            changes.borrow_and_update();
            // Files may be slow; the rest of the process does not wait for them.
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            self = match looked.await {
                Ok(keeper) => keeper,
                Err(_) => return tracing::error!("BUG: the keeper of certificates has panicked"),
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Looks once.
    pub fn look(&mut self) {
        let generation = self.store.generation();
        let listeners = self.store.listeners();
        let secrets = self.store.secrets();
        let (mut used, mut troubles) = (HashSet::new(), Vec::new());
        let mut ended = false;
        for server in listeners.iter().flat_map(|listener| &listener.tls) {
            let Some(settings) = server.settings() else { continue };
            used.insert(settings.key.clone());
            let parts = self.gather(&settings.wire, &secrets);
            let made = parts.map_err(|mut problem| {
                self.explain(&mut problem.what);
                problem
            });
            let kept = self.kept.entry(settings.key.clone()).or_default();
            let before = kept.current.as_ref().map(|termination| termination.trust);
            if let Err(what) = kept.take(settings, made, &self.identity) {
                troubles.push(wire::Trouble { origin: server.origin.clone(), message: what });
            }
            let now = kept.current.as_ref().map(|termination| termination.trust);
            ended |= before.is_some() && now != before;
        }
        self.kept.retain(|key, _| used.contains(key));
        let current = self.kept.iter().filter_map(|(key, kept)| Some((key.clone(), kept.current.clone()?)));
        self.terminations.replace(current.collect(), generation);
        if ended {
            // Live connections are looked at again.
            self.store.bump();
        }
        self.troubles.send_if_modified(|told| {
            let news = *told != troubles;
            if news {
                for trouble in &troubles {
                    tracing::warn!(problem = %trouble.message, "a gateway's server");
                }
                *told = troubles;
            }
            news
        });
    }

    fn gather(
        &self,
        wire: &wire::TlsSettings,
        secrets: &HashMap<String, Arc<Secret>>,
    ) -> Result<Parts, Problem> {
        let mut parts = Parts::default();
        let find = |name: &str| {
            secrets
                .get(name)
                .cloned()
                .ok_or_else(|| Problem { what: format!("there is no Secret {name}"), revoked: true })
        };
        for pair in &wire.key_pairs {
            match &pair.source {
                Some(wire::key_pair::Source::Secret(name)) => {
                    let secret = find(name)?;
                    let pair = secret.key_pair.clone().ok_or_else(|| {
                        Problem::keep(format!("Secret {name} has no tls.crt and tls.key (or cert and key)"))
                    })?;
                    parts.mark.push(Arc::as_ptr(&pair) as usize as u64);
                    parts.pairs.push(pair);
                }
                Some(wire::key_pair::Source::Files(files)) => {
                    let (chain, key) = (&files.certificate_chain, &files.private_key);
                    let (chain_pem, key_pem) = (self.read(chain)?, self.read(key)?);
                    parts.mark.extend([trust_of(&chain_pem), trust_of(&key_pem)]);
                    let pair = pem::key_pair(&chain_pem, &key_pem)
                        .map_err(|why| Problem::keep(format!("{chain} and {key}: {why}")))?;
                    parts.pairs.push(pair);
                }
                Some(wire::key_pair::Source::Mesh(_)) => parts.mesh = true,
                None => {
                    return Err(Problem::keep(
                        "a certificate of a kind that this proxy does not know".into(),
                    ));
                }
            }
        }
        match wire.ca.as_ref().map(|ca| &ca.source) {
            None | Some(Some(wire::ca_certificates::Source::Mesh(_))) => {}
            Some(Some(wire::ca_certificates::Source::Secret(name))) => {
                let secret = find(name)?;
                let ca = secret.ca.clone().ok_or_else(|| Problem {
                    what: format!(
                        "Secret {name} has no ca.crt (or cacert), and there is none in {name}-cacert"
                    ),
                    revoked: true,
                })?;
                parts.clients = Vouching { roots: Some(ca), revoked: secret.revoked.clone() };
                parts.trust = secret.trust;
            }
            Some(Some(wire::ca_certificates::Source::File(path))) => {
                let content = self.read(path)?;
                let roots = pem::roots(&content).map_err(|why| Problem::keep(format!("{path}: {why}")))?;
                parts.clients.roots = Some(roots);
                parts.trust = trust_of(&content);
            }
            Some(None) => return Err(Problem::keep("a CA of a kind that this proxy does not know".into())),
        }
        if let Some(crl) = &wire.crl {
            self.revoked(crl, &mut parts)?;
        }
        parts.mark.push(parts.trust);
        Ok(parts)
    }

    /// Adds what a file says that the CA has revoked.
    fn revoked(&self, crl: &wire::CaCertificates, parts: &mut Parts) -> Result<(), Problem> {
        let Some(wire::ca_certificates::Source::File(path)) = &crl.source else {
            return Err(Problem::keep("a CRL of a kind that this proxy does not know".into()));
        };
        let content = self.read(path)?;
        let lists = pem::revocation_lists(&content);
        parts.clients.revoked.extend(lists.map_err(|why| Problem::keep(format!("{path}: {why}")))?);
        parts.trust ^= trust_of(&content).rotate_left(1);
        Ok(())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Problem> {
        self.files.read(path).map_err(Problem::keep)
    }

    /// A Secret that was refused is not missing.
    fn explain(&self, what: &mut String) {
        let refused = self.store.refused();
        let of = |name: &str| refused.iter().find(|r| r.resource == format!("secret/{name}"));
        if let Some(name) = what.strip_prefix("there is no Secret ") {
            match of(name) {
                Some(refused) => *what = format!("Secret {name}: {}", refused.reason),
                None => what.push_str(&format!(
                    " (Secrets are looked for in the gateway's own namespace, {})",
                    self.namespace
                )),
            }
        }
    }
}

impl Kept {
    /// Takes what was found. `Err`: what is wrong, and what is done about it.
    fn take(
        &mut self,
        settings: &TlsSettings,
        parts: Result<Parts, Problem>,
        identity: &Identity,
    ) -> Result<(), String> {
        let parts = match parts {
            Ok(parts) if self.current.is_some() && parts.mark == self.mark => return Ok(()),
            Ok(parts) => parts,
            Err(problem) => {
                if problem.revoked {
                    self.current = None;
                }
                return Err(self.standing(&problem.what));
            }
        };
        let config = if parts.mesh {
            mesh_config(settings, identity).map(|config| (config, None))
        } else {
            server_config(settings, parts.pairs, parts.clients)
        };
        match config {
            Ok((config, clients)) => {
                let renewed = self.current.is_some();
                let (trust, mesh) = (parts.trust, parts.mesh);
                self.current = Some(Arc::new(Termination { config, clients, trust, mesh }));
                self.mark = parts.mark;
                tracing::info!(renewed, "a gateway's server has its certificate");
                Ok(())
            }
            Err(why) => Err(self.standing(&why)),
        }
    }

    fn standing(&self, what: &str) -> String {
        match &self.current {
            Some(_) => format!("{what}; the last good one stays in force"),
            None => format!("{what}: it is not served"),
        }
    }
}
