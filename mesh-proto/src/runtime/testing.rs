//! A throwaway authority and a throwaway token issuer for tests (feature `testing`): no test needs certificates on disk, a
//! running CA or an identity provider.

pub mod fuzz;
mod issuer;

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

pub use self::issuer::TestIssuer;
use super::crypto;
use super::identity::{Identity, Leaf, Roots, RootsHandle};
use crate::model::{SpiffeId, TrustDomain};

/// A self-signed authority of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct TestCa {
    domain: TrustDomain,
    issuer: Arc<CertifiedIssuer<'static, KeyPair>>,
}

impl TestCa {
    /// The authority of `cluster.local`.
    #[must_use]
    pub fn new() -> Self {
        Self::of("cluster.local")
    }

    /// The authority of another trust domain.
    #[must_use]
    pub fn of(domain: &str) -> Self {
        crypto::install_provider();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("test root of {domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a root");
        Self { domain: domain.parse().expect("a trust domain"), issuer: Arc::new(issuer) }
    }

    /// The root as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// The root as DER.
    #[must_use]
    pub fn root_der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// The key of the root as PEM.
    #[must_use]
    pub fn root_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Trust in this authority alone.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots::none().with_domain(&self.domain, vec![self.root_der()]).expect("a good root")
    }

    /// Trust in this authority alone, as a handle.
    #[must_use]
    pub fn roots_handle(&self) -> RootsHandle {
        RootsHandle::new(self.roots())
    }

    /// A leaf for `spiffe://<domain>/ns/<namespace>/sa/<account>`, valid for a day.
    #[must_use]
    pub fn leaf(&self, namespace: &str, account: &str) -> Leaf {
        self.leaf_for(
            &SpiffeId::new(&self.domain, namespace, account).expect("an identity"),
            Duration::from_secs(86400),
        )
    }

    /// A leaf for any identity, valid from now for `life`.
    #[must_use]
    pub fn leaf_for(&self, id: &SpiffeId, life: Duration) -> Leaf {
        let (chain, key) = self.sign(self.leaf_params(id.as_str(), life));
        Leaf::from_der(chain, key).expect("a good leaf")
    }

    /// A leaf that trusts this authority, as an identity.
    #[must_use]
    pub fn identity(&self, namespace: &str, account: &str) -> Identity {
        Identity::new(self.leaf(namespace, account), self.roots_handle())
    }

    /// What a good leaf with the URI name `uri` is made from: change it to get a bad one.
    #[must_use]
    pub fn leaf_params(&self, uri: &str, life: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(60);
        params.not_after = OffsetDateTime::now_utc() + life;
        params
    }

    /// Signs `params` with a new key: the chain, leaf first with the root last, and the key.
    #[must_use]
    pub fn sign(&self, params: CertificateParams) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        (vec![leaf.der().clone(), self.root_der()], key)
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for TestCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TestCa({})", self.domain)
    }
}
