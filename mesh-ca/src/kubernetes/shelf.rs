//! On a cluster: the signing certificate and the state in Secrets, the roots in a ConfigMap.
//!
//! `cacerts` is the operator's and never written, `istio-ca-secret` is ours (Istio's "Plug in CA Certificates" names both).
//! `mesh-ca-state` holds the state, and the key of a root that is prepared. Every write names the version that it replaces,
//! so that replicas never undo each other's.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use mesh_proto::runtime::identity::pem;
use rustls::pki_types::CertificateDer;

use super::api::{Failure, timed};
use crate::authority::OpenError;
use crate::authority::material::{CERTIFICATE, CHAIN, KEY, Material, ROOT, Texts};
use crate::rotation::State;
use crate::shelf::{Found, Kept, NotKept, read_state};

/// What the operator plugs in.
pub(super) const PLUGGED: &str = "cacerts";
/// What we create.
pub(super) const OWN: &str = "istio-ca-secret";
/// What else we remember.
pub(super) const STATE: &str = "mesh-ca-state";
/// Its key.
const STATE_KEY: &str = "state.json";
/// The roots for everybody (Istio's name).
pub(super) const ROOTS: &str = "istio-ca-root-cert";
/// The type of the Secret that we create (Istio's).
const TYPE: &str = "istio.io/ca-root";

/// Reads and writes them.
pub struct Secrets {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    namespace: String,
}

impl Secrets {
    /// Those of `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            maps: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
        }
    }

    pub(crate) async fn find(&self) -> Result<Option<Found>, NotKept> {
        for name in [PLUGGED, OWN] {
            if let Some(secret) = self.get(name).await? {
                return Ok(Some(self.read(name, &secret)?));
            }
        }
        Ok(None)
    }

    pub(crate) async fn create(&self, certificate: &str, key: &str) -> Result<Found, NotKept> {
        let secret = filled(new(OWN), certificate, key);
        match timed(self.secrets.create(&PostParams::default(), &secret)).await {
            Ok(created) => {
                tracing::info!(secret = format!("{}/{OWN}", self.namespace), "created a new root");
                self.read(OWN, &created)
            }
            Err(failure) if failure.is(409) => match self.get(OWN).await? {
                Some(theirs) => self.read(OWN, &theirs),
                None => Err(self.failed("Secret", OWN, failure)),
            },
            Err(failure) => Err(self.failed("Secret", OWN, failure)),
        }
    }

    pub(crate) async fn replace(&self, certificate: &str, key: &str, over: &str) -> Result<(), NotKept> {
        let conflict = || NotKept::Conflict(format!("Secret {}/{OWN}", self.namespace));
        let secret = self.get(OWN).await?.ok_or_else(conflict)?;
        if version(OWN, &secret.metadata) != over {
            return Err(conflict());
        }
        let secret = filled(secret, certificate, key);
        let written = timed(self.secrets.replace(OWN, &PostParams::default(), &secret)).await;
        written.map(drop).map_err(|failure| self.failed("Secret", OWN, failure))
    }

    pub(crate) async fn state(&self) -> Result<Kept, NotKept> {
        let Some(secret) = self.get(STATE).await? else { return Ok(Kept::default()) };
        let text = secret.data.as_ref().and_then(|data| data.get(STATE_KEY));
        let place = format!("Secret {}/{STATE}, key {STATE_KEY}", self.namespace);
        // Nothing where something was is no empty state: whoever is revoked would not be any more.
        let Some(ByteString(text)) = text else {
            return Err(OpenError::Invalid { place, why: "there is no such key".to_owned() }.into());
        };
        let state = read_state(place, text)?;
        Ok(Kept { state, version: secret.metadata.resource_version })
    }

    pub(crate) async fn save(&self, state: &State, over: &Kept) -> Result<Kept, NotKept> {
        let text = serde_json::to_vec(state).map_err(|e| OpenError::Unusable(e.to_string()))?;
        let mut secret = new(STATE);
        secret.data = Some([(STATE_KEY.to_owned(), ByteString(text))].into());
        secret.metadata.resource_version.clone_from(&over.version);
        let written = match over.version {
            None => timed(self.secrets.create(&PostParams::default(), &secret)).await,
            Some(_) => timed(self.secrets.replace(STATE, &PostParams::default(), &secret)).await,
        };
        let written = written.map_err(|failure| self.failed("Secret", STATE, failure))?;
        Ok(Kept { state: state.clone(), version: written.metadata.resource_version })
    }

    pub(crate) async fn publish(&self, roots: &[CertificateDer<'static>]) -> Result<(), NotKept> {
        let text: String = roots.iter().map(|root| pem(root)).collect();
        let failed = |failure| self.failed("ConfigMap", ROOTS, failure);
        let found = timed(self.maps.get_opt(ROOTS)).await.map_err(failed)?;
        let told = found.as_ref().and_then(|map| map.data.as_ref()?.get(ROOT));
        if told == Some(&text) {
            return Ok(());
        }
        let exists = found.is_some();
        let metadata = ObjectMeta { name: Some(ROOTS.to_owned()), ..ObjectMeta::default() };
        let mut map = found.unwrap_or(ConfigMap { metadata, ..ConfigMap::default() });
        map.data.get_or_insert_default().insert(ROOT.to_owned(), text);
        let written = match exists {
            true => timed(self.maps.replace(ROOTS, &PostParams::default(), &map)).await,
            false => timed(self.maps.create(&PostParams::default(), &map)).await,
        };
        written.map_err(failed)?;
        tracing::info!(roots = roots.len(), "roots published");
        Ok(())
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, NotKept> {
        timed(self.secrets.get_opt(name)).await.map_err(|failure| self.failed("Secret", name, failure))
    }

    fn read(&self, name: &'static str, secret: &Secret) -> Result<Found, NotKept> {
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
        Ok(Found { material, version: version(name, &secret.metadata), plugged: name == PLUGGED })
    }

    fn failed(&self, kind: &str, name: &str, failure: Failure) -> NotKept {
        let place = format!("{kind} {}/{name}", self.namespace);
        match failure.is(409) {
            true => NotKept::Conflict(place),
            false => NotKept::Api { place, why: failure.to_string() },
        }
    }
}

fn new(name: &str) -> Secret {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let type_ = (name == OWN).then(|| TYPE.to_owned());
    Secret { metadata, type_, ..Secret::default() }
}

fn filled(mut secret: Secret, certificate: &str, key: &str) -> Secret {
    let texts = [(CERTIFICATE, certificate), (KEY, key), (ROOT, certificate), (CHAIN, "")];
    let texts = texts.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())));
    secret.data.get_or_insert_default().extend(texts);
    secret
}

fn version(name: &str, meta: &ObjectMeta) -> String {
    let uid = meta.uid.as_deref().unwrap_or_default();
    format!("{name}/{uid}/{}", meta.resource_version.as_deref().unwrap_or_default())
}
