//! The longest life that was given, so that it is known when the last certificate of a root has ended: kept before the
//! first certificate that lives so long is given.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Failed, Keeper, root_of};
use crate::shelf::NotKept;

/// How often a write is tried anew after another replica's.
const TRIES: usize = 5;

impl Keeper {
    /// How long a certificate may live that wants to live for `life`: so long, or as long as any before it where the state
    /// cannot be written.
    ///
    /// # Errors
    /// When another root signs meanwhile: the caller should ask again.
    pub async fn allow(&self, life: Duration) -> Result<Duration, Failed> {
        // A part of a second counts as a whole one.
        let seconds = life.as_secs() + u64::from(life.subsec_nanos() > 0);
        if seconds <= self.longest.load(Ordering::Acquire) {
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
            state.longest = state.longest.max(seconds);
            match self.commit(&mut now, &kept, state, None).await {
                Ok(()) => return Ok(life),
                Err(Failed::Shelf(NotKept::Conflict(_))) => {}
                Err(error) => return Ok(self.as_before(life, &error)),
            }
        }
        Ok(life.min(Duration::from_secs(self.longest.load(Ordering::Acquire))))
    }

    fn as_before(&self, life: Duration, error: &Failed) -> Duration {
        let longest = self.longest.load(Ordering::Acquire);
        tracing::warn!(%error, asked = life.as_secs(), given = longest, "a longer life cannot be recorded now");
        life.min(Duration::from_secs(longest))
    }
}
