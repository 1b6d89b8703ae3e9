//! The inside of a pod with `--netns`: its network namespace, and how programs get there. Without, there is none.

use std::sync::Arc;

use anyhow::Context as _;

use crate::local::api::{Place, WorkloadKind};
use crate::local::context::Context;
use crate::local::hub::{self, PROXY_GROUP, PodNetns};
use crate::local::names::Owner;
use crate::local::plan::Workload;

/// A pod's namespace, with its rules in force and its names in a file. Its link goes when this is dropped.
#[derive(Debug)]
pub struct Inside {
    context: Arc<Context>,
    netns: PodNetns,
    pub place: Place,
    /// Captured by TPROXY: the application sees its clients' addresses.
    pub tproxy: bool,
}

impl Inside {
    /// Makes the inside of the pod `name`, where the mesh has namespaces.
    ///
    /// # Errors
    /// Which annotation is wrong, or what the kernel refused.
    pub async fn make(
        context: &Arc<Context>,
        workload: &Workload,
        name: &str,
        index: u8,
    ) -> anyhow::Result<Option<Self>> {
        let Some(ipv6) = context.hub.as_ref().map(|hub| hub.ipv6) else { return Ok(None) };
        let gateway = workload.kind == WorkloadKind::Gateway;
        let settings = if gateway { None } else { Some(hub::settings(&workload.template)?) };
        let tproxy = settings.as_ref().is_some_and(hub::is_tproxy);
        let shared = context.clone();
        // Programs are run meanwhile; the supervisor does not wait for them.
        let netns = tokio::task::spawn_blocking(move || {
            let hub = shared.hub.as_ref().context("a mesh with namespaces has a hub")?;
            hub.pod(&shared.network, index, settings.as_ref())
        });
        let netns = netns.await??;
        let pod_ip = context.network.pod(index);
        let place = Place {
            netns: netns.path(),
            hosts: context.dir.hosts_of(&format!("{}.{name}", workload.namespace)),
            resolver: context.dir.resolver(),
            pod_ip6: ipv6.then(|| context.network.v6(pod_ip)),
        };
        let owner = Owner {
            name: name.to_owned(),
            namespace: workload.namespace.clone(),
            ips: std::iter::once(pod_ip.into()).chain(place.pod_ip6.map(Into::into)).collect(),
        };
        let inside = Self { context: context.clone(), netns, place, tproxy };
        context
            .names
            .add(&inside.place.hosts, owner, &context.cluster_domain)
            .context("cannot write its hosts file")?;
        Ok(Some(inside))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.context.names.remove(&self.place.hosts);
        if let Some(hub) = &self.context.hub {
            hub.cut(&self.netns);
        }
    }
}

/// The words before a program of the sidecar (`internal exec ...`): inside, in the group whose traffic is not captured.
pub fn as_sidecar(place: Option<&Place>) -> Vec<String> {
    let Some(place) = place else { return Vec::new() };
    let netns = place.netns.display().to_string();
    ["--netns".to_owned(), netns, "--group".to_owned(), PROXY_GROUP.to_string()].to_vec()
}

/// The words before a program of the user: inside, with the pod's names.
pub fn as_application(place: Option<&Place>) -> Vec<String> {
    let Some(place) = place else { return Vec::new() };
    let mut words = vec!["--netns".to_owned(), place.netns.display().to_string()];
    for (file, over) in place.files() {
        words.extend(["--see".to_owned(), format!("{over}={}", file.display())]);
    }
    words
}
