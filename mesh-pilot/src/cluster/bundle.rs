//! The roots in every namespace: ConfigMap `istio-ca-root-cert`, copied by the leader from its own namespace.
//!
//! In: namespaces and the ConfigMaps of that name. Out: what to write ([`Bundle::wanting`], pure), written as one field of
//! the ConfigMap that is ours; whoever changes it finds it changed back.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::select;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use mesh_proto::runtime::identity::read_certificates;
use tokio::sync::watch;

use super::roots::{KEY, NAME};

/// Who writes, for the API server.
pub const MANAGER: &str = "mesh-pilot";
/// Where nobody needs the roots (Istio's list): no pod there is ever injected.
const SYSTEM: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];
/// After a failure; twice as long after each further one.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A watch is begun anew after this many seconds.
const WATCH_SECONDS: u32 = 60;

/// What is there.
#[derive(Debug, Default)]
struct Bundle {
    /// The authority's namespace: it writes there itself.
    own: String,
    roots: Option<String>,
    /// Namespaces that are not on their way out.
    namespaces: BTreeSet<String>,
    /// The copies, by namespace; those that lack the key are empty.
    copies: BTreeMap<String, String>,
    /// Listed as a whole; what is known while a listing is under way is not all.
    namespaces_listed: bool,
    copies_listed: bool,
}

/// What was seen.
enum Seen {
    Namespace(Event<Namespace>),
    Copy(Event<ConfigMap>),
}

impl Bundle {
    /// The namespaces whose copy is missing or another one, and what to write.
    fn wanting(&self) -> Vec<(String, String)> {
        let Some(roots) = self.roots.as_ref().filter(|_| self.namespaces_listed && self.copies_listed) else {
            return Vec::new();
        };
        let wants = |namespace: &&String| {
            **namespace != self.own
                && !SYSTEM.contains(&namespace.as_str())
                && self.copies.get(*namespace) != Some(roots)
        };
        self.namespaces.iter().filter(wants).map(|namespace| (namespace.clone(), roots.clone())).collect()
    }

    fn take(&mut self, seen: Seen) {
        match seen {
            Seen::Namespace(Event::Init) => {
                self.namespaces.clear();
                self.namespaces_listed = false;
            }
            Seen::Namespace(Event::Apply(namespace) | Event::InitApply(namespace)) => {
                let name = namespace.metadata.name.unwrap_or_default();
                if namespace.metadata.deletion_timestamp.is_some() {
                    self.namespaces.remove(&name);
                } else {
                    self.namespaces.insert(name);
                }
            }
            Seen::Namespace(Event::Delete(namespace)) => {
                let name = namespace.metadata.name.unwrap_or_default();
                self.namespaces.remove(&name);
                self.copies.remove(&name);
            }
            Seen::Copy(Event::Init) => {
                self.copies.clear();
                self.copies_listed = false;
            }
            Seen::Copy(Event::Apply(copy) | Event::InitApply(copy)) => {
                let pem = copy.data.and_then(|mut data| data.remove(KEY)).unwrap_or_default();
                let namespace = copy.metadata.namespace.unwrap_or_default();
                // Roots that are none are not spread; the good ones stay.
                if namespace == self.own && read_certificates("root certificates", pem.as_bytes()).is_ok() {
                    self.roots = Some(pem.clone());
                }
                self.copies.insert(namespace, pem);
            }
            Seen::Copy(Event::Delete(copy)) => {
                self.copies.remove(&copy.metadata.namespace.unwrap_or_default());
            }
            Seen::Namespace(Event::InitDone) => self.namespaces_listed = true,
            Seen::Copy(Event::InitDone) => self.copies_listed = true,
        }
    }
}

/// Keeps the copies for as long as we lead.
///
/// # Errors
/// Never: what fails is told and tried again.
pub async fn keep(client: Client, own: String, mut leads: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return Ok(());
        }
        tokio::select! {
            () = copy(&client, &own) => {}
            _ = leads.wait_for(|leads| !*leads) => {}
        }
    }
}

