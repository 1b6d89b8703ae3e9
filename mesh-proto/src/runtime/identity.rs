//! Who we are and whom we trust, as handles that can be swapped while they are in use.
//!
//! In: certificates, keys and roots as PEM or DER. Out: [`Identity`] and [`RootsHandle`], which [`super::tls`] reads at
//! every handshake, and a generation that pools put in their keys.

mod mesh_tls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

pub use self::mesh_tls::MeshTls;
use super::crypto;
use super::svid::{InvalidSvid, Svid, is_authority};
use crate::model::{SpiffeId, TrustDomain};

/// Why a certificate, a key or a root cannot be used. The fault is with whoever issued or stored it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvalidCertificate {
    /// Not PEM, or without what is needed.
    #[error("{what}: {why}")]
    Pem {
        /// What was being read.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },
    /// The certificate is no SVID.
    #[error(transparent)]
    Svid(#[from] InvalidSvid),
    /// The key cannot be used, or is another certificate's.
    #[error("private key: {0}")]
    Key(rustls::Error),
    /// A root cannot be used.
    #[error("root certificate: {0}")]
    Root(rustls::Error),
    /// A new leaf of another identity cannot take this one's place.
    #[error("the certificate is {got}'s, not {expected}'s")]
    OtherIdentity {
        /// Whose the certificate is.
        got: SpiffeId,
        /// Whose it should be.
        expected: SpiffeId,
    },
}

/// A certificate with its key: immutable.
#[derive(Debug)]
pub struct Leaf {
    /// Who it is.
    pub id: SpiffeId,
    /// Not valid before.
    pub not_before: SystemTime,
    /// Not valid after.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// Chain and key as rustls takes them.
    pub certified_key: Arc<CertifiedKey>,
}

impl Leaf {
    /// From a PEM chain, leaf first, and a PEM key.
    ///
    /// # Errors
    /// When one cannot be read, is no SVID, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidCertificate> {
        let chain = read_certificates("certificate chain", chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| InvalidCertificate::Pem { what: "private key", why: e.to_string() })?;
        Self::from_der(chain, key)
    }

    /// From a DER chain, leaf first, and a DER key.
    ///
    /// # Errors
    /// When one cannot be read, is no SVID, or they do not belong together.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, InvalidCertificate> {
        let svid = Svid::parse(chain.first().ok_or(InvalidSvid::None)?)?;
        let key = crypto::provider().key_provider.load_private_key(key).map_err(InvalidCertificate::Key)?;
        let certified_key = CertifiedKey::new(chain, key);
        certified_key.keys_match().map_err(InvalidCertificate::Key)?;
        Ok(Self {
            id: svid.id,
            not_before: svid.not_before,
            not_after: svid.not_after,
            serial: svid.serial,
            certified_key: Arc::new(certified_key),
        })
    }

    /// Whether `now` is within its life.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// The roots of one trust domain.
#[derive(Debug, Clone)]
pub struct DomainRoots {
    /// As the path validation takes them.
    pub store: Arc<RootCertStore>,
    /// As they came.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The one that signs now, where the authority has said so: a leaf of another one is renewed before its time.
    pub signing: Option<CertificateDer<'static>>,
    /// Identities that are refused although their certificates are good: revoked by name.
    pub tainted: Arc<BTreeSet<SpiffeId>>,
}

impl DomainRoots {
    /// Whether certificates of `id` count for nothing.
    #[must_use]
    pub fn is_tainted(&self, id: &SpiffeId) -> bool {
        !self.tainted.is_empty() && self.tainted.contains(id)
    }
}

/// Whom we trust: the roots of each trust domain. Immutable; a domain without roots is not trusted.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    domains: BTreeMap<TrustDomain, DomainRoots>,
}

impl Roots {
    /// Nobody is trusted.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The roots of one domain from PEM.
    ///
    /// # Errors
    /// When there is no root in it, or one that cannot be used.
    pub fn from_pem(domain: &TrustDomain, pem: &[u8]) -> Result<Self, InvalidCertificate> {
        Self::none().with_domain(domain, read_certificates("root certificates", pem)?)
    }

    /// These roots with those of `domain` replaced. Whom they refuse by name they go on to refuse.
    ///
    /// # Errors
    /// When `certificates` is empty or has one that cannot be used: never silently less than asked for.
    pub fn with_domain(
        mut self,
        domain: &TrustDomain,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Self, InvalidCertificate> {
        if certificates.is_empty() {
            return Err(InvalidCertificate::Pem { what: "root certificates", why: "none".to_owned() });
        }
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(InvalidCertificate::Root)?;
        }
        let known = self.domains.get(domain);
        let tainted = known.map(|known| known.tainted.clone()).unwrap_or_default();
        let signing =
            known.and_then(|known| known.signing.clone()).filter(|root| certificates.contains(root));
        let roots = DomainRoots { store: Arc::new(store), certificates, signing, tainted };
        self.domains.insert(domain.clone(), roots);
        Ok(self)
    }

    /// These roots, with that one of `domain` known to be the one that signs now. One that is not among them is none.
    #[must_use]
    pub fn with_signing(mut self, domain: &TrustDomain, root: Option<CertificateDer<'static>>) -> Self {
        if let Some(roots) = self.domains.get_mut(domain) {
            roots.signing = root.filter(|root| roots.certificates.contains(root));
        }
        self
    }

    /// These roots, refusing `tainted` of `domain` by name, and nobody else of it.
    #[must_use]
    pub fn with_tainted(mut self, domain: &TrustDomain, tainted: BTreeSet<SpiffeId>) -> Self {
        if let Some(roots) = self.domains.get_mut(domain)
            && *roots.tainted != tainted
        {
            roots.tainted = Arc::new(tainted);
        }
        self
    }

