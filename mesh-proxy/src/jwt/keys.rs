//! The keys of an issuer: a JWK set (RFC 7517) goes in, keys that can verify come out (RFC 7518 §6, RFC 8037). A key says which
//! algorithms it is for; nothing else is ever tried with it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    EcdsaVerificationAlgorithm, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::{BASE64, Claims, json};

/// A longer set is refused.
const LONGEST: usize = 1 << 20;
/// More keys are refused: a token without `kid` makes us try all that fit.
const MOST: usize = 100;
/// In keys, unlike in tokens, padding harms nobody, and some issuers have it.
const PADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a set of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// More than 1 MiB.
    #[error("Jwks is longer than 1 MiB")]
    TooLong,
    /// No JSON object, or one with a name twice.
    #[error("Jwks is an invalid JSON")]
    Json,
    /// No `keys`.
    #[error("Jwks does not have [keys] field")]
    NoKeys,
    /// `keys` is no list.
    #[error("[keys] in Jwks is not an array")]
    NotList,
    /// More than 100 keys.
    #[error("Jwks has more than 100 keys")]
    TooMany,
    /// No key can be used; of the first one, why.
    #[error("Jwks doesn't have any valid public key{}", .0.map(|why| format!(": {why}")).unwrap_or_default())]
    NoneUsable(Option<&'static str>),
}

/// The keys of one issuer.
#[derive(Clone)]
pub struct KeySet {
    /// Of every parsed set another one: what a cache knows a verdict by.
    id: u64,
    keys: Vec<Arc<Key>>,
}

/// The key that has signed a token, and how.
#[derive(Clone, PartialEq)]
pub(super) struct Signer {
    key: Arc<Key>,
    algorithm: Algorithm,
}

impl KeySet {
    /// Parses a JWK set. A key that cannot verify (of an unknown kind, for encryption, symmetric, RSA under 2048 bits) is passed
    /// over: issuers publish new kinds beside the old ones.
    ///
    /// # Errors
    /// If the text is no JWK set, is out of bounds, or no key is left.
    pub fn parse(jwks: &[u8]) -> Result<Self, InvalidKeys> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        if jwks.len() > LONGEST {
            return Err(InvalidKeys::TooLong);
        }
        let set = json::object(jwks).ok_or(InvalidKeys::Json)?;
        let list = set.get("keys").ok_or(InvalidKeys::NoKeys)?;
        let list = list.as_array().ok_or(InvalidKeys::NotList)?;
        if list.len() > MOST {
            return Err(InvalidKeys::TooMany);
        }
        let mut keys = Vec::new();
        let mut passed_over = None;
        for jwk in list {
            match jwk.as_object().ok_or("a key is not an object").and_then(Key::parse) {
                Ok(key) => keys.push(Arc::new(key)),
                Err(why) => passed_over = passed_over.or(Some(why)),
            }
        }
        if keys.is_empty() {
            return Err(InvalidKeys::NoneUsable(passed_over));
        }
        Ok(Self { id: IDS.fetch_add(1, Ordering::Relaxed), keys })
    }

    /// Tells this set from every other one that was parsed, also from one with the same keys.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether the key that has signed a verified token is among these, by whichever id, and is still for the algorithm that
    /// was used.
    #[must_use]
    pub fn has_signed(&self, claims: &Claims) -> bool {
        let same = |key: &Key, signer: &Signer| {
            key.numbers == signer.key.numbers && key.algorithms.contains(&signer.algorithm)
        };
        let signer = claims.signer.as_ref();
        signer.is_some_and(|signer| self.keys.iter().any(|key| same(key, signer)))
    }

    /// Which key signed `message`: one with this key id if the token names one (a key without an id may be any), and only one
    /// that is for `algorithm`.
    pub(super) fn check(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<Signer, Unmatched> {
        let named = |key: &&Arc<Key>| kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid;
        let mut fitting =
            self.keys.iter().filter(named).filter(|key| key.algorithms.contains(&algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(Unmatched::Key);
        }
        let good = fitting.find(|key| key.verifies(algorithm, message, signature));
        good.map(|key| Signer { key: key.clone(), algorithm }).ok_or(Unmatched::Signature)
    }
}

/// Two sets are the same if they have the same keys.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

/// Says which keys, not what they are.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.iter().map(|key| (key.kid.as_deref(), &key.algorithms));
        f.debug_list().entries(keys).finish()
    }
}

