//! A SPIFFE trust bundle as a document: what we trust in, JSON out, and the way back for other trust domains' documents.
//!
//! Source: the SPIFFE Trust Domain and Bundle specification §4 (a JWK Set, RFC 7517, with `spiffe_sequence` and
//! `spiffe_refresh_hint`). Keys of other uses (`jwt-svid`, unknown ones) are passed over, as it says.

pub mod serve;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::public_key::PublicKey;

use crate::keeper::Told;

/// The longest document that is read.
pub const MAX_DOCUMENT: usize = 64 << 10;
/// More keys than anybody rotates through.
const MAX_KEYS: usize = 16;
/// How often others should ask for ours, in seconds: well within the time that a new root is known before it signs.
const REFRESH: u64 = 60;

/// Why a document is no bundle. The fault is with who published it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBundle {
    /// It is something else.
    #[error("not a SPIFFE bundle: {0}")]
    Form(String),
    /// A key is not what it should be.
    #[error("key {0} of the bundle: {1}")]
    Key(usize, String),
    /// Nobody would be trusted.
    #[error("the bundle has no x509-svid key")]
    Empty,
}

/// What another trust domain says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// Grows with every change, where it says so.
    pub sequence: Option<u64>,
    /// After how many seconds to ask again, where it says so.
    pub refresh: Option<u64>,
}

/// Our own trust domain's bundle.
#[must_use]
pub fn document(told: &Told) -> String {
    let keys: Vec<_> = told.own_bundle().roots.iter().filter_map(key).collect();
    json!({ "keys": keys, "spiffe_sequence": told.sequence, "spiffe_refresh_hint": REFRESH }).to_string()
}

/// A root as a key; none where its kind of key has no name in RFC 7518 (we make no such root and take none).
fn key(root: &CertificateDer<'static>) -> Option<Value> {
    let (_, parsed) = x509_parser::parse_x509_certificate(root).ok()?;
    let number = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        BASE64_URL_SAFE_NO_PAD.encode(&bytes[start..])
    };
    let mut key = match parsed.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            // Uncompressed: 4, x, y.
            let (4, coordinates) = point.data().split_first().map(|(form, rest)| (*form, rest))? else {
                return None;
            };
            let curve = match coordinates.len() {
                64 => "P-256",
                96 => "P-384",
                132 => "P-521",
                _ => return None,
            };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
            json!({ "kty": "EC", "crv": curve, "x": x, "y": y })
        }
        PublicKey::RSA(rsa) => json!({ "kty": "RSA", "n": number(rsa.modulus), "e": number(rsa.exponent) }),
        _ => return None,
    };
    key["use"] = "x509-svid".into();
    key["x5c"] = json!([BASE64_STANDARD.encode(root)]);
    Some(key)
}

/// Reads a document.
///
/// # Errors
/// When it is none, or has no root. One bad root makes all of it bad: never silently fewer than were meant.
pub fn parse(text: &[u8]) -> Result<Document, InvalidBundle> {
    let form = |why: &str| InvalidBundle::Form(why.to_owned());
    if text.len() > MAX_DOCUMENT {
        return Err(InvalidBundle::Form(format!("larger than {MAX_DOCUMENT} bytes")));
    }
    let value: Value = serde_json::from_slice(text).map_err(|e| InvalidBundle::Form(e.to_string()))?;
    let keys = value.get("keys").and_then(Value::as_array).ok_or_else(|| form("`keys` is no list"))?;
    if keys.len() > MAX_KEYS {
        return Err(InvalidBundle::Form(format!("more than {MAX_KEYS} keys")));
    }
    let mut roots = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let bad = |why: &str| InvalidBundle::Key(index, why.to_owned());
        if key.get("use").and_then(Value::as_str) != Some("x509-svid") {
            continue;
        }
        let chain = key.get("x5c").and_then(Value::as_array).map(Vec::as_slice);
        let [one] = chain.unwrap_or_default() else { return Err(bad("`x5c` is not one certificate")) };
        let der = one.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
        let der = CertificateDer::from(der.ok_or_else(|| bad("`x5c` is not base64"))?);
        let (rest, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|e| bad(&format!("no certificate: {e}")))?;
        let is_ca = parsed.basic_constraints().ok().flatten().is_some_and(|c| c.value.ca);
        if !rest.is_empty() || !is_ca {
            return Err(bad("not the certificate of an authority"));
        }
        if !roots.contains(&der) {
            roots.push(der);
        }
    }
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    match roots.is_empty() {
        true => Err(InvalidBundle::Empty),
        false => Ok(Document {
            roots,
            sequence: number("spiffe_sequence"),
            refresh: number("spiffe_refresh_hint"),
        }),
    }
}
