//! The roots for everybody, in the ConfigMap `istio-ca-root-cert` of the authority's namespace.
//!
//! A root that no longer signs stays in it until the longest life of a leaf is over: leaves that it signed are still in use.
//! Until when is in an annotation, so that replicas and restarts agree. Who wants one gone at once deletes the ConfigMap:
//! it is written anew with the roots of now alone.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::identity::{InvalidCertificate, Roots, pem, read_certificates};
use rustls::pki_types::CertificateDer;

use super::api::{Failure, timed};
use crate::authority::material::{ROOT, end_of};

/// The ConfigMap (Istio's name).
pub(super) const NAME: &str = "istio-ca-root-cert";
/// Until when each root that no longer signs is kept: `{"<SHA-256>": <Unix seconds>}`.
const RETIRING: &str = "ca.mesh/retiring-roots";
/// More roots than anybody rotates through in the life of a leaf.
const MAX_ROOTS: usize = 16;

/// Why the roots are not published.
#[derive(Debug, thiserror::Error)]
#[error("ConfigMap {namespace}/{NAME}: {failure}")]
pub(super) struct NotPublished {
    namespace: String,
    failure: Failure,
}

/// What is to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bundle {
    /// Those that sign now first.
    certificates: Vec<CertificateDer<'static>>,
    retiring: BTreeMap<String, u64>,
}

impl Bundle {
    /// `current`, and of what was `published` that which may still be in use.
    fn next(
        current: &[CertificateDer<'static>],
        published: &Self,
        longest: Duration,
        now: SystemTime,
    ) -> Self {
        let mut next = Self { certificates: current.to_vec(), retiring: BTreeMap::new() };
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        for root in &published.certificates {
            let name = fingerprint(root);
            let until = published.retiring.get(&name).copied();
            let until = until.unwrap_or(seconds.saturating_add(longest.as_secs()));
            let alive = end_of(root).is_some_and(|end| now < end) && seconds < until;
            if alive && !next.certificates.contains(root) && next.certificates.len() < MAX_ROOTS {
                next.certificates.push(root.clone());
                next.retiring.insert(name, until);
            }
        }
        next
    }

    /// What a ConfigMap says. What cannot be read is not there: it is written anew.
    fn read(map: &ConfigMap) -> Self {
        let text = map.data.as_ref().and_then(|data| data.get(ROOT)).map_or("", String::as_str);
        let annotations = map.metadata.annotations.as_ref();
        let retiring = annotations.and_then(|all| all.get(RETIRING));
        Self {
            certificates: read_certificates("roots", text.as_bytes()).unwrap_or_default(),
            retiring: retiring.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        }
    }

    fn write(&self, map: &mut ConfigMap) {
        let text = self.certificates.iter().map(|root| pem(root)).collect();
        map.data.get_or_insert_default().insert(ROOT.to_owned(), text);
        if self.retiring.is_empty() {
            if let Some(annotations) = &mut map.metadata.annotations {
                annotations.remove(RETIRING);
            }
        } else {
            let text = serde_json::json!(self.retiring).to_string();
            map.metadata.annotations.get_or_insert_default().insert(RETIRING.to_owned(), text);
        }
    }

    /// As TLS takes them.
    pub(super) fn roots(&self, domain: &TrustDomain) -> Result<Roots, InvalidCertificate> {
        Roots::none().with_domain(domain, self.certificates.clone())
    }
}

/// Keeps the ConfigMap.
pub(super) struct Publisher {
    maps: Api<ConfigMap>,
    namespace: String,
    longest: Duration,
}

impl Publisher {
    /// Old roots are kept for `longest`.
    pub(super) fn new(client: Client, namespace: &str, longest: Duration) -> Self {
        Self { maps: Api::namespaced(client, namespace), namespace: namespace.to_owned(), longest }
    }

    /// Makes the ConfigMap say `current` and what is still in use. Does nothing if it does already.
    pub(super) async fn publish(
        &self,
        current: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<Bundle, NotPublished> {
        self.try_publish(current, now)
            .await
            .map_err(|failure| NotPublished { namespace: self.namespace.clone(), failure })
    }

    async fn try_publish(
        &self,
        current: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<Bundle, Failure> {
        let found = timed(self.maps.get_opt(NAME)).await?;
        let published = found
            .as_ref()
            .map_or_else(|| Bundle { certificates: Vec::new(), retiring: BTreeMap::new() }, Bundle::read);
        let bundle = Bundle::next(current, &published, self.longest, now);
        match found {
            Some(_) if published == bundle => {}
            Some(mut map) => {
                bundle.write(&mut map);
                // With its resource version: another replica's write in between makes this one fail, and be tried again.
                timed(self.maps.replace(NAME, &PostParams::default(), &map)).await?;
                tracing::info!(roots = bundle.certificates.len(), "roots published");
            }
            None => {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let mut map = ConfigMap { metadata, ..ConfigMap::default() };
                bundle.write(&mut map);
                timed(self.maps.create(&PostParams::default(), &map)).await?;
                tracing::info!(roots = bundle.certificates.len(), "roots published");
            }
        }
        Ok(bundle)
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use mesh_proto::runtime::testing::TestCa;

    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    fn empty() -> Bundle {
        Bundle { certificates: vec![], retiring: BTreeMap::new() }
    }

    #[test]
    fn an_old_root_stays_for_the_longest_life_and_not_longer() {
        let (old, new) = (TestCa::new().root_der(), TestCa::new().root_der());
        let now = SystemTime::now();
        let one = Bundle::next(std::slice::from_ref(&old), &empty(), DAY, now);
        assert_eq!(one.certificates, std::slice::from_ref(&old));
        assert!(one.retiring.is_empty());
        let two = Bundle::next(std::slice::from_ref(&new), &one, DAY, now);
        assert_eq!(two.certificates, [new.clone(), old.clone()]);
        // Time does not start again with each look.
        let later = Bundle::next(std::slice::from_ref(&new), &two, DAY, now + DAY / 2);
        assert_eq!(later, two);
        let after = Bundle::next(std::slice::from_ref(&new), &later, DAY, now + DAY);
        assert_eq!(after.certificates, std::slice::from_ref(&new));
        // Who goes back has it back.
        let back = Bundle::next(std::slice::from_ref(&old), &two, DAY, now);
        assert_eq!(back.certificates[0], old);
        assert_eq!(back.retiring.len(), 1);
    }

    #[test]
    fn what_is_written_is_read() {
        let (old, new) = (TestCa::new().root_der(), TestCa::new().root_der());
        let now = SystemTime::now();
        let one = Bundle::next(&[old], &empty(), DAY, now);
        let two = Bundle::next(&[new], &one, DAY, now);
        let mut map = ConfigMap::default();
        two.write(&mut map);
        assert_eq!(Bundle::read(&map), two);
        // What somebody else made of it is no reason to stop.
        map.data.as_mut().unwrap().insert(ROOT.to_owned(), "garbage".to_owned());
        map.metadata.annotations.as_mut().unwrap().insert(RETIRING.to_owned(), "[]".to_owned());
        assert_eq!(Bundle::read(&map), empty());
    }
}
