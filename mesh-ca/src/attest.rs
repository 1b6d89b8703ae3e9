//! Who is calling: credentials in, an identity of our trust domain out, or a refusal.
//!
//! There is no path without a credential, on loopback neither. A caller that shows two must be the same in both.

use std::time::SystemTime;

use mesh_proto::model::{InvalidIdentity, SpiffeId, TrustDomain};

use crate::kubernetes::review::{NotReviewed, Rejected, Reviewer};
use crate::token::{self, InvalidToken, TokenKey};

/// Why a caller gets nothing now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAttested {
    /// The fault is the caller's: asking again is no use.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// Nobody can say whether the proof is good: the caller should ask again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<NotReviewed> for NotAttested {
    fn from(error: NotReviewed) -> Self {
        match error {
            NotReviewed::Rejected(rejected) => Self::Denied(Denied::Rejected(rejected)),
            NotReviewed::Unavailable(why) => Self::Unavailable(why),
        }
    }
}

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
    /// The API server does not accept the token.
    #[error(transparent)]
    Rejected(#[from] Rejected),
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

/// Who tells what a token is worth.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Tokens {
    /// No token is accepted.
    None,
    /// The supervisor of a local mesh made it, with this key.
    Local(TokenKey),
    /// It is a service account's: the API server is asked.
    Reviewed(Reviewer),
}

/// A caller that proved who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its identity.
    pub id: SpiffeId,
    /// The pod that its token was made for: for the log.
    pub pod: Option<String>,
}

/// Decides who is calling.
#[derive(Debug)]
pub struct Attestor {
    /// The authority itself: nobody else is.
    own: SpiffeId,
    tokens: Tokens,
}

impl Attestor {
    /// For identities of the trust domain of `own`, the authority's identity.
    #[must_use]
    pub fn new(own: SpiffeId, tokens: Tokens) -> Self {
        Self { own, tokens }
    }

    /// The caller.
    ///
    /// # Errors
    /// When its identity is not proven.
    pub async fn attest(&self, credentials: Credentials<'_>, now: SystemTime) -> Result<Caller, NotAttested> {
        let token = match credentials.authorization {
            [] => None,
            [one] => Some(self.token(one, now).await?),
            _ => return Err(Denied::SeveralTokens.into()),
        };
        let caller = match (token, credentials.certificate) {
            (None, None) => return Err(Denied::None.into()),
            (Some(token), Some(certificate)) if token.id != *certificate => {
                return Err(Denied::Disagree { token: token.id, certificate: certificate.clone() }.into());
            }
            (Some(token), _) => token,
            (None, Some(certificate)) => Caller { id: certificate.clone(), pod: None },
        };
        if caller.id.trust_domain() != self.own.trust_domain() {
            return Err(Denied::OtherTrustDomain(caller.id, self.own.trust_domain().clone()).into());
        }
        if caller.id == self.own {
            return Err(Denied::Authority(caller.id).into());
        }
        Ok(caller)
    }

