//! What issuers publish: what is used, what is passed over, what is refused.

use super::*;

fn with(mut jwk: Value, changes: &[(&str, Value)]) -> Value {
    for (name, value) in changes {
        jwk[*name] = value.clone();
    }
    jwk
}

fn without(mut jwk: Value, names: &[&str]) -> Value {
    names.iter().for_each(|name| drop(jwk.as_object_mut().expect("an object").remove(*name)));
    jwk
}

/// Keys that cannot verify.
fn unusable() -> Vec<Value> {
    let [rsa, ec, ed] = ["RS256", "ES256", "EdDSA"].map(|algorithm| issuer(algorithm).jwk());
    let other = issuer("ES384").jwk();
    let number = |length: usize| json!(BASE64.encode(vec![0xff; length]));
    let mut list =
        vec![json!(null), json!("key"), json!([]), json!({}), json!({"kty": "oct", "k": "AAAA", "kid": "s"})];
    for jwk in [&rsa, &ec, &ed] {
        list.extend([
            with(jwk.clone(), &[("use", json!("enc"))]),
            with(jwk.clone(), &[("use", json!(1))]),
            with(jwk.clone(), &[("key_ops", json!(["sign"]))]),
            with(jwk.clone(), &[("key_ops", json!([]))]),
            with(jwk.clone(), &[("key_ops", json!("verify"))]),
            with(jwk.clone(), &[("kty", json!("oct"))]),
            with(jwk.clone(), &[("kty", json!("AKP"))]),
            with(jwk.clone(), &[("kty", json!(null))]),
            with(jwk.clone(), &[("kid", json!(7))]),
            with(jwk.clone(), &[("alg", json!(null))]),
            with(jwk.clone(), &[("alg", json!("HS256"))]),
            with(jwk.clone(), &[("alg", json!("none"))]),
            with(jwk.clone(), &[("alg", json!("ES384"))]),
            without(jwk.clone(), &["kty"]),
        ]);
    }
    list.extend([
        with(rsa.clone(), &[("n", number(128))]),
        with(rsa.clone(), &[("n", number(255))]),
        with(rsa.clone(), &[("n", number(1025))]),
        with(rsa.clone(), &[("n", json!(""))]),
        with(rsa.clone(), &[("n", json!("!"))]),
        with(rsa.clone(), &[("n", json!(5))]),
        with(rsa.clone(), &[("e", json!(""))]),
        with(rsa.clone(), &[("e", json!("AQ"))]),
        with(rsa.clone(), &[("e", json!("Ag"))]),
        with(rsa.clone(), &[("e", number(200))]),
        with(rsa.clone(), &[("alg", json!("ES256"))]),
        without(rsa.clone(), &["n"]),
        without(rsa, &["e"]),
        with(ec.clone(), &[("crv", json!("secp256k1"))]),
        with(ec.clone(), &[("crv", json!("P-384"))]),
        with(ec.clone(), &[("crv", json!("P-192"))]),
        with(ec.clone(), &[("x", ec["y"].clone())]),
        with(ec.clone(), &[("x", number(32)), ("y", number(32))]),
        with(ec.clone(), &[("x", other["x"].clone()), ("y", other["y"].clone())]),
        without(ec.clone(), &["crv"]),
        without(ec, &["y"]),
        with(ed.clone(), &[("crv", json!("Ed448"))]),
        with(ed.clone(), &[("crv", json!("X25519"))]),
        with(ed.clone(), &[("x", number(31))]),
        with(ed.clone(), &[("x", number(33))]),
        without(ed, &["x"]),
    ]);
    list
}

#[test]
fn what_cannot_verify_is_passed_over() {
    let good = issuer("ES512");
    for jwk in unusable() {
        let alone = key_set(std::slice::from_ref(&jwk));
        assert!(matches!(alone, Err(InvalidKeys::NoneUsable(Some(_)))), "{jwk}: {alone:?}");
        let beside = key_set(&[jwk.clone(), good.jwk()]).unwrap_or_else(|why| panic!("{jwk}: {why}"));
        assert_eq!(beside, keys(good), "{jwk}");
    }
}

