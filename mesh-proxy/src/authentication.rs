//! Tokens of requests: RequestAuthentication, enforced. A token that is there must be valid; that there is one is demanded by
//! AuthorizationPolicies.
//!
//! In: `self/self`, and a request. Out: what its token says, the request without it (unless the application is to have it)
//! and with the fields that tell the application; or 401. Source: Istio's RequestAuthentication reference, Envoy's
//! `jwt_authn`; where several credentials could be meant, none is taken. What leaves is never refused for its token and goes on
//! as it is: of that only routes look at claims ([`JwtRules::claims`]).

mod held;
mod places;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use mesh_proto::wire::mesh::v1 as wire;

use self::places::{Place, Prefix};
use crate::jwt::{self, Cache, Claims, KeySet};
use crate::respond::Failure;
use crate::route::VerifiedClaims;

pub use self::held::Verified;

/// Why rules cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwtRule {
    /// A field's name is none.
    #[error("{issuer}: {name:?} is not the name of a field")]
    Field {
        /// Of which rule.
        issuer: String,
        /// The name.
        name: String,
    },
}

/// All rules of a workload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JwtRules {
    rules: Vec<Arc<Rule>>,
    /// Fields that only we may set.
    outputs: Vec<HeaderName>,
}

/// One issuer.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    issuer: String,
    audiences: Vec<String>,
    /// None: no keys are known, so no token is valid.
    keys: Option<Arc<KeySet>>,
    places: Vec<Place>,
    payload: Option<HeaderName>,
    claims: Vec<(HeaderName, String)>,
    forward: bool,
    space_delimited: Arc<[String]>,
    /// Where its keys come from; empty: they are with it.
    key_source: String,
    /// The pilot does not know them yet.
    keys_unknown: bool,
}

impl JwtRules {
    /// Parses what the pilot sends.
    ///
    /// # Errors
    /// Names the issuer, and what of its rule means nothing.
    pub fn parse(wire: &[wire::JwtRule]) -> Result<Self, InvalidJwtRule> {
        let rules = wire.iter().map(|rule| Rule::parse(rule).map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let told =
            rules.iter().flat_map(|rule| rule.payload.iter().chain(rule.claims.iter().map(|(name, _)| name)));
        let mut outputs: Vec<HeaderName> = Vec::new();
        for name in told {
            if !outputs.contains(name) {
                outputs.push(name.clone());
            }
        }
        Ok(Self { rules, outputs })
    }

    /// No token means anything here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Keys of sources that the pilot has none of yet (it has just begun) are those that were known of them before.
    pub fn keep(&mut self, before: &Self) {
        for rule in self.rules.iter_mut().filter(|rule| rule.keys.is_none() && rule.keys_unknown) {
            let same = |old: &&Rule| old.issuer == rule.issuer && old.key_source == rule.key_source;
            let known = before.rules.iter().map(|old| &**old).find(same).and_then(|old| old.keys.clone());
            Arc::make_mut(rule).keys = known;
        }
    }

    /// Verifies the token of a request, if it has one, and puts its fields right.
    ///
    /// # Errors
    /// A token that is not valid, or several.
    pub fn verify(
        &self,
        head: &mut Parts,
        cache: &mut Cache,
        now: SystemTime,
    ) -> Result<Option<Verified>, Failure> {
        take(head, &self.outputs);
        if is_preflight(head) {
            // It is not verified, so that nobody may take it for good.
            let places = self.rules.iter().filter(|rule| !rule.forward).flat_map(|rule| &rule.places);
            places.for_each(|place| place.remove(head));
            return Ok(None);
        }
        let Some((verified, token)) = self.valid(head, cache, now)? else { return Ok(None) };
        verified.rule.tell(head, &token, &verified.claims);
        if !verified.rule.forward {
            verified.place.remove(head);
        }
        Ok(Some(verified))
    }

    /// What the token of a request that leaves says, for the routes at its sender: nothing where it has none, or one that would
    /// be refused if it came in.
    #[must_use]
    pub fn claims(&self, head: &Parts, cache: &mut Cache, now: SystemTime) -> Option<VerifiedClaims> {
        if is_preflight(head) {
            return None;
        }
        let (verified, _) = self.valid(head, cache, now).ok()??;
        Some(verified.told())
    }

    /// The token of a request, if it has one, and what it says.
    fn valid(
        &self,
        head: &Parts,
        cache: &mut Cache,
        now: SystemTime,
    ) -> Result<Option<(Verified, String)>, Failure> {
        let Some((place, token)) = self.find(head)? else { return Ok(None) };
        let (rule, claims) = self.judge(&place, &token, cache, now)?;
        Ok(Some((Verified { claims, rule: rule.clone(), place }, token)))
    }

    /// The one token of a request. A field that several rules read with different prefixes has one token: the shortest reading.
    fn find(&self, head: &Parts) -> Result<Option<(Place, String)>, Failure> {
        // Which of them the application would take is not known.
        let several = || Failure::Unauthenticated("more than one Jwt".to_owned());
        let mut asked: Vec<&Place> = Vec::new();
        let mut found: Option<(Place, String)> = None;
        for place in self.rules.iter().flat_map(|rule| &rule.places) {
            if asked.contains(&place) {
                continue;
            }
            asked.push(place);
            let mut tokens = place.tokens(head).into_iter();
            let Some(token) = tokens.next() else { continue };
            if tokens.next().is_some() {
                return Err(several());
            }
            found = match found {
                None => Some((place.clone(), token.into_owned())),
                Some((other, _)) if other.field().is_none() || other.field() != place.field() => {
                    return Err(several());
                }
                Some(known) if known.1.len() <= token.len() => Some(known),
                Some(_) => Some((place.clone(), token.into_owned())),
            };
        }
        Ok(found)
    }

    /// The first rule of the token's issuer that looks there and takes it; else why the last one does not.
    fn judge(
        &self,
        place: &Place,
        token: &str,
        cache: &mut Cache,
        now: SystemTime,
    ) -> Result<(&Arc<Rule>, Arc<Claims>), Failure> {
        let told = |why: &str| Failure::Unauthenticated(why.to_owned());
        let issuer = jwt::unverified_issuer(token);
        let issuer = issuer.ok_or_else(|| told("Jwt is not in the form of Header.Payload.Signature"))?;
        let rules = self.rules.iter().filter(|rule| rule.issuer == issuer && rule.places.contains(place));
        let mut failure = told("Jwt issuer is not configured");
        for rule in rules {
            let Some(keys) = &rule.keys else {
                failure = told("Jwks remote fetch is failed");
                continue;
            };
            match cache.verify(token, keys, now) {
                Ok(claims) if rule.is_for(&claims) => return Ok((rule, claims)),
                Ok(_) => failure = Failure::Audience,
                Err(error) => failure = told(&error.to_string()),
            }
        }
        Err(failure)
    }
}

impl Rule {
    fn parse(wire: &wire::JwtRule) -> Result<Self, InvalidJwtRule> {
        let issuer = || wire.issuer.clone();
        let field = |name: &str| {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| InvalidJwtRule::Field { issuer: issuer(), name: name.to_owned() })
        };
        let mut places = Vec::new();
        for header in &wire.from_headers {
            places.push(Place::Header { name: field(&header.name)?, prefix: Prefix::new(&header.prefix) });
        }
        places.extend(wire.from_params.iter().cloned().map(Place::Param));
        places.extend(wire.from_cookies.iter().cloned().map(Place::Cookie));
        if places.is_empty() {
            places = vec![Place::bearer(), Place::Param("access_token".to_owned())];
        }
        let payload = Some(&wire.output_payload_to_header).filter(|name| !name.is_empty());
        let claims = wire.output_claims.iter().map(|told| Ok((field(&told.header)?, told.claim.clone())));
        Ok(Self {
            issuer: issuer(),
            audiences: wire.audiences.clone(),
            keys: keys(&wire.issuer, &wire.jwks),
            places,
            payload: payload.map(|name| field(name)).transpose()?,
            claims: claims.collect::<Result<_, _>>()?,
            forward: wire.forward_original_token,
            space_delimited: wire.space_delimited_claims.clone().into(),
            key_source: wire.key_source.clone(),
            keys_unknown: wire.keys_unknown,
        })
    }

