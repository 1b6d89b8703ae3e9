//! A condition on a claim of a request's valid token: Istio's `@request.auth.claims`.
//!
//! In: what a token says, from whoever has verified it. Out: whether the claim fits. A token that nobody has verified yet is
//! verified when the first such condition is come to, and not at all where no rule has one: signatures are dear.

use std::cell::OnceCell;
use std::sync::Arc;

use mesh_proto::wire::mesh::v1 as wire;

use crate::jwt::Claims;
use crate::route::InvalidRoute;
use crate::route::text::Text;

/// What a request's token says, once it has been verified: nothing that is sent can put it anywhere.
#[derive(Debug, Clone)]
pub struct VerifiedClaims {
    /// All of it.
    pub claims: Arc<Claims>,
    /// Claims that are lists with spaces between.
    pub space_delimited: Arc<[String]>,
}

/// One request's token while its rule is looked for.
pub(in crate::route) struct Token<'a> {
    verify: &'a dyn Fn() -> Option<VerifiedClaims>,
    said: OnceCell<Option<VerifiedClaims>>,
}

impl<'a> Token<'a> {
    /// `verify` is asked once, or never; `None`: there is no valid one.
    pub(in crate::route) fn new(verify: &'a dyn Fn() -> Option<VerifiedClaims>) -> Self {
        Self { verify, said: OnceCell::new() }
    }

    fn claims(&self) -> Option<&VerifiedClaims> {
        self.said.get_or_init(self.verify).as_ref()
    }
}

/// The condition.
#[derive(Debug)]
pub(super) struct Claim {
    /// The names that lead to it.
    pub(super) path: Vec<String>,
    pub(super) value: Text,
    pub(super) invert: bool,
}

impl Claim {
    pub(super) fn new(header: &wire::HeaderMatch, field: &str) -> Result<Self, InvalidRoute> {
        Ok(Self {
            path: header.claim.clone(),
            value: Text::required(header.value.as_ref(), &format!("{field}.value"))?,
            invert: header.invert,
        })
    }

    /// Of a list one is enough; without a valid token there is none.
    pub(super) fn matches(&self, token: &Token<'_>) -> bool {
        let fits = |token: &VerifiedClaims| {
            let mut texts = token.claims.texts_with(&self.path, &token.space_delimited);
            texts.any(|text| self.value.matches(Some(text.as_bytes())))
        };
        token.claims().is_some_and(fits) != self.invert
    }
}
