//! The state itself, as it is kept: JSON, in one piece. It may hold the key of a root that is prepared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// More pilots than that are not remembered, but that there are more: nobody can say then that all proxies have something.
pub(super) const MAX_PILOTS: usize = 64;
/// More names of proxies that wait are not kept.
const MAX_NAMES: usize = 5;
/// What a pilot says is kept again after that many seconds, though it says the same.
const REPORTED: u64 = 10;
/// More roots than that are not trusted beside those of a rotation.
const MAX_EARLIER: usize = 4;
/// How much later than it does the last certificate ends in our memory, at least.
const MIN_SLACK: u64 = 1;
/// The longest name that is kept.
const MAX_NAME: usize = 253;

/// Why a root that was plugged in is not taken. The one that signs goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{MAX_EARLIER} roots before those of the last rotation are still trusted, as certificates of theirs are in use: another one is taken \
     when the first of them leaves, in {left} s; `meshctl ca rotate retire --force` ends the trust in them now, and \
     connections of proxies that have not renewed by then fail"
)]
pub struct TooManyRoots {
    /// Seconds.
    pub left: u64,
}

/// What an authority remembers. A field that is not known is one of a newer authority: then nothing is read, rather than
/// lost or passed over, as it may say whom that one refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// Of the bundle: grows with every change of it.
    pub sequence: u64,
    /// The hash of that bundle.
    pub bundle: String,
    /// The root that signs now, PEM.
    pub root: String,
    /// The longest life, in seconds, that a certificate of the root that signs now has without being asked for.
    pub longest: u64,
    /// Unix seconds: when the last of its certificates ends that live longer than that.
    #[serde(skip_serializing_if = "is_zero")]
    pub until: u64,
    /// Roots before those of the rotation, whose certificates may still be in use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Earlier>,
    /// The rotation that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Whose certificates are refused.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tainted: BTreeMap<String, Taint>,
    /// The roots of other trust domains, PEM.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub foreign: BTreeMap<String, Vec<String>>,
    /// The first bundle (its SHA-256) of each endpoint that has said what its trust domain's roots are since.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub superseded: BTreeMap<String, String>,
    /// The number (`spiffe_sequence`) of the bundle that each endpoint said last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
    /// What each pilot said last.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub reports: BTreeMap<String, Report>,
    /// Some pilot has said something: where there is none now, they are away, which is not that there are none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reported: bool,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The new root is made.
    Prepared,
    /// It is trusted.
    Published,
    /// It signs.
    Activated,
}

/// A root that takes another one's place.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How far it is.
    pub phase: Phase,
    /// It goes on by itself.
    pub automatic: bool,
    /// The root that signed before, PEM.
    pub old: String,
    /// The root that signs afterwards, PEM.
    pub new: String,
    /// Its key, until it signs; never there for one that the operator plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Unix seconds: when this phase began.
    pub since: u64,
    /// The bundle that proxies must have before the next step.
    pub sequence: u64,
    /// The longest life, in seconds, that a certificate of the old root has without being asked for; known from activation on.
    pub longest: u64,
    /// Unix seconds: when the last of its certificates ends that live longer than that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub until: u64,
}

/// A root that signed before the one that signed before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    /// PEM.
    pub root: String,
    /// Unix seconds: when the last of its certificates has ended, everywhere.
    pub until: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation")
            .field("phase", &self.phase)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// An identity that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Unix seconds.
    pub since: u64,
    /// The operator's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The first bundle that said so.
    #[serde(default)]
    pub sequence: u64,
}

/// How the proxies of one pilot stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The bundle that it is about.
    pub sequence: u64,
    /// Connected.
    pub proxies: u32,
    /// Of those, which have not acknowledged it.
    pub behind: u32,
    /// Some of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// Its last word: it serves nobody any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// Unix seconds: when it came.
    pub at: u64,
}

impl Rotation {
    /// Unix seconds: when the last certificate of the old root has ended, everywhere.
    #[must_use]
    pub fn last_end(&self) -> u64 {
        (self.since + self.longest).max(self.until) + super::LAG.as_secs()
    }
}

impl Report {
    /// The same without what is too much.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.waiting.truncate(MAX_NAMES);
        for name in &mut self.waiting {
            *name = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
        }
        self
    }
}

impl State {
    /// Takes what pilots said, where it is newer; forgets those that were not heard of for long.
    pub fn hear(&mut self, reports: &BTreeMap<String, Report>, now: u64) {
        for (pilot, report) in reports {
            let known = self.reports.get(pilot);
            // Within one second what is said here is newer than what was kept, except for a last word.
            if known.is_none_or(|known| (known.at, known.ended) <= (report.at, report.ended)) {
                self.reports.insert(pilot.clone(), report.clone());
                self.reported = true;
            }
        }
        self.reports.retain(|_, report| now.saturating_sub(report.at) < super::GONE.as_secs());
        while self.reports.len() > MAX_PILOTS + 1 {
            self.reports.pop_last();
        }
    }

