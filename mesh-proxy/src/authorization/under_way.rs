//! Requests that are under way for longer, so that they can be decided again: streams of HTTP/2, and what becomes a tunnel.
//!
//! In: each of them, with what it was let in by. Out: [`UnderWay::revise`] says which one would not be let in any more; its answer
//! is cut off, or its tunnel ended. (An exchange of HTTP/1 ends with its answer, and its connection with it.) One that
//! somebody is to be asked about by now (CUSTOM) who was not asked when it began ends too: it comes again, and he is asked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::request::Parts;
use http::{Response, Version, header};

use super::external::External;
use super::{Connection, Guards, RequestFacts, Token, Verdict};
use crate::http::{Body, BodyError, Frame, Source};
use crate::inbound::decide;
use crate::respond::{External as Refusal, Failure};
use crate::route::VerifiedClaims;
use crate::store::SelfConfig;

/// For a request that somebody is to be asked about who was not: most have ended by then. What is acknowledged is in force
/// within a second.
const GRACE: Duration = Duration::from_millis(500);
const UNASKED: &str = "it began before anybody was to be asked about it";

/// Those of one worker.
#[derive(Default)]
pub struct UnderWay(Rc<Inner>);

#[derive(Default)]
struct Inner {
    next: Cell<u64>,
    requests: RefCell<HashMap<u64, Asked>>,
}

/// What a request was let in by.
pub struct Asked {
    /// Its connection.
    pub connection: Rc<Connection>,
    /// Its head, as policies have seen it.
    pub head: Parts,
    /// The client.
    pub remote: IpAddr,
    /// What its token says.
    pub token: Option<VerifiedClaims>,
    /// By which settings somebody was asked about it.
    pub external: Option<Arc<External>>,
    /// It has been told to end soon.
    ending: bool,
    told: Rc<Told>,
}

/// One request's leave to go on; it is not looked at any more when this is dropped.
pub struct Permit {
    id: u64,
    of: Rc<Inner>,
    told: Rc<Told>,
}

/// Whether it is denied by now, and by which rule.
#[derive(Default)]
pub struct Told {
    failure: RefCell<Option<Failure>>,
    waiting: RefCell<Option<Waker>>,
}

/// Whether a request may take longer than it takes to answer.
#[must_use]
pub fn may_last(head: &Parts) -> bool {
    head.version == Version::HTTP_2 || head.headers.contains_key(header::UPGRADE)
}

impl UnderWay {
    /// Remembers a request that has been let in.
    #[must_use]
    pub fn admit(
        &self,
        connection: &Rc<Connection>,
        head: &Parts,
        remote: IpAddr,
        token: Option<VerifiedClaims>,
        external: Option<Arc<External>>,
    ) -> Permit {
        let id = self.0.next.get();
        self.0.next.set(id + 1);
        let told = Rc::<Told>::default();
        let (connection, head) = (connection.clone(), head.clone());
        let asked = Asked { connection, head, remote, token, external, ending: false, told: told.clone() };
        self.0.requests.borrow_mut().insert(id, asked);
        Permit { id, of: self.0.clone(), told }
    }

    /// Ends those that would not be let in now; says how many.
    pub fn revise(&self, config: &Arc<SelfConfig>, guards: &RefCell<Guards>) -> usize {
        let mut ended = 0;
        for asked in self.0.requests.borrow_mut().values_mut().filter(|asked| asked.told.is_allowed()) {
            if let Some(failure) = asked.decide(config, guards) {
                asked.told.deny(failure);
            } else if !asked.ending && asked.is_unasked(config) {
                let failure = Failure::External(Refusal::CannotAsk(UNASKED.to_owned()));
                asked.end(failure);
            } else {
                continue;
            }
            ended += 1;
        }
        ended
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.requests.borrow().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Asked {
    fn decide(&self, config: &Arc<SelfConfig>, guards: &RefCell<Guards>) -> Option<Failure> {
        if let Some(failure) = decide::closed(config) {
            return Some(failure);
        }
        let token = self.token.as_ref().map(|token| Token::new(&token.claims, &token.space_delimited));
        let facts = RequestFacts::new(&self.head, self.remote, token);
        match guards.borrow_mut().get(config, &self.connection).decide(&facts) {
            Verdict::Allowed => None,
            Verdict::Denied(rule) => Some(Failure::Denied { rule }),
        }
    }

    /// Whether somebody is to be asked about it by now, and was not.
    fn is_unasked(&mut self, config: &SelfConfig) -> bool {
        let (Some(now), before) = (&config.external, &mut self.external) else { return false };
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, now)) {
            return false;
        }
        if before.as_ref() == Some(now) {
            // The same again: next time that is seen at once.
            *before = Some(now.clone());
            return false;
        }
        // Tokens are not verified yet when it is asked.
        now.selects(&self.connection, &RequestFacts::new(&self.head, self.remote, None))
    }

    /// A tunnel has no end of its own, an ordinary request is given a little time for it.
    fn end(&mut self, failure: Failure) {
        self.ending = true;
        if self.head.headers.contains_key(header::UPGRADE) {
            return self.told.deny(failure);
        }
        let told = self.told.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(GRACE).await;
            told.deny(failure);
        });
    }
}

impl Permit {
    /// Where it is told.
    #[must_use]
    pub fn told(&self) -> Rc<Told> {
        self.told.clone()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.requests.borrow_mut().remove(&self.id);
    }
}

impl Told {
    fn deny(&self, failure: Failure) {
        *self.failure.borrow_mut() = Some(failure);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    fn is_allowed(&self) -> bool {
        self.failure.borrow().is_none()
    }

    /// Why it may not go on, if that is so.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Failure> {
        if let Some(failure) = self.failure() {
            return Poll::Ready(failure);
        }
        // One task at a time waits: that of the request.
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Resolves when it may not go on.
    pub async fn denied(&self) -> Failure {
        poll_fn(|cx| self.poll(cx)).await
    }
}

/// An answer as long as its request is allowed: before its head the denial takes its place, afterwards it is cut off.
///
/// # Errors
/// Why there is no answer; who denies it.
pub async fn while_allowed(
    told: Option<Rc<Told>>,
    answer: Pin<&mut impl Future<Output = Result<Response<Body>, Failure>>>,
) -> Result<Response<Body>, Failure> {
    let Some(told) = told else { return answer.await };
    let response = tokio::select! {
        biased;
        failure = told.denied() => return Err(failure),
        response = answer => response?,
    };
    if response.body().is_upgraded() || response.body().is_end() {
        return Ok(response);
    }
    Ok(response.map(|body| body.wrap(|body| Box::new(Cut { body, told }))))
}

/// A body that ends when its request is denied.
struct Cut {
    body: Body,
    told: Rc<Told>,
}

impl Source for Cut {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self.told.poll(cx) {
            Poll::Ready(failure) => Poll::Ready(Some(Err(BodyError::Aborted(failure.to_string().into())))),
            Poll::Pending => self.body.poll_frame(cx),
        }
    }

    fn known_len(&self) -> Option<u64> {
        self.body.known_len()
    }

    fn is_end(&self) -> bool {
        self.body.is_end()
    }
}
