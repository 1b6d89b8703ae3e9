//! What the mesh says of TLS between its members. In: parameters and the names of our trust domain. Out: who is the same, who
//! signs for whom, and who is refused.

use super::{DomainRoots, Roots};
use crate::model::{SpiffeId, TlsParameters, TrustDomain};

/// What the mesh says of TLS between its members. Immutable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshTls {
    /// How it is spoken.
    pub parameters: TlsParameters,
    /// The names of our own trust domain: itself, then its aliases.
    pub trust_domains: Vec<TrustDomain>,
}

impl MeshTls {
    /// Whether two identities are the same one, aliases of our trust domain being the same name.
    #[must_use]
    pub fn is_same(&self, one: &SpiffeId, other: &SpiffeId) -> bool {
        let (a, b) = (one.trust_domain(), other.trust_domain());
        let ours = |domain| self.trust_domains.contains(domain);
        (a == b || ours(a) && ours(b))
            && (one.namespace(), one.service_account()) == (other.namespace(), other.service_account())
    }

    /// Who signs for a trust domain. An alias of ours without roots of its own has ours.
    #[must_use]
    pub fn roots_of<'a>(&self, roots: &'a Roots, domain: &TrustDomain) -> Option<&'a DomainRoots> {
        let ours = || self.trust_domains.iter().find_map(|name| roots.domain(name));
        let alias = self.trust_domains.contains(domain);
        roots.domain(domain).or_else(|| if alias { ours() } else { None })
    }

    /// Whether certificates of `id` count for nothing, however good they are: it is refused by name, under none of the names
    /// of our trust domain otherwise, each of which may have roots of its own.
    #[must_use]
    pub fn is_tainted(&self, roots: &Roots, id: &SpiffeId) -> bool {
        if !self.trust_domains.contains(id.trust_domain()) {
            return roots.is_tainted(id);
        }
        let named = self.trust_domains.iter().filter_map(|name| roots.domain(name));
        named.flat_map(|domain| domain.tainted.iter()).any(|one| self.is_same(one, id))
    }
}
