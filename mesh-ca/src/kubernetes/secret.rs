//! The signing certificate in a Secret: `cacerts` where the operator has plugged one in, else `istio-ca-secret`, which the
//! first replica creates. Source: Istio's "Plug in CA Certificates".

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use mesh_proto::model::TrustDomain;

use super::api::{Failure, timed};
use crate::authority::OpenError;
use crate::authority::material::{self, CERTIFICATE, CHAIN, KEY, Material, ROOT, Texts};

/// What the operator plugs in.
pub(super) const PLUGGED: &str = "cacerts";
/// What we create.
pub(super) const OWN: &str = "istio-ca-secret";
/// The type of the Secret that we create (Istio's).
const TYPE: &str = "istio.io/ca-root";

/// Why there is no signing certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoMaterial {
    #[error("Secret {namespace}/{name}: {failure}")]
    Api { namespace: String, name: &'static str, failure: Failure },
    #[error(transparent)]
    Bad(#[from] OpenError),
}

/// A signing certificate and where it was.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) material: Material,
    /// Which Secret in which version: the same text is the same content.
    pub(super) version: String,
}

/// Reads, and where there is none creates, the Secret.
pub(super) struct Secrets {
    secrets: Api<Secret>,
    namespace: String,
}

impl Secrets {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client, namespace), namespace: namespace.to_owned() }
    }

    /// The signing certificate that counts now, `None` if there is none.
    pub(super) async fn find(&self) -> Result<Option<Found>, NoMaterial> {
        for name in [PLUGGED, OWN] {
            if let Some(secret) = self.get(name).await? {
                return Ok(Some(self.read(name, &secret)?));
            }
        }
        Ok(None)
    }

    /// Creates a self-signed root. If another replica was faster, its root counts.
    pub(super) async fn create(&self, domain: &TrustDomain) -> Result<Found, NoMaterial> {
        let (key, root) = material::self_signed(domain).map_err(OpenError::from)?;
        let data = [(CERTIFICATE, root.clone()), (KEY, key), (ROOT, root), (CHAIN, String::new())];
        let secret = Secret {
            metadata: ObjectMeta { name: Some(OWN.to_owned()), ..ObjectMeta::default() },
            data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()),
            type_: Some(TYPE.to_owned()),
            ..Secret::default()
        };
        match timed(self.secrets.create(&PostParams::default(), &secret)).await {
            Ok(created) => {
                tracing::info!(secret = format!("{}/{OWN}", self.namespace), "created a new root");
                self.read(OWN, &created)
            }
            Err(failure) if failure.is(409) => match self.get(OWN).await? {
                Some(theirs) => self.read(OWN, &theirs),
                None => Err(self.failed(OWN, failure)),
            },
            Err(failure) => Err(self.failed(OWN, failure)),
        }
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, NoMaterial> {
        timed(self.secrets.get_opt(name)).await.map_err(|failure| self.failed(name, failure))
    }

    fn read(&self, name: &'static str, secret: &Secret) -> Result<Found, NoMaterial> {
        let place = |key: &str| format!("Secret {}/{name}, key {key}", self.namespace);
        let data = secret.data.as_ref();
        let text = |key: &str| data.and_then(|data| data.get(key)).map_or(&[][..], |value| &value.0);
        for (key, other) in [(CERTIFICATE, KEY), (KEY, CERTIFICATE)] {
            if text(key).is_empty() {
                let why = format!("missing or empty; {other} and {key} are needed");
                return Err(OpenError::Invalid { place: place(key), why }.into());
            }
        }
        let texts =
            Texts { certificate: text(CERTIFICATE), key: text(KEY), chain: text(CHAIN), root: text(ROOT) };
        let material = Material::read(texts, place)?;
        let meta = &secret.metadata;
        let version = format!(
            "{name}/{}/{}",
            meta.uid.as_deref().unwrap_or_default(),
            meta.resource_version.as_deref().unwrap_or_default()
        );
        Ok(Found { material, version })
    }

    fn failed(&self, name: &'static str, failure: Failure) -> NoMaterial {
        NoMaterial::Api { namespace: self.namespace.clone(), name, failure }
    }
}
