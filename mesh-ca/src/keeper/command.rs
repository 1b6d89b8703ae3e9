//! What an operator asks of the authority, and the answer.

use serde::{Deserialize, Serialize};

use mesh_proto::model::SpiffeId;

use super::told::sha256;
use super::{Failed, Keeper, Now, root_of};
use crate::authority::hex;
use crate::authority::material::end_of;
use crate::rotation::{Facts, Phase, Refused, Step, Taint};
use crate::shelf::NotKept;

/// How often a write is tried anew after another replica's.
const TRIES: usize = 5;
/// The longest reason that is kept.
const MAX_REASON: usize = 300;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// A step of a rotation.
    Rotate {
        /// Which.
        step: Step,
        /// Although it costs connections.
        #[serde(default)]
        force: bool,
        /// Every further step comes by itself.
        #[serde(default)]
        automatic: bool,
    },
    /// Refuse an identity.
    Taint {
        /// `spiffe://...`.
        identity: String,
        /// Why: for people.
        #[serde(default)]
        reason: String,
    },
    /// No longer.
    Untaint {
        /// `spiffe://...`.
        identity: String,
    },
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not allowed now.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// It did not work.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// How the authority stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of every identity.
    pub trust_domain: String,
    /// Of the bundle.
    pub sequence: u64,
    /// The operator's own certificate signs.
    pub plugged_in: bool,
    /// The roots that are trusted, the one that signs first.
    pub roots: Vec<Root>,
    /// What is under way.
    pub rotation: Option<RotationStatus>,
    /// Who is refused.
    pub tainted: Vec<Tainted>,
    /// What each pilot said last.
    pub pilots: Vec<Pilot>,
    /// Why not every proxy has the newest bundle; absent: they all have.
    pub waiting: Option<String>,
}

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What names it.
    pub sha256: String,
    /// `signs`, `next`, `old` or `trusted`.
    pub role: String,
    /// Unix seconds.
    pub not_after: u64,
}

/// A rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// How far it is.
    pub phase: Phase,
    /// It goes on by itself.
    pub automatic: bool,
    /// Unix seconds: since when.
    pub since: u64,
    /// For how many seconds certificates of the old root may still be valid.
    pub old_in_use: u64,
    /// Why the next step has to wait; absent: it has not.
    pub waiting: Option<String>,
}

/// An identity that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tainted {
    /// `spiffe://...`.
    pub identity: String,
    /// Unix seconds.
    pub since: u64,
    /// The operator's words.
    pub reason: String,
    /// Every proxy refuses it.
    pub in_force: bool,
}

/// A pilot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pilot {
    /// Its name.
    pub name: String,
    /// The newest bundle that it has told its proxies.
    pub sequence: u64,
    /// Connected to it.
    pub proxies: u32,
    /// Of those, which have not acknowledged it.
    pub behind: u32,
    /// It has ended.
    pub ended: bool,
    /// Since it said so.
    pub seconds_ago: u64,
}

impl Keeper {
    /// Does what is asked; how things stand then.
    ///
    /// # Errors
    /// Why nothing was done.
    pub async fn command(&self, request: &Request) -> Result<Answer, CommandError> {
        let mut now = self.now.lock().await;
        match request {
            Request::Rotate { step, force, automatic } => {
                if *step == Step::Prepare && *automatic {
                    self.perform_with(&mut now, step, *force, true).await?;
                } else {
                    self.perform(&mut now, step, *force).await?;
                }
            }
            Request::Taint { identity, reason } => {
                let id = self.may_be_tainted(identity)?;
                let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
                let taint = Taint { since: self.now_unix(), reason, sequence: 0 };
                self.set_taint(&mut now, &id, Some(taint)).await?;
            }
            Request::Untaint { identity } => {
                let id = identity.parse().map_err(|e| CommandError::Invalid(format!("{e}")))?;
                self.set_taint(&mut now, &id, None).await?;
            }
        }
        drop(now);
        self.status().await
    }

