//! Who goes when: so many tests side by side, one at a time on what everybody uses, and at the end those that bear nobody.
//!
//! All tests are threads from the beginning (`--test-threads 64`); a thread that waits here costs nothing. So order and number
//! are decided here: who works on the control plane before who begins, who takes long before who does not, who takes something
//! away from everybody last of all.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Tests side by side, unless `E2E_PLACES` says otherwise.
const PLACES: usize = 4;

/// Earlier ones go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Among others, but the only one that works on what everybody uses.
    Operator,
    /// Begins first.
    Early,
    /// Begins when there is a place.
    Welcome,
    /// Begins when all others have begun.
    Last,
    /// Goes on when all others have ended or wait for the same.
    Alone,
}

/// A place among those that run; it is left when this is dropped.
#[derive(Debug)]
pub struct Place(Kind);

struct Stage {
    places: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    operator: bool,
    alone: bool,
    waiting: BTreeSet<(Kind, u64)>,
    tickets: u64,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let told = std::env::var("E2E_PLACES").ok().and_then(|places| places.parse().ok());
    Stage { places: told.unwrap_or(PLACES).max(1), state: Mutex::default(), changed: Notify::new() }
});

impl State {
    fn wait(&mut self, kind: Kind) -> (Kind, u64) {
        self.tickets += 1;
        self.waiting.insert((kind, self.tickets));
        (kind, self.tickets)
    }

    /// Takes a place for the one who waits, if it is its turn.
    fn enter(&mut self, me: (Kind, u64), places: usize) -> bool {
        let mut able = self.waiting.iter().filter(|(kind, _)| *kind != Kind::Operator || !self.operator);
        let room = if me.0 == Kind::Alone { self.running == 0 } else { self.running < places };
        if self.alone || !room || able.next() != Some(&me) {
            return false;
        }
        self.waiting.remove(&me);
        match me.0 {
            Kind::Alone => self.alone = true,
            kind => {
                self.running += 1;
                self.operator |= kind == Kind::Operator;
            }
        }
        true
    }

    fn leave(&mut self, kind: Kind) {
        match kind {
            Kind::Alone => self.alone = false,
            kind => {
                self.running -= 1;
                self.operator &= kind != Kind::Operator;
            }
        }
    }
}

impl Place {
    /// Waits for it.
    pub async fn take(kind: Kind) -> Self {
        let me = STAGE.state.lock().wait(kind);
        loop {
            let mut changed = std::pin::pin!(STAGE.changed.notified());
            changed.as_mut().enable();
            if STAGE.state.lock().enter(me, STAGE.places) {
                // There may be room for the next one, too.
                STAGE.changed.notify_waiters();
                return Self(kind);
            }
            changed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        STAGE.state.lock().leave(self.0);
        STAGE.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_suite() {
        let mut state = State::default();
        let last = state.wait(Kind::Last);
        let welcome = state.wait(Kind::Welcome);
        let early = state.wait(Kind::Early);
        assert!(!state.enter(welcome, 2), "who takes long begins first");
        assert!(state.enter(early, 2));
        let (one, other) = (state.wait(Kind::Operator), state.wait(Kind::Operator));
        assert!(!state.enter(welcome, 2), "an operator waits");
        assert!(state.enter(one, 2) && !state.enter(other, 2), "no place is left");
        state.leave(Kind::Early);
        assert!(!state.enter(other, 2), "there is another operator");
        assert!(state.enter(welcome, 2), "who can begin does so meanwhile");
        let alone = state.wait(Kind::Alone);
        state.leave(Kind::Operator);
        assert!(state.enter(other, 2));
        state.leave(Kind::Welcome);
        assert!(!state.enter(alone, 2) && state.enter(last, 2));
        state.leave(Kind::Last);
        assert!(!state.enter(alone, 2), "the operator is there");
        state.leave(Kind::Operator);
        assert!(state.enter(alone, 2));
        let late = state.wait(Kind::Early);
        assert!(!state.enter(late, 2), "somebody is alone");
        state.leave(Kind::Alone);
        assert!(state.enter(late, 2));
    }
}
