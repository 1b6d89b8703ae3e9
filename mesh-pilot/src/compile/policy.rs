//! Who must use mTLS with a pod: PeerAuthentication merged, and what fails closed.
//!
//! Istio's semantics: workload over namespace over mesh (the root namespace), UNSET inherits; of several the oldest; a
//! policy with a selector in the root namespace is ignored; `portLevelMtls` counts only with a selector, by container port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_proto::crd::peer_authentication::{Mtls, MtlsMode};
use mesh_proto::crd::target_ref::{GATEWAY_CLASS, GATEWAY_NAME, Target, Whom};
use mesh_proto::crd::{self, Kind, ObjectRef, Restriction, Targets};
use mesh_proto::wire::mesh::v1 as wire;

use super::{origin, origin_of};
use crate::snapshot::{Config, Held, Note, Pod, PodService, Service};

/// A PeerAuthentication with its place in the configuration.
pub(super) type Policy = Held<Arc<crd::PeerAuthentication>>;

/// What is in force for a pod.
#[derive(Debug)]
pub(super) struct PeerPolicy {
    /// For ports that are not listed.
    pub(super) mode: wire::MtlsMode,
    /// By container port.
    pub(super) by_port: BTreeMap<u32, wire::MtlsMode>,
    /// Where the mode comes from; none: the default.
    pub(super) origin: Option<wire::Origin>,
    /// The objects that it holds.
    pub(super) revisions: Vec<u64>,
}

impl PeerPolicy {
    /// For one container port.
    pub(super) fn of_port(&self, port: u16) -> wire::MtlsMode {
        self.by_port.get(&u32::from(port)).copied().unwrap_or(self.mode)
    }
}

/// Whether a policy is for some workloads only.
pub(super) fn selects_some(policy: &Policy) -> bool {
    policy.spec.spec.selector.as_ref().is_some_and(|selector| !selector.match_labels.is_empty())
}

/// The policy of a whole namespace.
pub(super) fn of_namespace<'a>(config: &'a Config, namespace: &str) -> Option<&'a Policy> {
    let mut policies = config.peer_authentications.iter().map(AsRef::as_ref);
    policies.find(|policy| *policy.reference.namespace == *namespace && !selects_some(policy))
}

/// The policy for just this pod.
fn of_workload<'a>(config: &'a Config, pod: &Pod) -> Option<&'a Policy> {
    if pod.namespace == config.mesh.root_namespace {
        return None;
    }
    let mut policies = config.peer_authentications.iter().map(AsRef::as_ref);
    policies.find(|policy| {
        policy.reference.namespace == pod.namespace
            && selects_some(policy)
            && policy.spec.spec.selector.as_ref().is_some_and(|selector| selector.selects(&pod.labels))
    })
}

fn mode(mtls: Option<&Mtls>) -> Option<wire::MtlsMode> {
    match mtls.map(|mtls| mtls.mode) {
        None | Some(MtlsMode::Unset) => None,
        Some(MtlsMode::Disable) => Some(wire::MtlsMode::MtlsDisable),
        Some(MtlsMode::Permissive) => Some(wire::MtlsMode::MtlsPermissive),
        Some(MtlsMode::Strict) => Some(wire::MtlsMode::MtlsStrict),
    }
}

/// What is in force for a pod.
pub(super) fn peer_policy(config: &Config, pod: &Pod) -> PeerPolicy {
    if let Some(refused) = refused(config, pod, |kind| kind == Kind::PeerAuthentication) {
        return PeerPolicy {
            mode: wire::MtlsMode::MtlsStrict,
            by_port: BTreeMap::new(),
            origin: Some(refused),
            revisions: Vec::new(),
        };
    }
    let workload = of_workload(config, pod);
    let namespace = of_namespace(config, &pod.namespace);
    let mesh = of_namespace(config, &config.mesh.root_namespace);
    let levels: Vec<&Policy> = [workload, namespace, mesh].into_iter().flatten().collect();
    let said = levels.iter().find_map(|policy| Some((mode(policy.spec.spec.mtls.as_ref())?, *policy)));
    let ports = workload.into_iter().flat_map(|policy| &policy.spec.spec.port_level_mtls);
    let by_port = ports.filter_map(|(port, mtls)| Some((u32::from(*port), mode(Some(mtls))?))).collect();
    PeerPolicy {
        mode: said.map_or(wire::MtlsMode::MtlsPermissive, |(mode, _)| mode),
        by_port,
        origin: said.map(|(_, policy)| origin(policy, "spec", None)),
        revisions: levels.iter().map(|policy| policy.revision).collect(),
    }
}