    /// The bundle has `hash`: if that is another one, it gets the next number, and what waits for a number gets this one.
    pub fn settle(&mut self, hash: String) {
        if self.bundle != hash {
            self.bundle = hash;
            self.sequence += 1;
        }
        let sequence = self.sequence;
        if let Some(rotation) = &mut self.rotation
            && rotation.sequence == 0
            && rotation.phase != Phase::Prepared
        {
            rotation.sequence = sequence;
        }
        for taint in self.tainted.values_mut().filter(|taint| taint.sequence == 0) {
            taint.sequence = sequence;
        }
    }

    /// The roots that a rotation has trusted, PEM: those of before and after it, whichever signs; and those before them.
    pub fn other_roots(&self) -> impl Iterator<Item = &str> {
        let known = |rotation: &&Rotation| rotation.phase != Phase::Prepared;
        let rotation = self.rotation.as_ref().filter(known);
        let roots = rotation.into_iter().flat_map(|rotation| [rotation.old.as_str(), rotation.new.as_str()]);
        roots.chain(self.earlier.iter().map(|earlier| earlier.root.as_str()))
    }

    /// The operator has put `new` into the place of the root that signed: everybody is told before it signs. A rotation
    /// that was under way is given up: its new root has never signed, or signs no more; its old one stays until its last
    /// certificate has ended.
    ///
    /// # Errors
    /// When too many roots are still trusted. Nothing has changed then.
    pub fn plugged_in(&mut self, new: &str, now: u64) -> Result<(), TooManyRoots> {
        self.forget_earlier(now);
        if let Some((root, until)) = self.left_behind().filter(|(_, until)| *until > now) {
            let known = self.earlier.iter().position(|earlier| earlier.root == root);
            match known {
                Some(at) => self.earlier[at].until = self.earlier[at].until.max(until),
                None if self.earlier.len() >= MAX_EARLIER => {
                    let first = self.earlier.iter().map(|earlier| earlier.until).min().unwrap_or(now);
                    return Err(TooManyRoots { left: first.saturating_sub(now) });
                }
                None => self.earlier.push(Earlier { root, until }),
            }
        }
        self.rotation = Some(Rotation {
            phase: Phase::Published,
            automatic: true,
            old: self.root.clone(),
            new: new.to_owned(),
            key: None,
            since: now,
            sequence: 0,
            longest: 0,
            until: 0,
        });
        Ok(())
    }

    /// The old root of a rotation whose new one has signed, and when its last certificate has ended.
    fn left_behind(&self) -> Option<(String, u64)> {
        let rotation = self.rotation.as_ref().filter(|rotation| rotation.phase == Phase::Activated)?;
        Some((rotation.old.clone(), rotation.last_end()))
    }

    /// Roots before those of the rotation leave when their last certificate has ended.
    pub fn forget_earlier(&mut self, now: u64) {
        self.earlier.retain(|earlier| earlier.until > now);
    }

    /// For how many seconds certificates of roots before those of the rotation may still be in use.
    #[must_use]
    pub fn earlier_in_use(&self, now: u64) -> u64 {
        self.earlier.iter().map(|earlier| earlier.until.saturating_sub(now)).max().unwrap_or(0)
    }

    /// Whether it is known that a certificate given at `now` for `life` seconds may be in use.
    #[must_use]
    pub fn covers(&self, now: u64, life: u64) -> bool {
        life <= self.longest || now.saturating_add(life) <= self.until
    }

    /// A certificate is to be given at `now` for `life` seconds. A little more is remembered: not each one is to be kept.
    pub fn gives(&mut self, now: u64, life: u64) {
        if !self.covers(now, life) {
            let slack = (self.longest / 24).max(MIN_SLACK);
            self.until = now.saturating_add(life).saturating_add(slack);
        }
    }

    /// Whether `self` is news over `kept`, which `shared` replicas read. What pilots said is news only where replicas need
    /// it: while a rotation waits for it, and not each time.
    #[must_use]
    pub fn is_news(&self, kept: &Self, shared: bool) -> bool {
        let silent = |state: &Self| Self { reports: BTreeMap::new(), reported: false, ..state.clone() };
        let first = self.rotation.is_some() && self.reported != kept.reported;
        if first || silent(self) != silent(kept) {
            return true;
        }
        let said = |report: &Report| Report { at: 0, ..report.clone() };
        let changed = |(pilot, report): (&String, &Report)| {
            let known = kept.reports.get(pilot);
            known.is_none_or(|known| said(known) != said(report) || report.at >= known.at + REPORTED)
        };
        shared && self.rotation.is_some() && self.reports.iter().any(changed)
    }
}