    /// One of the audiences, if some are asked for.
    fn is_for(&self, claims: &Claims) -> bool {
        self.audiences.is_empty() || self.audiences.iter().any(|audience| claims.audiences.contains(audience))
    }

    /// Tells the application what the token says. The payload goes on as it came: it is what was signed.
    fn tell(&self, head: &mut Parts, token: &str, claims: &Claims) {
        if let Some(name) = &self.payload
            && let Some(payload) = token.split('.').nth(1)
            && URL_SAFE_NO_PAD.decode(payload).is_ok()
            && let Ok(value) = HeaderValue::from_str(payload)
        {
            head.headers.insert(name, value);
        }
        self.tell_claims(head, claims);
    }

    fn tell_claims(&self, head: &mut Parts, claims: &Claims) {
        for (name, claim) in &self.claims {
            let path: Vec<&str> = claim.split('.').collect();
            let exact = claims.all.get(claim);
            let nested = || {
                let (first, rest) = path.split_first()?;
                rest.iter().try_fold(claims.all.get(*first)?, |at, name| at.get(*name))
            };
            let text = match exact.or_else(nested) {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => {
                    value.to_string()
                }
                // Envoy: objects and lists are told as their JSON in base64url.
                Some(other) => URL_SAFE_NO_PAD.encode(other.to_string()),
                None => continue,
            };
            if let Ok(value) = HeaderValue::from_str(&text) {
                head.headers.insert(name, value);
            }
        }
    }
}

/// Takes fields that only we may set, also under names that many servers take for the same.
fn take(head: &mut Parts, outputs: &[HeaderName]) {
    for name in outputs {
        head.headers.remove(name);
    }
    if outputs.is_empty() || !head.headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let alias = |name: &HeaderName| {
        let plain = name.as_str().replace('_', "-");
        outputs.iter().any(|output| output.as_str().replace('_', "-") == plain)
    };
    let aliases: Vec<_> = head.headers.keys().filter(|name| alias(name)).cloned().collect();
    for name in aliases {
        head.headers.remove(name);
    }
}

/// An issuer's keys. None that can be used is no fault of this workload's other settings: its tokens are not valid then.
fn keys(issuer: &str, jwks: &[u8]) -> Option<Arc<KeySet>> {
    if jwks.is_empty() {
        return None;
    }
    match KeySet::parse(jwks) {
        Ok(keys) => Some(Arc::new(keys)),
        Err(why) => {
            tracing::warn!(issuer, %why, "none of its keys can be used: its tokens are not valid");
            None
        }
    }
}

/// Browsers send no token with it, and ask before they send what would need one.
fn is_preflight(head: &Parts) -> bool {
    let there = |name| head.headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
    head.method == Method::OPTIONS && there(ORIGIN) && there(ACCESS_CONTROL_REQUEST_METHOD)
}
