//! One look: what changed since the last one is taken over, and what is due is done.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{CommandError, Failed, Fetched, Keeper, Now, root_of, settle};
use crate::authority::material::{end_of, start_of};
use crate::authority::{Authority, OpenError};
use crate::rotation::{Facts, Phase, SPREAD, State, Step, TooManyRoots};
use crate::shelf::{Found, Kept, NotKept};

/// An authority that is to sign from now on, and where it is from.
pub(super) struct Signs {
    pub(super) authority: Authority,
    version: String,
    plugged: bool,
}

/// What is due at most in one look: no rotation has more steps.
const STEPS: usize = 4;

/// The first look of a process, which found `root` to sign with: whether it may now.
pub(super) fn opened(state: &mut State, root: &str, now: u64) -> Result<Seen, TooManyRoots> {
    state.forget_earlier(now);
    if state.root.is_empty() || state.root == root {
        root.clone_into(&mut state.root);
        return Ok(Seen::Same);
    }
    // Nobody can report to who has not opened yet: pilots that are long silent are not waited for.
    state.hear(&BTreeMap::new(), now);
    state.reported &= !state.reports.is_empty();
    another_root(state, root, now)
}

/// What a look made of the root that it found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It signs already.
    Same,
    /// It signs from now on.
    Signs,
    /// It is to be heard of first.
    Spreads,
}

/// Another root than the one that signs.
fn another_root(state: &mut State, root: &str, now: u64) -> Result<Seen, TooManyRoots> {
    let ours = state.rotation.as_ref().filter(|rotation| rotation.new == root);
    let seen = match ours.map(|rotation| (rotation.phase, rotation.key.is_some())) {
        // Another replica made it sign, or we were ended between the two writes.
        Some((Phase::Published, true)) => {
            state.activated(now);
            Seen::Signs
        }
        Some((Phase::Activated, _)) => Seen::Signs,
        Some((Phase::Published, false)) if state.due(now) == Some(Step::Activate) => {
            state.activated(now);
            Seen::Signs
        }
        Some((Phase::Published, false)) => Seen::Spreads,
        Some((Phase::Prepared, _)) | None => {
            state.plugged_in(root, now)?;
            Seen::Spreads
        }
    };
    if seen == Seen::Signs {
        root.clone_into(&mut state.root);
    }
    Ok(seen)
}

