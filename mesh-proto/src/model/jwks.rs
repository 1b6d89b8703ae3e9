//! JSON Web Key Sets (RFC 7517), as far as one can tell without cryptography: which keys can verify something at all.
//!
//! In: an issuer's text. Out: the same keys with nothing else beside them, or why there is none. Pilot and admission ask
//! before anybody else gets it; the proxy reads the keys themselves.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The largest text of an issuer.
pub const MAX_TEXT: usize = 1 << 20;
/// The most keys.
pub const MAX_KEYS: usize = 100;
/// The largest set that goes to proxies.
const MAX_SET: usize = 64 << 10;

/// What goes on of a key.
const MEMBERS: [&str; 10] = ["kty", "kid", "alg", "use", "key_ops", "n", "e", "crv", "x", "y"];

/// The usable keys of a set, nothing else.
///
/// # Errors
/// Why there are none.
pub fn usable(text: &[u8]) -> Result<Vec<u8>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("{} bytes, at most {MAX_TEXT}", text.len()));
    }
    let set: Value = serde_json::from_slice(text).map_err(|error| format!("no JSON: {error}"))?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or("there are no keys in it")?;
    if keys.len() > MAX_KEYS {
        return Err(format!("{} keys, at most {MAX_KEYS}", keys.len()));
    }
    let good: Vec<Key> = keys.iter().filter_map(Value::as_object).filter_map(key).collect();
    if good.is_empty() {
        return Err("there are no keys in it that can verify a token".to_owned());
    }
    let set = serde_json::to_vec(&BTreeMap::from([("keys", good)])).map_err(|error| error.to_string())?;
    if set.len() > MAX_SET {
        return Err(format!("its keys have {} bytes, at most {MAX_SET}", set.len()));
    }
    Ok(set)
}

/// Sorted, so that equal keys are equal bytes.
type Key = BTreeMap<&'static str, Value>;

/// A public key for signatures: RSA, a curve of JWA, or Ed25519.
fn key(key: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| key.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let is_whole = match text("kty")? {
        "RSA" => text("n").is_some() && text("e").is_some(),
        "EC" => {
            matches!(text("crv")?, "P-256" | "P-384" | "P-521") && text("x").is_some() && text("y").is_some()
        }
        "OKP" => text("crv")? == "Ed25519" && text("x").is_some(),
        _ => false,
    };
    let verifies = match key.get("key_ops") {
        None => true,
        Some(operations) => {
            operations.as_array().is_some_and(|all| all.iter().any(|one| one.as_str() == Some("verify")))
        }
    };
    if !is_whole || !verifies || text("use").is_some_and(|used| used != "sig") {
        return None;
    }
    Some(MEMBERS.iter().filter_map(|name| Some((*name, key.get(*name)?.clone()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_verify_stays_and_nothing_else() {
        let ec = r#"{"kty":"EC","crv":"P-256","x":"a","y":"b","kid":"1","d":"secret","x5c":["c"]}"#;
        let set = |keys: &str| usable(format!(r#"{{"keys":[{keys}],"more":1}}"#).as_bytes());
        let kept: Value = serde_json::from_slice(&set(ec).unwrap()).unwrap();
        let expected: Value =
            serde_json::from_str(r#"{"keys":[{"kty":"EC","crv":"P-256","x":"a","y":"b","kid":"1"}]}"#)
                .unwrap();
        assert_eq!(kept, expected);
        for useless in [
            "",
            "{}",
            "1",
            r#"{"kty":"oct","k":"a"}"#,
            r#"{"kty":"RSA","n":"a"}"#,
            r#"{"kty":"EC","crv":"secp256k1","x":"a","y":"b"}"#,
            r#"{"kty":"OKP","crv":"X25519","x":"a"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"a","use":"enc"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"a","key_ops":["sign"]}"#,
        ] {
            assert!(set(useless).is_err(), "{useless}");
            let beside = if useless.is_empty() { ec.to_owned() } else { format!("{useless},{ec}") };
            assert!(set(&beside).is_ok(), "one that is useless hurts no other: {useless}");
        }
        assert!(set(&vec![ec; MAX_KEYS + 1].join(",")).is_err());
        let long = "n".repeat(MAX_SET);
        assert!(set(&format!(r#"{{"kty":"RSA","e":"AQAB","n":"{long}"}}"#)).is_err());
        assert!(
            usable(b"{").is_err() && usable(b"[]").is_err() && usable(&vec![b' '; MAX_TEXT + 1]).is_err()
        );
    }
}
