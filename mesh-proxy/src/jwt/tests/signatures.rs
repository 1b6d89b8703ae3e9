//! Who signed: every algorithm, and every way to be told the wrong one.

use aws_lc_rs::hmac;

use super::*;

#[test]
fn every_algorithm_verifies_with_its_key_only() {
    for issuer in ISSUERS.iter() {
        let token = issuer.sign(good_claims());
        let claims = verify(&token, &keys(issuer), now()).unwrap_or_else(|why| panic!("{issuer:?}: {why}"));
        assert_eq!(claims.issuer, "https://issuer");
        assert_eq!(claims.subject.as_deref(), Some("ann"));
        assert_eq!(claims.audiences, ["shop", "bank"]);
        assert_eq!(claims.presenter.as_deref(), Some("web"));
        assert_eq!(claims.expires, Some(now() + Duration::from_secs(300)));
        assert_eq!(claims.principal(), Some("https://issuer/ann"));
        assert_eq!(unverified_issuer(&token).as_deref(), Some("https://issuer"));
        for other in ISSUERS.iter().filter(|other| other.jwk() != issuer.jwk()) {
            assert_eq!(verify(&token, &keys(other), now()), Err(InvalidToken::NoKey), "{issuer:?} {other:?}");
        }
    }
}

#[test]
fn a_key_of_the_same_name_and_kind_does_not_verify() {
    for algorithm in ["RS256", "PS256", "ES256", "ES512", "EdDSA"] {
        let stranger = TestIssuer::new("https://issuer", algorithm);
        let token = stranger.sign(good_claims());
        assert_eq!(
            verify(&token, &keys(issuer(algorithm)), now()),
            Err(InvalidToken::Signature),
            "{algorithm}"
        );
    }
}

/// Row J1: the token cannot choose how its signature is read.
#[test]
fn j1_the_key_fixes_the_algorithm() {
    let payload = good_claims().to_string();
    for issuer in ISSUERS.iter() {
        let mut bare = issuer.jwk();
        bare.as_object_mut().expect("an object").remove("alg");
        let sets = [keys(issuer), key_set(&[bare]).expect("good keys")];
        let own = issuer.header()["alg"].clone();
        for other in ["none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "es256", "ES256K"]
            .iter()
            .chain(&ALGORITHMS)
            .filter(|other| own != **other)
        {
            let mut header = issuer.header();
            header["alg"] = json!(other);
            let token = issuer.sign_raw(&header.to_string(), payload.as_bytes());
            for set in &sets {
                let refused = verify(&token, set, now()).expect_err("another algorithm");
                let expected =
                    [InvalidToken::UnsupportedAlgorithm, InvalidToken::NoKey, InvalidToken::Signature];
                assert!(expected.contains(&refused), "{issuer:?} as {other}: {refused}");
            }
        }
    }
}

/// Row J1: without a signature nothing is signed.
#[test]
fn j1_none_is_no_algorithm() {
    for algorithm in ["none", "None", "NONE", "nOnE"] {
        let header = BASE64.encode(json!({"alg": algorithm}).to_string());
        let payload = BASE64.encode(good_claims().to_string());
        for issuer in ISSUERS.iter() {
            for token in [
                format!("{header}.{payload}."),
                format!("{header}.{payload}"),
                format!("{header}.{payload}.AA"),
            ] {
                assert!(verify(&token, &keys(issuer), now()).is_err(), "{token}");
            }
        }
    }
}

/// Row J1: a public key is no shared secret.
#[test]
fn j1_a_public_key_is_no_secret() {
    for issuer in ISSUERS.iter() {
        let jwk = issuer.jwk();
        let numbers = ["n", "x"].into_iter().filter_map(|name| jwk[name].as_str());
        let mut secrets = vec![jwk.to_string().into_bytes(), issuer.jwks().into_bytes(), Vec::new()];
        for number in numbers {
            secrets.push(number.as_bytes().to_vec());
            secrets.push(BASE64.decode(number).expect("base64"));
        }
        let hashes =
            [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
        for (secret, (name, hash)) in secrets.iter().flat_map(|secret| hashes.map(|hash| (secret, hash))) {
            let header = json!({"alg": name, "kid": jwk["kid"]}).to_string();
            let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(good_claims().to_string()));
            let tag = hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes());
            let token = format!("{message}.{}", BASE64.encode(tag));
            assert_eq!(verify(&token, &keys(issuer), now()), Err(InvalidToken::UnsupportedAlgorithm));
        }
    }
}

