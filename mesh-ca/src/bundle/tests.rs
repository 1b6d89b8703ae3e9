//! Documents, and what is none.

use mesh_proto::runtime::testing::TestCa;

use super::*;

fn x5c(der: &[u8]) -> Value {
    json!({ "use": "x509-svid", "kty": "EC", "x5c": [BASE64_STANDARD.encode(der)] })
}

fn read(keys: &Value) -> Result<Document, InvalidBundle> {
    parse(json!({ "keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 30 }).to_string().as_bytes())
}

#[test]
fn roots_come_from_x509_svid_keys_and_from_nothing_else() {
    let (one, other) = (TestCa::new().root_der(), TestCa::new().root_der());
    let jwt = json!({ "use": "jwt-svid", "kty": "EC", "kid": "a" });
    let strange = json!({ "use": "later", "x5c": ["?"] });
    let read = read(&json!([x5c(&one), jwt, strange, x5c(&other), x5c(&one)])).unwrap();
    assert_eq!(read, Document { roots: vec![one, other], sequence: Some(7), refresh: Some(30) });
}

/// One bad root makes all of it bad: fewer roots than were meant would be as wrong as others.
#[test]
fn what_is_no_bundle_is_refused() {
    let ca = TestCa::new();
    let good = x5c(&ca.root_der());
    let leaf = ca.leaf("default", "a").certified_key.cert[0].clone();
    let two = json!({ "use": "x509-svid", "x5c": [good["x5c"][0], good["x5c"][0]] });
    for bad in [
        x5c(b"garbage"),
        x5c(&leaf),
        x5c(&[&ca.root_der()[..], b"x"].concat()),
        json!({ "use": "x509-svid" }),
        json!({ "use": "x509-svid", "x5c": ["not base64!"] }),
        json!({ "use": "x509-svid", "x5c": [1] }),
        two,
    ] {
        assert!(matches!(read(&json!([good, bad])), Err(InvalidBundle::Key(1, _))), "{bad}");
    }
    assert_eq!(read(&json!([])), Err(InvalidBundle::Empty));
    assert_eq!(read(&json!([{ "use": "jwt-svid" }])), Err(InvalidBundle::Empty));
    assert!(matches!(read(&json!(vec![good; 17])), Err(InvalidBundle::Form(_))));
    for text in [
        &b""[..],
        b"{}",
        b"[]",
        b"{\"keys\": {}}",
        b"null",
        &vec![b'['; 100_000],
        &vec![b' '; MAX_DOCUMENT + 1],
    ] {
        assert!(matches!(parse(text), Err(InvalidBundle::Form(_))));
    }
}

#[test]
fn keys_are_said_in_both_forms() {
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let rsa = params.self_signed(&rsa).unwrap().der().clone();
    let key = key(&rsa).unwrap();
    assert_eq!((&key["kty"], &key["e"], &key["use"]), (&json!("RSA"), &json!("AQAB"), &json!("x509-svid")));
    assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap().len(), 256);
    let ec = super::key(&TestCa::new().root_der()).unwrap();
    assert_eq!((&ec["kty"], &ec["crv"]), (&json!("EC"), &json!("P-256")));
    for coordinate in ["x", "y"] {
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(ec[coordinate].as_str().unwrap()).unwrap().len(), 32);
    }
    assert_eq!(read(&json!([key, ec])).unwrap().roots.len(), 2);
}
