//! Who a request says it comes from: JSON Web Tokens, verified.
//!
//! ```text
//! JWKS of an issuer ─► KeySet (parsed once)
//! token ─► header, payload (strict JSON) ─► types ─► time ─► signature by a key of the set ─► Claims
//! ```
//! Pure: the caller finds the token in a request, chooses the rule by [`unverified_issuer`] and compares issuer and audiences.
//! The key decides which algorithm is good, the token only says which one of those it used. What a token says of where its
//! keys are (`jku`, `x5u`, `jwk`, `x5c`) is not even looked at. Sources: RFC 7515, 7517, 7518, 7519, 8037 and 8725; the words
//! of refusals are Envoy's.

mod cache;
mod claims;
mod json;
mod keys;

#[cfg(test)]
mod tests;

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

pub use self::cache::Cache;
pub use self::claims::Claims;
use self::keys::{Algorithm, Signer, Unmatched};
pub use self::keys::{InvalidKeys, KeySet};

/// What the clocks of an issuer and this proxy may differ by, in seconds: Envoy's.
const SKEW: u64 = 60;
/// A longer token is refused: no header or cookie holds one, and parsing has to end.
const LONGEST: usize = 16 << 10;

/// Why a token is refused. Its text is what the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// More than 16 KiB.
    #[error("Jwt is too long")]
    TooLong,
    /// Not a JWS in compact form.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Format,
    /// The header is no base64url.
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    /// The header is no JSON object, or has a name twice.
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    /// No algorithm.
    #[error("Jwt header [alg] field is required and must be a string")]
    HeaderAlgorithm,
    /// `none`, a symmetric algorithm, or an unknown one.
    #[error("Jwt header [alg] is not supported")]
    UnsupportedAlgorithm,
    /// A key id that is no string.
    #[error("Jwt header [kid] field is not a string")]
    HeaderKeyId,
    /// It has to be understood, and is not (RFC 7515 §4.1.11; `b64`: RFC 7797).
    #[error("Jwt header [{0}] field is not supported")]
    Critical(&'static str),
    /// The payload is no base64url.
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    /// The payload is no JSON object, or has a name twice.
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    /// A claim that has to be a text.
    #[error("Jwt payload [{0}] field is not a string")]
    NotString(&'static str),
    /// A time that is no integer.
    #[error("Jwt payload [{0}] field is not an integer")]
    NotInteger(&'static str),
    /// A time before 1970, or beyond 2^63 - 1 seconds.
    #[error("Jwt payload [{0}] field is not a positive 64 bit integer")]
    OutOfRange(&'static str),
    /// Audiences that are no texts.
    #[error("Jwt payload [aud] field is not a string or string list")]
    NotAudience,
    /// The signature is no base64url.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    /// Its time is over.
    #[error("Jwt is expired")]
    Expired,
    /// Its time has not come.
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// No issuer, or one without a rule.
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    /// It is for somebody else.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// The issuer has no such key.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    /// The signature is not of a key of the issuer.
    #[error("Jwt verification fails")]
    Signature,
    /// It is not clear which one counts.
    #[error("Found multiple Jwt tokens")]
    Several,
}

/// What a token says of its issuer, not verified: chooses the rule. None if it is no JWS in compact form.
#[must_use]
pub fn unverified_issuer(token: &str) -> Option<String> {
    let parts = Parts::of(token).ok()?;
    json::text_of(&BASE64.decode(parts.payload).ok()?, "iss")
}

/// Verifies everything that `token` and its issuer's keys alone decide; whether the issuer is the one whose `keys` these are
/// and whether the token is for us, the caller compares.
///
/// # Errors
/// Says why the token must not be trusted.
pub fn verify(token: &str, keys: &KeySet, now: SystemTime) -> Result<Claims, InvalidToken> {
    verify_at(token, keys, seconds(now)).map(|(claims, _)| claims)
}

/// The same with the time as seconds; with it, when the verdict holds.
fn verify_at(token: &str, keys: &KeySet, now: u64) -> Result<(Claims, Validity), InvalidToken> {
    let parts = Parts::of(token)?;
    let header = Header::parse(parts.header)?;
    let payload = BASE64.decode(parts.payload).map_err(|_| InvalidToken::PayloadBase64)?;
    let (mut claims, validity) = Claims::parse(&payload)?;
    validity.check(now)?;
    claims.signer = Some(parts.check_signature(&header, keys)?);
    Ok((claims, validity))
}

/// Seconds since 1970; a clock before that is one that was never set: nothing is valid yet.
fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// When a token is good, in seconds since 1970, without skew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    not_before: Option<u64>,
    expires: Option<u64>,
}

impl Validity {
    fn check(self, now: u64) -> Result<(), InvalidToken> {
        if self.not_before.is_some_and(|from| from > now.saturating_add(SKEW)) {
            return Err(InvalidToken::NotYetValid);
        }
        if self.expires.is_some_and(|end| now > end.saturating_add(SKEW)) {
            return Err(InvalidToken::Expired);
        }
        Ok(())
    }
}

/// The three sections of a token, still encoded.
struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
    /// Header and payload with the dot between: what is signed.
    message: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, InvalidToken> {
        if token.len() > LONGEST {
            return Err(InvalidToken::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Format)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidToken::Format)?;
        // An empty payload is a JWS (RFC 7515), an empty signature only that of `none`.
        if header.is_empty() || signature.is_empty() || payload.contains('.') {
            return Err(InvalidToken::Format);
        }
        Ok(Self { header, payload, signature, message })
    }

    fn check_signature(&self, header: &Header, keys: &KeySet) -> Result<Signer, InvalidToken> {
        let signature = BASE64.decode(self.signature).map_err(|_| InvalidToken::SignatureBase64)?;
        keys.check(header.algorithm, header.kid.as_deref(), self.message.as_bytes(), &signature).map_err(
            |why| match why {
                Unmatched::Key => InvalidToken::NoKey,
                Unmatched::Signature => InvalidToken::Signature,
            },
        )
    }
}

/// What of a token's header counts.
struct Header {
    algorithm: Algorithm,
    kid: Option<String>,
}

impl Header {
    fn parse(text: &str) -> Result<Self, InvalidToken> {
        let bytes = BASE64.decode(text).map_err(|_| InvalidToken::HeaderBase64)?;
        let header = json::object(&bytes).ok_or(InvalidToken::HeaderJson)?;
        // Nothing that must be understood is: also not the unencoded payload, which changes what is signed.
        if let Some(name) = ["crit", "b64"].into_iter().find(|name| header.contains_key(*name)) {
            return Err(InvalidToken::Critical(name));
        }
        let algorithm =
            header.get("alg").and_then(|alg| alg.as_str()).ok_or(InvalidToken::HeaderAlgorithm)?;
        let algorithm = Algorithm::named(algorithm).ok_or(InvalidToken::UnsupportedAlgorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().ok_or(InvalidToken::HeaderKeyId)?.to_owned()),
        };
        Ok(Self { algorithm, kid })
    }
}
