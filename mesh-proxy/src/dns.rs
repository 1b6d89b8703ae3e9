//! Addresses of names outside of the mesh, kept up to date away from every request.
//!
//! In: the names that clusters have. Out: an [`Answer`] about each as soon as there is one, and whenever it has other
//! addresses than before. A name is asked for again when its TTL is over; one that fails, after a pause that grows to 60 s
//! (Istio's), and keeps the addresses that it had.

mod system;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use system::System;

/// The names that are wanted.
pub type Names = BTreeSet<Arc<str>>;

/// Nobody is asked more often, whatever its TTL says.
const SHORTEST: Duration = Duration::from_secs(5);
/// Nor less often: what a hosts file says has no TTL.
const LONGEST: Duration = Duration::from_secs(3600);
/// The pause after a failure, doubled with each, and its bound.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How many names are asked for at once.
const AT_ONCE: usize = 16;
/// The most addresses of one name that are used.
const MOST_ADDRESSES: usize = 256;

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name.
    pub name: Arc<str>,
    /// Its addresses, in the order of the answer; or why there are none, and never have been any.
    pub found: Result<Vec<IpAddr>, String>,
}

/// What DNS says about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// In the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// How long that holds.
    pub ttl: Duration,
}

/// What is being asked.
pub type Asking = Pin<Box<dyn Future<Output = Result<Found, String>> + Send>>;

/// Somebody who can be asked.
pub trait Source: Send + 'static {
    /// Asks for a name's addresses.
    fn ask(&self, name: &str) -> Asking;
}

/// Answers about the `names` wanted, for as long as somebody takes them. Needs a runtime.
#[must_use]
pub fn start(names: watch::Receiver<Names>, source: impl Source) -> mpsc::UnboundedReceiver<Answer> {
    let (tell, answers) = mpsc::unbounded_channel();
    let keeper = Keeper { source, names: BTreeMap::new(), asking: JoinSet::new(), tell };
    tokio::spawn(keeper.run(names));
    answers
}

/// One name.
struct Known {
    /// When to ask.
    due: Instant,
    /// Somebody has been asked.
    asking: bool,
    /// In a row.
    failures: u32,
    /// What was told.
    told: Option<Result<Vec<IpAddr>, String>>,
}

struct Keeper<S> {
    source: S,
    names: BTreeMap<Arc<str>, Known>,
    asking: JoinSet<(Arc<str>, Result<Found, String>)>,
    tell: mpsc::UnboundedSender<Answer>,
}

impl<S: Source> Keeper<S> {
    async fn run(mut self, mut wanted: watch::Receiver<Names>) {
        loop {
            let names = wanted.borrow_and_update().clone();
            self.want(&names);
            let due = self.ask(Instant::now());
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(done) = self.asking.join_next() => {
                    // What panics is asked for again when it is due.
                    if let Ok((name, found)) = done && !self.take(&name, found) {
                        return;
                    }
                }
                () = until(due) => {}
            }
        }
    }

    fn want(&mut self, names: &Names) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            let new = || Known { due: Instant::now(), asking: false, failures: 0, told: None };
            self.names.entry(name.clone()).or_insert_with(new);
        }
    }

    /// Asks for what is due; gives when the next one is, unless an answer must come before.
    fn ask(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for (name, known) in self.names.iter_mut().filter(|(_, known)| !known.asking) {
            if known.due > now {
                next = Some(next.map_or(known.due, |at: Instant| at.min(known.due)));
            } else if self.asking.len() < AT_ONCE {
                known.asking = true;
                let (name, answer) = (name.clone(), self.source.ask(name));
                self.asking.spawn(async move { (name, answer.await) });
            }
        }
        next
    }

    /// False when nobody listens any more.
    fn take(&mut self, name: &Arc<str>, found: Result<Found, String>) -> bool {
        let Some(known) = self.names.get_mut(name) else { return true };
        known.asking = false;
        let found = found.and_then(|found| match found.addresses.is_empty() {
            true => Err("it has no address".to_owned()),
            false => Ok(found),
        });
        let answer = match found {
            Ok(mut found) => {
                known.failures = 0;
                known.due = Instant::now() + found.ttl.clamp(SHORTEST, LONGEST);
                found.addresses.truncate(MOST_ADDRESSES);
                Ok(found.addresses)
            }
            Err(why) => {
                let pause = PAUSE.saturating_mul(1 << known.failures.min(6)).min(LONGEST_PAUSE);
                known.failures += 1;
                known.due = Instant::now() + pause;
                if known.failures == 1 {
                    tracing::warn!(name = &**name, %why, "DNS; what was known stays");
                }
                match &known.told {
                    Some(Ok(_)) => return true,
                    _ => Err(why),
                }
            }
        };
        if known.told.as_ref() == Some(&answer) {
            return true;
        }
        known.told = Some(answer.clone());
        self.tell.send(Answer { name: name.clone(), found: answer }).is_ok()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
