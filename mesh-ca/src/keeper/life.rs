//! How long certificates were given, so that it is known when the last one of a root has ended: kept before one is given that
//! ends later than what is kept says.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Failed, Keeper, root_of};
use crate::shelf::NotKept;

/// How often a write is tried anew after another replica's.
const TRIES: usize = 5;

impl Keeper {
    /// Whether what is kept is a newer authority's: whom that one refuses is not known here.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Acquire)
    }

    /// How long a certificate may live that wants to live for `life`: so long, or until any before it ends where the state
    /// cannot be written.
    ///
    /// # Errors
    /// When another root signs meanwhile: the caller should ask again.
    pub async fn allow(&self, life: Duration) -> Result<Duration, Failed> {
        // A part of a second counts as a whole one.
        let seconds = life.as_secs() + u64::from(life.subsec_nanos() > 0);
        if seconds <= self.known() {
            return Ok(life);
        }
        let mut now = self.now.lock().await;
        for _ in 0..TRIES {
            let kept = match self.kept(&now).await {
                Ok(kept) => kept,
                Err(error) => return Ok(self.as_before(life, &error)),
            };
            if !kept.state.root.is_empty() && kept.state.root != root_of(&self.signing.load()) {
                return Err(Failed::Gone);
            }
            let mut state = self.heard(&kept);
            state.gives(self.now_unix(), seconds);
            match self.commit(&mut now, &kept, state, None).await {
                Ok(()) => return Ok(life),
                Err(Failed::Shelf(NotKept::Conflict(_))) => {}
                Err(error) => return Ok(self.as_before(life, &error)),
            }
        }
        Ok(life.min(Duration::from_secs(self.known())))
    }

    /// The longest life of a certificate that is given now and ends before what is kept says.
    fn known(&self) -> u64 {
        let left = self.until.load(Ordering::Acquire).saturating_sub(self.now_unix());
        self.longest.load(Ordering::Acquire).max(left)
    }

    fn as_before(&self, life: Duration, error: &Failed) -> Duration {
        let longest = self.known();
        tracing::warn!(%error, asked = life.as_secs(), given = longest, "a longer life cannot be recorded now");
        life.min(Duration::from_secs(longest))
    }
}
