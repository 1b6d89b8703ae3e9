//! The keys of issuers of tokens: fetched, kept and refreshed here, delivered to proxies with their settings.
//!
//! ```text
//! config ─► which sources are wanted ─► one task each: turn ─ fetch ─ wait ─ turn ... ─► Event::Keys ─► index
//! ```
//! A source that fails holds up no other one: its last good keys stay for a day, and status says what is wrong. One that
//! hangs holds up only slow ones of its own namespace ([`lanes`]).

mod fetch;
mod lanes;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_proto::crd::request_authentication::JwtRule;
use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::fetch::Turn;
pub use self::fetch::{FetchError, Reach};
use self::lanes::{Lanes, Pace, SHORT};
use crate::source::Event;

/// Istio's: good keys are fetched again after this time.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure: first this, then twice as long, up to [`RETRY_MOST`]; up to [`RETRY_LATE`] where nothing is answered.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
const RETRY_LATE: Duration = Duration::from_secs(120);
/// So many issuers of one namespace, and of all of them, are fetched from: more would let authors fill the pilot.
pub const MAX_OF_NAMESPACE: usize = 256;
/// See [`MAX_OF_NAMESPACE`].
pub const MAX_SOURCES: usize = 2048;
/// Keys that could not be fetched again for so long are not used any more.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// A JWKS at this URI.
    Uri(String),
    /// The JWKS that the discovery document of this issuer names (OpenID Connect Discovery 1.0, section 4).
    Issuer(String),
}

impl KeySource {
    /// Of a rule; none: it has its keys with it.
    #[must_use]
    pub fn of(rule: &JwtRule) -> Option<Self> {
        match (&rule.jwks, &rule.jwks_uri) {
            (Some(_), _) => None,
            (None, Some(uri)) => Some(Self::Uri(uri.clone())),
            (None, None) => Some(Self::Issuer(rule.issuer.clone())),
        }
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
        }
    }
}

/// What is known of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The last good ones.
    pub good: Option<Bytes>,
    /// Why they could not be fetched again.
    pub wrong: Option<String>,
    /// There were some, too long ago: nobody is to go on with them.
    pub given_up: bool,
}

/// Who wants the keys of a source, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Those whose rules name it.
    pub namespaces: BTreeSet<Arc<str>>,
    /// How long one fetch may take.
    pub timeout: Duration,
}

/// The sources that are followed.
pub type Wanted = BTreeMap<KeySource, Want>;

/// Fetches what is wanted, for as long as it is wanted.
pub async fn keep(wanted: watch::Receiver<Wanted>, found: mpsc::Sender<Vec<Event>>, reach: Reach) {
    let fetch = move |source: KeySource, turn| async move { fetch::keys(&source, reach, turn).await };
    keep_by(wanted, found, fetch).await;
}

async fn keep_by<F, A>(mut wanted: watch::Receiver<Wanted>, found: mpsc::Sender<Vec<Event>>, fetch: F)
where
    F: Fn(KeySource, Turn) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Bytes, FetchError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let lanes = Arc::new(Lanes::default());
    let mut running: BTreeMap<KeySource, (watch::Sender<Want>, AbortHandle)> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        running.retain(|source, (_, task)| {
            let stays = now.contains_key(source);
            if !stays {
                task.abort();
            }
            stays
        });
        lanes.retain(&now.values().flat_map(|want| want.namespaces.iter().cloned()).collect());
        for (source, want) in now {
            if let Some((told, _)) = running.get(&source) {
                told.send_if_modified(|known| want != std::mem::replace(known, want.clone()));
                continue;
            }
            let (told, want) = watch::channel(want);
            let (lanes, fetch) = (lanes.clone(), fetch.clone());
            let follower = Follower { source: source.clone(), want, lanes, found: found.clone(), fetch };
            running.insert(source, (told, tasks.spawn(follower.follow())));
        }
        // Those that have been aborted.
        while tasks.try_join_next().is_some() {}
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// What follows one source.
struct Follower<F> {
    source: KeySource,
    want: watch::Receiver<Want>,
    lanes: Arc<Lanes>,
    found: mpsc::Sender<Vec<Event>>,
    fetch: F,
}

impl<F, A> Follower<F>
where
    F: Fn(KeySource, Turn) -> A,
    A: Future<Output = Result<Bytes, FetchError>>,
{
    /// Until nobody listens.
    async fn follow(mut self) {
        let mut good: Option<(Bytes, Instant)> = None;
        let mut given_up = false;
        let mut retry = RETRY;
        let mut pace = Pace::Short;
        loop {
            let timeout = self.want.borrow().timeout;
            let within = if pace == Pace::Short { timeout.min(SHORT) } else { timeout };
            let slot = self.lanes.turn(&mut self.want, pace).await;
            let begun = Instant::now();
            let fetched = (self.fetch)(self.source.clone(), Turn { within, slot }).await;
            pace = Pace::of(begun.elapsed());
            let wait = match fetched {
                Ok(keys) => {
                    good = Some((keys.clone(), Instant::now()));
                    (retry, given_up) = (RETRY, false);
                    if self.tell(Keys { good: Some(keys), ..Keys::default() }).await.is_err() {
                        return;
                    }
                    REFRESH
                }
                // Not short: that is all that can be said yet, and no answer.
                Err(FetchError::Late(..)) if within < timeout => continue,
                Err(error) => {
                    let had = good.is_some();
                    good = good.filter(|(_, since)| since.elapsed() < KEEP);
                    given_up |= had && good.is_none();
                    tracing::warn!(source = ?self.source, error = error.to_string(), "the keys of an issuer cannot be fetched");
                    let wrong = Some(error.to_string());
                    let told = Keys { good: good.as_ref().map(|(keys, _)| keys.clone()), wrong, given_up };
                    if self.tell(told).await.is_err() {
                        return;
                    }
                    let late = matches!(error, FetchError::Late(..));
                    let wait = retry;
                    retry = (retry * 2).min(if late { RETRY_LATE } else { RETRY_MOST });
                    wait
                }
            };
            // Not all replicas at once.
            let jitter = rand::rng().random_range(0.9..1.1);
            tokio::time::sleep(wait.mul_f64(jitter)).await;
        }
    }

    async fn tell(&self, keys: Keys) -> Result<(), ()> {
        self.found.send(vec![Event::Keys { source: self.source.clone(), keys }]).await.map_err(|_| ())
    }
}
