//! What a request was let in by, but for its head; whether it still would be.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::request::Parts;

use crate::authentication::Verified;
use crate::authorization::external::External;
use crate::authorization::{Connection, Guards, RequestFacts, Token, Verdict};
use crate::inbound::decide;
use crate::jwt::Cache;
use crate::respond::Failure;
use crate::store::SelfConfig;

/// What is in force now.
pub struct Now<'a> {
    /// This workload's settings.
    pub config: &'a Arc<SelfConfig>,
    /// What policies leave open of connections.
    pub guards: &'a RefCell<Guards>,
    /// Tokens that were verified.
    pub tokens: &'a RefCell<Cache>,
}

/// What a request was let in by.
pub struct Admission {
    /// Its connection.
    pub connection: Rc<Connection>,
    /// The client.
    pub remote: IpAddr,
    /// What its token says.
    pub token: Option<Verified>,
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
        token: Option<Verified>,
        config: &SelfConfig,
    ) -> Self {
        Self { connection, remote, token, external: config.external.clone(), ending: false }
    }

    /// Why it would not be let in now, if that is so.
    pub(super) fn decide(&mut self, head: &Parts, now: &Now<'_>) -> Option<Failure> {
        if let Some(failure) = decide::closed(now.config) {
            return Some(failure);
        }
        let (head, says) = match self.as_now(head, now) {
            Ok(seen) => seen,
            Err(failure) => return Some(failure),
        };
        let token = self.token.as_ref().filter(|_| says);
        let token = token.map(|token| Token::new(&token.claims, token.space_delimited()));
        let facts = RequestFacts::new(&head, self.remote, token);
        match now.guards.borrow_mut().get(now.config, &self.connection).decide(&facts) {
            Verdict::Allowed => None,
            Verdict::Denied(rule) => Some(Failure::Denied { rule }),
        }
    }

    /// Its head as rules of tokens leave it now, and whether its token says something. A token that nobody looked for when
    /// the request began is still in its head: from now on it counts as one that was verified, whose time does not matter.
    fn as_now<'a>(&mut self, head: &'a Parts, now: &Now<'_>) -> Result<(Cow<'a, Parts>, bool), Failure> {
        let rules = &now.config.jwt_rules;
        match &self.token {
            Some(token) => Ok((rules.retold(token, head), rules.again(token)?)),
            None if rules.is_empty() => Ok((Cow::Borrowed(head), false)),
            None => {
                let mut head = head.clone();
                self.token = rules.verify(&mut head, &mut now.tokens.borrow_mut(), SystemTime::now())?;
                Ok((Cow::Owned(head), self.token.is_some()))
            }
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

    fn is_unasked(&self, head: &Parts, config: &SelfConfig) -> bool {
        let (Some(now), before) = (&config.external, &self.external) else { return false };
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, now)) {
            return false;
        }
        // Tokens are not verified yet when it is asked.
        let facts = RequestFacts::new(head, self.remote, None);
        let asked = |by: &External| by.asks_the_same(now) && by.selects(&self.connection, &facts);
        if before.as_deref().is_some_and(asked) {
            // By other settings, but whoever would be asked now was.
            return false;
        }
        now.selects(&self.connection, &facts)
    }
}
