//! Whom to trust: what the authority tells, and the roots that MeshConfig adds. Out: one resource `trust_bundle/...` for each
//! trust domain, and how many proxies have them.

use std::collections::{BTreeSet, HashMap};

use mesh_proto::model::{Kind, ResourceName};
use mesh_proto::wire::mesh::v1::TrustBundle;
use prost::Message as _;

use super::{Hub, Inner, Slot};
use crate::compile::trust_domains;
use crate::snapshot::Config;

impl Hub {
    /// Whom to trust as the authority tells it, all of it: one bundle for each trust domain. Streams of identities that it
    /// refuses are closed.
    pub fn set_trust(&self, bundles: Vec<TrustBundle>) {
        let mut inner = self.inner.lock();
        inner.told = bundles;
        if !inner.retrust() {
            return;
        }
        let refused = |slot: &Slot| inner.tainted.contains(slot.stream.subject().pod.identity.as_str());
        let gone: Vec<_> =
            inner.streams.iter().filter(|(_, slot)| refused(slot)).map(|(id, _)| *id).collect();
        for id in gone {
            inner.remove(id);
            inner.pods.retain(|_, stream| *stream != id);
        }
        inner.gauge();
        for slot in inner.streams.values_mut() {
            slot.stream.mark_all();
            slot.woken();
        }
    }

    /// How many proxies are connected, and the names of those that have not acknowledged whom to trust.
    pub fn trust_coverage(&self) -> (usize, Vec<String>) {
        let inner = self.inner.lock();
        let bundles: Vec<_> =
            inner.cache.fixed().filter(|fixed| fixed.name.kind == Kind::TrustBundle).collect();
        let lacks = |slot: &&Slot| !bundles.iter().all(|bundle| slot.stream.has_acked(bundle));
        let mut behind: Vec<_> =
            inner.streams.values().filter(lacks).map(|slot| slot.node.id.to_string()).collect();
        behind.sort();
        (inner.streams.len(), behind)
    }

    /// Whom to trust as the authority tells it, by trust domain: without what MeshConfig adds.
    pub fn trust(&self) -> Vec<TrustBundle> {
        let mut bundles = self.inner.lock().told.clone();
        bundles.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
        bundles
    }
}

impl Inner {
    /// Makes the resources anew. Whether one of them differs.
    pub(super) fn retrust(&mut self) -> bool {
        let mut wanted = HashMap::new();
        for mut bundle in with_added(self.told.clone(), &self.snapshot.config) {
            bundle.roots.sort();
            bundle.roots.dedup();
            bundle.tainted.sort();
            bundle.tainted.dedup();
            wanted.insert(ResourceName::new(Kind::TrustBundle, &bundle.trust_domain), bundle);
        }
        let mut changed =
            self.cache.unfix(|name| name.kind != Kind::TrustBundle || wanted.contains_key(name));
        let mut tainted = BTreeSet::new();
        for (name, bundle) in wanted {
            changed |= self.cache.fix(name, bundle.encode_to_vec());
            tainted.extend(bundle.tainted);
        }
        self.tainted = tainted;
        changed
    }
}

/// The authority's bundles with MeshConfig's roots. Before the authority has told anything, nobody is told anything: a bundle
/// of our own trust domain that has only what was added would take its roots' place.
///
/// An alias of our trust domain is a name of it: what is added for one is added to our own roots, as who is refused by name is
/// refused under all of them.
fn with_added(mut bundles: Vec<TrustBundle>, config: &Config) -> Vec<TrustBundle> {
    let own = &config.mesh.trust_domain;
    if !bundles.iter().any(|bundle| bundle.trust_domain == own.as_str()) {
        return bundles;
    }
    for (domain, roots) in config.options.added_roots.iter().flat_map(|added| {
        let domains = if added.domains.is_empty() { std::slice::from_ref(own) } else { &added.domains[..] };
        domains.iter().map(move |domain| (domain, &added.roots))
    }) {
        let known = |name: &str| bundles.iter().position(|bundle| bundle.trust_domain == name);
        let ours = trust_domains(config).any(|name| name == domain);
        let at = known(domain.as_str()).or_else(|| if ours { known(own.as_str()) } else { None });
        let at = at.unwrap_or_else(|| {
            bundles.push(TrustBundle { trust_domain: domain.to_string(), ..TrustBundle::default() });
            bundles.len() - 1
        });
        bundles[at].roots.extend(roots.iter().map(|der| bytes::Bytes::copy_from_slice(der)));
    }
    bundles
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rustls::pki_types::CertificateDer;

    use super::*;
    use crate::snapshot::{AddedRoots, MeshOptions, MeshSettings};

    fn told(domain: &str, root: u8) -> TrustBundle {
        TrustBundle {
            trust_domain: domain.to_owned(),
            roots: vec![Bytes::from(vec![root])],
            ..TrustBundle::default()
        }
    }

    /// Each bundle's trust domain and roots.
    fn of(bundles: Vec<TrustBundle>, added: &[(&[&str], u8)]) -> Vec<(String, Vec<u8>)> {
        let mut config = Config::empty(MeshSettings {
            trust_domain: "a.test".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        });
        let roots = |(domains, root): &(&[&str], u8)| AddedRoots {
            domains: domains.iter().map(|domain| domain.parse().unwrap()).collect(),
            roots: vec![CertificateDer::from(vec![*root])],
        };
        config.options = MeshOptions {
            added_roots: added.iter().map(roots).collect(),
            trust_domain_aliases: vec!["old.test".parse().unwrap(), "told.test".parse().unwrap()],
            ..MeshOptions::default()
        };
        let bundles = with_added(bundles, &config).into_iter();
        bundles.map(|b| (b.trust_domain, b.roots.iter().map(|root| root[0]).collect())).collect()
    }

    #[test]
    fn roots_are_added_to_the_trust_domains_that_they_are_for() {
        let all = [told("a.test", 1), told("b.test", 2), told("told.test", 3)];
        let expected = |own: &[u8], b: &[u8], alias: &[u8]| {
            vec![
                ("a.test".to_owned(), own.to_vec()),
                ("b.test".to_owned(), b.to_vec()),
                ("told.test".to_owned(), alias.to_vec()),
            ]
        };
        assert_eq!(of(all.to_vec(), &[]), expected(&[1], &[2], &[3]));
        // Of no trust domain: of ours.
        assert_eq!(of(all.to_vec(), &[(&[], 9)]), expected(&[1, 9], &[2], &[3]));
        assert_eq!(of(all.to_vec(), &[(&["b.test"], 8), (&["b.test"], 9)]), expected(&[1], &[2, 8, 9], &[3]));
        // An alias is a name of ours, unless the authority keeps roots of its own for it.
        assert_eq!(of(all.to_vec(), &[(&["old.test"], 9)]), expected(&[1, 9], &[2], &[3]));
        assert_eq!(of(all.to_vec(), &[(&["told.test"], 9)]), expected(&[1], &[2], &[3, 9]));
        let mut more = expected(&[1], &[2, 9], &[3]);
        more.push(("c.test".to_owned(), vec![9]));
        assert_eq!(of(all.to_vec(), &[(&["b.test", "c.test"], 9)]), more);
    }

    #[test]
    fn nothing_is_added_before_the_authority_has_told_our_own_roots() {
        assert_eq!(of(Vec::new(), &[(&[], 9), (&["b.test"], 9)]), []);
        assert_eq!(of(vec![told("b.test", 2)], &[(&[], 9)]), [("b.test".to_owned(), vec![2])]);
    }
}
