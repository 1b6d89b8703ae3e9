//! How long an endpoint takes to answer: a moving average that rises and falls with each answer and fades when there is none.
//!
//! In: the time of each attempt. Out: milliseconds, for LEAST_REQUEST. A failure never lowers it: who fails fast is not fast.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Moment;

/// An average without answers falls to a third in this time: who was slow is tried again.
const FADE: f32 = 5000.0;
/// What a new answer weighs at least; answers that come seldom weigh more.
const WEIGHT: f32 = 0.3;
/// What no answer at all counts for, at least.
const NO_ANSWER: f32 = 1000.0;

/// One endpoint's average, with the time of the last answer: both in one word, so that no lock is needed.
#[derive(Debug, Default)]
pub struct Latency(AtomicU64);

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An answer that is no server's error.
    Answer,
    /// A server's error.
    Error,
    /// Reset, refused, or out of time.
    Nothing,
}

impl Latency {
    /// The average as it stands `now`, in milliseconds; 0: nothing is known.
    #[must_use]
    pub fn at(&self, now: Moment) -> f32 {
        let word = self.0.load(Ordering::Relaxed);
        average(word) * left(word, stamp(now))
    }

    /// What the average was at the last answer: it is never more than that now. Cheaper than [`Self::at`].
    #[must_use]
    pub fn at_most(&self) -> f32 {
        average(self.0.load(Ordering::Relaxed))
    }

    /// Takes one attempt into account. Of two at the same time one may be lost.
    pub fn record(&self, now: Moment, took: Duration, ending: Ending) {
        let word = self.0.load(Ordering::Relaxed);
        let (now, before) = (stamp(now), average(word));
        let left = left(word, now);
        let current = before * left;
        let took = took.as_secs_f32() * 1000.0;
        let sample = match ending {
            Ending::Answer => took,
            Ending::Error => took.max(before),
            Ending::Nothing => took.max(before).max(NO_ANSWER),
        };
        let weight = (1.0 - left).max(WEIGHT);
        let next = if before == 0.0 { sample } else { current + (sample - current) * weight };
        // 0 is kept for what is not known.
        let word = u64::from(next.max(f32::MIN_POSITIVE).to_bits()) << 32 | u64::from(now);
        self.0.store(word, Ordering::Relaxed);
    }
}

/// Wraps after 49 days, which only makes one difference wrong.
fn stamp(now: Moment) -> u32 {
    (now.millis() & u64::from(u32::MAX)) as u32
}

fn age(word: u64, now: u32) -> f32 {
    // Another thread's clock may be a little behind.
    let age = now.wrapping_sub(word as u32);
    if age > u32::MAX / 2 { 0.0 } else { age as f32 }
}

fn average(word: u64) -> f32 {
    f32::from_bits((word >> 32) as u32)
}

/// How much of an average is left by now, from 1 down to 0.
fn left(word: u64, now: u32) -> f32 {
    (-age(word, now) / FADE).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn follows_answers_and_fades() {
        let latency = Latency::default();
        assert_eq!(latency.at(at(0)), 0.0);
        for i in 0..20 {
            latency.record(at(i), Duration::from_millis(200), Ending::Answer);
        }
        assert!((195.0..205.0).contains(&latency.at(at(20))), "{}", latency.at(at(20)));
        for i in 20..40 {
            latency.record(at(i), Duration::from_millis(10), Ending::Answer);
        }
        assert!((9.0..12.0).contains(&latency.at(at(40))), "{}", latency.at(at(40)));
        assert!(latency.at(at(40 + 15_000)) < 1.0);
        assert_eq!(latency.at(at(39)), latency.at_most());
    }

    #[test]
    fn failures_do_not_look_fast() {
        let latency = Latency::default();
        latency.record(at(0), Duration::from_millis(50), Ending::Answer);
        for i in 0..50 {
            latency.record(at(i), Duration::ZERO, Ending::Error);
        }
        assert!(latency.at(at(50)) > 45.0, "{}", latency.at(at(50)));
        latency.record(at(50), Duration::ZERO, Ending::Nothing);
        assert!(latency.at(at(50)) > 300.0);
    }
}
