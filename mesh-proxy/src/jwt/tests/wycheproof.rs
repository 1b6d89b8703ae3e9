//! Wycheproof's JWS vectors: no bad one is accepted, no good one of a supported algorithm is refused. They are fetched as a Go
//! module; where there is no Go, or no module, this says so and tests nothing.

use std::path::PathBuf;
use std::process::Command;

use super::*;

const MODULE: &str = "github.com/c2sp/wycheproof@v0.0.0-20260902155932-3fa63dd0344a";

/// Where the vectors are, or why not.
fn vectors() -> Result<PathBuf, String> {
    let folder = tempfile::tempdir().map_err(|why| why.to_string())?;
    std::fs::write(folder.path().join("go.mod"), "module vectors\n").map_err(|why| why.to_string())?;
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .env("GOFLAGS", "")
        .current_dir(&folder)
        .output()
        .map_err(|why| format!("go: {why}"))?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let place = told["Dir"].as_str().ok_or_else(|| told["Error"].to_string())?;
    Ok(PathBuf::from(place).join("testvectors_v1").join("json_web_signature_test.json"))
}

/// The signature alone: the payloads of these vectors are no claims.
fn signed(token: &str, keys: &KeySet) -> Result<(), InvalidToken> {
    let parts = Parts::of(token)?;
    parts.check_signature(&Header::parse(parts.header)?, keys).map(drop)
}

/// What became of the vectors.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Bad, and refused.
    refused: usize,
    /// Good, and accepted.
    accepted: usize,
    /// Good for a shared secret, which no issuer publishes.
    symmetric: usize,
    /// Good, but the key's `alg` is not the token's: refused here, accepted once the key does not say so.
    contradicting: usize,
}

#[test]
fn j1_wycheproof_has_no_other_verdict() {
    let place = match vectors() {
        Ok(place) => place,
        Err(why) => return println!("skipped: no vectors of Wycheproof: {why}"),
    };
    let text = std::fs::read(&place).expect("the vectors");
    let vectors: Value = serde_json::from_slice(&text).expect("JSON");
    let mut counts = Counts::default();
    for group in vectors["testGroups"].as_array().expect("groups") {
        let jwk = group.get("public").or_else(|| group.get("private")).expect("a key");
        for vector in group["tests"].as_array().expect("vectors") {
            judge(jwk, vector, &mut counts);
        }
    }
    println!("{counts:?}");
    // Those of `ES521`, which is no algorithm, and of PS384 with a key for PS256.
    let expected = Counts { refused: 355, accepted: 32, symmetric: 10, contradicting: 4 };
    assert_eq!(counts, expected);
}

fn judge(jwk: &Value, vector: &Value, counts: &mut Counts) {
    let name = format!("{} {}", vector["tcId"], vector["comment"]);
    let token = vector["jws"].as_str().expect("a text");
    let verdict = key_set(std::slice::from_ref(jwk)).map(|keys| signed(token, &keys));
    let accepted = matches!(verdict, Ok(Ok(())));
    match vector["result"].as_str().expect("a result") {
        "invalid" => {
            assert!(!accepted, "{name} is bad, and accepted");
            counts.refused += 1;
        }
        "valid" if jwk["kty"] == "oct" => {
            assert!(!accepted, "{name} has a shared secret, and is accepted");
            counts.symmetric += 1;
        }
        "valid" if accepted => counts.accepted += 1,
        "valid" => {
            let header = token.split('.').next().map(|header| BASE64.decode(header).expect("base64"));
            let header: Value = serde_json::from_slice(&header.expect("a header")).expect("JSON");
            assert_ne!(header["alg"], jwk["alg"], "{name} is good, and refused: {verdict:?}");
            let mut silent = jwk.clone();
            silent.as_object_mut().expect("an object").remove("alg");
            let keys = key_set(&[silent]).expect("a good key");
            assert_eq!(signed(token, &keys), Ok(()), "{name}");
            counts.contradicting += 1;
        }
        other => panic!("{name}: a result {other}"),
    }
}
