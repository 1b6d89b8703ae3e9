//! What everybody is told: whom to trust. Made from the authority that signs, the state and the bundles of others.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use mesh_proto::model::{SpiffeId, TrustDomain};
use mesh_proto::runtime::identity::{InvalidCertificate, Roots, read_certificates};
use mesh_proto::wire::mesh::v1 as wire;
use rustls::pki_types::CertificateDer;

use crate::authority::{Authority, hex};
use crate::rotation::State;

/// The roots of one trust domain and who of it is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The one that signs now first, where it is known.
    pub roots: Vec<CertificateDer<'static>>,
    /// Refused by name.
    pub tainted: BTreeSet<SpiffeId>,
    /// The first root is the one that signs now.
    pub signs: bool,
}

/// Everything that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Grows with every change.
    pub sequence: u64,
    /// Our own trust domain.
    pub own: TrustDomain,
    /// By trust domain, ours among them.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
}

impl Told {
    /// What is told while `authority` signs and `state` is kept. What in the state is no identity or root is left out: it
    /// was never taken.
    pub fn new(authority: &Authority, state: &State) -> Self {
        let own = authority.domain().clone();
        let mut roots = authority.root_certificates().to_vec();
        for root in state.other_roots().flat_map(certificates) {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        let mut bundles = BTreeMap::new();
        for (domain, roots) in &state.foreign {
            let roots: Vec<_> = roots.iter().flat_map(|root| certificates(root)).collect();
            if let Ok(domain) = domain.parse::<TrustDomain>()
                && !roots.is_empty()
            {
                bundles.insert(domain, Bundle { roots, ..Bundle::default() });
            }
        }
        bundles.insert(own.clone(), Bundle { roots, tainted: BTreeSet::new(), signs: true });
        for id in state.tainted.keys().filter_map(|text| text.parse::<SpiffeId>().ok()) {
            if let Some(bundle) = bundles.get_mut(id.trust_domain()) {
                bundle.tainted.insert(id);
            }
        }
        Self { sequence: state.sequence, own, bundles }
    }

    /// Names the content, without the number.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        for (domain, bundle) in &self.bundles {
            part(domain.as_str().as_bytes());
            part(&[u8::from(bundle.signs)]);
            bundle.roots.iter().for_each(|root| part(root));
            part(b"");
            bundle.tainted.iter().for_each(|id| part(id.as_str().as_bytes()));
            part(b"");
        }
        hex(hash.finish().as_ref())
    }

    /// Our own trust domain's.
    #[must_use]
    pub fn own_bundle(&self) -> &Bundle {
        &self.bundles[&self.own]
    }

    /// Whether `id` is refused.
    #[must_use]
    pub fn is_tainted(&self, id: &SpiffeId) -> bool {
        self.bundles.get(id.trust_domain()).is_some_and(|bundle| bundle.tainted.contains(id))
    }

    /// As the authority's own TLS takes it: our own trust domain alone, nobody else may ask for certificates.
    ///
    /// # Errors
    /// When a root cannot be one.
    pub fn own_roots(&self) -> Result<Roots, InvalidCertificate> {
        let bundle = self.own_bundle();
        let roots = Roots::none().with_domain(&self.own, bundle.roots.clone())?;
        Ok(roots.with_tainted(&self.own, bundle.tainted.clone()))
    }

    /// As the pilot hears it.
    #[must_use]
    pub fn wire(&self) -> wire::BundleState {
        let bundle = |(domain, bundle): (&TrustDomain, &Bundle)| {
            let signing = bundle.roots.first().filter(|_| bundle.signs);
            wire::TrustBundle {
                trust_domain: domain.to_string(),
                roots: bundle.roots.iter().map(|root| root.to_vec().into()).collect(),
                tainted: bundle.tainted.iter().map(ToString::to_string).collect(),
                signing: signing.map(|root| root.to_vec().into()).unwrap_or_default(),
            }
        };
        wire::BundleState { sequence: self.sequence, bundles: self.bundles.iter().map(bundle).collect() }
    }
}

/// What names a certificate, or another text.
pub(crate) fn sha256(text: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, text).as_ref().to_vec()
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    read_certificates("root", pem.as_bytes()).unwrap_or_default()
}
