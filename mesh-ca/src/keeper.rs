//! Keeps authority, state and roots in step, for as long as the process lives: looks every few seconds, and does what is
//! commanded.
//!
//! In: what is on the [`Shelf`], what pilots say, commands. Out: the authority that signs ([`Signing`]), our own identity,
//! and what everybody is told ([`Told`]). A new root is told before it signs: a leaf that it signed is good only in the eyes
//! of those who have heard of it. What cannot be read changes nothing: what is in memory goes on, and the log says why. Where
//! it cannot be read because a newer authority has written it, nobody gets certificates of us meanwhile.

mod command;
mod life;
mod look;
pub mod told;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use mesh_proto::model::{SpiffeId, TrustDomain};
use mesh_proto::runtime::identity::{Identity, RootsHandle, pem};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

pub use command::{Answer, CommandError, Request};
pub use told::Told;

use crate::admin::Ready;
use crate::authority::{Authority, OpenError, Policy};
use crate::rotation::{Report, State, TooManyRoots};
use crate::server::counters;
use crate::shelf::{Kept, NotKept, Shelf};

/// How often to look.
const LOOK: Duration = Duration::from_secs(2);
/// The first wait after a failure at the start; it doubles up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest one.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Why a look changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// What is kept cannot be read or written.
    #[error(transparent)]
    Shelf(#[from] NotKept),
    /// What is kept cannot be used.
    #[error("{version}: {error}")]
    Bad {
        /// Where it was.
        version: String,
        /// What is wrong with it.
        error: OpenError,
    },
    /// Our own leaf was not made.
    #[error("our own leaf: {0}")]
    Own(String),
    /// It was there before.
    #[error(
        "the signing certificate is gone from where it is kept: signing goes on with what is in memory, a restart makes a \
         new root"
    )]
    Gone,
    /// One root too many.
    #[error(transparent)]
    TooManyRoots(#[from] TooManyRoots),
    /// A root that was put into the old one's place while nobody looked.
    #[error(
        "another root was plugged in while this authority was away: it signs when it has spread, in {0} s or less"
    )]
    Spreading(u64),
}

/// How it is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is signed for whom.
    pub policy: Policy,
    /// The pilots' identity: only they may follow what is told.
    pub pilot: SpiffeId,
    /// The other trust domains whose roots are told.
    pub federated: Vec<TrustDomain>,
    /// The life of a root that we create.
    pub root_life: Duration,
    /// The share of its life, in percent, that a self-signed root has left when another one is made; 0: never.
    pub grace_percent: u8,
    /// What time it is.
    pub clock: Clock,
}

/// The authority that signs now: it is replaced when its signing certificate is. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct Signing(Arc<ArcSwap<Authority>>);

impl Signing {
    /// The authority that signs now.
    #[must_use]
    pub fn load(&self) -> Arc<Authority> {
        self.0.load_full()
    }
}

/// Keeps things in step.
pub struct Keeper {
    shelf: Shelf,
    settings: Settings,
    signing: Signing,
    identity: Identity,
    told: watch::Sender<Arc<Told>>,
    /// The longest life that the state knows of.
    longest: AtomicU64,
    /// When the last certificate ends that the state knows of.
    until: AtomicU64,
    /// What pilots said to us, whatever the other replicas know.
    reports: Mutex<BTreeMap<String, Report>>,
    /// The roots of other trust domains that came since the last look.
    fetched: Mutex<BTreeMap<String, Fetched>>,
    now: tokio::sync::Mutex<Now>,
    /// What is kept is a newer authority's.
    outdated: AtomicBool,
}

/// The roots of another trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fetched {
    /// PEM.
    roots: Vec<String>,
    /// What names the first bundle that they take the place of.
    first: Option<String>,
    /// The number of their bundle.
    number: Option<u64>,
}

