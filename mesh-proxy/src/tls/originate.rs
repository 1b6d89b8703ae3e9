//! TLS to servers that are not of the mesh: settings for rustls, kept in order as files and Secrets change.
//!
//! In: `wire::ClientTls` of a cluster's policy, files, Secrets. Out: [`Origination`]s, each with what handshakes take now or
//! the reason why there is nothing; and what cannot be had, for the pilot. What turns bad leaves the last good one in force; a
//! Secret that is deleted does not. Sources: Istio's ClientTLSSettings, Envoy's UpstreamTlsContext.

mod verify;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_proto::model::TlsParameters;
use mesh_proto::runtime::crypto;
use mesh_proto::wire::mesh::v1 as wire;
use parking_lot::Mutex;
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::CertificateRevocationListDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, client::danger::ServerCertVerifier};
use tokio::sync::watch;

use super::files::Files;
use super::{MeshAlpn, pem};
use crate::store::secret::{Secret, trust_of};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The Secrets that a proxy has, by `namespace/name`.
pub type Secrets = HashMap<String, Arc<Secret>>;

/// The settings of one policy, over time.
#[derive(Debug)]
pub struct Origination {
    wire: wire::ClientTls,
    kept: Mutex<Option<Vec<u64>>>,
    current: ArcSwap<Result<Arc<Ready>, String>>,
}

/// What handshakes take. Each renewal is another one.
#[derive(Debug)]
pub struct Ready {
    /// Unique in this process.
    pub serial: u64,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

impl Ready {
    /// For a connection that carries this. Outside of the mesh the names are the usual ones.
    #[must_use]
    pub fn config(&self, carries: MeshAlpn) -> &Arc<ClientConfig> {
        match carries {
            MeshAlpn::Http1 => &self.http1,
            MeshAlpn::Http2 => &self.http2,
            MeshAlpn::Tcp => &self.bytes,
        }
    }
}

impl PartialEq for Origination {
    fn eq(&self, other: &Self) -> bool {
        self.wire == other.wire
    }
}

impl Eq for Origination {}

impl Origination {
    /// Nothing has been looked at yet.
    #[must_use]
    pub fn new(wire: wire::ClientTls) -> Self {
        let current = ArcSwap::from_pointee(Err("nothing was looked at yet".to_owned()));
        Self { wire, kept: Mutex::default(), current }
    }

    /// The name to ask for, where the policy says one.
    #[must_use]
    pub fn sni(&self) -> Option<&str> {
        Some(self.wire.sni.as_str()).filter(|sni| !sni.is_empty())
    }

    /// What there is now.
    ///
    /// # Errors
    /// Why there is nothing.
    pub fn ready(&self) -> Result<Arc<Ready>, String> {
        (**self.current.load()).clone()
    }

    /// Whether that is what there is now.
    #[must_use]
    pub fn is(&self, ready: &Arc<Ready>) -> bool {
        matches!(&**self.current.load(), Ok(now) if Arc::ptr_eq(now, ready))
    }

    /// Looks at files and Secrets. `Err`: what is wrong, and what is done about it.
    fn look(&self, files: &Files, secrets: &Secrets) -> Result<(), String> {
        let mut kept = self.kept.lock();
        let there = self.current.load();
        match self.gather(files, secrets) {
            Ok(parts) if kept.as_ref() == Some(&parts.mark) && there.is_ok() => Ok(()),
            Ok(parts) => {
                let mark = parts.mark.clone();
                match (parts.ready(&self.wire), there.is_ok()) {
                    (Ok(ready), _) => self.current.store(Arc::new(Ok(Arc::new(ready)))),
                    (Err(what), true) => return Err(format!("{what}; the last good one stays in force")),
                    (Err(what), false) => {
                        self.current.store(Arc::new(Err(what.clone())));
                        return Err(format!("{what}: connections that need it are refused"));
                    }
                }
                *kept = Some(mark);
                Ok(())
            }
            Err((what, revoked)) if revoked || there.is_err() => {
                let told = format!("{what}: connections that need it are refused");
                self.current.store(Arc::new(Err(what)));
                Err(told)
            }
            Err((what, _)) => Err(format!("{what}; the last good one stays in force")),
        }
    }

