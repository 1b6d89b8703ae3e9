//! The mesh's own compiler: which function of [`crate::compile`] makes which resource.

use mesh_proto::model::{HostPort, Kind, ResourceName};

use super::resources::{Compiler, Message, destination_dependents, encode, listener_dependents};
use super::stream::Subject;
use crate::compile;
use crate::snapshot::{Config, Snapshot};

/// `compile`, by name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules;

impl Compiler for Rules {
    fn compile(&self, snapshot: &Snapshot, subject: &Subject, name: &ResourceName) -> Option<Message> {
        let Snapshot { config, .. } = snapshot;
        let viewer = &subject.viewer;
        match name.kind {
            Kind::SelfConfig if name.name() == "self" => {
                let made = compile::self_config(config, &subject.pod)?;
                let asked = compile::external::cluster_of(&made.message);
                Some(encode(made, asked.into_iter().collect()))
            }
            Kind::Catalogue => {
                compile::catalogue(config, viewer, name.name()).map(|made| encode(made, Vec::new()))
            }
            Kind::Endpoints => {
                let set = snapshot.endpoints.get(&host_port(name)?)?;
                compile::endpoints(config, set).map(|made| encode(made, Vec::new()))
            }
            Kind::Cluster => {
                compile::cluster(config, viewer, &host_port(name)?).map(|made| encode(made, Vec::new()))
            }
            Kind::Destination => compile::destination(config, viewer, &host_port(name)?).map(|made| {
                let dependents = destination_dependents(&made.message);
                encode(made, dependents)
            }),
            Kind::Workload => {
                let address = name.name().parse().ok()?;
                let pod = snapshot.workloads.get(&address)?;
                compile::workload(config, pod, address).map(|made| encode(made, Vec::new()))
            }
            Kind::Listener if viewer.router => {
                let made = compile::listener(config, viewer, name.name().parse().ok()?)?;
                let dependents = listener_dependents(&made.message);
                Some(encode(made, dependents))
            }
            Kind::Secret if viewer.router => {
                compile::secret(config, viewer, name.name()).map(|made| encode(made, Vec::new()))
            }
            // Trust bundles do not come from the snapshot.
            Kind::SelfConfig | Kind::Secret | Kind::Listener | Kind::TrustBundle => None,
        }
    }

    fn implicit(&self, snapshot: &Snapshot, subject: &Subject) -> Vec<ResourceName> {
        let config: &Config = &snapshot.config;
        let namespaces = config.namespaces.keys();
        let mut names: Vec<_> = namespaces.map(|name| ResourceName::new(Kind::Catalogue, name)).collect();
        if subject.viewer.router {
            let ports = compile::listener_ports(config, &subject.viewer);
            names.extend(ports.iter().map(|port| ResourceName::new(Kind::Listener, &port.to_string())));
            let secrets = compile::secret_names(config, &subject.viewer);
            names.extend(secrets.iter().map(|name| ResourceName::new(Kind::Secret, name)));
        }
        names
    }
}

fn host_port(name: &ResourceName) -> Option<HostPort> {
    name.name().parse().ok()
}
