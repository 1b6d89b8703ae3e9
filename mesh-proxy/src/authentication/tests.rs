//! Which token counts, what is done with it, and what is told of one that does not.

use std::time::{Duration, UNIX_EPOCH};

use http::Request;
use mesh_proto::runtime::testing::TestIssuer;
use serde_json::json;

use super::*;

const NOW: u64 = 1_900_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn rule(issuer: &TestIssuer) -> wire::JwtRule {
    wire::JwtRule { issuer: issuer.name().to_owned(), jwks: issuer.jwks().into(), ..Default::default() }
}

fn token(issuer: &TestIssuer) -> String {
    issuer.sign(json!({"sub": "alice", "aud": ["web", "api"], "exp": NOW + 60, "role": "reader", "n": 7, "deep": {"a": [1]}}))
}

fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn verify(rules: &[wire::JwtRule], head: &mut Parts) -> Result<Option<Arc<Claims>>, Failure> {
    let rules = JwtRules::parse(rules).unwrap();
    rules.verify(head, &mut Cache::new(), now()).map(|verified| verified.map(|verified| verified.claims))
}

/// What is told; nothing where the token is valid.
fn told(rules: &[wire::JwtRule], mut head: Parts) -> String {
    verify(rules, &mut head).err().map(|failure| failure.to_string()).unwrap_or_default()
}

#[test]
fn no_token_is_no_fault_and_a_wrong_one_is() {
    let (issuer, other) =
        (TestIssuer::new("https://issuer", "ES256"), TestIssuer::new("https://other", "ES256"));
    let rules = [rule(&issuer)];
    assert!(verify(&rules, &mut head("/", &[])).unwrap().is_none());
    assert!(verify(&rules, &mut head("/", &[("authorization", "Basic YTpi")])).unwrap().is_none());
    let bearer = |token: &str| format!("Bearer {token}");
    let mut good = head("/", &[("authorization", &bearer(&token(&issuer)))]);
    let claims = verify(&rules, &mut good).unwrap().unwrap();
    assert_eq!(claims.principal(), Some("https://issuer/alice"));
    assert!(!good.headers.contains_key("authorization"), "the application does not get it");
    // Row J5: one that is there must be valid.
    assert_eq!(
        told(&rules, head("/", &[("authorization", &bearer(&token(&other)))])),
        "Jwt issuer is not configured"
    );
    let forged = TestIssuer::new("https://issuer", "ES256");
    assert!(!told(&rules, head("/", &[("authorization", &bearer(&token(&forged)))])).is_empty());
    let expired = issuer.sign(json!({"sub": "a", "exp": NOW - 3600}));
    assert_eq!(told(&rules, head("/", &[("authorization", &bearer(&expired))])), "Jwt is expired");
    assert!(!told(&rules, head("/", &[("authorization", "Bearer x")])).is_empty());
    // Row J3: keys that are not there make no token valid.
    let unknown = [wire::JwtRule { jwks: Default::default(), ..rule(&issuer) }];
    assert_eq!(
        told(&unknown, head("/", &[("authorization", &bearer(&token(&issuer)))])),
        "Jwks remote fetch is failed"
    );
    let broken = [wire::JwtRule { jwks: "{}".into(), ..rule(&issuer) }, rule(&other)];
    assert!(!told(&broken, head("/", &[("authorization", &bearer(&token(&issuer)))])).is_empty());
    assert_eq!(
        told(&broken, head("/", &[("authorization", &bearer(&token(&other)))])),
        "",
        "a bad set blocks nobody else"
    );
}

#[test]
fn j8_more_than_one_credential_is_none() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let rules = [rule(&issuer)];
    let good = token(&issuer);
    let bearer = format!("Bearer {good}");
    let query = format!("/?access_token={good}");
    for (uri, headers) in [
        ("/", vec![("authorization", &*bearer), ("authorization", &*bearer)]),
        (&*query, vec![("authorization", &*bearer)]),
        (&*format!("{query}&access_token={good}"), vec![]),
    ] {
        assert_eq!(told(&rules, head(uri, &headers)), "more than one Jwt", "{uri} {headers:?}");
    }
    assert_eq!(told(&rules, head(&query, &[])), "");
}

