//! What a request was let in by, but for its head; whether it still would be.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;

use crate::authorization::external::External;
use crate::authorization::{Connection, Guards, RequestFacts, Token, Verdict};
use crate::inbound::decide;
use crate::respond::Failure;
use crate::route::VerifiedClaims;
use crate::store::SelfConfig;

/// What a request was let in by.
pub struct Admission {
    /// Its connection.
    pub connection: Rc<Connection>,
    /// The client.
    pub remote: IpAddr,
    /// What its token says.
    pub token: Option<VerifiedClaims>,
    /// By which settings somebody was asked about it.
    pub external: Option<Arc<External>>,
    /// It has been told to end soon.
    ending: bool,
}

impl Admission {
    /// Of a request that is let in.
    #[must_use]
    pub fn new(
        connection: Rc<Connection>,
        remote: IpAddr,
        token: Option<VerifiedClaims>,
        external: Option<Arc<External>>,
    ) -> Self {
        Self { connection, remote, token, external, ending: false }
    }

    /// Why it would not be let in now, if that is so.
    pub(super) fn decide(
        &self,
        head: &Parts,
        config: &Arc<SelfConfig>,
        guards: &RefCell<Guards>,
    ) -> Option<Failure> {
        if let Some(failure) = decide::closed(config) {
            return Some(failure);
        }
        let token = self.token.as_ref().map(|token| Token::new(&token.claims, &token.space_delimited));
        let facts = RequestFacts::new(head, self.remote, token);
        match guards.borrow_mut().get(config, &self.connection).decide(&facts) {
            Verdict::Allowed => None,
            Verdict::Denied(rule) => Some(Failure::Denied { rule }),
        }
    }

    /// Whether it is to be told now that somebody is to be asked about it by now, and was not.
    pub(super) fn is_unasked_now(&mut self, head: &Parts, config: &SelfConfig) -> bool {
        if !self.ending {
            self.ending = self.is_unasked(head, config);
            return self.ending;
        }
        false
    }

    fn is_unasked(&mut self, head: &Parts, config: &SelfConfig) -> bool {
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
        now.selects(&self.connection, &RequestFacts::new(head, self.remote, None))
    }
}
