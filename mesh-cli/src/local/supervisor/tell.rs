//! What the supervisor tells about its mesh.

use std::sync::atomic::Ordering;

use super::Supervisor;
use crate::local::api::Mesh;
use crate::local::hub::Hub;
use crate::local::process::Unit;

impl Supervisor {
    /// Everything, as it is now.
    #[must_use]
    pub fn tell(&self) -> Mesh {
        let context = &self.context;
        let plan = self.plan.lock();
        Mesh {
            name: context.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            trust_domain: context.trust_domain.clone(),
            cluster_domain: context.cluster_domain.clone(),
            network: context.network.range(),
            hub: context.hub.as_ref().map(Hub::path),
            paths: self.paths.clone(),
            ready: self.ready.load(Ordering::Relaxed),
            roots: context.dir.roots(),
            pilot_admin: context.pilot_admin(),
            workloads: self.workloads.lock().values().map(|w| w.tell()).collect(),
            gateways: plan.gateways.clone(),
            control_plane: [&self.pilot, &self.ca].map(Unit::tell).to_vec(),
            notices: plan.notices.clone(),
        }
    }
}
