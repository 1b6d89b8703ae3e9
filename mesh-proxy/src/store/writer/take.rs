//! Taking one resource, and taking one away, kind by kind.
//!
//! In: [`Incoming`]. Out: the change in the store, or the refusal that the pilot is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::wire::mesh::v1 as wire;

use super::clusters::{Answer, Change};
use super::incoming::{Incoming, Refusal, decode};
use super::routes::Routes;
use super::{Origin, Round, Writer};
use crate::cluster::Here;
use crate::destination::Namespace;
use crate::store::self_config::SelfConfig;
use crate::store::workload::Workload;
use crate::store::{Phase, Secret};

impl Writer {
    /// Takes anything but clusters and endpoints, which come in pairs.
    pub(super) fn take(&mut self, round: &mut Round, origin: Origin, resource: Incoming) {
        let taken = match resource.name.kind {
            Kind::TrustBundle => self.take_bundle(origin, resource.clone()),
            Kind::SelfConfig => self.take_self(round, resource.clone()),
            Kind::Catalogue => self.take_catalogue(round, resource.clone()),
            // What was unsubscribed meanwhile is not wanted any more, and a sidecar has no listeners.
            Kind::Destination | Kind::Workload if !self.subscribed.contains(&resource.name) => Ok(()),
            Kind::Secret | Kind::Listener if !self.store.place.gateway => Ok(()),
            Kind::Workload => self.take_workload(round, resource.clone()),
            Kind::Secret => self.take_secret(round, resource.clone()),
            Kind::Destination | Kind::Listener => self.take_routes(round, resource.clone()),
            Kind::Endpoints | Kind::Cluster => Ok(()),
        };
        if let Err(refusal) = taken {
            self.refuse(round, &resource, &refusal);
        }
    }

    fn take_bundle(&mut self, origin: Origin, resource: Incoming) -> Result<(), Refusal> {
        let bundle: wire::TrustBundle = decode(&resource.body)?;
        self.trust.take(origin, resource.name.name(), &bundle).map_err(Refusal::Trust)?;
        self.hold(resource);
        Ok(())
    }

    fn take_self(&mut self, round: &mut Round, resource: Incoming) -> Result<(), Refusal> {
        let mut own = SelfConfig::try_from(decode::<wire::SelfConfig>(&resource.body)?)?;
        if let Some(before) = self.store.self_config() {
            own.jwt_rules.keep(&before.jwt_rules);
        }
        if let Some(external) = own.external.as_mut().and_then(Arc::get_mut) {
            external.connect(|name| self.clusters.handle(name));
        }
        // Who was asked before may be nobody's cluster any more.
        round.implied = true;
        self.trust.speak(own.tls.clone());
        let before = self.store.self_config.swap(Some(Arc::new(own)));
        let labels = self.store.self_config().map(|own| own.labels.clone());
        round.source |= before.map(|own| own.labels.clone()) != labels;
        if let Some(own) = self.store.self_config() {
            let here = Here { locality: own.locality.clone(), labels: own.labels.clone() };
            round.place |= self.clusters.stand(here);
        }
        round.lookups = true;
        self.hold(resource);
        Ok(())
    }

    fn take_catalogue(&mut self, round: &mut Round, resource: Incoming) -> Result<(), Refusal> {
        let namespace = Namespace::parse(resource.name.name(), decode(&resource.body)?)?;
        self.namespaces.insert(resource.name.name().to_owned(), namespace);
        round.names = true;
        self.hold(resource);
        Ok(())
    }

    fn take_workload(&mut self, round: &mut Round, resource: Incoming) -> Result<(), Refusal> {
        let workload = Workload::try_from(decode::<wire::Workload>(&resource.body)?)?;
        if resource.name.name().parse::<IpAddr>() != Ok(workload.address) {
            return Err(Refusal::OtherAddress);
        }
        if let Some(cell) = self.store.workloads.find(&workload.address) {
            cell.publish(Arc::new(workload));
        }
        round.lookups = true;
        self.hold(resource);
        Ok(())
    }

    /// Makes every cluster's view again out of what is held.
    pub(super) fn build_clusters_again(&mut self) {
        for name in self.clusters.names() {
            self.build_again(&name);
        }
    }

    /// Makes a cluster's view again out of what is held.
    pub(super) fn build_again(&mut self, name: &HostPort) {
        let held_cluster = self.held(Kind::Cluster, name);
        let held_endpoints = self.held(Kind::Endpoints, name);
        if held_cluster.is_some() {
            let mut change = Change { held_cluster, held_endpoints, ..Change::default() };
            self.clusters.change(name, &mut change);
        }
    }

    fn take_secret(&mut self, round: &mut Round, resource: Incoming) -> Result<(), Refusal> {
        let secret = Arc::new(Secret::try_from(decode::<wire::Secret>(&resource.body)?)?);
        self.store.change_secrets(|secrets| drop(secrets.insert(resource.name.name().to_owned(), secret)));
        round.lookups = true;
        self.hold(resource);
        Ok(())
    }

