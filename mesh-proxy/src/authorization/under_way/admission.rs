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
    pub(super) fn decide(&self, head: &Parts, now: &Now<'_>) -> Option<Failure> {
        if let Some(failure) = decide::closed(now.config) {
            return Some(failure);
        }
        let token = match self.token(head, now) {
            Ok(token) => token,
            Err(failure) => return Some(failure),
        };
        let token = token.as_ref().map(|token| Token::new(&token.claims, token.space_delimited()));
        let facts = RequestFacts::new(head, self.remote, token);
        match now.guards.borrow_mut().get(now.config, &self.connection).decide(&facts) {
            Verdict::Allowed => None,
            Verdict::Denied(rule) => Some(Failure::Denied { rule }),
        }
    }

    /// What its token says now. One that nobody looked for when the request began is still in its head.
    fn token(&self, head: &Parts, now: &Now<'_>) -> Result<Option<Cow<'_, Verified>>, Failure> {
        let rules = &now.config.jwt_rules;
        match &self.token {
            Some(token) => Ok(rules.again(token)?.then_some(Cow::Borrowed(token))),
            None if rules.is_empty() => Ok(None),
            None => {
                let found =
                    rules.verify(&mut head.clone(), &mut now.tokens.borrow_mut(), SystemTime::now())?;
                Ok(found.map(Cow::Owned))
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
