//! Local attestation tokens: `base64url(payload).base64url(HMAC-SHA256(key, payload))`.
//!
//! The supervisor mints one for each instance that it starts, the authority verifies it. Both hold the same key, so this
//! is for one machine under one user. What is verified is what is parsed: the same bytes.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// The longest token; ours are a few hundred bytes.
const MAX_TOKEN: usize = 4096;

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The namespace.
    pub namespace: String,
    /// The service account: with the namespace, the identity.
    pub service_account: String,
    /// The pod that the token was made for: for the log.
    pub pod: String,
    /// Unix seconds after which it is worth nothing.
    pub expires: u64,
}

/// Why a token is not accepted. The fault is the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is not two parts of base64url.
    #[error("malformed token")]
    Malformed,
    /// It was not made with our key, or changed since.
    #[error("the token's signature is not ours")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not 64 hexadecimal digits.
    #[error("a token key is 32 bytes as 64 hexadecimal digits")]
    Form,
}

/// The key of tokens. Never printed.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// From its bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// From 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_hex(text: &str) -> Result<Self, InvalidKey> {
        let digits = text.trim().as_bytes();
        if digits.len() != 64 {
            return Err(InvalidKey::Form);
        }
        let digit =
            |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(InvalidKey::Form);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self::new(&bytes))
    }

    /// From a file with 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it cannot be read or holds anything else.
    pub fn read(path: &Path) -> Result<Self, InvalidKey> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| InvalidKey::Read { path: path.to_owned(), source })?;
        Self::from_hex(&text)
    }
}

/// Makes a token.
///
/// # Panics
/// Never: the claims are plain text and numbers.
#[must_use]
pub fn mint(key: &TokenKey, claims: &Claims) -> String {
    let payload = serde_json::to_vec(claims).expect("plain claims are JSON");
    let tag = hmac::sign(&key.0, &payload);
    format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(payload), BASE64_URL_SAFE_NO_PAD.encode(tag))
}

/// Checks a token.
///
/// # Errors
/// When it was not made with `key`, was changed, or has expired at `now`.
pub fn verify(key: &TokenKey, token: &str, now: SystemTime) -> Result<Claims, InvalidToken> {
    if token.len() > MAX_TOKEN {
        return Err(InvalidToken::Malformed);
    }
    let (payload, tag) = token.split_once('.').ok_or(InvalidToken::Malformed)?;
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| InvalidToken::Malformed);
    let (payload, tag) = (decode(payload)?, decode(tag)?);
    hmac::verify(&key.0, &payload, &tag).map_err(|_| InvalidToken::Signature)?;
    let claims: Claims = serde_json::from_slice(&payload).map_err(|_| InvalidToken::Malformed)?;
    let now = now.duration_since(UNIX_EPOCH).map_or(u64::MAX, |d| d.as_secs());
    if now >= claims.expires {
        return Err(InvalidToken::Expired);
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claims() -> Claims {
        Claims {
            namespace: "default".to_owned(),
            service_account: "reviews".to_owned(),
            pod: "reviews-v1-0".to_owned(),
            expires: 1000,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn accepts_its_own_until_they_expire() {
        let key = TokenKey::from_hex(&"0f".repeat(32)).unwrap();
        let token = mint(&key, &claims());
        assert_eq!(verify(&key, &token, at(999)), Ok(claims()));
        assert_eq!(verify(&key, &token, at(1000)), Err(InvalidToken::Expired));
        let other = TokenKey::from_hex(&"0e".repeat(32)).unwrap();
        assert_eq!(verify(&other, &token, at(1)), Err(InvalidToken::Signature));
    }

    #[test]
    fn refuses_every_change_of_a_byte() {
        let key = TokenKey::new(&[7; 32]);
        let token = mint(&key, &claims());
        for at_byte in 0..token.len() {
            for replacement in ["A", "B", ".", "=", "%", ""] {
                let mut changed = token.clone();
                changed.replace_range(at_byte..=at_byte, replacement);
                if changed != token {
                    assert!(verify(&key, &changed, at(1)).is_err(), "{changed}");
                }
            }
        }
        for bad in ["", ".", "a.b", &format!("{token}."), &format!("{token}.x"), &"a".repeat(10_000)] {
            assert!(verify(&key, bad, at(1)).is_err(), "{bad}");
        }
    }

    /// What is longer than any token is not even decoded, whoever signed it.
    #[test]
    fn a_token_has_a_longest_form() {
        let key = TokenKey::new(&[7; 32]);
        let long = |pod: usize| mint(&key, &Claims { pod: "p".repeat(pod), ..claims() });
        let most = (0..MAX_TOKEN).take_while(|pod| long(*pod).len() <= MAX_TOKEN).last().unwrap();
        assert_eq!(long(most).len(), MAX_TOKEN);
        assert!(verify(&key, &long(most), at(1)).is_ok());
        for more in [1, 2, 1000] {
            assert_eq!(verify(&key, &long(most + more), at(1)), Err(InvalidToken::Malformed));
        }
    }

    #[test]
    fn a_signed_payload_of_another_form_is_refused() {
        let key = TokenKey::new(&[7; 32]);
        for payload in [
            "{}",
            "null",
            r#"{"namespace":"a","service_account":"b","pod":"c","expires":"9999999999"}"#,
            r#"{"namespace":"a","service_account":"b","pod":"c","expires":99999999999,"namespace":"d"}"#,
            r#"{"namespace":"a","service_account":"b","pod":"c","expires":99999999999,"admin":true}"#,
        ] {
            let tag = hmac::sign(&key.0, payload.as_bytes());
            let token =
                format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(payload), BASE64_URL_SAFE_NO_PAD.encode(tag));
            assert_eq!(verify(&key, &token, at(1)), Err(InvalidToken::Malformed), "{payload}");
        }
    }

    #[test]
    fn keys_are_64_digits_and_never_printed() {
        for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"é".repeat(32)] {
            assert!(TokenKey::from_hex(bad).is_err(), "{bad}");
        }
        assert!(TokenKey::from_hex(&format!("{}\n", "aF".repeat(32))).is_ok());
        assert_eq!(format!("{:?}", TokenKey::new(&[7; 32])), "TokenKey(..)");
    }
}
