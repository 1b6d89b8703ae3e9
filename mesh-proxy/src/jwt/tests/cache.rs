//! Verdicts remembered: only for the same token, the same keys and as long as they hold; within bounds.

use std::sync::Arc;
use std::time::Instant;

use super::*;

#[test]
fn a_verdict_is_remembered() {
    let issuer = issuer("ES256");
    let (keys, mut cache) = (keys(issuer), Cache::new());
    let token = issuer.sign(good_claims());
    let first = cache.verify(&token, &keys, now()).expect("a good token");
    let second = cache.verify(&token, &keys, now()).expect("a good token");
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(*first, verify(&token, &keys, now()).expect("a good token"));
    let copy = keys.clone();
    assert!(Arc::ptr_eq(&first, &cache.verify(&token, &copy, now()).expect("the same set")));
}

#[test]
fn a_verdict_is_that_of_its_keys() {
    let (one, other) = (issuer("ES256"), TestIssuer::new("https://issuer", "ES256"));
    let (trusted, strange) = (keys(one), keys(&other));
    let mut cache = Cache::new();
    let token = one.sign(good_claims());
    for _ in 0..2 {
        assert!(cache.verify(&token, &trusted, now()).is_ok());
        assert_eq!(cache.verify(&token, &strange, now()), Err(InvalidToken::Signature));
    }
    let again = keys(one);
    let (before, after) = (cache.verify(&token, &trusted, now()), cache.verify(&token, &again, now()));
    assert!(!Arc::ptr_eq(&before.expect("good"), &after.expect("good")), "keys that came anew decide anew");
}

#[test]
fn a_verdict_ends_with_its_token() {
    let issuer = issuer("ES256");
    let (keys, mut cache) = (keys(issuer), Cache::new());
    let token = issuer.sign(good_claims());
    let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
    for (time, expected) in [
        (NOW, None),
        (NOW + 360, None),
        (NOW + 361, Some(InvalidToken::Expired)),
        (NOW + 360, None),
        (NOW - 361, Some(InvalidToken::NotYetValid)),
        (NOW, None),
    ] {
        assert_eq!(cache.verify(&token, &keys, at(time)).err(), expected, "{time}");
        assert_eq!(verify(&token, &keys, at(time)).err(), expected, "{time}");
    }
}

#[test]
fn a_refusal_is_remembered_shortly() {
    let issuer = issuer("ES256");
    let (keys, mut cache) = (keys(issuer), Cache::new());
    let token = issuer.sign(good_claims());
    let (message, _) = token.rsplit_once('.').expect("sections");
    let bad = format!("{message}.{}", BASE64.encode([1; 64]));
    for seconds in [0, 1, 10, 11, 0] {
        let time = now() + Duration::from_secs(seconds);
        assert_eq!(cache.verify(&bad, &keys, time), Err(InvalidToken::Signature), "{seconds}");
    }
    assert_eq!(cache.verify(&"x".repeat(17 << 10), &keys, now()), Err(InvalidToken::TooLong));
}

/// What time heals is asked for again.
#[test]
fn a_token_that_came_early_counts_as_soon_as_it_is_time() {
    let issuer = issuer("ES256");
    let (keys, mut cache) = (keys(issuer), Cache::new());
    let token = issuer.sign(json!({"sub": "ann", "nbf": NOW + 62, "exp": NOW + 300}));
    let at = |seconds| now() + Duration::from_secs(seconds);
    assert_eq!(cache.verify(&token, &keys, at(0)), Err(InvalidToken::NotYetValid));
    assert_eq!(cache.verify(&token, &keys, at(1)), Err(InvalidToken::NotYetValid));
    assert_eq!(cache.verify(&token, &keys, at(2)).err(), None);
}

#[test]
fn bad_tokens_push_out_no_good_one() {
    let issuer = issuer("EdDSA");
    let (keys, mut cache) = (keys(issuer), Cache::new());
    let token = issuer.sign(good_claims());
    let first = cache.verify(&token, &keys, now()).expect("a good token");
    let (message, _) = token.rsplit_once('.').expect("sections");
    for n in 0..3000_u64 {
        let signature = [n.to_be_bytes(); 8].concat();
        let bad = format!("{message}.{}", BASE64.encode(signature));
        assert!(cache.verify(&bad, &keys, now()).is_err());
    }
    let second = cache.verify(&token, &keys, now()).expect("a good token");
    assert!(Arc::ptr_eq(&first, &second));
    let (entries, bytes) = cache.size();
    assert!(entries <= 257 && bytes <= 1 << 20, "{entries} entries, {bytes} bytes");
}

#[test]
fn good_tokens_are_bounded_and_the_oldest_go() {
    let issuer = issuer("EdDSA");
    let (keys, mut cache) = (keys(issuer), Cache::new());
    let token = |n: u64, fill: usize| {
        issuer.sign(json!({"sub": n.to_string(), "exp": NOW, "fill": "x".repeat(fill)}))
    };
    let verdict = |cache: &mut Cache, token: &str| cache.verify(token, &keys, now()).expect("a good token");
    let (oldest, newest) = (token(0, 0), token(1999, 0));
    let first = verdict(&mut cache, &oldest);
    (1..1999).for_each(|n| drop(verdict(&mut cache, &token(n, 0))));
    let last = verdict(&mut cache, &newest);
    assert!(Arc::ptr_eq(&last, &verdict(&mut cache, &newest)));
    assert!(!Arc::ptr_eq(&first, &verdict(&mut cache, &oldest)));
    let (entries, bytes) = cache.size();
    assert!(entries <= 1024 && bytes <= 4 << 20, "{entries} entries, {bytes} bytes");
    (0..1000).for_each(|n| drop(verdict(&mut cache, &token(n, 10_000))));
    let (entries, bytes) = cache.size();
    assert!(entries < 200 && bytes <= 4 << 20, "{entries} entries, {bytes} bytes");
}

/// `cargo test --release -p mesh-proxy --lib jwt::tests::cache::figures -- --ignored --nocapture`
#[test]
#[ignore = "prints figures"]
fn figures() {
    let measure = |name: &str, rounds: u32, work: &mut dyn FnMut()| {
        work();
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        println!("{name:<28} {:>9.0} ns", start.elapsed().as_nanos() as f64 / f64::from(rounds));
    };
    for algorithm in ALGORITHMS {
        let issuer = issuer(algorithm);
        let (keys, mut cache) = (keys(issuer), Cache::new());
        let mut claims = good_claims();
        claims["realm"] =
            json!({"roles": ["reader", "writer"], "email": "ann@example.com", "name": "Ann Example"});
        let token = issuer.sign(claims);
        println!("{algorithm}: a token of {} bytes", token.len());
        measure("  uncached", 500, &mut || drop(verify(&token, &keys, now()).expect("a good token")));
        measure("  cached", 100_000, &mut || drop(cache.verify(&token, &keys, now()).expect("a good token")));
        measure("  unverified issuer", 100_000, &mut || drop(unverified_issuer(&token).expect("an issuer")));
    }
}
