//! Who is calling: credentials in, an identity of our trust domain out, or a refusal.
//!
//! There is no path without a credential, on loopback neither. A caller that shows two must be the same in both.

use std::time::SystemTime;

use mesh_proto::model::{InvalidIdentity, SpiffeId, TrustDomain};
use mesh_proto::runtime::certificates::authority_id;

use crate::token::{self, InvalidToken, TokenKey};

/// Why a caller gets nothing. The fault is the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Neither token nor certificate.
    #[error("no credentials: neither a token nor a client certificate")]
    None,
    /// More than one `authorization`.
    #[error("more than one authorization header")]
    SeveralTokens,
    /// `authorization` is not `Bearer <token>`.
    #[error("authorization is not a bearer token")]
    NotBearer,
    /// The token is not accepted.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// This authority has no key for tokens.
    #[error("this authority accepts no tokens")]
    NoTokens,
    /// The token names nobody.
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
    /// Token and certificate are not of the same workload.
    #[error("the token is for {token}, the certificate for {certificate}")]
    Disagree {
        /// Whom the token names.
        token: SpiffeId,
        /// Whom the certificate names.
        certificate: SpiffeId,
    },
    /// The identity is not of this mesh.
    #[error("{0} is not of the trust domain {1}")]
    OtherTrustDomain(SpiffeId, TrustDomain),
    /// Who has that identity is taken for the authority by everybody.
    #[error("{0} is the authority's own identity")]
    Authority(SpiffeId),
}

/// What a caller showed.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// Every `authorization` value.
    pub authorization: &'a [&'a [u8]],
    /// The identity in its verified certificate.
    pub certificate: Option<&'a SpiffeId>,
}

/// Decides who is calling.
#[derive(Debug)]
pub struct Attestor {
    domain: TrustDomain,
    tokens: Option<TokenKey>,
}

impl Attestor {
    /// For identities of `domain`; tokens are accepted only with a key.
    #[must_use]
    pub fn new(domain: TrustDomain, tokens: Option<TokenKey>) -> Self {
        Self { domain, tokens }
    }

    /// The caller's identity.
    ///
    /// # Errors
    /// When it is not proven.
    pub fn attest(&self, credentials: Credentials<'_>, now: SystemTime) -> Result<SpiffeId, Denied> {
        let token = match credentials.authorization {
            [] => None,
            [one] => Some(self.token(one, now)?),
            _ => return Err(Denied::SeveralTokens),
        };
        let id = match (token, credentials.certificate) {
            (None, None) => return Err(Denied::None),
            (Some(token), Some(certificate)) if token != *certificate => {
                return Err(Denied::Disagree { token, certificate: certificate.clone() });
            }
            (Some(token), _) => token,
            (None, Some(certificate)) => certificate.clone(),
        };
        if *id.trust_domain() != self.domain {
            return Err(Denied::OtherTrustDomain(id, self.domain.clone()));
        }
        if id == authority_id(&self.domain) {
            return Err(Denied::Authority(id));
        }
        Ok(id)
    }

    fn token(&self, authorization: &[u8], now: SystemTime) -> Result<SpiffeId, Denied> {
        let key = self.tokens.as_ref().ok_or(Denied::NoTokens)?;
        let text = std::str::from_utf8(authorization).map_err(|_| Denied::NotBearer)?;
        let token = text.strip_prefix("Bearer ").ok_or(Denied::NotBearer)?;
        let claims = token::verify(key, token, now)?;
        Ok(SpiffeId::new(&self.domain, &claims.namespace, &claims.service_account)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Claims, mint};

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    fn bearer(key: &TokenKey, namespace: &str, account: &str, expires: u64) -> Vec<u8> {
        let claims = Claims {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            pod: "p".to_owned(),
            expires,
        };
        format!("Bearer {}", mint(key, &claims)).into_bytes()
    }

    #[test]
    fn every_way_to_prove_oneself_and_not() {
        let key = TokenKey::new(&[1; 32]);
        let attestor = Attestor::new("td".parse().unwrap(), Some(key.clone()));
        let (a, b) = (id("spiffe://td/ns/default/sa/a"), id("spiffe://td/ns/default/sa/b"));
        let token = bearer(&key, "default", "a", u64::MAX);
        let ask = |authorization: &[&[u8]], certificate: Option<&SpiffeId>| {
            attestor.attest(Credentials { authorization, certificate }, SystemTime::now())
        };
        assert_eq!(ask(&[&token], None), Ok(a.clone()));
        assert_eq!(ask(&[], Some(&b)), Ok(b.clone()));
        assert_eq!(ask(&[&token], Some(&a)), Ok(a.clone()));
        assert_eq!(ask(&[], None), Err(Denied::None));
        assert_eq!(ask(&[&token, &token], None), Err(Denied::SeveralTokens));
        assert_eq!(
            ask(&[&token], Some(&b)),
            Err(Denied::Disagree { token: a.clone(), certificate: b.clone() })
        );
        // A bad token is not made good by a certificate.
        assert_eq!(ask(&[b"Bearer x"], Some(&a)), Err(Denied::Token(InvalidToken::Malformed)));
        for bad in [&b"Basic x"[..], b"", b"bearer\xff", &token["Bearer ".len()..]] {
            assert_eq!(ask(&[bad], None), Err(Denied::NotBearer));
        }
        let expired = bearer(&key, "default", "a", 1);
        assert_eq!(ask(&[&expired], None), Err(Denied::Token(InvalidToken::Expired)));
        let foreign = bearer(&TokenKey::new(&[2; 32]), "default", "a", u64::MAX);
        assert_eq!(ask(&[&foreign], None), Err(Denied::Token(InvalidToken::Signature)));
        for (namespace, account) in [("default", "../a"), ("a/sa/b", "c"), ("", "a"), ("default", "A")] {
            let odd = bearer(&key, namespace, account, u64::MAX);
            assert!(matches!(ask(&[&odd], None), Err(Denied::Identity(_))), "{namespace} {account}");
        }
        let other = id("spiffe://other/ns/default/sa/a");
        assert!(matches!(ask(&[], Some(&other)), Err(Denied::OtherTrustDomain(..))));
    }

    #[test]
    fn nobody_becomes_the_authority() {
        let key = TokenKey::new(&[1; 32]);
        let attestor = Attestor::new("td".parse().unwrap(), Some(key.clone()));
        let token = bearer(&key, "istio-system", "mesh-ca", u64::MAX);
        let by_token = Credentials { authorization: &[&token], certificate: None };
        assert!(matches!(attestor.attest(by_token, SystemTime::now()), Err(Denied::Authority(_))));
        let own = id("spiffe://td/ns/istio-system/sa/mesh-ca");
        let by_certificate = Credentials { authorization: &[], certificate: Some(&own) };
        assert!(matches!(attestor.attest(by_certificate, SystemTime::now()), Err(Denied::Authority(_))));
    }

    #[test]
    fn without_a_key_no_token_counts() {
        let attestor = Attestor::new("td".parse().unwrap(), None);
        let token = bearer(&TokenKey::new(&[1; 32]), "default", "a", u64::MAX);
        let shown = Credentials { authorization: &[&token], certificate: None };
        assert_eq!(attestor.attest(shown, SystemTime::now()), Err(Denied::NoTokens));
    }
}