async fn copy(client: &Client, own: &str) {
    let settings = watcher::Config::default().timeout(WATCH_SECONDS);
    let named = settings.clone().fields(&format!("metadata.name={NAME}"));
    let namespaces = watcher(Api::<Namespace>::all(client.clone()), settings);
    let copies = watcher(Api::<ConfigMap>::all(client.clone()), named);
    let namespaces = namespaces.map(|event| event.map(Seen::Namespace));
    let copies = copies.map(|event| event.map(Seen::Copy));
    let mut seen = pin!(select(namespaces, copies));
    let mut bundle = Bundle { own: own.to_owned(), ..Bundle::default() };
    let mut failures = Failures::default();
    loop {
        tokio::select! {
            next = seen.next() => match next {
                None => return,
                Some(Ok(seen)) => bundle.take(seen),
                Some(Err(error)) => {
                    tracing::warn!(%error, "namespaces or their roots cannot be read; trying again");
                    tokio::time::sleep(RETRY.0).await;
                }
            },
            () = tokio::time::sleep(failures.wait), if !failures.told.is_empty() => failures.waited(),
        }
        for (namespace, roots) in bundle.wanting() {
            match write(client, &namespace, &roots).await {
                Ok(()) => {
                    tracing::info!(namespace, name = NAME, "roots written");
                    failures.told.remove(&namespace);
                    bundle.copies.insert(namespace, roots);
                }
                Err(error) if is_going(&error) => {
                    failures.told.remove(&namespace);
                    bundle.namespaces.remove(&namespace);
                }
                Err(error) => failures.tell(namespace, error.to_string()),
            }
        }
    }
}

/// Namespaces that could not be written to: told once, tried again ever less often.
struct Failures {
    told: BTreeMap<String, String>,
    wait: Duration,
}

impl Default for Failures {
    fn default() -> Self {
        Self { told: BTreeMap::new(), wait: RETRY.0 }
    }
}

impl Failures {
    fn waited(&mut self) {
        self.wait = (self.wait * 2).min(RETRY.1);
    }

    fn tell(&mut self, namespace: String, error: String) {
        if self.told.get(&namespace) != Some(&error) {
            tracing::warn!(error, namespace, name = NAME, "cannot write the roots; trying again");
            self.wait = RETRY.0;
            self.told.insert(namespace, error);
        }
    }
}

/// Only our key; other fields and keys of the ConfigMap stay whose they are.
async fn write(client: &Client, namespace: &str, roots: &str) -> Result<(), kube::Error> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let map = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "labels": {"istio.io/config": "true"}},
        "data": {KEY: roots},
    });
    api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await.map(drop)
}

/// The namespace is gone or on its way out.
fn is_going(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 404 || (status.code == 403 && status.message.contains("being terminated"))
}

#[cfg(test)]
mod tests {
    use mesh_proto::runtime::testing::TestCa;

    use super::*;

    fn namespace(name: &str, going: bool) -> Seen {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        if going {
            let now = k8s_openapi::jiff::Timestamp::now();
            namespace.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        }
        Seen::Namespace(Event::Apply(namespace))
    }

    fn copy(namespace: &str, pem: &str) -> Seen {
        let mut copy = ConfigMap::default();
        copy.metadata.namespace = Some(namespace.to_owned());
        copy.data = Some([(KEY.to_owned(), pem.to_owned())].into());
        Seen::Copy(Event::Apply(copy))
    }

    #[test]
    fn every_namespace_gets_the_roots_and_keeps_them() {
        let (old, new) = (TestCa::new().root_pem(), TestCa::new().root_pem());
        let mut bundle = Bundle { own: "istio-system".into(), ..Bundle::default() };
        for name in ["istio-system", "kube-system", "a", "b"] {
            bundle.take(namespace(name, false));
        }
        let wanting =
            |bundle: &Bundle| bundle.wanting().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(wanting(&bundle), [""; 0], "no roots yet");
        bundle.take(copy("istio-system", &old));
        assert_eq!(wanting(&bundle), [""; 0], "not all listed");
        bundle.take(Seen::Namespace(Event::InitDone));
        bundle.take(Seen::Copy(Event::InitDone));
        assert_eq!(wanting(&bundle), ["a", "b"]);
        bundle.take(copy("a", &old));
        bundle.take(copy("b", &old));
        assert_eq!(wanting(&bundle), [""; 0]);
        bundle.take(copy("b", "tampered with"));
        assert_eq!(wanting(&bundle), ["b"]);
        bundle.take(namespace("b", true));
        assert_eq!(wanting(&bundle), [""; 0], "on its way out");
        bundle.take(copy("istio-system", "garbage"));
        assert_eq!(wanting(&bundle), [""; 0], "what is no root is not spread");
        bundle.take(copy("istio-system", &new));
        assert_eq!(bundle.wanting(), [("a".to_owned(), new)]);
    }
}
