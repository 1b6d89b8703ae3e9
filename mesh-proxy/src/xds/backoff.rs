//! How long to wait before the pilot is tried again.
//!
//! In: how often it failed in a row. Out: a time, doubled each time up to a limit, with jitter, so that a pilot that
//! comes back is not met by every proxy at once.

use std::time::Duration;

use rand::RngExt as _;

/// The first wait, before jitter.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(3);

/// The state between two tries.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pilot answered: the next wait is a short one.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait: between half of the present one and all of it.
    pub(super) fn next(&mut self, rng: &mut impl rand::Rng) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_limit_and_starts_again() {
        let mut backoff = Backoff::default();
        let mut rng = rand::rng();
        for expected in [200, 400, 800, 1600, 3000, 3000] {
            let wait = backoff.next(&mut rng).as_millis();
            assert!((expected / 2..=expected).contains(&wait), "{wait} ms where {expected} is the most");
        }
        for _ in 0..100 {
            assert!(backoff.next(&mut rng) <= LONGEST);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= FIRST);
    }
}
