//! Who is trusted: the bundles of all trust domains, over the roots that the proxy was started with.
//!
//! In: `trust_bundle/<trust domain>`. Out: the process's roots, swapped: with the identities that are refused by name, so
//! that every handshake and every live connection is judged by them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::model::{SpiffeId, TrustDomain};
use mesh_proto::runtime::identity::{MeshTls, Roots, RootsHandle};
use mesh_proto::wire::mesh::v1 as wire;
use rustls::pki_types::CertificateDer;

use super::Origin;

/// What is trusted of one trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Bundle {
    /// None: those of the bootstrap.
    roots: Vec<CertificateDer<'static>>,
    tainted: BTreeSet<SpiffeId>,
    signing: Option<CertificateDer<'static>>,
}

type Bundles = BTreeMap<TrustDomain, Bundle>;

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
        let der = |der: &bytes::Bytes| CertificateDer::from(der.to_vec());
        let mut roots: Vec<_> = bundle.roots.iter().map(der).collect();
        if roots.is_empty() {
            return Err(format!("no roots of {domain}"));
        }
        let tainted = tainted(&domain, &bundle.tainted)?;
        let mut signing = (!bundle.signing.is_empty()).then(|| der(&bundle.signing));
        if origin == Origin::Disk {
            let base = self.base.domain(&domain).map(|domain| &domain.certificates[..]).unwrap_or_default();
            roots.extend(base.iter().filter(|der| !roots.contains(der)).cloned().collect::<Vec<_>>());
            // It may be another one by now.
            signing = None;
        }
        let mut bundles = self.bundles.clone();
        bundles.insert(domain, Bundle { roots, tainted, signing });
        self.swap(bundles)
    }

    /// How TLS between members of the mesh is spoken.
    pub(super) fn speak(&self, tls: MeshTls) {
        self.handle.set_tls(tls);
    }

    /// Back to the roots of the bootstrap, if it has some for this domain. Who is refused by name stays refused: only a
    /// bundle can take that back.
    pub(super) fn remove(&mut self, name: &str) {
        let mut bundles = self.bundles.clone();
        let known = bundles.iter_mut().find(|(domain, _)| domain.as_str() == name);
        if let Some((domain, bundle)) = known {
            (bundle.roots, bundle.signing) = (Vec::new(), None);
            if bundle.tainted.is_empty() {
                let domain = domain.clone();
                bundles.remove(&domain);
            }
        }
        if let Err(error) = self.swap(bundles) {
            tracing::error!(%error, "roots that were in force cannot be used");
        }
    }

    fn swap(&mut self, bundles: Bundles) -> Result<(), String> {
        if bundles == self.bundles {
            return Ok(());
        }
        let mut roots = Roots::clone(&self.base);
        for (domain, bundle) in &bundles {
            if !bundle.roots.is_empty() {
                roots = roots.with_domain(domain, bundle.roots.clone()).map_err(|e| e.to_string())?;
            }
            roots = roots
                .with_tainted(domain, bundle.tainted.clone())
                .with_signing(domain, bundle.signing.clone());
        }
        self.bundles = bundles;
        self.handle.swap(roots);
        Ok(())
    }
}

/// One that cannot be read could be the one that matters: then nothing is taken.
fn tainted(domain: &TrustDomain, names: &[String]) -> Result<BTreeSet<SpiffeId>, String> {
    let parse = |name: &String| match name.parse::<SpiffeId>() {
        Ok(id) if id.trust_domain() == domain => Ok(id),
        Ok(id) => Err(format!("{id} is tainted in the bundle of {domain}")),
        Err(error) => Err(error.to_string()),
    };
    names.iter().map(parse).collect()
}