#[test]
fn what_can_verify_is_used() {
    for issuer in ISSUERS.iter() {
        let jwk = issuer.jwk();
        let token = issuer.sign(good_claims());
        let variants = [
            without(jwk.clone(), &["alg", "use", "kid"]),
            with(
                jwk.clone(),
                &[("key_ops", json!(["sign", "verify"])), ("x5c", json!(["?"])), ("new", json!({"a": 1}))],
            ),
            // A private key does not belong there; its public part is a key like any other.
            with(jwk.clone(), &[("d", json!("c2VjcmV0"))]),
        ];
        for jwk in variants {
            let keys = key_set(std::slice::from_ref(&jwk)).unwrap_or_else(|why| panic!("{jwk}: {why}"));
            assert!(verify(&token, &keys, now()).is_ok(), "{jwk}");
        }
    }
    // Padding, and a zero in front.
    let issuer = issuer("RS256");
    let n = issuer.jwk()["n"].as_str().map(|n| BASE64.decode(n).expect("base64")).expect("a number");
    let padded = base64::engine::general_purpose::URL_SAFE.encode([&[0], n.as_slice()].concat());
    let keys = key_set(&[with(issuer.jwk(), &[("n", json!(padded))])]).expect("good keys");
    assert!(verify(&issuer.sign(good_claims()), &keys, now()).is_ok());
}

#[test]
fn sets_are_bounded_and_strict() {
    let jwk = issuer("ES256").jwk();
    assert!(key_set(&vec![jwk.clone(); 100]).is_ok());
    assert_eq!(key_set(&vec![jwk.clone(); 101]), Err(InvalidKeys::TooMany));
    let set = json!({"keys": [jwk]}).to_string();
    let long = format!("{set}{}", " ".repeat((1 << 20) - set.len()));
    assert!(KeySet::parse(long.as_bytes()).is_ok());
    assert_eq!(KeySet::parse(format!("{long} ").as_bytes()), Err(InvalidKeys::TooLong));
    let table = [
        ("", InvalidKeys::Json),
        ("null", InvalidKeys::Json),
        ("<html>", InvalidKeys::Json),
        ("-----BEGIN PUBLIC KEY-----", InvalidKeys::Json),
        (r#"{"keys":[],"keys":[]}"#, InvalidKeys::Json),
        ("{}", InvalidKeys::NoKeys),
        (r#"{"kty":"EC"}"#, InvalidKeys::NoKeys),
        (r#"{"keys":{}}"#, InvalidKeys::NotList),
        (r#"{"keys":null}"#, InvalidKeys::NotList),
        (r#"{"keys":[]}"#, InvalidKeys::NoneUsable(None)),
    ];
    for (text, expected) in table {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(expected), "{text}");
    }
    let twice = set.replacen(r#""kty":"#, r#""kty":"RSA","kty":"#, 1);
    assert_eq!(KeySet::parse(twice.as_bytes()), Err(InvalidKeys::Json));
    let why = key_set(&[json!({"kty": "oct", "k": "c2VjcmV0"})]).expect_err("symmetric");
    assert_eq!(why.to_string(), "Jwks doesn't have any valid public key: [kty] is not supported in [keys]");
}

#[test]
fn sets_are_compared_by_their_keys_and_print_no_key() {
    let (one, other) = (issuer("ES256"), TestIssuer::new("https://issuer", "ES256"));
    assert_eq!(keys(one), keys(one));
    assert_ne!(keys(one), keys(&other));
    assert_ne!(keys(one), keys(&one.clone().with_kid("other")));
    assert_ne!(keys(one).id(), keys(one).id());
    let secret = key_set(&[with(one.jwk(), &[("d", json!("c2VjcmV0"))])]).expect("good keys");
    assert_eq!(format!("{secret:?}"), r#"[(Some("ES256-1"), [Es256])]"#);
}

/// What a key is for besides may change: it has signed what it has signed.
#[test]
fn a_key_has_signed_with_the_algorithm_that_was_used() {
    let issuer = issuer("RS256");
    let any = without(issuer.jwk(), &["alg"]);
    let only = |algorithm: &str| with(issuer.jwk(), &[("alg", json!(algorithm)), ("kid", json!(algorithm))]);
    let set = |jwks: &[Value]| key_set(jwks).expect("good keys");
    for begun in [any.clone(), issuer.jwk()] {
        let claims = verify(&issuer.sign(good_claims()), &set(&[begun]), now()).expect("a good token");
        for jwks in [vec![any.clone()], vec![only("RS256")], vec![only("PS256"), only("RS256")]] {
            assert!(set(&jwks).has_signed(&claims), "{jwks:?}");
        }
        let stranger = TestIssuer::new("https://issuer", "RS256").jwk();
        for jwks in [vec![only("RS512")], vec![only("PS256"), stranger]] {
            assert!(!set(&jwks).has_signed(&claims), "{jwks:?}");
        }
    }
}