/// Says which key, not what it is.
impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signer").field(&self.key.kid).field(&self.algorithm).finish()
    }
}

/// Why no key verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmatched {
    /// None fits.
    Key,
    /// One fits, but did not sign this.
    Signature,
}

/// What a token may be signed with: asymmetric algorithms only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    const OF_RSA: [Self; 6] = [Self::Rs256, Self::Rs384, Self::Rs512, Self::Ps256, Self::Ps384, Self::Ps512];

    /// By its registered name; `Ed25519` is RFC 9864's for the only curve of `EdDSA` here.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }

    /// What the library calls it; it has no P-521.
    fn in_library(self) -> Option<jsonwebtoken::Algorithm> {
        use jsonwebtoken::Algorithm as Library;
        Some(match self {
            Self::Rs256 => Library::RS256,
            Self::Rs384 => Library::RS384,
            Self::Rs512 => Library::RS512,
            Self::Ps256 => Library::PS256,
            Self::Ps384 => Library::PS384,
            Self::Ps512 => Library::PS512,
            Self::Es256 => Library::ES256,
            Self::Es384 => Library::ES384,
            Self::Es512 => return None,
            Self::EdDsa => Library::EdDSA,
        })
    }
}

/// A public key.
#[derive(Clone)]
struct Key {
    kid: Option<String>,
    /// What it is for.
    algorithms: Vec<Algorithm>,
    /// n and e, x and y, or x.
    numbers: [Vec<u8>; 2],
    verifier: Verifier,
}

#[derive(Clone)]
enum Verifier {
    Library(DecodingKey),
    /// A point of P-521.
    P521(std::sync::Arc<ParsedPublicKey>),
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (&self.kid, &self.algorithms, &self.numbers) == (&other.kid, &other.algorithms, &other.numbers)
    }
}

impl Key {
    fn parse(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        for_verification(jwk)?;
        let kid = text(jwk, "kid", "[kid] is not a string")?.map(str::to_owned);
        let kind = text(jwk, "kty", "[kty] is bad in [keys]")?.ok_or("[kty] is missing in [keys]")?;
        let (all, numbers, verifier) = match kind {
            "RSA" => rsa(jwk)?,
            "EC" => ec(jwk)?,
            "OKP" => okp(jwk)?,
            _ => return Err("[kty] is not supported in [keys]"),
        };
        let algorithms = match text(jwk, "alg", "[alg] is not a string")? {
            None => all.to_vec(),
            Some(name) => {
                let one = Algorithm::named(name).filter(|one| all.contains(one));
                vec![one.ok_or("[alg] is not supported for such a key")?]
            }
        };
        Ok(Self { kid, algorithms, numbers, verifier })
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (&self.verifier, algorithm.in_library()) {
            (Verifier::Library(key), Some(algorithm)) => {
                let signature = BASE64.encode(signature);
                jsonwebtoken::crypto::verify(&signature, message, key, algorithm).unwrap_or(false)
            }
            (Verifier::P521(key), None) => key.verify_sig(message, signature).is_ok(),
            // Cannot be: a key is asked only for its own algorithms.
            (Verifier::Library(_), None) | (Verifier::P521(_), Some(_)) => false,
        }
    }
}

/// Neither for encryption only, nor for something else than verifying (RFC 7517 §4.2, §4.3).
fn for_verification(jwk: &Map<String, Value>) -> Result<(), &'static str> {
    if text(jwk, "use", "[use] is not a string")?.is_some_and(|purpose| purpose != "sig") {
        return Err("[use] is not [sig]");
    }
    match jwk.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => Ok(()),
        Some(_) => Err("[key_ops] does not have [verify]"),
    }
}

