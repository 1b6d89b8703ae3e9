//! SPIFFE identities of workloads: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Source: the SPIFFE-ID and X509-SVID specifications; the path form is Istio's. The parser is stricter than a URI
//! parser: what two readers could take differently is refused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE ID that the specification allows, in bytes.
const MAX_ID: usize = 2048;
/// The longest trust domain name, in bytes.
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentity {
    /// It does not start with `spiffe://`, or is too long.
    #[error("{0:?} is not a SPIFFE ID (spiffe://<trust domain>/ns/<namespace>/sa/<service account>)")]
    Form(String),
    /// The trust domain has other characters than a-z, 0-9, '.', '-' and '_'.
    #[error("{0:?} is not a trust domain (lower-case letters, digits, '.', '-', '_')")]
    TrustDomain(String),
    /// A namespace or service account has characters that a Kubernetes name cannot have.
    #[error("{0:?} is not a Kubernetes name")]
    Name(String),
}

/// The name of a trust domain. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN || !text.bytes().all(allowed) {
            return Err(InvalidIdentity::TrustDomain(text.to_owned()));
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's identity. Cheap to clone; equality is on the whole text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
    /// Byte offsets of namespace and service account in `text`.
    namespace: (u16, u16),
    service_account: (u16, u16),
}

impl SpiffeId {
    /// The identity of a service account.
    ///
    /// # Errors
    /// When `namespace` or `service_account` is no Kubernetes name.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidIdentity> {
        for name in [namespace, service_account] {
            if !is_kubernetes_name(name) {
                return Err(InvalidIdentity::Name(name.to_owned()));
            }
        }
        let text = format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}");
        let at = "spiffe://".len() + trust_domain.as_str().len() + "/ns/".len();
        let sa = at + namespace.len() + "/sa/".len();
        // Names are at most 253 bytes and the domain 255: all offsets fit.
        let span = |from: usize, len: usize| (from as u16, (from + len) as u16);
        Ok(Self {
            namespace: span(at, namespace.len()),
            service_account: span(sa, service_account.len()),
            trust_domain: trust_domain.clone(),
            text: Arc::from(text),
        })
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.namespace.0)..usize::from(self.namespace.1)]
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.service_account.0)..usize::from(self.service_account.1)]
    }

    /// Istio's principal: the URI without `spiffe://`.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.text["spiffe://".len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || InvalidIdentity::Form(text.to_owned());
        if text.len() > MAX_ID {
            return Err(InvalidIdentity::Form(format!(
                "{}... ({} bytes)",
                &text.chars().take(64).collect::<String>(),
                text.len()
            )));
        }
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        let trust_domain = parts.next().ok_or_else(form)?.parse()?;
        let (Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        Self::new(&trust_domain, namespace, account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// RFC 1123 subdomain: at most 253 bytes of a-z, 0-9, '-' and '.', with a letter or digit at both ends.
#[must_use]
pub fn is_kubernetes_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= 253
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_apart_and_puts_together() {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/reviews".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "cluster.local");
        assert_eq!((id.namespace(), id.service_account()), ("default", "reviews"));
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/reviews");
        assert_eq!(SpiffeId::new(id.trust_domain(), "default", "reviews").unwrap(), id);
    }

    #[test]
    fn trust_domains_are_bounded() {
        let domain = |text: &str| text.parse::<TrustDomain>().map(|domain| domain.to_string());
        let longest = "a".repeat(255);
        assert_eq!(domain(&longest), Ok(longest.clone()));
        assert!(domain(&format!("{longest}a")).is_err() && domain("").is_err());
        let id = SpiffeId::new(&longest.parse().unwrap(), &longest[..253], &longest[..253]).unwrap();
        assert_eq!((id.namespace(), id.service_account()), (&longest[..253], &longest[..253]));
        assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
        assert_eq!(format!("{id} {id:?} {:?}", id.trust_domain()), format!("{0} {0} {longest}", id.as_str()));
        assert!(SpiffeId::new(id.trust_domain(), &longest[..254], "a").is_err());
    }

    /// reliability-security.md T7: everything that two readers could take differently.
    #[test]
    fn refuses_odd_ones() {
        let long = format!("spiffe://cluster.local/ns/{}/sa/b", "a".repeat(2100));
        let bad = [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "https://td/ns/a/sa/b",
            "SPIFFE://td/ns/a/sa/b",
            "spiffe://TD/ns/a/sa/b",
            "spiffe://td:80/ns/a/sa/b",
            "spiffe://u@td/ns/a/sa/b",
            "spiffe://t%64/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/",
            "spiffe://td//ns/a/sa/b",
            "spiffe://td/ns/a/sa/b?x",
            "spiffe://td/ns/a/sa/b#x",
            "spiffe://td/ns/a/sa/..",
            "spiffe://td/ns/./sa/b",
            "spiffe://td/ns/a/sa/b\0",
            "spiffe://td/ns/a/sa/%62",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns/a/sb/b",
            "spiffe://td/ns/a/sa/B",
            &long,
        ];
        for text in bad {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }
}
