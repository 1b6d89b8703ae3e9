//! The life of our certificate: stored one at the start if it is still good, renewal at half of its life, retries.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{self, Issued, ObtainError};
use super::{CaConfig, disk};
use crate::runtime::identity::{Identity, Leaf, Roots, RootsHandle, read_certificates};
use crate::runtime::tls::{Role, verify_chain};

/// How often the roots file is looked at, and the clock: a machine that slept has missed its timers.
const TICK: Duration = Duration::from_secs(15);
/// The first wait after a failure; each further one is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// The longest wait after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The longest wait while there is no certificate at all: the application waits for it too.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// Within how long those renew whose root no longer signs: not all at once.
const OUTDATED: Duration = Duration::from_secs(30);
/// The longest wait for a file that somebody is about to mount: looking costs nothing.
const FILE_WAIT: Duration = Duration::from_secs(1);

/// How the rotation is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationStatus {
    /// When the next renewal is due.
    pub renew_at: SystemTime,
    /// Renewals since the start.
    pub renewals: u64,
    /// Why the last attempt failed; `None` after a success.
    pub last_error: Option<String>,
}

/// The background task that renews. Dropping it stops the renewals; the identity stays usable until it expires.
#[derive(Debug)]
pub struct Rotation {
    task: JoinHandle<()>,
    status: watch::Receiver<RotationStatus>,
}

impl Rotation {
    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> RotationStatus {
        self.status.borrow().clone()
    }

    /// Tells of every attempt.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<RotationStatus> {
        self.status.clone()
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until there is a certificate, however long that takes, and keeps it fresh from then on. A stored one that is
/// still good is taken at once. Failures are logged and retried: nothing here needs a restart to heal.
pub async fn obtain(config: CaConfig) -> (Identity, Rotation) {
    let mut backoff = Backoff::new();
    let mut file = RootsFile::default();
    let roots = RootsHandle::new(Roots::none());
    let mut told = String::new();
    while let Err(error) = file.refresh(&config, &roots).await {
        // One line per reason, not per look.
        let why = error.to_string();
        if why != told {
            tracing::warn!(%error, "no roots yet: waiting for the file");
            told = why;
        }
        tokio::time::sleep(backoff.next().min(FILE_WAIT)).await;
    }
    let (leaf, since) = match stored(&config, &roots) {
        Some(found) => found,
        None => first(&config, &roots, &mut file).await,
    };
    let due = half_life(since, leaf.not_after);
    let identity = Identity::new(leaf, roots);
    let (status, watch) = watch::channel(RotationStatus { renew_at: due, renewals: 0, last_error: None });
    let task = tokio::spawn(rotate(config, identity.clone(), file, status));
    (identity, Rotation { task, status: watch })
}

/// One attempt to get a certificate, without disk and rotation: for checks and tools.
///
/// # Errors
/// Why there is none.
pub async fn obtain_once(config: &CaConfig) -> Result<Identity, ObtainError> {
    let roots = RootsHandle::new(Roots::none());
    RootsFile::default().refresh(config, &roots).await?;
    let issued = client::request(config, &roots, None).await?;
    Ok(Identity::new(issued.leaf, roots))
}

fn stored(config: &CaConfig, roots: &RootsHandle) -> Option<(Leaf, SystemTime)> {
    match disk::load(&config.state_dir, &config.identity) {
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(%error, "stored certificate not used");
            None
        }
        Ok(Some(stored)) => match client::trusted(&stored.leaf, roots, &config.identity) {
            Ok(()) => {
                tracing::info!(identity = %config.identity, serial = stored.leaf.serial, "using the stored certificate");
                Some((stored.leaf, stored.at))
            }
            Err(error) => {
                tracing::info!(%error, "stored certificate not used");
                None
            }
        },
    }
}

async fn first(config: &CaConfig, roots: &RootsHandle, file: &mut RootsFile) -> (Leaf, SystemTime) {
    let mut backoff = Backoff::new();
    let mut told = String::new();
    loop {
        let limit = match client::request(config, roots, None).await {
            Ok(issued) => return (keep(config, issued), SystemTime::now()),
            Err(error) => {
                let why = error.to_string();
                if why != told {
                    tracing::warn!(identity = %config.identity, %error, "no certificate yet");
                    told = why;
                }
                if matches!(error, ObtainError::File { .. }) { FILE_WAIT } else { FIRST_WAIT }
            }
        };
        tokio::time::sleep(backoff.next().min(limit)).await;
        // An authority that was set up anew has another root.
        if let Err(error) = file.refresh(config, roots).await {
            tracing::warn!(%error, "cannot read the roots again");
        }
    }
}