    async fn token(&self, authorization: &[u8], now: SystemTime) -> Result<Caller, NotAttested> {
        let bearer = || {
            let text = std::str::from_utf8(authorization).ok()?;
            text.strip_prefix("Bearer ")
        };
        let domain = self.own.trust_domain();
        match &self.tokens {
            Tokens::None => Err(Denied::NoTokens.into()),
            Tokens::Local(key) => {
                let token = bearer().ok_or(Denied::NotBearer)?;
                let claims = token::verify(key, token, now).map_err(Denied::Token)?;
                let id = SpiffeId::new(domain, &claims.namespace, &claims.service_account)
                    .map_err(Denied::Identity)?;
                Ok(Caller { id, pod: Some(claims.pod) })
            }
            Tokens::Reviewed(reviewer) => {
                let account = reviewer.review(bearer().ok_or(Denied::NotBearer)?).await?;
                let id =
                    SpiffeId::new(domain, &account.namespace, &account.name).map_err(Denied::Identity)?;
                Ok(Caller { id, pod: account.pod })
            }
        }
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

    fn attestor(tokens: Tokens) -> Attestor {
        Attestor::new(id("spiffe://td/ns/istio-system/sa/mesh-ca"), tokens)
    }

    async fn ask(
        attestor: &Attestor,
        authorization: &[&[u8]],
        certificate: Option<&SpiffeId>,
    ) -> Result<SpiffeId, Denied> {
        match attestor.attest(Credentials { authorization, certificate }, SystemTime::now()).await {
            Ok(caller) => Ok(caller.id),
            Err(NotAttested::Denied(denied)) => Err(denied),
            Err(NotAttested::Unavailable(why)) => panic!("{why}"),
        }
    }

    #[tokio::test]
    async fn every_way_to_prove_oneself_and_not() {
        let key = TokenKey::new(&[1; 32]);
        let attestor = attestor(Tokens::Local(key.clone()));
        let (a, b) = (id("spiffe://td/ns/default/sa/a"), id("spiffe://td/ns/default/sa/b"));
        let token = bearer(&key, "default", "a", u64::MAX);
        let ask = async |authorization: &[&[u8]], certificate: Option<&SpiffeId>| {
            ask(&attestor, authorization, certificate).await
        };
        assert_eq!(ask(&[&token], None).await, Ok(a.clone()));
        assert_eq!(ask(&[], Some(&b)).await, Ok(b.clone()));
        assert_eq!(ask(&[&token], Some(&a)).await, Ok(a.clone()));
        assert_eq!(ask(&[], None).await, Err(Denied::None));
        assert_eq!(ask(&[&token, &token], None).await, Err(Denied::SeveralTokens));
        assert_eq!(
            ask(&[&token], Some(&b)).await,
            Err(Denied::Disagree { token: a.clone(), certificate: b.clone() })
        );
        // A bad token is not made good by a certificate.
        assert_eq!(ask(&[b"Bearer x"], Some(&a)).await, Err(Denied::Token(InvalidToken::Malformed)));
        for bad in [&b"Basic x"[..], b"", b"bearer\xff", &token["Bearer ".len()..]] {
            assert_eq!(ask(&[bad], None).await, Err(Denied::NotBearer));
        }
        let expired = bearer(&key, "default", "a", 1);
        assert_eq!(ask(&[&expired], None).await, Err(Denied::Token(InvalidToken::Expired)));
        let foreign = bearer(&TokenKey::new(&[2; 32]), "default", "a", u64::MAX);
        assert_eq!(ask(&[&foreign], None).await, Err(Denied::Token(InvalidToken::Signature)));
        for (namespace, account) in [("default", "../a"), ("a/sa/b", "c"), ("", "a"), ("default", "A")] {
            let odd = bearer(&key, namespace, account, u64::MAX);
            assert!(matches!(ask(&[&odd], None).await, Err(Denied::Identity(_))), "{namespace} {account}");
        }
        let other = id("spiffe://other/ns/default/sa/a");
        assert!(matches!(ask(&[], Some(&other)).await, Err(Denied::OtherTrustDomain(..))));
    }

    #[tokio::test]
    async fn nobody_becomes_the_authority() {
        let key = TokenKey::new(&[1; 32]);
        let attestor = attestor(Tokens::Local(key.clone()));
        let token = bearer(&key, "istio-system", "mesh-ca", u64::MAX);
        assert!(matches!(ask(&attestor, &[&token], None).await, Err(Denied::Authority(_))));
        let own = id("spiffe://td/ns/istio-system/sa/mesh-ca");
        assert!(matches!(ask(&attestor, &[], Some(&own)).await, Err(Denied::Authority(_))));
    }

    #[tokio::test]
    async fn without_a_key_no_token_counts() {
        let token = bearer(&TokenKey::new(&[1; 32]), "default", "a", u64::MAX);
        assert_eq!(ask(&attestor(Tokens::None), &[&token], None).await, Err(Denied::NoTokens));
    }
}
