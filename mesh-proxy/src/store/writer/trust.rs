//! Who is trusted: the bundles of all trust domains, over the roots that the proxy was started with.
//!
//! In: `trust_bundle/<trust domain>`. Out: the process's roots, swapped.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::identity::{Roots, RootsHandle};
use mesh_proto::wire::mesh::v1 as wire;
use rustls::pki_types::CertificateDer;

use super::Origin;

type Bundles = BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>;

#[derive(Debug)]
pub(super) struct Trust {
    handle: RootsHandle,
    /// From the bootstrap.
    base: Arc<Roots>,
    bundles: Bundles,
}

impl Trust {
    pub(super) fn new(handle: RootsHandle) -> Self {
        Self { base: handle.get(), handle, bundles: Bundles::new() }
    }

    /// Replaces a trust domain's roots. A bundle from the disk adds to the bootstrap's roots instead: those are newer
    /// when the authority was made anew while this proxy was away.
    pub(super) fn take(
        &mut self,
        origin: Origin,
        name: &str,
        bundle: &wire::TrustBundle,
    ) -> Result<(), String> {
        let domain: TrustDomain = bundle.trust_domain.parse().map_err(|e| format!("{e}"))?;
        if domain.as_str() != name {
            return Err(format!("{domain} in the resource of {name}"));
        }
        let mut roots: Vec<_> = bundle.roots.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        if origin == Origin::Disk {
            let base = self.base.domain(&domain).map(|domain| &domain.certificates[..]).unwrap_or_default();
            roots.extend(base.iter().filter(|der| !roots.contains(der)).cloned().collect::<Vec<_>>());
        }
        let mut bundles = self.bundles.clone();
        bundles.insert(domain, roots);
        self.swap(bundles)
    }

    /// Back to the roots of the bootstrap, if it has some for this domain.
    pub(super) fn remove(&mut self, name: &str) {
        let mut bundles = self.bundles.clone();
        bundles.retain(|domain, _| domain.as_str() != name);
        if let Err(error) = self.swap(bundles) {
            tracing::error!(%error, "roots that were in force cannot be used");
        }
    }

    fn swap(&mut self, bundles: Bundles) -> Result<(), String> {
        if bundles == self.bundles {
            return Ok(());
        }
        let mut roots = Roots::clone(&self.base);
        for (domain, certificates) in &bundles {
            roots = roots.with_domain(domain, certificates.clone()).map_err(|e| e.to_string())?;
        }
        self.bundles = bundles;
        self.handle.swap(roots);
        Ok(())
    }
}