/// Row J2: where a token says its key is, nobody looks.
#[test]
fn j2_keys_named_by_the_token_are_ignored() {
    let (trusted, attacker) = (issuer("ES256"), TestIssuer::new("https://issuer", "ES256").with_kid("other"));
    let places = [
        ("jwk", attacker.jwk()),
        ("jku", json!("https://attacker/jwks.json")),
        ("x5u", json!("https://attacker/cert.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
    ];
    for (name, value) in places {
        for kid in [trusted.header()["kid"].clone(), json!("other")] {
            let mut header = attacker.header();
            header[name] = value.clone();
            header["kid"] = kid;
            let token = attacker.sign_raw(&header.to_string(), good_claims().to_string().as_bytes());
            assert!(verify(&token, &keys(trusted), now()).is_err(), "{header}");
        }
        let mut header = trusted.header();
        header[name] = value;
        let token = trusted.sign_raw(&header.to_string(), good_claims().to_string().as_bytes());
        assert!(verify(&token, &keys(trusted), now()).is_ok(), "{header}");
    }
}

/// Row J2: what has to be understood and is not.
#[test]
fn j2_critical_headers_are_refused() {
    let issuer = issuer("ES256");
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("b64", json!(true)),
    ] {
        let mut header = issuer.header();
        header[name] = value;
        let token = issuer.sign_raw(&header.to_string(), good_claims().to_string().as_bytes());
        assert_eq!(verify(&token, &keys(issuer), now()), Err(InvalidToken::Critical(name)), "{header}");
    }
}

/// Row J2: a key id is a name to compare, nothing to look up with.
#[test]
fn j2_strange_key_ids_are_refused() {
    let issuer = issuer("ES256");
    let long = "k".repeat(10 << 10);
    let kids = ["../../dev/null", "' OR 1=1 --", "", "ES256-1\0", "es256-1", "ES256-1 ", long.as_str()];
    for kid in kids {
        let token = issuer.clone().with_kid(kid).sign(good_claims());
        assert_eq!(verify(&token, &keys(issuer), now()), Err(InvalidToken::NoKey), "{kid}");
    }
    for kid in [json!(1), json!(null), json!(["ES256-1"]), json!({}), json!(true)] {
        let mut header = issuer.header();
        header["kid"] = kid;
        let token = issuer.sign_raw(&header.to_string(), good_claims().to_string().as_bytes());
        assert_eq!(verify(&token, &keys(issuer), now()), Err(InvalidToken::HeaderKeyId), "{header}");
    }
}

#[test]
fn a_key_id_chooses_and_without_one_every_fitting_key_is_tried() {
    let issuers: Vec<_> = (0..3)
        .map(|n| TestIssuer::new("https://issuer", "ES256").with_kid(&format!("key-{n}")))
        .chain([issuer("RS256").clone(), issuer("EdDSA").clone()])
        .collect();
    let jwks: Vec<_> = issuers.iter().map(TestIssuer::jwk).collect();
    let all = key_set(&jwks).expect("good keys");
    for issuer in &issuers {
        assert!(verify(&issuer.sign(good_claims()), &all, now()).is_ok(), "{issuer:?}");
        let mut header = issuer.header();
        header.as_object_mut().expect("an object").remove("kid");
        let token = issuer.sign_raw(&header.to_string(), good_claims().to_string().as_bytes());
        assert!(verify(&token, &all, now()).is_ok(), "{issuer:?} without kid");
    }
    let renamed = issuers[0].clone().with_kid("key-1").sign(good_claims());
    assert_eq!(verify(&renamed, &all, now()), Err(InvalidToken::Signature));
    let mut nameless = issuers[0].jwk();
    nameless.as_object_mut().expect("an object").remove("kid");
    let nameless = key_set(&[nameless]).expect("good keys");
    assert!(verify(&issuers[0].sign(good_claims()), &nameless, now()).is_ok(), "as in Envoy");
}

#[test]
fn headers_are_strict() {
    let issuer = issuer("ES256");
    let good = issuer.header().to_string();
    let table = [
        (r#"{"alg":"ES256","alg":"ES256"}"#, InvalidToken::HeaderJson),
        (r#"{"alg":"none","alg":"ES256"}"#, InvalidToken::HeaderJson),
        (r#"{"alg":"ES256","x":{"a":1,"a":2}}"#, InvalidToken::HeaderJson),
        (r#"{"alg":"ES256"} x"#, InvalidToken::HeaderJson),
        (r#"["alg","ES256"]"#, InvalidToken::HeaderJson),
        (r#""ES256""#, InvalidToken::HeaderJson),
        (r#"{"kid":"ES256-1"}"#, InvalidToken::HeaderAlgorithm),
        (r#"{"alg":null}"#, InvalidToken::HeaderAlgorithm),
        (r#"{"alg":256}"#, InvalidToken::HeaderAlgorithm),
        (r#"{"alg":["ES256"]}"#, InvalidToken::HeaderAlgorithm),
        (r#"{"alg":"ES256 "}"#, InvalidToken::UnsupportedAlgorithm),
    ];
    for (header, expected) in table {
        let token = issuer.sign_raw(header, good_claims().to_string().as_bytes());
        assert_eq!(verify(&token, &keys(issuer), now()), Err(expected), "{header}");
    }
    assert!(
        verify(&issuer.sign_raw(&good, good_claims().to_string().as_bytes()), &keys(issuer), now()).is_ok()
    );
}

#[test]
fn the_compact_form_is_strict() {
    let issuer = issuer("ES256");
    let token = issuer.sign(good_claims());
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!("three sections")
    };
    let padded = format!("{payload}{}", "=".repeat((4 - payload.len() % 4) % 4));
    let table = [
        (String::new(), InvalidToken::Format),
        (".".into(), InvalidToken::Format),
        ("..".into(), InvalidToken::Format),
        (format!("{header}.{payload}"), InvalidToken::Format),
        (format!("{header}.{payload}."), InvalidToken::Format),
        (format!(".{payload}.{signature}"), InvalidToken::Format),
        (format!("{token}."), InvalidToken::Format),
        (format!(".{token}"), InvalidToken::Format),
        (format!("{token}.{signature}"), InvalidToken::Format),
        (format!(" {token}"), InvalidToken::HeaderBase64),
        (format!("{header}=.{payload}.{signature}"), InvalidToken::HeaderBase64),
        (format!("{header}.{payload}!.{signature}"), InvalidToken::PayloadBase64),
        (format!("{header}.{payload}.{signature}=="), InvalidToken::SignatureBase64),
        (format!("{token} "), InvalidToken::SignatureBase64),
        (format!("{token}\n"), InvalidToken::SignatureBase64),
        (format!("{header}..{signature}"), InvalidToken::PayloadJson),
        (format!("{token}{}", "A".repeat(16 << 10)), InvalidToken::TooLong),
    ];
    for (bad, expected) in table {
        assert_eq!(verify(&bad, &keys(issuer), now()), Err(expected), "{bad}");
    }
    if padded.len() > payload.len() {
        let bad = format!("{header}.{padded}.{signature}");
        assert_eq!(verify(&bad, &keys(issuer), now()), Err(InvalidToken::PayloadBase64));
    }
}
