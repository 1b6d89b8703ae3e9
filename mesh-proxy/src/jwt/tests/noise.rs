//! Anything may come: nothing but the token that was signed is good, and nothing panics.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

#[test]
fn no_bit_may_be_another() {
    for algorithm in ["RS256", "PS256", "ES256", "ES512", "EdDSA"] {
        let issuer = issuer(algorithm);
        let keys = keys(issuer);
        let token = issuer.sign(good_claims());
        assert!(verify(&token, &keys, now()).is_ok());
        for (place, bit) in (0..token.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
            let mut bytes = token.clone().into_bytes();
            bytes[place] ^= 1 << bit;
            // What is no text cannot be asked.
            if let Ok(other) = String::from_utf8(bytes) {
                assert!(verify(&other, &keys, now()).is_err(), "{algorithm}: bit {bit} of byte {place}");
            }
        }
    }
}

#[test]
fn no_piece_may_be_missing_or_from_another_token() {
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let issuer = issuer(algorithm);
        let keys = keys(issuer);
        let (one, other) = (issuer.sign(good_claims()), issuer.sign(json!({"sub": "bob"})));
        for end in 0..one.len() {
            assert!(verify(&one[..end], &keys, now()).is_err(), "{algorithm}: the first {end}");
            assert!(verify(&one[end + 1..], &keys, now()).is_err(), "{algorithm}: from {end}");
        }
        let (message, _) = one.rsplit_once('.').expect("sections");
        let (_, signature) = other.rsplit_once('.').expect("sections");
        assert_eq!(verify(&format!("{message}.{signature}"), &keys, now()), Err(InvalidToken::Signature));
    }
}

#[test]
fn damaged_keys_do_not_panic_and_verify_nothing() {
    let mut random = StdRng::seed_from_u64(7);
    for issuer in ["RS256", "ES256", "ES512", "EdDSA"].map(issuer) {
        let token = issuer.sign(good_claims());
        let stranger = TestIssuer::new("https://issuer", "ES256").sign(good_claims());
        for _ in 0..500 {
            let mut jwks = issuer.jwks().into_bytes();
            let place = random.random_range(0..jwks.len());
            jwks[place] = random.random();
            if let Ok(keys) = KeySet::parse(&jwks) {
                assert!(verify(&stranger, &keys, now()).is_err());
                // May be good: not every byte of a set counts.
                let _ = verify(&token, &keys, now());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_refused(text in ".{0,200}") {
        prop_assert!(verify(&text, &keys(issuer("ES256")), now()).is_err());
        let _ = unverified_issuer(&text);
    }

    #[test]
    fn any_sections_are_refused(header in any::<Vec<u8>>(), payload in any::<Vec<u8>>(), signature in any::<Vec<u8>>()) {
        let [header, payload, signature] = [header, payload, signature].map(|bytes| BASE64.encode(bytes));
        let token = format!("{header}.{payload}.{signature}");
        prop_assert!(verify(&token, &keys(issuer("ES256")), now()).is_err());
        let _ = unverified_issuer(&token);
    }

    #[test]
    fn any_signed_payload_is_read_the_same_way_twice(payload in r#"\{("(iss|exp|aud|a)":("x"|1|\[\]|null|\{\}),?){0,4}\}?"#) {
        let issuer = issuer("EdDSA");
        let token = issuer.sign_raw(&issuer.header().to_string(), payload.as_bytes());
        if let Ok(claims) = verify(&token, &keys(issuer), now()) {
            prop_assert_eq!(Some(claims.issuer), unverified_issuer(&token));
        }
    }

    #[test]
    fn any_bytes_are_no_keys(bytes in any::<Vec<u8>>()) {
        prop_assert!(KeySet::parse(&bytes).is_err());
    }
}
