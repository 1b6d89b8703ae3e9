//! What a token says: its payload goes in, claims of the right types come out (RFC 7519 §4.1). A claim of a wrong type is
//! refused, never treated as absent: that would skip its check.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::keys::Signer;
use super::{InvalidToken, Validity, json};

/// What a valid token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// Who issued it (`iss`).
    pub issuer: String,
    /// Whom it is about (`sub`).
    pub subject: Option<String>,
    /// Whom it is for (`aud`).
    pub audiences: Vec<String>,
    /// Who presents it (`azp`).
    pub presenter: Option<String>,
    /// When it ends (`exp`), without skew.
    pub expires: Option<SystemTime>,
    /// Everything.
    pub all: Map<String, Value>,
    /// `<issuer>/<subject>`.
    principal: Option<String>,
    /// Whose signature it has.
    pub(super) signer: Option<Signer>,
}

impl Claims {
    pub(crate) fn parse(payload: &[u8]) -> Result<(Self, Validity), InvalidToken> {
        let all = json::object(payload).ok_or(InvalidToken::PayloadJson)?;
        let issuer = text(&all, "iss")?.ok_or(InvalidToken::UnknownIssuer)?;
        let subject = text(&all, "sub")?;
        let presenter = text(&all, "azp")?;
        text(&all, "jti")?;
        time(&all, "iat")?;
        let validity = Validity { not_before: time(&all, "nbf")?, expires: time(&all, "exp")? };
        let instant = |seconds| {
            let instant = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            instant.ok_or(InvalidToken::OutOfRange("exp"))
        };
        let expires = validity.expires.map(instant).transpose()?;
        let audiences = audiences(&all)?;
        let named = subject.as_deref().filter(|subject| !subject.is_empty() && !issuer.is_empty());
        let principal = named.map(|subject| format!("{issuer}/{subject}"));
        Ok((Self { issuer, subject, audiences, presenter, expires, all, principal, signer: None }, validity))
    }

    /// `<issuer>/<subject>`; none without both.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// The texts of the claim at `path`: a text is one, of a list each text is one, everything else is none. Of the claims
    /// `scope` and `permission` each word is one.
    pub fn texts<'a>(&'a self, path: &[String]) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        self.texts_with(path, &[])
    }

    /// The same, with more claims of words: a rule's `spaceDelimitedClaims`. Claims of words are outermost ones, as in Envoy.
    pub fn texts_with<'a>(
        &'a self,
        path: &[String],
        space_delimited: &[String],
    ) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let (words, whole, list): (&str, Option<&str>, &[Value]) = match self.at(path) {
            Some(Value::String(text)) if of_words(path, space_delimited) => (text, None, &[]),
            Some(Value::String(text)) => ("", Some(text), &[]),
            Some(Value::Array(list)) => ("", None, list),
            _ => ("", None, &[]),
        };
        let words = words.split(' ').filter(|word| !word.is_empty());
        words.chain(whole).chain(list.iter().filter_map(Value::as_str)).map(Cow::Borrowed)
    }

    fn at(&self, path: &[String]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.all.get(first)?, |value, name| value.as_object()?.get(name))
    }
}

fn of_words(path: &[String], space_delimited: &[String]) -> bool {
    match path {
        [name] => matches!(name.as_str(), "scope" | "permission") || space_delimited.contains(name),
        _ => false,
    }
}

fn text(claims: &Map<String, Value>, name: &'static str) -> Result<Option<String>, InvalidToken> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(InvalidToken::NotString(name)),
    }
}

/// Seconds since 1970. RFC 7519 allows fractions; a reader that cuts them off and one that does not differ, so nobody may.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, InvalidToken> {
    let number = match claims.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) if !number.is_f64() => number,
        Some(_) => return Err(InvalidToken::NotInteger(name)),
    };
    let seconds = number.as_u64().filter(|seconds| i64::try_from(*seconds).is_ok());
    seconds.map(Some).ok_or(InvalidToken::OutOfRange(name))
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, InvalidToken> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(InvalidToken::NotAudience);
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(one) => Ok(vec![text(one)?]),
    }
}
