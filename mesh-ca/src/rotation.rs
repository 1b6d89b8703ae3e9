//! What an authority remembers beside its signing certificate, and how a root takes another one's place: a state and a
//! command in, the next state or a refusal out. Pure: no IO, no clock.
//!
//! ```text
//! (steady) ─ prepare ─► prepared ─ publish ─► published ─ activate ─► activated ─ retire ─► (steady)
//!                          └───────── cancel ─────┘
//! ```
//! Prepared: the new root exists, nobody has heard of it. Published: everybody is told to trust it too, the old one signs.
//! Activated: the new one signs, the old one is still trusted. A step that would cost connections is refused, unless forced.

mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use state::{Earlier, Phase, Report, Rotation, State, Taint, TooManyRoots};

/// How long another replica may go on signing with the old root after the new one took over, and clocks may differ.
pub const LAG: Duration = Duration::from_secs(30);
/// How long a root that the operator plugged in, or that is due, is known before it signs, where no pilot says more.
pub const SPREAD: Duration = Duration::from_secs(120);
/// A pilot reports every few seconds; one that was silent for that long does not know how its proxies stand.
const SILENT: Duration = Duration::from_secs(30);
/// Proxies of a pilot that ended come back to another one within that time; until then nobody speaks for them.
const COMING_BACK: Duration = Duration::from_secs(10);
/// After that long a pilot that was not heard of is taken for gone.
pub const GONE: Duration = Duration::from_secs(300);
/// More identities than that are not refused by name: then something else is wrong.
const MAX_TAINTED: usize = 1000;

/// What is asked of the authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Make the new root.
    Prepare,
    /// Have it trusted.
    Publish,
    /// Sign with it.
    Activate,
    /// Have the old one no longer trusted.
    Retire,
    /// Give up a root that has not signed yet.
    Cancel,
}

/// What is known beside the state.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Unix seconds.
    pub now: u64,
    /// The root that signs, PEM.
    pub signing_root: &'a str,
    /// The operator put it there.
    pub plugged: bool,
    /// A rotation that is begun goes on by itself.
    pub automatic: bool,
    /// Do it although it costs connections.
    pub force: bool,
}

/// Why a step is refused. The state stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not the next step.
    #[error("{step} is not the next step: {now}")]
    Order {
        /// What was asked for.
        step: &'static str,
        /// How things stand, and what comes next.
        now: &'static str,
    },
    /// The operator's certificate is not ours to replace.
    #[error(
        "the signing certificate is plugged in: put the new one into its place (ca-cert.pem, ca-key.pem, root-cert.pem, \
         cert-chain.pem); the authority publishes, activates and retires by itself"
    )]
    PluggedIn,
    /// Proxies have not got what they need.
    #[error("{0}; --force goes on nevertheless, and connections of proxies that have not heard of it fail")]
    Behind(String),
    /// Certificates of the old root are in use.
    #[error(
        "certificates of the old root are valid for up to {left} s more; --force retires it nevertheless, and \
         connections of proxies that have not renewed by then fail"
    )]
    InUse {
        /// Until the last of them has ended.
        left: u64,
    },
    /// Too many.
    #[error("{MAX_TAINTED} identities are tainted already: untaint some, or change the trust domain's root")]
    TooMany,
}

impl State {
    /// The next state after `step`. `new` makes a root (certificate and key, PEM).
    ///
    /// # Errors
    /// When it is not the step's turn, or it would cost connections and `facts.force` is not set.
    pub fn step(
        &self,
        step: &Step,
        facts: Facts<'_>,
        new: impl FnOnce() -> (String, String),
    ) -> Result<Self, Refused> {
        let mut next = self.clone();
        let phase = self.rotation.as_ref().map(|rotation| rotation.phase);
        match (step, phase) {
            (Step::Prepare, None) => {
                if facts.plugged {
                    return Err(Refused::PluggedIn);
                }
                let (certificate, key) = new();
                next.rotation = Some(Rotation {
                    phase: Phase::Prepared,
                    automatic: facts.automatic,
                    old: facts.signing_root.to_owned(),
                    new: certificate,
                    key: Some(key),
                    since: facts.now,
                    sequence: 0,
                    longest: 0,
                    until: 0,
                });
            }
            (Step::Publish, Some(Phase::Prepared)) => next.enter(Phase::Published, facts.now),
            (Step::Activate, Some(Phase::Published)) => {
                self.covered(facts)?;
                next.activated(facts.now);
            }
            (Step::Retire, Some(Phase::Activated)) => {
                let left = self.old_in_use(facts.now);
                if left > 0 && !facts.force {
                    return Err(Refused::InUse { left });
                }
                self.covered(facts)?;
                next.rotation = None;
                if facts.force {
                    next.earlier.clear();
                }
            }
            (Step::Retire, None) if !self.earlier.is_empty() => {
                let left = self.earlier_in_use(facts.now);
                if left > 0 && !facts.force {
                    return Err(Refused::InUse { left });
                }
                next.earlier.clear();
            }
            (Step::Cancel, Some(Phase::Prepared | Phase::Published)) => next.rotation = None,
            (step, phase) => return Err(Refused::Order { step: step.name(), now: what_next(phase) }),
        }
        Ok(next)
    }