/// What was seen last.
#[derive(Debug, Default)]
struct Now {
    kept: Kept,
    /// The version of the signing certificate.
    version: String,
    plugged: bool,
    /// The last failure, so that it is told once.
    failed: Option<String>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("identity", self.identity.id()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Opens what is kept, however long it takes; a new self-signed root where there is nothing.
    pub async fn open(shelf: Shelf, settings: Settings, ready: &Ready) -> Self {
        let mut wait = FIRST_BACKOFF;
        let mut told = String::new();
        loop {
            match Self::try_open(&shelf, &settings).await {
                Ok(opened) => return opened.keeper(shelf, settings),
                Err(error) => {
                    let why = error.to_string();
                    ready.not_yet(&why);
                    if why != told {
                        tracing::error!(error = why, "no signing certificate yet: trying again");
                        told = why;
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MAX_BACKOFF);
        }
    }

    /// Opens what is kept, or says why not.
    ///
    /// # Errors
    /// When what is kept cannot be used. A new root never takes the place of one that cannot be read.
    pub async fn open_once(shelf: Shelf, settings: Settings) -> Result<Self, Failed> {
        let opened = Self::try_open(&shelf, &settings).await?;
        Ok(opened.keeper(shelf, settings))
    }

    async fn try_open(shelf: &Shelf, settings: &Settings) -> Result<Opened, Failed> {
        let domain = settings.policy.own.trust_domain();
        let kept = shelf.state().await?;
        let found = match shelf.signing().await? {
            Some(found) => found,
            None => {
                let (certificate, key) = Shelf::new_root(domain, settings.root_life).map_err(NotKept::Bad)?;
                shelf.create(&certificate, &key).await?
            }
        };
        let (version, plugged) = (found.version.clone(), found.plugged);
        let authority = Authority::new(found.material, settings.policy.clone())
            .map_err(|error| Failed::Bad { version: version.clone(), error })?;
        let mut state = kept.state.clone();
        let seen = look::opened(&mut state, &root_of(&authority), settings.clock.now())?;
        state.longest = state.longest.max(settings.policy.limits.default.as_secs());
        let federated = |domain: &str| settings.federated.iter().any(|known| known.as_str() == domain);
        state.foreign.retain(|domain, _| federated(domain));
        state.superseded.retain(|domain, _| federated(domain));
        state.numbers.retain(|domain, _| federated(domain));
        let told = settle(&mut state, &authority);
        let kept = if state == kept.state { kept } else { shelf.save(&state, &kept).await? };
        shelf.publish(&told.own_bundle().roots).await?;
        if seen == look::Seen::Spreads {
            return Err(Failed::Spreading(look::spreading(&kept.state, settings.clock.now())));
        }
        let leaf = authority.own_leaf().map_err(|e| Failed::Own(e.to_string()))?;
        let roots = told.own_roots().map_err(|e| Failed::Own(e.to_string()))?;
        let identity = Identity::new(leaf, RootsHandle::new(roots));
        tell_expiry(&authority);
        Ok(Opened { authority, identity, told, now: Now { kept, version, plugged, failed: None } })
    }

    /// Looks after everything; never ends.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let looked = self.look().await;
            let failed = looked.err().map(|error| error.to_string());
            let mut now = self.now.lock().await;
            if now.failed != failed {
                if let Some(error) = &failed {
                    tracing::error!(
                        error,
                        "what is in memory goes on: certificate, state or roots cannot be kept"
                    );
                }
                now.failed = failed;
            }
        }
    }

    /// Who signs now.
    #[must_use]
    pub fn signing(&self) -> &Signing {
        &self.signing
    }

    /// Who we are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What everybody is told, and each change of it.
    #[must_use]
    pub fn told(&self) -> watch::Receiver<Arc<Told>> {
        self.told.subscribe()
    }

    /// A pilot says how its proxies stand.
    pub fn report(&self, pilot: &str, report: Report) {
        let report = Report { at: self.now_unix(), ..report }.bounded();
        let mut reports = self.reports.lock();
        // As many as there may be; the state keeps them within bounds too.
        if reports.len() < 1000 || reports.contains_key(pilot) {
            reports.insert(pilot.to_owned(), report);
        }
    }

    /// The roots of another trust domain are these from the next look on, by the bundle of this `number`, if it has one.
    /// `first` names the bundle by which one began, which they take the place of.
    pub fn federate(
        &self,
        domain: &TrustDomain,
        roots: &[CertificateDer<'static>],
        number: Option<u64>,
        first: Option<String>,
    ) {
        let roots = roots.iter().map(|root| pem(root)).collect();
        self.fetched.lock().insert(domain.to_string(), Fetched { roots, first, number });
    }

    /// The number of the bundle that the endpoint of another trust domain said last.
    pub async fn number(&self, domain: &TrustDomain) -> Option<u64> {
        self.now.lock().await.kept.state.numbers.get(domain.as_str()).copied()
    }

    /// What names the first bundle of another trust domain that newer roots have taken the place of.
    pub async fn superseded(&self, domain: &TrustDomain) -> Option<String> {
        self.now.lock().await.kept.state.superseded.get(domain.as_str()).cloned()
    }

    fn now_unix(&self) -> u64 {
        self.settings.clock.now()
    }

    /// From here on, `authority` signs, and our own leaf is one of its own.
    fn sign_with(&self, authority: Authority) -> Result<(), Failed> {
        let leaf = authority.own_leaf().map_err(|e| Failed::Own(e.to_string()))?;
        self.identity.swap_leaf(leaf).map_err(|e| Failed::Own(e.to_string()))?;
        tell_expiry(&authority);
        self.signing.0.store(Arc::new(authority));
        Ok(())
    }

    /// From here on, `told` is what everybody is told.
    fn tell(&self, told: Told) {
        if **self.told.borrow() == told {
            return;
        }
        match told.own_roots() {
            Ok(roots) => self.identity.swap_roots(roots),
            Err(error) => tracing::warn!(%error, "a root that is told cannot be trusted"),
        }
        let roots = told.own_bundle().roots.len();
        tracing::info!(sequence = told.sequence, roots, domains = told.bundles.len(), "trust bundle");
        self.told.send_replace(Arc::new(told));
    }
}

/// What [`Keeper::open`] found.
struct Opened {
    authority: Authority,
    identity: Identity,
    told: Told,
    now: Now,
}

impl Opened {
    fn keeper(self, shelf: Shelf, settings: Settings) -> Keeper {
        let Self { authority, identity, told, now } = self;
        Keeper {
            shelf,
            settings,
            signing: Signing(Arc::new(ArcSwap::from_pointee(authority))),
            identity,
            told: watch::Sender::new(Arc::new(told)),
            longest: AtomicU64::new(now.kept.state.longest),
            until: AtomicU64::new(now.kept.state.until),
            reports: Mutex::default(),
            fetched: Mutex::default(),
            now: tokio::sync::Mutex::new(now),
            outdated: AtomicBool::new(false),
        }
    }
}

/// Gives the bundle its number; what is told from now on. While another replica signs with another root already, the
/// number is that replica's to give.
fn settle(state: &mut State, authority: &Authority) -> Told {
    let mut told = Told::new(authority, state);
    if state.root == root_of(authority) {
        state.settle(told.hash());
    }
    told.sequence = state.sequence;
    told
}

/// The root of what is signed, PEM.
fn root_of(authority: &Authority) -> String {
    authority.root_certificates().first().map(|root| pem(root)).unwrap_or_default()
}

/// The clock on the wall, which tests put forward.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    #[cfg(test)]
    ahead: Arc<AtomicU64>,
}

impl Clock {
    /// Unix seconds.
    fn now(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        #[cfg(test)]
        let now = now + self.ahead.load(Ordering::Relaxed);
        now
    }

    #[cfg(test)]
    pub(crate) fn advance(&self, seconds: u64) {
        self.ahead.fetch_add(seconds, Ordering::Relaxed);
    }
}

fn tell_expiry(authority: &Authority) {
    let end = authority.not_after().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    metrics::gauge!(counters::ROOT_EXPIRY).set(end);
    metrics::gauge!(counters::CHAIN_EXPIRY).set(end);
}