type Parsed = (&'static [Algorithm], [Vec<u8>; 2], Verifier);

fn rsa(jwk: &Map<String, Value>) -> Result<Parsed, &'static str> {
    const BAD: &str = "Jwks RSA [n] or [e] field is missing or has a parse error";
    let [n, e] = ["n", "e"].map(|name| {
        let mut number = bytes(jwk, name, BAD)?;
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.drain(..zeros);
        Ok::<_, &'static str>(number)
    });
    let (n, e) = (n?, e?);
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err("an RSA key has less than 2048 or more than 8192 bits");
    }
    // Issuers have 65537; a long exponent only costs time.
    if e.last().is_none_or(|last| last % 2 == 0) || e == [1] || e.len() > 5 {
        return Err(BAD);
    }
    let parts = RsaPublicKeyComponents { n: &n, e: &e };
    parts.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256).map_err(|_| BAD)?;
    let verifier = Verifier::Library(DecodingKey::from_rsa_raw_components(&n, &e));
    Ok((&Algorithm::OF_RSA, [n, e], verifier))
}

fn ec(jwk: &Map<String, Value>) -> Result<Parsed, &'static str> {
    const BAD: &str = "Jwks EC [x] and [y] fields have a parse error.";
    const CURVE: &str = "[crv] field is not string for an EC key";
    let curve = text(jwk, "crv", CURVE)?.ok_or(CURVE)?;
    let (algorithms, backend, length): (&[Algorithm], &EcdsaVerificationAlgorithm, usize) = match curve {
        "P-256" => (&[Algorithm::Es256], &ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (&[Algorithm::Es384], &ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => (&[Algorithm::Es512], &ECDSA_P521_SHA512_FIXED, 66),
        _ => return Err("[crv] or [alg] field is not supported for an EC key"),
    };
    let (x, y) = (bytes(jwk, "x", BAD)?, bytes(jwk, "y", BAD)?);
    if x.len() != length || y.len() != length {
        return Err(BAD);
    }
    // Uncompressed. Parsing checks that it is on the curve.
    let point = [&[4], x.as_slice(), &y].concat();
    let parsed = ParsedPublicKey::new(backend, &point).map_err(|_| BAD)?;
    let verifier = match curve {
        "P-521" => Verifier::P521(parsed.into()),
        _ => Verifier::Library(DecodingKey::from_ec_der(&point)),
    };
    Ok((algorithms, [x, y], verifier))
}

fn okp(jwk: &Map<String, Value>) -> Result<Parsed, &'static str> {
    const BAD: &str = "Jwks OKP [x] field is an invalid Base64.";
    if text(jwk, "crv", "[crv] field is not string for an OKP key")? != Some("Ed25519") {
        return Err("[crv] field is not supported for an OKP key");
    }
    let x = bytes(jwk, "x", BAD)?;
    if x.len() != 32 {
        return Err("Jwks OKP [x] field is wrong length.");
    }
    ParsedPublicKey::new(&ED25519, &x).map_err(|_| BAD)?;
    let verifier = Verifier::Library(DecodingKey::from_ed_der(&x));
    Ok((&[Algorithm::EdDsa], [x, Vec::new()], verifier))
}

fn text<'a>(
    jwk: &'a Map<String, Value>,
    name: &str,
    bad: &'static str,
) -> Result<Option<&'a str>, &'static str> {
    jwk.get(name).map(|value| value.as_str().ok_or(bad)).transpose()
}

fn bytes(jwk: &Map<String, Value>, name: &str, bad: &'static str) -> Result<Vec<u8>, &'static str> {
    let text = text(jwk, name, bad)?.ok_or(bad)?;
    PADDED.decode(text).map_err(|_| bad)
}