impl Keeper {
    /// One look.
    ///
    /// # Errors
    /// What cannot be read, used or kept; everything else was done.
    pub async fn look(&self) -> Result<(), Failed> {
        let mut now = self.now.lock().await;
        let found = self.shelf.signing().await;
        let over = self.kept(&now).await?;
        let mut state = self.heard(&over);
        let (signs, failed) = match found {
            Ok(Some(found)) if found.version != now.version => match self.another(&mut state, found) {
                Ok(signs) => (signs, None),
                Err(error) => (None, Some(error)),
            },
            Ok(Some(_)) => (None, None),
            Ok(None) => (None, Some(Failed::Gone)),
            Err(error) => (None, Some(error.into())),
        };
        if failed.is_none() && signs.is_none() {
            self.scheduled(&mut state, now.plugged)?;
        }
        let fetched = self.fetched.lock().clone();
        for (domain, Fetched { roots, first, number }) in fetched.clone() {
            // Another replica may have heard a newer one. Only who begins anew goes back.
            let anew = first.is_some() && first.as_ref() != state.superseded.get(&domain);
            let heard = state.numbers.get(&domain).copied();
            if !anew && heard.is_some_and(|heard| number.is_some_and(|number| number < heard)) {
                tracing::warn!(domain, number, heard, "an older bundle of another trust domain is not taken");
                continue;
            }
            state.superseded.extend(first.map(|first| (domain.clone(), first)));
            match number {
                Some(number) => state.numbers.insert(domain.clone(), number),
                None => state.numbers.remove(&domain),
            };
            state.foreign.insert(domain, roots);
        }
        self.commit(&mut now, &over, state, signs).await?;
        // Who brought them does so once: they are wanted until they are kept.
        self.fetched.lock().retain(|domain, roots| fetched.get(domain) != Some(roots));
        for _ in 0..STEPS {
            let Some(step) = now.kept.state.due(self.now_unix()) else { break };
            // What is due is safe as far as anybody can know.
            match self.perform(&mut now, &step, true).await {
                Ok(()) => tracing::info!(step = step.name(), "rotation of the root: done as it was due"),
                Err(CommandError::Refused(why)) => {
                    tracing::debug!(%why, "not yet");
                    break;
                }
                Err(CommandError::Failed(error)) => return Err(error),
                Err(CommandError::Invalid(_)) => break,
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What is kept. Where it is gone, what is in memory is kept again: never forgotten.
    pub(super) async fn kept(&self, now: &Now) -> Result<Kept, Failed> {
        let kept = self.shelf.state().await;
        match &kept {
            Ok(_) => self.outdated.store(false, super::Ordering::Release),
            Err(NotKept::Bad(OpenError::Newer { .. })) => self.outdated.store(true, super::Ordering::Release),
            // Nothing is known of what is kept now.
            Err(_) => {}
        }
        let kept = kept?;
        if kept.version.is_none() && now.kept.version.is_some() {
            // In a directory, both are gone when it was cleared for somebody else.
            if !self.shelf.is_shared() && self.shelf.signing().await?.is_none() {
                return Err(Failed::Gone);
            }
            tracing::error!("the state is gone from where it is kept: written again from memory");
            return Ok(Kept { state: now.kept.state.clone(), version: None });
        }
        Ok(kept)
    }

    /// The state with what pilots have told us since it was kept.
    pub(super) fn heard(&self, over: &Kept) -> State {
        let mut state = over.state.clone();
        state.hear(&self.reports.lock(), self.now_unix());
        state.forget_earlier(self.now_unix());
        state
    }

    /// Another signing certificate than the one that signs.
    fn another(&self, state: &mut State, found: Found) -> Result<Option<Signs>, Failed> {
        let signs = self.signs(found)?;
        let root = root_of(&signs.authority);
        let seen = match state.root == root {
            true => Seen::Signs,
            false => another_root(state, &root, self.now_unix())?,
        };
        if seen == Seen::Spreads {
            return Ok(None);
        }
        tracing::info!(version = signs.version, "another signing certificate signs");
        Ok(Some(signs))
    }

    fn signs(&self, found: Found) -> Result<Signs, Failed> {
        let Found { material, version, plugged } = found;
        let bad = |error: OpenError| Failed::Bad { version: version.clone(), error };
        let authority = Authority::new(material, self.settings.policy.clone()).map_err(bad)?;
        Ok(Signs { authority, version, plugged })
    }

    /// A root that has little of its life left gets a successor.
    fn scheduled(&self, state: &mut State, plugged: bool) -> Result<(), Failed> {
        let current = self.signing.load();
        let Some(root) = current.root_certificates().first() else { return Ok(()) };
        let (Some(start), Some(end)) = (start_of(root), end_of(root)) else { return Ok(()) };
        let life = end.duration_since(start).unwrap_or_default();
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let grace = life.mul_f64(f64::from(self.settings.grace_percent) / 100.0);
        if plugged || state.rotation.is_some() || grace.is_zero() || left > grace {
            return Ok(());
        }
        let new = self.new_root()?;
        let facts = Facts {
            now: self.now_unix(),
            signing_root: &root_of(&current),
            plugged,
            automatic: true,
            force: false,
        };
        if let Ok(next) = state.step(&Step::Prepare, facts, || new) {
            tracing::info!(
                days_left = left.as_secs() / 86400,
                "the root ends soon: another one takes its place"
            );
            *state = next;
        }
        Ok(())
    }

    pub(super) fn new_root(&self) -> Result<(String, String), Failed> {
        let domain = self.settings.policy.own.trust_domain();
        Ok(crate::shelf::Shelf::new_root(domain, self.settings.root_life).map_err(NotKept::Bad)?)
    }

    /// What signs after an activation: the prepared root is put into the place of the old one, unless it is there.
    pub(super) async fn successor(&self, state: &State, now: &Now) -> Result<Option<Signs>, Failed> {
        let Some(rotation) = state.rotation.as_ref().filter(|r| r.phase == Phase::Published) else {
            return Ok(None);
        };
        let gone = || Failed::Gone;
        let found = self.signs(self.shelf.signing().await?.ok_or_else(gone)?)?;
        if root_of(&found.authority) == rotation.new {
            return Ok(Some(found));
        }
        let key = rotation.key.as_ref().ok_or_else(gone)?;
        self.shelf.replace(&rotation.new, key, &now.version).await?;
        let found = self.signs(self.shelf.signing().await?.ok_or_else(gone)?)?;
        Ok(Some(found))
    }

    /// Keeps `state` in the place of `over`, and has it in force: who signs, what is told.
    pub(super) async fn commit(
        &self,
        now: &mut Now,
        over: &Kept,
        mut state: State,
        signs: Option<Signs>,
    ) -> Result<(), Failed> {
        let current = self.signing.load();
        let authority = signs.as_ref().map_or(&*current, |signs| &signs.authority);
        if signs.is_some() || state.root.is_empty() {
            state.root = root_of(authority);
        }
        state.longest = state.longest.max(self.settings.policy.limits.default.as_secs());
        let told = settle(&mut state, authority);
        let news = over.version.is_none() || state.is_news(&over.state, self.shelf.is_shared());
        let kept = match news {
            true => self.shelf.save(&state, over).await?,
            false => Kept { state, version: over.version.clone() },
        };
        // A new root is in everybody's file before it signs, and an old one signs no more before it leaves.
        let published = self.shelf.publish(&told.own_bundle().roots).await;
        // Before anybody signs with another root: what was given by the last one says nothing of it.
        self.longest.store(kept.state.longest, super::Ordering::Release);
        self.until.store(kept.state.until, super::Ordering::Release);
        if let Some(Signs { authority, version, plugged }) = signs {
            self.sign_with(authority)?;
            (now.version, now.plugged) = (version, plugged);
        }
        now.kept = kept;
        self.tell(told);
        Ok(published?)
    }
}

/// For how long a root that was plugged in while nobody looked is still to spread.
pub(super) fn spreading(state: &State, now: u64) -> u64 {
    let since = state.rotation.as_ref().map_or(now, |rotation| rotation.since);
    (Duration::from_secs(since) + SPREAD).as_secs().saturating_sub(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::{GONE, Report};

    /// A root was plugged in while everybody was away, and pilots had said something before: it signs all the same.
    #[test]
    fn pilots_of_the_past_do_not_keep_it_closed() {
        const NOW: u64 = 1_000_000;
        let report = Report { sequence: 1, proxies: 3, behind: 0, at: NOW, ..Report::default() };
        let mut state = State { root: "old".to_owned(), ..State::default() };
        state.hear(&[("pilot".to_owned(), report)].into(), NOW);
        assert_eq!(opened(&mut state, "new", NOW), Ok(Seen::Spreads));
        assert_eq!(
            opened(&mut state, "new", NOW + SPREAD.as_secs()),
            Ok(Seen::Spreads),
            "they may come back"
        );
        assert_eq!(opened(&mut state, "new", NOW + GONE.as_secs()), Ok(Seen::Signs));
        assert_eq!(state.root, "new");
    }
}
