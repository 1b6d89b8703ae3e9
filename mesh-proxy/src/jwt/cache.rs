//! Verdicts of one worker thread: a token that was verified is not verified again while its keys are the same and its time lasts.
//! Tokens go in, verdicts come out; nothing is shared, nothing waits.
//!
//! Bounded, in entries and in bytes, and good and bad tokens apart: who sends a flood of bad ones pushes out no good one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Claims, InvalidToken, KeySet, LONGEST, Validity, seconds, verify_at};

/// How long a bad signature is remembered, in seconds.
const REFUSED_FOR: u64 = 10;
/// 1024 entries and 4 MiB, together.
const GOOD: Bounds = Bounds { entries: 768, bytes: 7 << 19 };
const BAD: Bounds = Bounds { entries: 256, bytes: 1 << 19 };

/// The verdicts of one thread.
#[derive(Debug)]
pub struct Cache {
    good: Shelf<Good>,
    bad: Shelf<Bad>,
    /// Nobody outside can choose tokens that meet in one place.
    seed: u64,
}

#[derive(Debug)]
struct Good {
    claims: Arc<Claims>,
    validity: Validity,
}

/// The signature did not verify.
#[derive(Debug)]
struct Bad {
    from: u64,
}

impl Cache {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self { good: Shelf::new(GOOD), bad: Shelf::new(BAD), seed: rand::random() }
    }

    /// What [`verify`](super::verify) says, if need be from what it said before.
    ///
    /// # Errors
    /// As there. Of refusals only a bad signature is remembered, and for a short time: everything else is cheap to find again, or
    /// changes with time.
    pub fn verify(
        &mut self,
        token: &str,
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<Arc<Claims>, InvalidToken> {
        if token.len() > LONGEST {
            return Err(InvalidToken::TooLong);
        }
        let now = seconds(now);
        let asked = Asked {
            hash: xxh3_64_with_seed(token.as_bytes(), self.seed ^ keys.id()),
            token,
            keys: keys.id(),
        };
        if let Some(good) = self.good.get(&asked) {
            match good.validity.check(now) {
                Ok(()) => return Ok(Arc::clone(&good.claims)),
                Err(why) => {
                    self.good.remove(asked.hash);
                    return Err(why);
                }
            }
        }
        if let Some(bad) = self.bad.get(&asked)
            && (bad.from..=bad.from.saturating_add(REFUSED_FOR)).contains(&now)
        {
            return Err(InvalidToken::Signature);
        }
        match verify_at(token, keys, now) {
            Ok((claims, validity)) => {
                let weight = weight(&claims);
                let claims = Arc::new(claims);
                self.good.put(&asked, Good { claims: Arc::clone(&claims), validity }, weight);
                Ok(claims)
            }
            Err(why) => {
                if why == InvalidToken::Signature {
                    self.bad.put(&asked, Bad { from: now }, 0);
                }
                Err(why)
            }
        }
    }

    /// Entries and bytes.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        let entries = self.good.entries.len() + self.bad.entries.len();
        assert_eq!(entries, self.good.order.len() + self.bad.order.len());
        (entries, self.good.bytes + self.bad.bytes)
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

/// About what claims hold in memory: a short payload may become large.
fn weight(claims: &Claims) -> usize {
    fn of(value: &Value) -> usize {
        let inside = match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(list) => list.iter().map(of).sum(),
            // Name, place in the index and in the list.
            Value::Object(object) => object.iter().map(|(name, value)| name.len() + 64 + of(value)).sum(),
        };
        size_of::<Value>() + inside
    }
    let all: usize = claims.all.iter().map(|(name, value)| name.len() + 64 + of(value)).sum();
    // Issuer, subject, audiences and presenter are there once more.
    let audiences: usize = claims.audiences.iter().map(|audience| size_of::<String>() + audience.len()).sum();
    let texts = claims.issuer.len()
        + [&claims.subject, &claims.presenter].into_iter().flatten().map(String::len).sum::<usize>()
        + claims.principal().map_or(0, str::len);
    size_of::<Claims>() + all + audiences + texts
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    entries: usize,
    bytes: usize,
}

/// What is looked for.
struct Asked<'a> {
    hash: u64,
    token: &'a str,
    keys: u64,
}

