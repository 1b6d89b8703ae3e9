//! Routes, published only when everything that they name is there (make before break).
//!
//! In: parsed destinations and listeners. Out: the same, in their cells, as soon as their clusters are settled.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_proto::model::{HostPort, Kind, ResourceName};
use mesh_proto::wire::mesh::v1 as wire;

use super::clusters::Clusters;
use super::incoming::{Held, Refusal, decode};
use super::{Round, Writer};
use crate::route::Source;
use crate::store::destination::{self, Destination};
use crate::store::listener::Listener;

/// Routes ready to be published.
#[derive(Debug, Clone)]
pub(super) enum Built {
    Destination(Arc<Destination>),
    Listener(Arc<Listener>),
}

/// One version of the routes of a name.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub clusters: BTreeSet<HostPort>,
    pub built: Built,
}

/// The routes of a name: the version in force, and a newer one that waits.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub published: Option<Version>,
    pub waiting: Option<Version>,
}

impl Routes {
    /// The clusters that they name.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &HostPort> {
        self.published.iter().chain(&self.waiting).flat_map(|version| &version.clusters)
    }

    /// How many clusters the waiting version waits for.
    pub(super) fn missing(&self, clusters: &Clusters) -> usize {
        let first = self.published.is_none();
        self.waiting.as_ref().map_or(0, |version| clusters.unsettled(&version.clusters, first))
    }
}

impl Writer {
    /// Parses routes and lets them wait for what they name.
    pub(super) fn take_routes(
        &mut self,
        round: &mut Round,
        resource: super::Incoming,
    ) -> Result<(), Refusal> {
        let held = Held { version: resource.version.clone(), body: resource.body.clone() };
        let version = self.parse_routes(&resource.name, &held)?;
        // Also of rules for other proxies, whose backends the parser may leave alone: the pilot sends them.
        for name in &version.clusters {
            self.clusters.slot(name);
        }
        let routes = self.routes.entry(resource.name.clone()).or_default();
        routes.waiting = Some(version);
        self.waiting.insert(resource.name.clone());
        round.implied = true;
        self.hold(resource);
        Ok(())
    }

    /// Publishes every version whose clusters are settled.
    pub(super) fn publish(&mut self, round: &mut Round) {
        // Without the workload's labels, matches on the source would be decided wrongly.
        if self.store.self_config().is_none() {
            return;
        }
        let mut listeners = false;
        for name in std::mem::take(&mut self.waiting) {
            let Some(routes) = self.routes.get_mut(&name) else { continue };
            let first = routes.published.is_none();
            let settled = |version: &mut Version| self.clusters.are_settled(&version.clusters, first);
            let Some(version) = routes.waiting.take_if(settled) else {
                self.waiting.insert(name);
                continue;
            };
            match &version.built {
                Built::Destination(destination) => self.store.publish_destination(destination.clone()),
                Built::Listener(_) => listeners = true,
            }
            routes.published = Some(version);
            round.implied = true;
            round.lookups = true;
        }
        if listeners {
            self.publish_listeners();
        }
    }

    /// Publishes the listeners in force, by port.
    pub(super) fn publish_listeners(&self) {
        let published = self.routes.values().filter_map(|routes| routes.published.as_ref());
        let mut listeners: Vec<_> = published
            .filter_map(|version| match &version.built {
                Built::Listener(listener) => Some(listener.clone()),
                Built::Destination(_) => None,
            })
            .collect();
        listeners.sort_by_key(|listener| listener.port);
        self.store.listeners.store(Arc::new(listeners));
    }

    /// The workload's labels changed: which matches can apply here is decided again.
    pub(super) fn parse_routes_again(&mut self) {
        for name in self.routes.keys().cloned().collect::<Vec<_>>() {
            let Some(held) = self.store.held.read().get(&name).cloned() else { continue };
            match self.parse_routes(&name, &held) {
                Ok(version) => {
                    self.routes.entry(name.clone()).or_default().waiting = Some(version);
                    self.waiting.insert(name);
                }
                // It was accepted under the labels of before: those matches stay.
                Err(error) => tracing::warn!(%name, %error, "routes do not parse under the new labels"),
            }
        }
    }

    fn parse_routes(&mut self, name: &ResourceName, held: &Held) -> Result<Version, Refusal> {
        let own = self.store.self_config();
        let none = std::collections::BTreeMap::new();
        let labels = own.as_ref().map_or(&none, |own| &own.labels);
        let source = Source { labels, namespace: &self.store.place.namespace };
        let clusters = &mut self.clusters;
        if name.kind == Kind::Listener {
            let message: wire::Listener = decode(&held.body)?;
            let names = destination::clusters_of_listener(&message);
            let listener = Listener::parse(message, name.name(), &source, |c| clusters.handle(c))?;
            return Ok(Version { clusters: names, built: Built::Listener(Arc::new(listener)) });
        }
        let message: wire::Destination = decode(&held.body)?;
        let names = destination::clusters_of(&message);
        let parsed = Destination::parse(&message, name.name(), &source, |c| clusters.handle(c))?;
        Ok(Version { clusters: names, built: Built::Destination(Arc::new(parsed)) })
    }
}
