//! Tokens of a test issuer: what is good, and everything that must not be. Rows of the security reference by their number.

mod cache;
mod claims;
mod keys;
mod noise;
mod signatures;
mod wycheproof;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_proto::runtime::testing::TestIssuer;
use serde_json::{Value, json};

use super::*;

/// When it is, in all tests.
const NOW: u64 = 1_800_000_000;

const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"];

/// One issuer per algorithm.
static ISSUERS: LazyLock<Vec<TestIssuer>> =
    LazyLock::new(|| ALGORITHMS.map(|algorithm| TestIssuer::new("https://issuer", algorithm)).into());

fn issuer(algorithm: &str) -> &'static TestIssuer {
    &ISSUERS[ALGORITHMS.iter().position(|other| *other == algorithm).expect("an algorithm")]
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn keys(issuer: &TestIssuer) -> KeySet {
    KeySet::parse(issuer.jwks().as_bytes()).expect("good keys")
}

fn key_set(jwks: &[Value]) -> Result<KeySet, InvalidKeys> {
    KeySet::parse(json!({ "keys": jwks }).to_string().as_bytes())
}

/// Claims that are all good.
fn good_claims() -> Value {
    json!({"iss": "https://issuer", "sub": "ann", "aud": ["shop", "bank"], "azp": "web", "exp": NOW + 300, "nbf": NOW - 300, "iat": NOW - 300})
}