#[test]
fn places() {
    let issuer = TestIssuer::new("https://issuer", "EdDSA");
    let good = token(&issuer);
    let rules = [wire::JwtRule {
        from_headers: vec![wire::JwtHeader { name: "x-jwt".into(), prefix: "T:".into() }],
        from_params: vec!["jwt".into()],
        from_cookies: vec!["session".into()],
        ..rule(&issuer)
    }];
    let mut in_query = head(&format!("/a?x=1&jwt={good}&y=2"), &[]);
    assert!(verify(&rules, &mut in_query).unwrap().is_some());
    assert_eq!(in_query.uri, "/a?x=1&y=2");
    let mut only = head(&format!("/a?jwt={good}"), &[]);
    assert!(verify(&rules, &mut only).unwrap().is_some());
    assert_eq!(only.uri, "/a");
    assert!(verify(&rules, &mut head("/", &[("x-jwt", &format!("T:{good}"))])).unwrap().is_some());
    assert!(verify(&rules, &mut head("/", &[("x-jwt", &good)])).unwrap().is_none(), "not without its prefix");
    let cookie = format!("a=b; session={good}; c=d");
    assert!(verify(&rules, &mut head("/", &[("cookie", &cookie)])).unwrap().is_some());
    // These places are in place of the usual ones.
    assert!(
        verify(&rules, &mut head("/", &[("authorization", &format!("Bearer {good}"))])).unwrap().is_none()
    );
}

#[test]
fn audiences_and_what_the_application_is_told() {
    let issuer = TestIssuer::new("https://issuer", "RS256");
    let good = token(&issuer);
    let bearer = format!("bearer {good}");
    let for_others = [wire::JwtRule { audiences: vec!["others".into()], ..rule(&issuer) }];
    let failure = verify(&for_others, &mut head("/", &[("authorization", &bearer)])).unwrap_err();
    assert_eq!(
        (failure.verdict().status.as_u16(), failure.to_string().as_str()),
        (403, "Audiences in Jwt are not allowed")
    );
    let claim =
        |header: &str, claim: &str| wire::ClaimToHeader { header: header.into(), claim: claim.into() };
    let rules = [wire::JwtRule {
        audiences: vec!["x".into(), "api".into()],
        output_payload_to_header: "x-payload".into(),
        output_claims: vec![
            claim("x-sub", "sub"),
            claim("x-n", "n"),
            claim("x-deep", "deep.a"),
            claim("x-none", "none"),
        ],
        forward_original_token: true,
        ..rule(&issuer)
    }];
    let mut request = head("/", &[("authorization", &bearer), ("x-none", "spoofed"), ("x-sub", "spoofed")]);
    verify(&rules, &mut request).unwrap().unwrap();
    let text = |name: &str| request.headers.get(name).map(|v| v.to_str().unwrap());
    assert_eq!((text("x-sub"), text("x-n"), text("x-none")), (Some("alice"), Some("7"), None));
    assert_eq!(text("x-deep"), Some(&*URL_SAFE_NO_PAD.encode("[1]")));
    assert_eq!(text("x-payload"), good.split('.').nth(1));
    assert_eq!(text("authorization"), Some(&*bearer));
    // Without a token nobody else may set them either.
    let mut spoofed = head("/", &[("x-sub", "spoofed"), ("x-payload", "spoofed")]);
    assert!(verify(&rules, &mut spoofed).unwrap().is_none() && spoofed.headers.is_empty());
}

/// J17, F10: text of a claim is the content of one field, whatever is in it, or there is none.
#[test]
fn j17_claims_make_no_other_field() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let told = wire::ClaimToHeader { header: "x-name".into(), claim: "name".into() };
    let rules = [wire::JwtRule { output_claims: vec![told], ..rule(&issuer) }];
    for name in ["a\r\nx-admin: true", "a\nx-admin: true", "a\0b", "\r", "a\u{7f}", "a\u{2028}b"] {
        let token = issuer.sign(json!({"sub": "alice", "exp": NOW + 60, "name": name}));
        let bearer = format!("Bearer {token}");
        let mut request = head("/", &[("authorization", &bearer), ("x-name", "spoofed")]);
        verify(&rules, &mut request).unwrap().unwrap();
        let bytes = request.headers.get("x-name").map(HeaderValue::as_bytes).unwrap_or_default();
        assert!(!bytes.iter().any(|byte| *byte < b' ' || *byte == 0x7f), "{name:?}: {bytes:?}");
        assert!(bytes != b"spoofed" && request.headers.get("x-admin").is_none(), "{name:?}");
    }
}

