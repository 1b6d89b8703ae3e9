//! What a token says: types, times, and what policies read.

use super::*;

fn refused(payload: &str) -> InvalidToken {
    let issuer = issuer("EdDSA");
    let token = issuer.sign_raw(&issuer.header().to_string(), payload.as_bytes());
    verify(&token, &keys(issuer), now()).map(|claims| format!("{claims:?}")).expect_err(payload)
}

fn accepted(claims: Value) -> Claims {
    let issuer = issuer("EdDSA");
    let token = issuer.sign_raw(&issuer.header().to_string(), claims.to_string().as_bytes());
    verify(&token, &keys(issuer), now()).unwrap_or_else(|why| panic!("{claims}: {why}"))
}

/// Row J4: a time of a wrong type is no missing time.
#[test]
fn j4_times_are_integers_in_range() {
    let wrong = [
        r#""1800000300""#,
        "1800000300.0",
        "1800000300.5",
        "1.8e9",
        "-0",
        "-1",
        "null",
        "true",
        "[1800000300]",
        "[]",
        "{}",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "NaN",
        "Infinity",
        "0x6b49d200",
        "01800000300",
        "+1800000300",
    ];
    for name in ["exp", "nbf", "iat"] {
        for value in wrong {
            let why = refused(&format!(r#"{{"iss":"https://issuer","sub":"ann","{name}":{value}}}"#));
            let expected = match value {
                "-1" | "9223372036854775808" | "18446744073709551615" => InvalidToken::OutOfRange(name),
                "1e400" | "NaN" | "Infinity" | "0x6b49d200" | "01800000300" | "+1800000300" => {
                    InvalidToken::PayloadJson
                }
                _ => InvalidToken::NotInteger(name),
            };
            assert_eq!(why, expected, "{name}: {value}");
        }
    }
    let last = accepted(json!({"iss": "i", "exp": i64::MAX, "iat": i64::MAX}));
    assert!(last.expires.is_some());
    assert_eq!(refused(&json!({"iss": "i", "nbf": i64::MAX}).to_string()), InvalidToken::NotYetValid);
}

/// Row J4: texts are texts.
#[test]
fn j4_names_are_texts() {
    let wrong =
        ["null", "1", "1.5", "true", r#"["https://issuer"]"#, r#"{"a":"b"}"#, "[]", "9223372036854775808"];
    for value in wrong {
        assert_eq!(
            refused(&format!(r#"{{"iss":{value},"sub":"ann"}}"#)),
            InvalidToken::NotString("iss"),
            "{value}"
        );
        for name in ["sub", "azp", "jti"] {
            let why = refused(&format!(r#"{{"iss":"https://issuer","{name}":{value}}}"#));
            assert_eq!(why, InvalidToken::NotString(name), "{name}: {value}");
        }
    }
    let wrong = [
        "null",
        "1",
        "1.5",
        "true",
        "{}",
        r#"["shop",1]"#,
        r#"["shop",null]"#,
        r#"[["shop"]]"#,
        "9223372036854775808",
    ];
    for value in wrong {
        let why = refused(&format!(r#"{{"iss":"https://issuer","aud":{value}}}"#));
        assert_eq!(why, InvalidToken::NotAudience, "{value}");
    }
    assert_eq!(refused(r#"{"sub":"ann"}"#), InvalidToken::UnknownIssuer);
}

/// Row J4: two readers must not read two things.
#[test]
fn j4_a_name_twice_is_refused() {
    let names = ["exp", "nbf", "iat", "aud", "iss", "sub", "role"];
    for name in names {
        let (first, second) = match name {
            "exp" | "nbf" | "iat" => (json!(NOW), json!(NOW)),
            _ => (json!("a"), json!("b")),
        };
        let rest = if name == "iss" { "" } else { r#""iss":"https://issuer","# };
        let payload = format!(r#"{{{rest}"{name}":{first},"{name}":{second}}}"#);
        assert_eq!(refused(&payload), InvalidToken::PayloadJson, "{payload}");
        let escaped =
            format!(r#"{{{rest}"{name}":{first},"\u{:04x}{}":{second}}}"#, name.as_bytes()[0], &name[1..]);
        assert_eq!(refused(&escaped), InvalidToken::PayloadJson, "{escaped}");
    }
    assert_eq!(refused(r#"{"iss":"i","a":{"b":[{"c":1,"c":1}]}}"#), InvalidToken::PayloadJson);
}

#[test]
fn a_payload_is_one_object() {
    let deep = format!(r#"{{"iss":"i","a":{}{}}}"#, "[".repeat(4000), "]".repeat(4000));
    for payload in [
        "",
        "null",
        "1",
        "[]",
        r#""iss""#,
        "{",
        r#"{"iss":"i"}{}"#,
        r#"{"iss":"i"},"#,
        "{'iss':'i'}",
        r#"{"iss":"\ud800"}"#,
        &deep,
    ] {
        assert_eq!(refused(payload), InvalidToken::PayloadJson, "{payload}");
    }
    let issuer = issuer("EdDSA");
    let token = issuer.sign_raw(&issuer.header().to_string(), b"{\"iss\":\"\xff\"}");
    assert_eq!(verify(&token, &keys(issuer), now()), Err(InvalidToken::PayloadJson));
}

/// Row J5: whoever lets requests without a token pass still sees a bad one.
#[test]
fn j5_a_bad_token_is_no_missing_token() {
    let trusted = issuer("EdDSA");
    let stranger = TestIssuer::new("https://stranger", "EdDSA");
    let token = stranger.sign(json!({"sub": "ann", "exp": NOW}));
    assert_eq!(unverified_issuer(&token).as_deref(), Some("https://stranger"));
    assert_eq!(verify(&token, &keys(trusted), now()), Err(InvalidToken::Signature));
    for bad in ["", "x", "a.b.c", "null", "undefined", "..", "Bearer"] {
        assert_eq!(unverified_issuer(bad), None, "{bad}");
        assert!(verify(bad, &keys(trusted), now()).is_err(), "{bad}");
    }
    for payload in
        [r#"{"iss":1}"#, r#"{"iss":"a","iss":"b"}"#, r#"{"iss":null}"#, "{}", "[]", r#"{"iss":"a"} x"#]
    {
        let token = stranger.sign_raw("{}", payload.as_bytes());
        assert_eq!(unverified_issuer(&token), None, "{payload}");
    }
    let token = stranger.sign_raw("{}", br#"{"a":{"iss":"b"},"\u0069ss":"c"}"#);
    assert_eq!(unverified_issuer(&token).as_deref(), Some("c"));
}

#[test]
fn clocks_may_differ_by_a_minute() {
    let table = [
        (json!({"exp": NOW - 60}), None),
        (json!({"exp": NOW - 61}), Some(InvalidToken::Expired)),
        (json!({"exp": 0}), Some(InvalidToken::Expired)),
        (json!({"nbf": NOW + 60}), None),
        (json!({"nbf": NOW + 61}), Some(InvalidToken::NotYetValid)),
        (json!({"iat": NOW + 1000}), None),
        (json!({}), None),
    ];
    for (mut claims, expected) in table {
        claims["iss"] = json!("https://issuer");
        match expected {
            None => drop(accepted(claims)),
            Some(why) => assert_eq!(refused(&claims.to_string()), why, "{claims}"),
        }
    }
    let issuer = issuer("EdDSA");
    let token = issuer.sign(json!({"nbf": NOW}));
    assert_eq!(
        verify(&token, &keys(issuer), UNIX_EPOCH - Duration::from_secs(9)),
        Err(InvalidToken::NotYetValid)
    );
}

#[test]
fn the_client_is_told_what_envoy_tells() {
    assert_eq!(refused(&json!({"iss": "i", "exp": 1}).to_string()).to_string(), "Jwt is expired");
    assert_eq!(InvalidToken::Signature.to_string(), "Jwt verification fails");
    assert_eq!(InvalidToken::NotInteger("exp").to_string(), "Jwt payload [exp] field is not an integer");
}

#[test]
fn a_principal_has_two_parts() {
    assert_eq!(accepted(json!({"iss": "i", "sub": "s"})).principal(), Some("i/s"));
    assert_eq!(accepted(json!({"iss": "i"})).principal(), None);
    assert_eq!(accepted(json!({"iss": "i", "sub": ""})).principal(), None);
    assert_eq!(accepted(json!({"iss": "", "sub": "s"})).principal(), None);
    assert_eq!(accepted(json!({"iss": "i", "aud": "one"})).audiences, ["one"]);
}

#[test]
fn claims_are_read_by_path() {
    let claims = accepted(json!({
        "iss": "i", "group": "admin staff", "groups": ["a b", "c", 1, null, ["d"]], "n": 1, "yes": true, "none": null,
        "scope": "read  write ", "permission": "x y", "roles": "p q", "scopes": [],
        "realm": {"roles": ["r1", "r2"], "scope": "not split", "deep": {"er": "x"}}, "a.b": "dotted", "": "nameless",
    }));
    let table: [(&[&str], &[&str]); 19] = [
        (&["group"], &["admin staff"]),
        (&["groups"], &["a b", "c"]),
        (&["n"], &[]),
        (&["yes"], &[]),
        (&["none"], &[]),
        (&["missing"], &[]),
        (&["scope"], &["read", "write"]),
        (&["permission"], &["x", "y"]),
        (&["roles"], &["p q"]),
        (&["scopes"], &[]),
        (&["realm"], &[]),
        (&["realm", "roles"], &["r1", "r2"]),
        (&["realm", "scope"], &["not split"]),
        (&["realm", "deep", "er"], &["x"]),
        (&["realm", "deep", "er", "x"], &[]),
        (&["group", "0"], &[]),
        (&["a.b"], &["dotted"]),
        (&[""], &["nameless"]),
        (&[], &[]),
    ];
    for (path, expected) in table {
        let path: Vec<_> = path.iter().map(ToString::to_string).collect();
        assert_eq!(claims.texts(&path).collect::<Vec<_>>(), expected, "{path:?}");
    }
    let roles = ["roles".to_owned()];
    assert_eq!(claims.texts_with(&roles, &roles).collect::<Vec<_>>(), ["p", "q"]);
}
