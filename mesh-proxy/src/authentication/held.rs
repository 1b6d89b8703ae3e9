//! Tokens that were verified when a request began, looked at again while it lasts.
//!
//! What is configured counts, not the time: as in Envoy, nothing ends because its token does. A token is not taken any more
//! when none of its issuer's rules has its key; an issuer that cannot be asked for its keys has not taken them back.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use http::request::Parts;

use super::places::Place;
use super::{JwtRules, Rule, take};
use crate::jwt::Claims;
use crate::respond::Failure;
use crate::route::VerifiedClaims;

/// A token that is valid, as the rule that took it reads its claims.
#[derive(Debug, Clone)]
pub struct Verified {
    /// What it says.
    pub claims: Arc<Claims>,
    pub(super) rule: Arc<Rule>,
    pub(super) place: Place,
}

impl Verified {
    /// Claims that are lists with spaces between.
    #[must_use]
    pub fn space_delimited(&self) -> &[String] {
        &self.rule.space_delimited
    }

    /// What routes may look at.
    #[must_use]
    pub fn told(&self) -> VerifiedClaims {
        VerifiedClaims { claims: self.claims.clone(), space_delimited: self.rule.space_delimited.clone() }
    }
}

impl JwtRules {
    /// Whether a token still says something here: nothing, where no rule looks for one in its place any more.
    ///
    /// # Errors
    /// It would be refused.
    pub fn again(&self, verified: &Verified) -> Result<bool, Failure> {
        self.rule_again(verified).map(|rule| rule.is_some())
    }

    /// The head of a request as rules leave it now, whose token was verified by those of before: fields that those knew are as
    /// they were made, other ones are what these make of them.
    #[must_use]
    pub fn retold<'a>(&self, verified: &Verified, head: &'a Parts) -> Cow<'a, Parts> {
        let new: Vec<_> = self.outputs.iter().filter(|name| !verified.rule.sets(name)).cloned().collect();
        if new.is_empty() {
            return Cow::Borrowed(head);
        }
        let mut head = head.clone();
        take(&mut head, &new);
        if let Ok(Some(rule)) = self.rule_again(verified) {
            rule.tell_claims(&mut head, &verified.claims);
        }
        Cow::Owned(head)
    }

    fn rule_again(&self, verified: &Verified) -> Result<Option<&Arc<Rule>>, Failure> {
        let mut looking = self.rules.iter().filter(|rule| rule.places.contains(&verified.place)).peekable();
        if looking.peek().is_none() {
            return Ok(None);
        }
        let mut failure = Failure::Unauthenticated("Jwt issuer is not configured".to_owned());
        for rule in looking.filter(|rule| rule.issuer == verified.claims.issuer) {
            if !rule.still_has_key(verified) {
                failure = Failure::Unauthenticated("Jwks does not have its key any more".to_owned());
            } else if rule.is_for(&verified.claims) {
                return Ok(Some(rule));
            } else {
                failure = Failure::Audience;
            }
        }
        Err(failure)
    }
}

impl Rule {
    /// Whether it tells the application something in a field of this name.
    fn sets(&self, name: &HeaderName) -> bool {
        self.payload.as_ref() == Some(name) || self.claims.iter().any(|(set, _)| set == name)
    }

    fn still_has_key(&self, verified: &Verified) -> bool {
        match &self.keys {
            Some(keys) => keys.has_signed(&verified.claims),
            None => !self.key_source.is_empty() && self.key_source == verified.rule.key_source,
        }
    }
}