    /// Whether certificates of `id` count for nothing, however good they are. Of aliases of a trust domain
    /// [`MeshTls::is_tainted`] knows.
    #[must_use]
    pub fn is_tainted(&self, id: &SpiffeId) -> bool {
        self.domain(id.trust_domain()).is_some_and(|roots| roots.is_tainted(id))
    }

    /// The roots of `domain`.
    #[must_use]
    pub fn domain(&self, domain: &TrustDomain) -> Option<&DomainRoots> {
        self.domains.get(domain)
    }

    /// Every trust domain that has roots.
    pub fn domains(&self) -> impl Iterator<Item = (&TrustDomain, &DomainRoots)> {
        self.domains.iter()
    }
}

/// Roots that can be swapped while TLS settings read them, and how the mesh speaks TLS. Cheap to clone; clones are the same.
#[derive(Debug, Clone)]
pub struct RootsHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    roots: ArcSwap<Roots>,
    tls: ArcSwap<MeshTls>,
    generation: AtomicU64,
    changed: watch::Sender<u64>,
}

impl RootsHandle {
    /// A handle with its first roots.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self(Arc::new(Shared {
            roots: ArcSwap::from_pointee(roots),
            tls: ArcSwap::default(),
            generation: AtomicU64::new(1),
            changed: watch::Sender::new(1),
        }))
    }

    /// The roots of now.
    #[must_use]
    pub fn get(&self) -> Arc<Roots> {
        self.0.roots.load_full()
    }

    /// New handshakes use `roots` from here on.
    pub fn swap(&self, roots: Roots) {
        self.0.roots.store(Arc::new(roots));
        self.0.bump();
    }

    /// How the mesh speaks TLS now: another value is another `Arc`.
    #[must_use]
    pub fn tls(&self) -> Arc<MeshTls> {
        self.0.tls.load_full()
    }

    /// New handshakes are spoken like that from here on.
    pub fn set_tls(&self, tls: MeshTls) {
        if **self.0.tls.load() != tls {
            self.0.tls.store(Arc::new(tls));
            self.0.bump();
        }
    }

    /// Grows with every change of these roots, of how TLS is spoken, or of a leaf of an [`Identity`] that uses them.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Tells of every change.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}

impl Shared {
    fn bump(&self) {
        self.changed.send_modify(|generation| {
            *generation += 1;
            self.generation.store(*generation, Ordering::Release);
        });
    }
}

/// Who we are, with the newest leaf. Cheap to clone; clones are the same identity.
#[derive(Debug, Clone)]
pub struct Identity(Arc<Owned>);

#[derive(Debug)]
struct Owned {
    id: SpiffeId,
    leaf: ArcSwap<Leaf>,
    roots: RootsHandle,
}

impl Identity {
    /// The identity of `leaf`, trusting `roots`.
    #[must_use]
    pub fn new(leaf: Leaf, roots: RootsHandle) -> Self {
        Self(Arc::new(Owned { id: leaf.id.clone(), leaf: ArcSwap::from_pointee(leaf), roots }))
    }

    /// Who we are: never changes.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The newest leaf.
    #[must_use]
    pub fn leaf(&self) -> Arc<Leaf> {
        self.0.leaf.load_full()
    }

    /// The newest roots.
    #[must_use]
    pub fn roots(&self) -> Arc<Roots> {
        self.0.roots.get()
    }

    /// The handle of the roots, for TLS settings.
    #[must_use]
    pub fn roots_handle(&self) -> &RootsHandle {
        &self.0.roots
    }

    /// New handshakes use `leaf` from here on; open connections stay.
    ///
    /// # Errors
    /// When it is another identity's.
    pub fn swap_leaf(&self, leaf: Leaf) -> Result<(), InvalidCertificate> {
        if leaf.id != self.0.id {
            return Err(InvalidCertificate::OtherIdentity { got: leaf.id, expected: self.0.id.clone() });
        }
        self.0.leaf.store(Arc::new(leaf));
        self.0.roots.0.bump();
        Ok(())
    }

    /// New handshakes trust `roots` from here on.
    pub fn swap_roots(&self, roots: Roots) {
        self.0.roots.swap(roots);
    }

    /// Grows with every change of leaf, roots or how TLS is spoken: part of a pool's key, so that connections of before are
    /// not used for new requests.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.roots.generation()
    }

    /// Tells of every change of leaf or roots.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.roots.changed()
    }
}

/// All certificates of a PEM text.
///
/// # Errors
/// When it is no PEM or has none.
pub fn read_certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, InvalidCertificate> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| InvalidCertificate::Pem { what, why: e.to_string() })?;
    if certificates.is_empty() {
        return Err(InvalidCertificate::Pem { what, why: "no certificate in it".to_owned() });
    }
    Ok(certificates)
}

/// All certificates of a PEM text that are to be roots: each is an authority's, and can be used as one.
///
/// # Errors
/// When it is no PEM or has none, or when one of them cannot be a root.
pub fn read_roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidCertificate> {
    let what = "root certificates";
    let certificates = read_certificates(what, pem)?;
    for (index, certificate) in certificates.iter().enumerate() {
        if !is_authority(certificate)? {
            let why = format!("the one at place {} may not sign others (no CA)", index + 1);
            return Err(InvalidCertificate::Pem { what, why });
        }
        RootCertStore::empty().add(certificate.clone()).map_err(InvalidCertificate::Root)?;
    }
    Ok(certificates)
}

/// The PEM form of a certificate (RFC 7468).
#[must_use]
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