#[test]
fn a_preflight_has_no_token_to_verify() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let mut preflight = head(
        "/",
        &[("origin", "https://a"), ("access-control-request-method", "PUT"), ("authorization", "Bearer x")],
    );
    assert!(verify(&[rule(&issuer)], &mut preflight).is_err(), "GET is none");
    preflight.method = Method::OPTIONS;
    let mut empty = preflight.clone();
    empty.headers.insert("origin", HeaderValue::from_static(""));
    assert!(verify(&[rule(&issuer)], &mut empty).is_err());
    assert!(verify(&[rule(&issuer)], &mut preflight).unwrap().is_none());
    assert!(!preflight.headers.contains_key("authorization"), "what was not verified does not go on");
}

/// What an application could take for a token is one, and a wrong one.
#[test]
fn tokens_in_disguise() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let (good, forged) = (token(&issuer), token(&TestIssuer::new("https://issuer", "ES256")));
    let cookies = wire::JwtRule { from_cookies: vec!["session".into()], ..rule(&issuer) };
    let line = |prefix: &str, token: &str, end: &[u8]| {
        HeaderValue::from_bytes(&[prefix.as_bytes(), token.as_bytes(), end].concat()).unwrap()
    };
    let with = |name: &'static str, lines: Vec<HeaderValue>| {
        let mut head = head("/", &[]);
        for line in lines {
            head.headers.append(name, line);
        }
        head
    };
    // Bytes that are no text.
    assert!(
        !told(&[rule(&issuer)], with("authorization", vec![line("Bearer ", &forged, b"\xff")])).is_empty()
    );
    assert!(!told(&[cookies], with("cookie", vec![line("a=\u{e9}; session=", &forged, b"")])).is_empty());
    // A tab after the scheme, and a line beside the one that is judged.
    assert!(!told(&[rule(&issuer)], with("authorization", vec![line("Bearer\t", &forged, b"")])).is_empty());
    let beside = vec![line("Bearer ", &good, b""), line("Basic ", "x", b"")];
    assert_eq!(told(&[rule(&issuer)], with("authorization", beside)), "more than one Jwt");
    // A name in percent codes.
    assert!(!told(&[rule(&issuer)], head(&format!("/?access%5Ftoken={forged}"), &[])).is_empty());
    let both = format!("/?access_token={good}&access%5Ftoken={forged}");
    assert_eq!(told(&[rule(&issuer)], head(&both, &[])), "more than one Jwt");
    let mut coded = head(&format!("/?%61ccess_token={good}"), &[]);
    assert!(verify(&[rule(&issuer)], &mut coded).unwrap().is_some());
    assert_eq!(coded.uri, "/", "it is taken away under that name too");
}

#[test]
fn several_rules_of_an_issuer_and_of_a_field() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let bearer = format!("Bearer {}", token(&issuer));
    let with = |audience: &str| wire::JwtRule { audiences: vec![audience.into()], ..rule(&issuer) };
    assert_eq!(told(&[with("others"), with("web")], head("/", &[("authorization", &bearer)])), "");
    let header = |prefix: &str| wire::JwtRule {
        from_headers: vec![wire::JwtHeader { name: "authorization".into(), prefix: prefix.into() }],
        ..rule(&issuer)
    };
    for prefix in ["bearer ", ""] {
        let rules = [rule(&issuer), header(prefix)];
        assert_eq!(told(&rules, head("/", &[("authorization", &bearer)])), "", "{prefix:?}");
    }
}

#[test]
fn names_that_servers_take_for_the_same() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let told = wire::ClaimToHeader { header: "tenant-id".into(), claim: "tenant".into() };
    let rules = [wire::JwtRule { output_claims: vec![told], ..rule(&issuer) }];
    let mut request = head("/", &[("tenant_id", "spoofed"), ("tenant-id", "spoofed"), ("other_id", "stays")]);
    assert!(verify(&rules, &mut request).unwrap().is_none());
    assert_eq!(request.headers.len(), 1, "{:?}", request.headers);
}

/// A pilot that has just begun takes no keys away; one that has given them up does.
#[test]
fn keys_that_are_not_known_yet_are_those_of_before() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let bearer = format!("Bearer {}", token(&issuer));
    let fetched = wire::JwtRule { key_source: "https://issuer/keys".into(), ..rule(&issuer) };
    let before = JwtRules::parse(std::slice::from_ref(&fetched)).unwrap();
    let later = |source: &str, unknown: bool| {
        let wire = wire::JwtRule {
            jwks: Default::default(),
            key_source: source.into(),
            keys_unknown: unknown,
            ..rule(&issuer)
        };
        let mut rules = JwtRules::parse(&[wire]).unwrap();
        rules.keep(&before);
        let mut head = head("/", &[("authorization", &bearer)]);
        rules.verify(&mut head, &mut Cache::new(), now()).is_ok()
    };
    assert!(later("https://issuer/keys", true));
    assert!(!later("https://issuer/keys", false) && !later("https://elsewhere/keys", true));
}