    /// `Err`: what is wrong, and whether what was good before must not be used any more.
    fn gather(&self, files: &Files, secrets: &Secrets) -> Result<Parts, (String, bool)> {
        let keep = |what: String| (what, false);
        let find = |name: &str| {
            let missing = || {
                let hint = "a gateway gets those of its own namespace, a sidecar none";
                (format!("there is no Secret {name} ({hint})"), true)
            };
            secrets.get(name).cloned().ok_or_else(missing)
        };
        let mut parts = Parts::default();
        match self.wire.key_pair.as_ref().map(|pair| &pair.source) {
            None => {}
            Some(Some(wire::key_pair::Source::Secret(name))) => {
                let pair = find(name)?.key_pair.clone();
                let pair = pair.ok_or_else(|| (format!("Secret {name} has no tls.crt and tls.key"), true))?;
                parts.mark.push(Arc::as_ptr(&pair) as usize as u64);
                parts.pair = Some(pair);
            }
            Some(Some(wire::key_pair::Source::Files(pair))) => {
                let (chain, key) = (&pair.certificate_chain, &pair.private_key);
                let chain_pem = files.read(chain).map_err(keep)?;
                let key_pem = files.read(key).map_err(keep)?;
                parts.mark.extend([trust_of(&chain_pem), trust_of(&key_pem)]);
                let made = pem::key_pair(&chain_pem, &key_pem);
                parts.pair = Some(made.map_err(|why| keep(format!("{chain} and {key}: {why}")))?);
            }
            Some(_) => return Err(keep("a certificate of a kind that this proxy does not know".into())),
        }
        match self.wire.ca.as_ref().map(|ca| &ca.source) {
            _ if self.wire.insecure_skip_verify => {}
            None => parts.roots = Some(system_roots().map_err(keep)?),
            Some(Some(wire::ca_certificates::Source::File(path))) => {
                let content = files.read(path).map_err(keep)?;
                parts.mark.push(trust_of(&content));
                parts.roots = Some(pem::roots(&content).map_err(|why| keep(format!("{path}: {why}")))?);
            }
            Some(Some(wire::ca_certificates::Source::Secret(name))) => {
                let secret = find(name)?;
                let ca = secret.ca.clone();
                parts.roots =
                    Some(ca.ok_or_else(|| (format!("Secret {name} has no ca.crt (or cacert)"), true))?);
                parts.mark.push(secret.trust);
                parts.revoked.clone_from(&secret.revoked);
            }
            Some(_) => return Err(keep("a CA of a kind that this proxy does not know".into())),
        }
        match self.wire.crl.as_ref().map(|crl| &crl.source) {
            None => {}
            Some(Some(wire::ca_certificates::Source::File(path))) => {
                let content = files.read(path).map_err(keep)?;
                parts.mark.push(trust_of(&content));
                let lists = pem::revocation_lists(&content);
                parts.revoked.extend(lists.map_err(|why| keep(format!("{path}: {why}")))?);
            }
            Some(_) => return Err(keep("a CRL of a kind that this proxy does not know".into())),
        }
        Ok(parts)
    }
}

/// What settings are made from.
#[derive(Default)]
struct Parts {
    pair: Option<Arc<CertifiedKey>>,
    /// None: the server is not verified.
    roots: Option<Arc<RootCertStore>>,
    /// Which of what they signed is revoked; empty: nobody says so.
    revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Equal where nothing has changed.
    mark: Vec<u64>,
}

impl Parts {
    /// `Err`: what cannot be kept.
    fn ready(self, wire: &wire::ClientTls) -> Result<Ready, String> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let parameters = wire.parameters.as_ref().map(TlsParameters::try_from).transpose();
        let (provider, versions) =
            crypto::speaking(&parameters.map_err(|error| error.to_string())?.unwrap_or_default());
        let chain = self.roots.map(|roots| verify::chain(roots, self.revoked)).transpose()?;
        let verifier: Arc<dyn ServerCertVerifier> =
            Arc::new(verify::Outside::new(chain, &wire.subject_alt_names));
        let config = |alpn: &[&[u8]]| {
            let builder = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&versions)
                .expect("aws-lc-rs has suites and groups for both versions")
                .dangerous()
                .with_custom_certificate_verifier(verifier.clone());
            let mut config = match &self.pair {
                Some(pair) => {
                    let mut config = builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                        CertifiedKey::clone(pair),
                    )));
                    // A session would outlive the certificate that opened it.
                    config.resumption = Resumption::disabled();
                    config
                }
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            config.enable_early_data = false;
            Arc::new(config)
        };
        Ok(Ready {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            http1: config(&[b"http/1.1"]),
            http2: config(&[b"h2"]),
            bytes: config(&[]),
        })
    }
}