async fn rotate(
    config: CaConfig,
    identity: Identity,
    mut file: RootsFile,
    status: watch::Sender<RotationStatus>,
) {
    let mut backoff = Backoff::new();
    let mut changes = identity.changed();
    // What is there at the start counts too: a stored leaf may be of a root that signs no more.
    let mut changed = true;
    loop {
        if std::mem::take(&mut changed)
            && let Some(sooner) = sooner(&identity)
        {
            status.send_if_modified(|s| {
                let earlier = sooner < s.renew_at;
                s.renew_at = s.renew_at.min(sooner);
                earlier
            });
        }
        let due = status.borrow().renew_at;
        if let Ok(left) = due.duration_since(SystemTime::now())
            && !left.is_zero()
        {
            tokio::select! {
                () = tokio::time::sleep(left.min(TICK)) => changed = refresh(&config, &identity, &mut file).await,
                // The sender is in `identity`, which we hold.
                _ = changes.changed() => changed = true,
            }
            continue;
        }
        match renew(&config, &identity).await {
            Ok(renew_at) => {
                backoff = Backoff::new();
                status.send_modify(|s| {
                    *s = RotationStatus { renew_at, renewals: s.renewals + 1, last_error: None }
                });
            }
            Err(error) => {
                let left = identity.leaf().not_after.duration_since(SystemTime::now()).ok();
                match left {
                    Some(left) => {
                        tracing::warn!(%error, seconds_left = left.as_secs(), "certificate not renewed");
                    }
                    None => tracing::error!(%error, "certificate not renewed, and expired: peers refuse us"),
                }
                status.send_modify(|s| s.last_error = Some(error.to_string()));
                let wait = backoff.next();
                // A short life leaves no time for long waits.
                tokio::time::sleep(left.map_or(wait, |left| wait.min((left / 8).max(FIRST_BACKOFF)))).await;
                refresh(&config, &identity, &mut file).await;
            }
        }
    }
}

/// Looks at the roots file. True if there are new roots.
async fn refresh(config: &CaConfig, identity: &Identity, file: &mut RootsFile) -> bool {
    file.refresh(config, identity.roots_handle()).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the roots again");
        false
    })
}

/// When to renew before half of the life, if there is a reason: at once where our roots no longer vouch for our leaf
/// (peers will refuse it as soon as they have heard the same), soon where its root no longer signs (it will be retired).
fn sooner(identity: &Identity) -> Option<SystemTime> {
    let (leaf, now) = (identity.leaf(), SystemTime::now());
    if let Err(error) = client::trusted(&leaf, identity.roots_handle(), identity.id()) {
        tracing::warn!(%error, "renewing before its time");
        return Some(now);
    }
    let (roots, domain) = (identity.roots(), identity.id().trust_domain());
    let signing = roots.domain(domain)?.signing.clone()?;
    let signing = RootsHandle::new(Roots::none().with_domain(domain, vec![signing]).ok()?);
    if verify_chain(&leaf.certified_key.cert, &signing, Role::Client, UnixTime::now()).is_ok() {
        return None;
    }
    let left = leaf.not_after.duration_since(now).unwrap_or_default();
    let wait = OUTDATED.min(left / 8).mul_f64(rand::rng().random_range(0.0..1.0));
    tracing::info!(seconds = wait.as_secs(), "renewing before its time: another root signs now");
    Some(now + wait)
}

/// One renewal; when the next one is due.
async fn renew(config: &CaConfig, identity: &Identity) -> Result<SystemTime, ObtainError> {
    let issued = client::request(config, identity.roots_handle(), Some(identity)).await?;
    let leaf = keep(config, issued);
    let renew_at = half_life(SystemTime::now(), leaf.not_after);
    identity.swap_leaf(leaf)?;
    Ok(renew_at)
}

/// Stores what was issued. A disk that cannot be written costs only the start while the authority is away.
fn keep(config: &CaConfig, issued: Issued) -> Leaf {
    if let Err(error) = disk::store(&config.state_dir, &issued.chain_pem, &issued.key_pem) {
        tracing::warn!(%error, "certificate not stored");
    }
    let leaf = issued.leaf;
    let left = leaf.not_after.duration_since(SystemTime::now()).map_or(0, |d| d.as_secs());
    tracing::info!(identity = %leaf.id, serial = leaf.serial, seconds_left = left, "new certificate");
    leaf
}

/// Half of the life that a leaf had when it came, give or take a twentieth, so that not all renew at once. The time
/// before `since` does not count: authorities date certificates back for clocks that are slow.
fn half_life(since: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(since).unwrap_or_default();
    since + life.mul_f64(rand::rng().random_range(0.45..0.55))
}

/// Exponential waits with full jitter above a half.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(FIRST_BACKOFF)
    }

    fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(rand::rng().random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(MAX_BACKOFF);
        wait
    }
}

/// The roots file as it was when it was last read. The pilot's trust bundle may have told more roots since: only a
/// change of the file counts.
#[derive(Default)]
struct RootsFile {
    seen: Vec<u8>,
}

impl RootsFile {
    /// True if there were new roots.
    async fn refresh(&mut self, config: &CaConfig, roots: &RootsHandle) -> Result<bool, ObtainError> {
        let failed = |why: String| ObtainError::File { path: config.roots.clone(), why };
        let pem = read(&config.roots).await.map_err(|e| failed(e.to_string()))?;
        if pem == self.seen {
            return Ok(false);
        }
        let certificates = read_certificates("root certificates", &pem).map_err(|e| failed(e.to_string()))?;
        let count = certificates.len();
        let new = Roots::clone(&roots.get())
            .with_domain(config.identity.trust_domain(), certificates)
            .map_err(|e| failed(e.to_string()))?;
        roots.swap(new);
        self.seen = pem;
        tracing::info!(trust_domain = %config.identity.trust_domain(), count, "roots read");
        Ok(true)
    }
}

/// At most 1 MiB: a file that is larger holds no roots.
async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    let mut text = Vec::new();
    tokio::fs::File::open(path).await?.take(1 << 20).read_to_end(&mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests;
