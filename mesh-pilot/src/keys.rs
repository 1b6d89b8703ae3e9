//! The keys of issuers of tokens: fetched, kept and refreshed here, delivered to proxies with their settings.
//!
//! ```text
//! config ─► which sources are wanted ─► one task each: fetch ─ wait ─ fetch ... ─► Event::Keys ─► index
//! ```
//! A source that fails holds up no other one: its last good keys stay for a day, and status says what is wrong.

mod fetch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_proto::crd::request_authentication::JwtRule;
use rand::RngExt as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

pub use self::fetch::{FetchError, Reach};
use crate::source::Event;

/// Istio's: good keys are fetched again after this time.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After a failure: first this, then twice as long, up to [`RETRY_MOST`].
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// So many issuers are fetched from: more would let one author fill the pilot.
pub const MAX_SOURCES: usize = 512;
/// Fetches at the same time.
const AT_ONCE: usize = 16;
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

/// Fetches what is wanted, for as long as it is wanted.
pub async fn keep(
    mut wanted: watch::Receiver<BTreeSet<KeySource>>,
    found: mpsc::Sender<Vec<Event>>,
    reach: Reach,
) {
    let mut tasks = JoinSet::new();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut running: BTreeMap<KeySource, AbortHandle> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        running.retain(|source, task| {
            let stays = now.contains(source);
            if !stays {
                task.abort();
            }
            stays
        });
        for source in now {
            running.entry(source).or_insert_with_key(|source| {
                tasks.spawn(follow(source.clone(), found.clone(), reach, slots.clone()))
            });
        }
        // Those that have been aborted.
        while tasks.try_join_next().is_some() {}
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// One source, until nobody listens.
async fn follow(source: KeySource, found: mpsc::Sender<Vec<Event>>, reach: Reach, slots: Arc<Semaphore>) {
    let mut good: Option<(Bytes, Instant)> = None;
    let mut given_up = false;
    let mut retry = RETRY;
    loop {
        let slot = slots.acquire().await.expect("never closed");
        let fetched = fetch::keys(&source, reach).await;
        drop(slot);
        let wait = match fetched {
            Ok(keys) => {
                good = Some((keys, Instant::now()));
                retry = RETRY;
                given_up = false;
                REFRESH
            }
            Err(error) => {
                let had = good.is_some();
                good = good.filter(|(_, since)| since.elapsed() < KEEP);
                given_up |= had && good.is_none();
                tracing::warn!(?source, error = error.to_string(), "the keys of an issuer cannot be fetched");
                let wrong = Some(error.to_string());
                let told = Keys { good: good.as_ref().map(|(keys, _)| keys.clone()), wrong, given_up };
                if tell(&found, &source, told).await.is_err() {
                    return;
                }
                let wait = retry;
                retry = (retry * 2).min(RETRY_MOST);
                wait
            }
        };
        if let Some((keys, _)) = good.as_ref().filter(|_| wait == REFRESH)
            && tell(&found, &source, Keys { good: Some(keys.clone()), ..Keys::default() }).await.is_err()
        {
            return;
        }
        // Not all replicas at once.
        let jitter = rand::rng().random_range(0.9..1.1);
        tokio::time::sleep(wait.mul_f64(jitter)).await;
    }
}

async fn tell(found: &mpsc::Sender<Vec<Event>>, source: &KeySource, keys: Keys) -> Result<(), ()> {
    found.send(vec![Event::Keys { source: source.clone(), keys }]).await.map_err(|_| ())
}