    /// How things stand.
    ///
    /// # Errors
    /// When what is kept cannot be read.
    pub async fn status(&self) -> Result<Answer, CommandError> {
        let now = self.now.lock().await;
        let kept = self.kept(&now).await?;
        let (state, told, time) = (self.heard(&kept), self.told.borrow().clone(), self.now_unix());
        let rotation = state.rotation.as_ref();
        let roots = told.own_bundle().roots.iter().enumerate().map(|(index, root)| {
            let text = mesh_proto::runtime::identity::pem(root);
            let role = match (index, rotation) {
                (0, _) => "signs",
                (_, Some(rotation)) if rotation.new == text => "next",
                (_, Some(rotation)) if rotation.old == text => "old",
                _ if state.earlier.iter().any(|earlier| earlier.root == text) => "old",
                _ => "trusted",
            };
            let end = end_of(root).and_then(|end| end.duration_since(std::time::UNIX_EPOCH).ok());
            Root {
                sha256: hex(&sha256(root)),
                role: role.to_owned(),
                not_after: end.map_or(0, |end| end.as_secs()),
            }
        });
        let tainted = state.tainted.iter().map(|(identity, taint)| Tainted {
            identity: identity.clone(),
            since: taint.since,
            reason: taint.reason.clone(),
            in_force: state.waiting_for(taint.sequence, time).is_none(),
        });
        let pilots = state.reports.iter().map(|(name, report)| Pilot {
            name: name.clone(),
            sequence: report.sequence,
            proxies: report.proxies,
            behind: report.behind,
            ended: report.ended,
            seconds_ago: time.saturating_sub(report.at),
        });
        Ok(Answer {
            trust_domain: told.own.to_string(),
            sequence: told.sequence,
            plugged_in: now.plugged,
            roots: roots.collect(),
            rotation: rotation.map(|rotation| RotationStatus {
                phase: rotation.phase,
                automatic: rotation.automatic,
                since: rotation.since,
                old_in_use: state.old_in_use(time),
                waiting: (rotation.phase != Phase::Prepared).then(|| state.waiting(time)).flatten(),
            }),
            tainted: tainted.collect(),
            pilots: pilots.collect(),
            waiting: state.waiting_for(told.sequence, time),
        })
    }

    /// One step of a rotation.
    pub(super) async fn perform(&self, now: &mut Now, step: &Step, force: bool) -> Result<(), CommandError> {
        self.perform_with(now, step, force, false).await
    }

    async fn perform_with(
        &self,
        now: &mut Now,
        step: &Step,
        force: bool,
        automatic: bool,
    ) -> Result<(), CommandError> {
        let mut tries = TRIES;
        loop {
            let over = self.kept(now).await?;
            let state = self.heard(&over);
            let new = if *step == Step::Prepare { self.new_root()? } else { Default::default() };
            let signing_root = root_of(&self.signing.load());
            let facts = Facts {
                now: self.now_unix(),
                signing_root: &signing_root,
                plugged: now.plugged,
                automatic,
                force,
            };
            let next = state.step(step, facts, || new)?;
            let done = async {
                let signs = match step {
                    Step::Activate => self.successor(&state, now).await?,
                    _ => None,
                };
                self.commit(now, &over, next, signs).await
            };
            match done.await {
                Err(Failed::Shelf(NotKept::Conflict(_))) if tries > 1 => tries -= 1,
                other => return Ok(other?),
            }
        }
    }

    async fn set_taint(
        &self,
        now: &mut Now,
        id: &SpiffeId,
        taint: Option<Taint>,
    ) -> Result<(), CommandError> {
        let mut tries = TRIES;
        loop {
            let over = self.kept(now).await?;
            let next = self.heard(&over).taint(id.as_str(), taint.clone())?;
            match self.commit(now, &over, next, None).await {
                Err(Failed::Shelf(NotKept::Conflict(_))) if tries > 1 => tries -= 1,
                other => return Ok(other?),
            }
        }
    }

    fn may_be_tainted(&self, identity: &str) -> Result<SpiffeId, CommandError> {
        let id: SpiffeId = identity.parse().map_err(|e| CommandError::Invalid(format!("{e}")))?;
        let own = &self.settings.policy.own;
        if id == *own || id == self.settings.pilot {
            let why = format!("{id} is the control plane: without it nobody would hear of anything any more");
            return Err(CommandError::Invalid(why));
        }
        if !self.told.borrow().bundles.contains_key(id.trust_domain()) {
            let why = format!("{id} is of a trust domain that nobody here trusts");
            return Err(CommandError::Invalid(why));
        }
        Ok(id)
    }
}