    /// What is due by itself, without a command: the steps of a rotation that is on schedule or was begun by plugging in.
    #[must_use]
    pub fn due(&self, now: u64) -> Option<Step> {
        let rotation = self.rotation.as_ref().filter(|rotation| rotation.automatic)?;
        let spread = now.saturating_sub(rotation.since) >= SPREAD.as_secs();
        let everybody_has_it = self.waiting(now).is_none() || (!self.reported && spread);
        match rotation.phase {
            Phase::Prepared => Some(Step::Publish),
            Phase::Published if everybody_has_it => Some(Step::Activate),
            Phase::Activated if everybody_has_it && self.old_in_use(now) == 0 => Some(Step::Retire),
            Phase::Published | Phase::Activated => None,
        }
    }

    /// The new root signs from `now` on.
    pub fn activated(&mut self, now: u64) {
        self.enter(Phase::Activated, now);
        if let Some(rotation) = &mut self.rotation {
            rotation.key = None;
            (rotation.longest, rotation.until) = (self.longest, self.until);
        }
        (self.longest, self.until) = (0, 0);
    }

    /// For how many seconds certificates of the old root may still be in use.
    #[must_use]
    pub fn old_in_use(&self, now: u64) -> u64 {
        let Some(rotation) = self.rotation.as_ref().filter(|r| r.phase == Phase::Activated) else { return 0 };
        rotation.last_end().saturating_sub(now)
    }

    /// Why it cannot be said that every proxy has what this rotation has made known; `None` if they all have.
    #[must_use]
    pub fn waiting(&self, now: u64) -> Option<String> {
        let sequence = self.rotation.as_ref().map_or(self.sequence, |rotation| rotation.sequence);
        self.waiting_for(sequence, now)
    }

    /// The same for the bundle `sequence`.
    #[must_use]
    pub fn waiting_for(&self, sequence: u64, now: u64) -> Option<String> {
        if self.reports.values().all(|report| report.ended) {
            return Some("no pilot has said how its proxies stand".to_owned());
        }
        if self.reports.len() > state::MAX_PILOTS {
            return Some(format!("more than {} pilots say how their proxies stand", state::MAX_PILOTS));
        }
        self.reports.iter().find_map(|(pilot, report)| report.waiting_for(pilot, sequence, now))
    }

    /// Refuses `id` from here on, or no longer.
    ///
    /// # Errors
    /// When there are too many.
    pub fn taint(&self, id: &str, taint: Option<Taint>) -> Result<Self, Refused> {
        let mut next = self.clone();
        match taint {
            Some(taint) if next.tainted.len() < MAX_TAINTED || next.tainted.contains_key(id) => {
                next.tainted.insert(id.to_owned(), taint);
            }
            Some(_) => return Err(Refused::TooMany),
            None => drop(next.tainted.remove(id)),
        }
        Ok(next)
    }

    fn covered(&self, facts: Facts<'_>) -> Result<(), Refused> {
        match self.waiting(facts.now) {
            Some(why) if !facts.force => Err(Refused::Behind(why)),
            _ => Ok(()),
        }
    }

    fn enter(&mut self, phase: Phase, now: u64) {
        if let Some(rotation) = &mut self.rotation {
            rotation.phase = phase;
            rotation.since = now;
            // Known when the bundle has its number.
            rotation.sequence = 0;
        }
    }
}

impl Report {
    /// Why it cannot be said that the proxies of `pilot`, which this is of, have the bundle `sequence`.
    fn waiting_for(&self, pilot: &str, sequence: u64, now: u64) -> Option<String> {
        let silent = now.saturating_sub(self.at);
        if self.ended {
            let back = silent >= COMING_BACK.as_secs();
            (!back).then(|| format!("the pilot {pilot} has just ended, and its proxies go to another one"))
        } else if silent > SILENT.as_secs() {
            let left = GONE.as_secs().saturating_sub(silent);
            Some(format!(
                "the pilot {pilot} has not said for {silent} s how its proxies stand (in {left} s it is taken for gone)"
            ))
        } else if self.sequence < sequence {
            Some(format!("the pilot {pilot} has not heard of it yet"))
        } else if self.behind > 0 {
            let names = self.waiting.join(", ");
            Some(format!("{} of {} proxies have not got it: {names}", self.behind, self.proxies))
        } else {
            None
        }
    }
}

impl Step {
    /// As it is typed.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Publish => "publish",
            Self::Activate => "activate",
            Self::Retire => "retire",
            Self::Cancel => "cancel",
        }
    }
}

/// How things stand, and what comes next.
fn what_next(phase: Option<Phase>) -> &'static str {
    match phase {
        None => "no rotation is under way; prepare begins one",
        Some(Phase::Prepared) => "a new root is prepared; publish has it trusted",
        Some(Phase::Published) => "the new root is published; activate makes it sign",
        Some(Phase::Activated) => "the new root signs; retire ends the trust in the old one",
    }
}
