//! An issuer of tokens: claims go in, a signed JWT (RFC 7519, compact) comes out, and the keys to check it (RFC 7517).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair, RsaSignatureEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

/// An issuer with one key. Cheap to clone.
#[derive(Clone)]
pub struct TestIssuer {
    name: String,
    algorithm: &'static str,
    kid: String,
    key: Arc<Key>,
}

enum Key {
    Rsa(RsaKeyPair, &'static RsaSignatureEncoding),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl TestIssuer {
    /// An issuer `name` (the claim `iss`) with a new key for `algorithm`: `RS256`, `PS384`, `ES512`, `EdDSA`, ...
    ///
    /// # Panics
    /// If there is no such algorithm.
    #[must_use]
    pub fn new(name: &str, algorithm: &'static str) -> Self {
        let rsa = |encoding| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"), encoding);
        let ec = |algorithm: &'static EcdsaSigningAlgorithm, curve| {
            Key::Ec(EcdsaKeyPair::generate(algorithm).expect("a key"), curve)
        };
        let key = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => ec(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            "EdDSA" => Key::Ed(Ed25519KeyPair::generate().expect("a key")),
            other => panic!("no algorithm {other}"),
        };
        Self { name: name.to_owned(), algorithm, kid: format!("{algorithm}-1"), key: Arc::new(key) }
    }

    /// The same with another key id.
    #[must_use]
    pub fn with_kid(mut self, kid: &str) -> Self {
        kid.clone_into(&mut self.kid);
        self
    }

    /// The claim `iss`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its public key as a JWK: change it to get a bad one.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = match &*self.key {
            Key::Rsa(key, _) => {
                let key = key.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                let number = |bytes: &[u8]| BASE64.encode(bytes);
                json!({"kty": "RSA", "n": number(n.big_endian_without_leading_zero()), "e": number(e.big_endian_without_leading_zero())})
            }
            Key::Ec(key, curve) => {
                // An uncompressed point: 4, x, y.
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": BASE64.encode(x), "y": BASE64.encode(y)})
            }
            Key::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(key.public_key())}),
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// Its keys, as an issuer publishes them.
    #[must_use]
    pub fn jwks(&self) -> String {
        json!({"keys": [self.jwk()]}).to_string()
    }

    /// A token that says `claims` (an object), of this issuer and for an hour unless they say otherwise.
    #[must_use]
    pub fn sign(&self, mut claims: Value) -> String {
        let later = SystemTime::now() + Duration::from_secs(3600);
        let later = later.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let object = claims.as_object_mut().expect("an object");
        object.entry("iss").or_insert_with(|| json!(self.name));
        object.entry("exp").or_insert_with(|| json!(later));
        self.sign_raw(&self.header().to_string(), claims.to_string().as_bytes())
    }

    /// The header of its tokens: change it to get a bad one.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm, "typ": "JWT", "kid": self.kid})
    }

    /// A token of exactly this header and payload, whatever they are; the signature is good.
    #[must_use]
    pub fn sign_raw(&self, header: &str, payload: &[u8]) -> String {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(payload));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", BASE64.encode(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &*self.key {
            Key::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Key::Ec(key, _) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Key::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

impl std::fmt::Debug for TestIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestIssuer({}, {})", self.name, self.kid)
    }
}