    /// Takes clusters and endpoints together, so that a change of both is one new view.
    pub(super) fn take_clusters(&mut self, round: &mut Round, resources: Vec<Incoming>) {
        let mut changes: BTreeMap<HostPort, (Change, Vec<Incoming>)> = BTreeMap::new();
        for resource in resources {
            if let Err(refusal) = stage(&mut changes, &resource) {
                self.refuse(round, &resource, &refusal);
                let name = resource.name.name().parse::<HostPort>();
                if let Some(slot) = name.ok().map(|name| self.clusters.slot(&name)) {
                    let cluster = resource.name.kind == Kind::Cluster;
                    let answer = if cluster { &mut slot.cluster } else { &mut slot.endpoints };
                    if *answer != Answer::Present {
                        *answer = Answer::Refused;
                    }
                }
            }
        }
        // A slot that no route names goes away at the end.
        round.implied |= changes.keys().any(|name| self.clusters.find(name).is_none());
        for (name, (mut change, resources)) in changes {
            change.held_cluster = self.held(Kind::Cluster, &name);
            change.held_endpoints = self.held(Kind::Endpoints, &name);
            let refused = self.clusters.change(&name, &mut change);
            if self.clusters.keeps(&name) {
                self.retiring.insert(name);
            }
            let (mut cluster, mut endpoints) = (refused.cluster, refused.endpoints);
            for resource in resources {
                let error =
                    if resource.name.kind == Kind::Cluster { cluster.take() } else { endpoints.take() };
                match error {
                    Some(error) => self.refuse(round, &resource, &Refusal::Cluster(error)),
                    None => self.hold(resource),
                }
            }
        }
    }

    /// Drops subsets that their cluster's newest version has not any more, once no route in force can name them.
    pub(super) fn retire(&mut self) {
        for name in std::mem::take(&mut self.retiring) {
            let waits = |routes: &Routes| {
                routes.waiting.is_some() && routes.published.iter().any(|v| v.clusters.contains(&name))
            };
            if self.waiting.iter().filter_map(|waiting| self.routes.get(waiting)).any(waits) {
                self.retiring.insert(name);
                continue;
            }
            let cluster = self.held(Kind::Cluster, &name);
            let held_endpoints = self.held(Kind::Endpoints, &name);
            if cluster.is_some() {
                self.clusters.change(&name, &mut Change { cluster, held_endpoints, ..Change::default() });
            }
        }
    }

    /// The message held under a name. What is held was decoded before.
    fn held<M: prost::Message + Default>(&self, kind: Kind, name: &HostPort) -> Option<M> {
        let held = self.store.held.read();
        held.get(&ResourceName::new(kind, &name.to_string())).and_then(|h| M::decode(h.body.clone()).ok())
    }

    /// It does not exist (any more).
    pub(super) fn remove(&mut self, round: &mut Round, name: &ResourceName) {
        if name.kind == Kind::SelfConfig {
            // A workload that the pilot no longer knows goes on as it was told last, and ends with its pod.
            tracing::warn!("the control plane says that this workload is gone");
            return;
        }
        self.drop_held(name);
        match name.kind {
            Kind::SelfConfig => {}
            Kind::TrustBundle => self.trust.remove(name.name()),
            Kind::Catalogue => round.names |= self.namespaces.remove(name.name()).is_some(),
            Kind::Endpoints | Kind::Cluster => self.remove_cluster(round, name),
            Kind::Workload => {
                self.store.clear_workload(name, Phase::Absent);
                round.lookups = true;
            }
            Kind::Secret => {
                self.store.change_secrets(|secrets| drop(secrets.remove(name.name())));
                round.lookups = true;
            }
            Kind::Destination | Kind::Listener => {
                self.waiting.remove(name);
                let known = self.routes.remove(name).is_some();
                if name.kind == Kind::Destination {
                    self.store.clear_destination(name, Phase::Absent);
                } else if known {
                    self.publish_listeners();
                }
                round.implied |= known;
                round.lookups = true;
            }
        }
    }

    fn remove_cluster(&mut self, round: &mut Round, name: &ResourceName) {
        let Ok(host) = name.name().parse::<HostPort>() else { return };
        if self.clusters.find(&host).is_none() {
            return;
        }
        if name.kind == Kind::Cluster {
            let slot = self.clusters.slot(&host);
            slot.cluster = Answer::Absent;
            slot.cell.publish(None);
        } else {
            let held_cluster = self.held(Kind::Cluster, &host);
            let endpoints = Some(wire::Endpoints::default());
            self.clusters.change(&host, &mut Change { endpoints, held_cluster, ..Change::default() });
            self.clusters.slot(&host).endpoints = Answer::Absent;
        }
        round.implied = true;
    }
}

fn stage(
    changes: &mut BTreeMap<HostPort, (Change, Vec<Incoming>)>,
    resource: &Incoming,
) -> Result<(), Refusal> {
    let name = resource.name.name().parse::<HostPort>().map_err(|_| Refusal::Name)?;
    // Decoded first: what cannot be is no change.
    let cluster: Option<wire::Cluster> =
        (resource.name.kind == Kind::Cluster).then(|| decode(&resource.body)).transpose()?;
    if let Some(cluster) = &cluster
        && cluster.name.as_ref().and_then(|n| HostPort::try_from(n).ok()).as_ref() != Some(&name)
    {
        return Err(Refusal::OtherName);
    }
    let endpoints = (resource.name.kind == Kind::Endpoints).then(|| decode(&resource.body)).transpose()?;
    let (change, resources) = changes.entry(name).or_default();
    change.cluster = cluster.or(change.cluster.take());
    change.endpoints = endpoints.or(change.endpoints.take());
    resources.push(resource.clone());
    Ok(())
}