/// Entries, the oldest goes first. Two tokens with one hash share a place: the later one has it.
#[derive(Debug)]
struct Shelf<T> {
    entries: HashMap<u64, Entry<T>>,
    order: VecDeque<u64>,
    bytes: usize,
    bounds: Bounds,
}

#[derive(Debug)]
struct Entry<T> {
    token: Box<str>,
    keys: u64,
    bytes: usize,
    verdict: T,
}

impl<T> Shelf<T> {
    fn new(bounds: Bounds) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), bytes: 0, bounds }
    }

    fn get(&self, asked: &Asked<'_>) -> Option<&T> {
        let entry = self.entries.get(&asked.hash)?;
        (entry.keys == asked.keys && *entry.token == *asked.token).then_some(&entry.verdict)
    }

    fn put(&mut self, asked: &Asked<'_>, verdict: T, weight: usize) {
        let bytes = size_of::<Entry<T>>() + asked.token.len() + weight;
        if bytes > self.bounds.bytes {
            return;
        }
        self.remove(asked.hash);
        while self.entries.len() >= self.bounds.entries || self.bytes + bytes > self.bounds.bytes {
            let Some(oldest) = self.order.front().copied() else { break };
            self.remove(oldest);
        }
        self.entries
            .insert(asked.hash, Entry { token: asked.token.into(), keys: asked.keys, bytes, verdict });
        self.order.push_back(asked.hash);
        self.bytes += bytes;
    }

    fn remove(&mut self, hash: u64) {
        let Some(entry) = self.entries.remove(&hash) else { return };
        self.bytes -= entry.bytes;
        match self.order.front() {
            Some(front) if *front == hash => drop(self.order.pop_front()),
            _ => self.order.retain(|other| *other != hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(hash: u64, token: &str, keys: u64) -> Asked<'_> {
        Asked { hash, token, keys }
    }

    /// A hash is no proof: whoever finds a token with the hash of another one gets nothing of its verdict.
    #[test]
    fn two_tokens_with_one_hash_share_no_verdict() {
        let mut shelf = Shelf::new(Bounds { entries: 10, bytes: 10_000 });
        shelf.put(&asked(1, "a", 7), "of a", 0);
        assert_eq!(shelf.get(&asked(1, "a", 7)), Some(&"of a"));
        assert_eq!(shelf.get(&asked(1, "b", 7)), None);
        assert_eq!(shelf.get(&asked(1, "a", 8)), None, "of other keys");
        shelf.put(&asked(1, "b", 7), "of b", 0);
        assert_eq!((shelf.get(&asked(1, "a", 7)), shelf.get(&asked(1, "b", 7))), (None, Some(&"of b")));
        assert_eq!((shelf.entries.len(), shelf.order.len()), (1, 1));
    }

    #[test]
    fn what_goes_leaves_nothing_and_the_order_stays() {
        let mut shelf = Shelf::new(Bounds { entries: 3, bytes: 10_000 });
        for hash in [1, 2, 3] {
            shelf.put(&asked(hash, "a", 7), hash, 0);
        }
        shelf.remove(2);
        assert_eq!(shelf.order, [1, 3]);
        shelf.put(&asked(4, "a", 7), 4, 0);
        shelf.put(&asked(5, "a", 7), 5, 0);
        assert_eq!(shelf.order, [3, 4, 5], "the oldest goes, and no other one");
        for hash in [3, 4, 5] {
            shelf.remove(hash);
        }
        assert_eq!((shelf.entries.len(), shelf.order.len(), shelf.bytes), (0, 0, 0));
    }

    #[test]
    fn what_is_larger_than_all_room_is_not_kept_and_pushes_nothing_out() {
        let one = size_of::<Entry<u8>>() + 1;
        let mut shelf = Shelf::new(Bounds { entries: 3, bytes: 2 * one });
        shelf.put(&asked(1, "a", 7), 1, 0);
        shelf.put(&asked(2, "a", 7), 2, one + 1);
        assert_eq!((shelf.order.len(), shelf.bytes), (1, one), "larger than everything");
        shelf.put(&asked(3, "a", 7), 3, 0);
        assert_eq!((shelf.order.len(), shelf.bytes), (2, 2 * one), "there is room for two");
        shelf.put(&asked(4, "a", 7), 4, one);
        assert_eq!((shelf.order.len(), shelf.bytes), (1, 2 * one), "it fits just so");
    }
}