/// At which of its ports a pod has a policy of `namespace`, as AuthorizationPolicy and RequestAuthentication have it: one of its
/// own namespace or of the root namespace, by its selector or by what it names. No ports at all: all of them; `None`: it is for
/// others.
pub(super) fn ports(config: &Config, namespace: &str, whom: &Whom<'_>, pod: &Pod) -> Option<BTreeSet<u32>> {
    let own = *namespace == *pod.namespace;
    if !own && *namespace != *config.mesh.root_namespace {
        return None;
    }
    if whom.targets.is_empty() {
        let selected = whom.selector.is_none_or(|selector| selector.selects(&pod.labels));
        return selected.then(BTreeSet::new);
    }
    let labelled = |label: &str, name: &str| pod.labels.get(label).is_some_and(|value| value == name);
    let mut all = BTreeSet::new();
    for target in &whom.targets {
        let everywhere = match target {
            Target::Gateway(name) => own && labelled(GATEWAY_NAME, name),
            Target::GatewayClass(name) => labelled(GATEWAY_CLASS, name),
            Target::Service(_) | Target::ServiceEntry(_) => false,
        };
        if everywhere {
            return Some(BTreeSet::new());
        }
        let of_target = |service: &&PodService| {
            let held = config.services.get(&service.host);
            held.is_some_and(|held| is_target(&held.reference, namespace, *target))
        };
        all.extend(pod.services.iter().filter(of_target).map(|service| u32::from(service.target)));
    }
    (!all.is_empty()).then_some(all)
}

/// Whether an object with services is what a policy of `namespace` names.
pub(super) fn is_target(object: &ObjectRef, namespace: &str, target: Target<'_>) -> bool {
    let (kind, name) = match target {
        Target::Service(name) => (Kind::Service, name),
        Target::ServiceEntry(name) => (Kind::ServiceEntry, name),
        Target::Gateway(_) | Target::GatewayClass(_) => return false,
    };
    object.kind == kind && *object.namespace == *namespace && *object.name == *name
}

/// The policy for a ServiceEntry whose hosts have no pods: there is nowhere to enforce it.
pub(super) fn nowhere<'a>(config: &'a Config, service: &Held<Service>) -> Option<&'a ObjectRef> {
    if service.spec.entry.is_none() || !service.spec.selector.is_empty() {
        return None;
    }
    let names = |reference: &ObjectRef, whom: &Whom<'_>| {
        whom.targets.iter().any(|target| is_target(&service.reference, &reference.namespace, *target))
    };
    let policies = config.authorization_policies.iter().filter(|policy| policy.spec.decides());
    let mut policies = policies.filter(|policy| names(&policy.reference, &policy.spec.spec.whom()));
    let mut tokens = config.request_authentications.iter();
    let found = policies.next().map(|policy| &policy.reference);
    found.or_else(|| {
        tokens.find(|held| names(&held.reference, &held.spec.spec.whom())).map(|held| &held.reference)
    })
}

/// Whom policies name, and is not there or has nowhere to enforce them.
pub(super) fn notes(config: &Config) -> Vec<Note> {
    let mut notes = Vec::new();
    let policies = config.authorization_policies.iter().map(|held| (&held.reference, held.spec.spec.whom()));
    let tokens = config.request_authentications.iter().map(|held| (&held.reference, held.spec.spec.whom()));
    for (reference, whom) in policies.chain(tokens) {
        for target in whom.targets {
            let (kind, name) = match target {
                Target::Service(name) => ("Service", name),
                Target::ServiceEntry(name) => ("ServiceEntry", name),
                Target::Gateway(_) | Target::GatewayClass(_) => continue,
            };
            let mut services = config.services.values();
            let found = services.find(|held| is_target(&held.reference, &reference.namespace, target));
            let text = match found {
                None => format!("there is no {kind} {name}: the policy is for nobody there (IST0101)"),
                Some(held) if nowhere(config, held) == Some(reference) => {
                    let host = &held.spec.host;
                    format!("{kind} {name} has no pods where it could be enforced, so nobody reaches {host}")
                }
                Some(_) => continue,
            };
            notes.push(Note { reference: reference.clone(), text, superseded: false });
        }
    }
    notes
}

/// The refused policy (of a kind that restricts otherwise than by mTLS) that was for this pod: it must let nothing in.
pub(super) fn deny_all(config: &Config, pod: &Pod) -> Option<wire::Origin> {
    refused(config, pod, |kind| kind != Kind::PeerAuthentication)
}

fn refused(config: &Config, pod: &Pod, concerns: impl Fn(Kind) -> bool) -> Option<wire::Origin> {
    let targets = |restriction: &&Restriction| {
        let Targets::Workloads(labels) = &restriction.targets else { return false };
        let namespace = &restriction.reference.namespace;
        concerns(restriction.reference.kind)
            && (*namespace == pod.namespace || *namespace == config.mesh.root_namespace)
            && crd::meta::holds_all(labels, &pod.labels)
    };
    let found = config.restrictions.iter().find(targets)?;
    Some(origin_of(&found.reference, found.location.clone(), None))
}