/// Keys come, go and change while tokens fly: a token is good with the keys of its moment, and nothing remembers others.
#[test]
fn j6_a_storm_of_keys_forgets_and_remembers_nothing() {
    let (old, new) = (TestIssuer::new("https://issuer", "ES256"), TestIssuer::new("https://issuer", "EdDSA"));
    let none = wire::JwtRule {
        issuer: "https://issuer".into(),
        keys_unknown: true,
        key_source: "k".into(),
        ..Default::default()
    };
    let of = |issuer: &TestIssuer| wire::JwtRule { key_source: "k".into(), ..rule(issuer) };
    let tokens = [&old, &new].map(|issuer| format!("Bearer {}", token(issuer)));
    let mut cache = Cache::new();
    let mut before = JwtRules::default();
    let mut kept = None;
    for round in 0..300 {
        let (wire, good) = match round % 5 {
            0 => (vec![of(&old)], Some(0)),
            1 => (vec![of(&new)], Some(1)),
            // Not known yet: those of before count.
            2 => (vec![none.clone()], kept),
            3 => (vec![wire::JwtRule { keys_unknown: false, ..none.clone() }], None),
            _ => (vec![], None),
        };
        let mut rules = JwtRules::parse(&wire).unwrap();
        rules.keep(&before);
        for (index, token) in tokens.iter().enumerate() {
            let mut head = head("/", &[("authorization", token.as_str())]);
            let verdict = rules.verify(&mut head, &mut cache, now()).map(|verified| verified.is_some());
            match (wire.is_empty(), good == Some(index)) {
                (true, _) => assert!(matches!(verdict, Ok(false)), "round {round}: no rule, no token"),
                (_, true) => assert!(matches!(verdict, Ok(true)), "round {round}: {verdict:?}"),
                (_, false) => assert!(verdict.is_err(), "round {round}: {verdict:?}"),
            }
        }
        kept = good;
        before = rules;
    }
}

/// What leaves is told what its token says, as what comes in would be, and stays as it is.
#[test]
fn claims_of_what_leaves() {
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let named = wire::JwtRule {
        from_headers: vec![wire::JwtHeader { name: "x-jwt".into(), prefix: String::new() }],
        from_params: vec!["jwt".into()],
        output_payload_to_header: "x-payload".into(),
        audiences: vec!["web".into()],
        space_delimited_claims: vec!["teams".into()],
        ..rule(&issuer)
    };
    let rules = JwtRules::parse(&[named]).unwrap();
    let mut cache = Cache::new();
    let mut says = |uri: &str, headers: &[(&str, &str)]| {
        let head = head(uri, headers);
        let before = format!("{head:?}");
        let claims = rules.claims(&head, &mut cache, now());
        assert_eq!(format!("{head:?}"), before);
        claims
    };
    let good = token(&issuer);
    let said = says("/", &[("x-jwt", &good), ("x-payload", "anything")]).unwrap();
    assert_eq!(said.claims.principal(), Some("https://issuer/alice"));
    assert_eq!(*said.space_delimited, ["teams".to_owned()]);
    assert!(says(&format!("/?a=b&jwt={good}"), &[]).is_some());
    assert!(says("/", &[]).is_none());
    // Where no rule looks for one.
    assert!(says("/", &[("authorization", &format!("Bearer {good}"))]).is_none());
    // None that would be refused, and none of several.
    let forged = token(&TestIssuer::new("https://issuer", "ES256"));
    let expired = issuer.sign(json!({"sub": "alice", "aud": "web", "exp": NOW - 3600}));
    let of_others = issuer.sign(json!({"sub": "alice", "aud": "them", "exp": NOW + 60}));
    for bad in [&forged, &expired, &of_others, "x", "a.b.c"] {
        assert!(says("/", &[("x-jwt", bad)]).is_none(), "{bad}");
    }
    assert!(says("/", &[("x-jwt", &good), ("x-jwt", &good)]).is_none());
    assert!(says(&format!("/?jwt={good}"), &[("x-jwt", &good)]).is_none());
    assert!(JwtRules::default().claims(&head("/", &[("x-jwt", &good)]), &mut cache, now()).is_none());
}