/// The machine's authorities (`SSL_CERT_FILE`, `SSL_CERT_DIR`, or where its distribution keeps them), read once.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(format!(
                "this machine has no certificates of authorities{why}: set caCertificates, or install them"
            ));
        }
        Ok(Arc::new(store))
    };
    ROOTS.get_or_init(read).clone()
}

/// One that is in use, and whose it is.
struct Known {
    origination: Weak<Origination>,
    origin: Option<wire::Origin>,
}

/// All that are in use.
pub struct Originations {
    files: Files,
    known: Mutex<Vec<Known>>,
    troubles: watch::Sender<Vec<wire::Trouble>>,
}

impl std::fmt::Debug for Originations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Originations").finish_non_exhaustive()
    }
}

impl Originations {
    /// None is used yet.
    #[must_use]
    pub fn new(files: Files) -> Self {
        Self { files, known: Mutex::default(), troubles: watch::channel(Vec::new()).0 }
    }

    /// What cannot be had, whenever that changes.
    #[must_use]
    pub fn troubles(&self) -> watch::Receiver<Vec<wire::Trouble>> {
        self.troubles.subscribe()
    }

    /// One comes into use: it is looked at now, so that whoever sees it finds it ready.
    pub(crate) fn adopt(&self, new: &Arc<Origination>, origin: Option<&wire::Origin>, secrets: &Secrets) {
        {
            let mut known = self.known.lock();
            if known.iter().any(|known| std::ptr::eq(known.origination.as_ptr(), Arc::as_ptr(new))) {
                return;
            }
            known.push(Known { origination: Arc::downgrade(new), origin: origin.cloned() });
        }
        // What is wrong is told at the next look at all.
        let _ = new.look(&self.files, secrets);
    }

    /// Looks at all that are in use.
    pub(crate) fn look(&self, secrets: &Secrets) {
        let used: Vec<_> = {
            let mut known = self.known.lock();
            known.retain(|known| known.origination.strong_count() > 0);
            known.iter().filter_map(|k| Some((k.origination.upgrade()?, k.origin.clone()))).collect()
        };
        let mut troubles = Vec::new();
        for (origination, origin) in used {
            if let Err(message) = origination.look(&self.files, secrets) {
                let trouble = wire::Trouble { origin, message };
                if !troubles.contains(&trouble) {
                    troubles.push(trouble);
                }
            }
        }
        self.troubles.send_if_modified(|told| {
            let news = *told != troubles;
            if news {
                for trouble in &troubles {
                    tracing::warn!(problem = %trouble.message, "TLS to the outside");
                }
                *told = troubles;
            }
            news
        });
    }

    /// Looks whenever something may have changed, for ever. `secrets` gives those of now.
    pub async fn run(
        self: Arc<Self>,
        mut changes: watch::Receiver<u64>,
        secrets: impl Fn() -> Arc<Secrets> + Send + Sync + 'static,
    ) {
        loop {
            changes.borrow_and_update();
            if !self.known.lock().is_empty() {
                // Files may be slow; the rest of the process does not wait for them.
                let (all, secrets) = (self.clone(), secrets());
                if tokio::task::spawn_blocking(move || all.look(&secrets)).await.is_err() {
                    return tracing::error!("BUG: the keeper of TLS to the outside has panicked");
                }
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}
