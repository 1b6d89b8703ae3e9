//! The authority's roots: ConfigMap `istio-ca-root-cert` of our namespace, followed into a file.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use mesh_proto::runtime::identity::read_certificates;

use crate::source::file::last_good::write_by_rename;

/// The ConfigMap's name, in every namespace.
pub const NAME: &str = "istio-ca-root-cert";
/// Its key.
pub const KEY: &str = "root-cert.pem";
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// A watch is begun anew after this many seconds.
const WATCH_SECONDS: u32 = 60;

/// Writes the roots to `file` whenever they change. Roots that are none, and a ConfigMap that is gone, change nothing.
///
/// # Errors
/// Never: what fails is told and tried again.
pub async fn follow(client: Client, namespace: String, file: PathBuf) -> anyhow::Result<()> {
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let settings = watcher::Config::default().fields(&format!("metadata.name={NAME}")).timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api, settings));
    let mut found = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => {
                found = true;
                keep(&map, &file);
            }
            Ok(Event::InitDone) if !found => {
                tracing::warn!(namespace, name = NAME, "there are no roots yet: the authority writes them");
            }
            Ok(Event::Delete(_)) => {
                tracing::warn!(namespace, name = NAME, "the roots are gone; the known ones stay");
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => {
                tracing::warn!(%error, namespace, name = NAME, "the roots cannot be read; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    Ok(())
}

fn keep(map: &ConfigMap, file: &Path) {
    let Some(pem) = map.data.as_ref().and_then(|data| data.get(KEY)) else {
        return tracing::warn!(
            name = NAME,
            key = KEY,
            "the roots' ConfigMap lacks its key; the known ones stay"
        );
    };
    if let Err(error) = read_certificates("root certificates", pem.as_bytes()) {
        return tracing::warn!(name = NAME, %error, "the roots are none; the known ones stay");
    }
    if std::fs::read(file).is_ok_and(|known| known == pem.as_bytes()) {
        return;
    }
    match write_by_rename(file, pem.as_bytes()) {
        Ok(()) => tracing::info!(file = %file.display(), "the authority's roots"),
        Err(error) => tracing::error!(file = %file.display(), %error, "cannot write the roots"),
    }
}
