//! Tokens, their claims, and keys.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use mesh_proto::wire::mesh::v1 as wire;

use crate::authentication::JwtRules;
use crate::jwt::{Cache, Claims, KeySet, unverified_issuer, verify};

/// Keys of which nobody has the private ones: no token is good.
const JWKS: &str = include_str!("../../corpus/keys/all.json");

static KEYS: LazyLock<KeySet> = LazyLock::new(|| KeySet::parse(JWKS.as_bytes()).expect("good keys"));

static RULES: LazyLock<JwtRules> = LazyLock::new(|| {
    let rule = wire::JwtRule {
        issuer: "https://issuer".into(),
        jwks: JWKS.into(),
        from_headers: vec![wire::JwtHeader { name: "authorization".into(), prefix: "Bearer ".into() }],
        from_params: vec!["access_token".into()],
        from_cookies: vec!["session".into()],
        output_payload_to_header: "x-payload".into(),
        ..Default::default()
    };
    JwtRules::parse(&[rule]).expect("a good rule")
});

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A token. Nobody signed it, so it is not good, wherever in a request it is.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(verify(text, &KEYS, now()).is_err());
    let _ = unverified_issuer(text);
    let bearer = HeaderValue::from_str(&format!("Bearer {text}")).ok();
    let request = http::Request::builder().uri(format!("/p?access_token={text}")).body(()).ok();
    let requests = [
        bearer.map(|value| (http::Request::new(()), Some((AUTHORIZATION, value)))),
        request.map(|request| (request, None)),
        HeaderValue::from_str(&format!("session={text}"))
            .ok()
            .map(|value| (http::Request::new(()), Some((http::header::COOKIE, value)))),
    ];
    for (request, field) in requests.into_iter().flatten() {
        let mut head = request.into_parts().0;
        if let Some((name, value)) = field {
            head.headers.insert(name, value);
        }
        let verdict = RULES.verify(&mut head, &mut Cache::new(), now());
        // What looks like no token at all is none.
        assert!(!matches!(verdict, Ok(Some(_))), "{text:?}");
        assert!(!head.headers.contains_key("x-payload"), "{text:?}");
    }
}

/// A payload. Whoever reads the issuer alone reads the same one.
pub fn claims(data: &[u8]) {
    let Ok((claims, _)) = Claims::parse(data) else { return };
    let token = format!("e30.{}.AA", URL_SAFE_NO_PAD.encode(data));
    if token.len() <= 16 << 10 {
        assert_eq!(unverified_issuer(&token).as_ref(), Some(&claims.issuer));
    }
    let again = Claims::parse(&serde_json::to_vec(&claims.all).expect("JSON"));
    assert_eq!(again.map(|(again, _)| again).as_ref(), Ok(&claims));
}

/// A set of keys. It is itself, and makes no token good that nobody signed.
pub fn keys(data: &[u8]) {
    let Ok(keys) = KeySet::parse(data) else { return };
    let again = KeySet::parse(data).expect("as before");
    assert!(keys == again);
    for algorithm in ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA", "none", "HS256"] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}"}}"#));
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iss":"https://issuer"}"#);
        for signature in ["", "AA", &URL_SAFE_NO_PAD.encode([1; 64])] {
            assert!(verify(&format!("{header}.{payload}.{signature}"), &keys, now()).is_err(), "{algorithm}");
        }
    }
}
