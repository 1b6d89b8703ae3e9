//! The whole cluster or one subset: policy, members, balancer.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::wire::mesh::v1 as wire;

use super::{Endpoint, InvalidCluster, Policy};
use crate::balance::Balancer;

/// Members under one policy.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: Policy,
    /// Ready or not.
    pub(super) known: usize,
    pub(super) balancer: Balancer,
}

impl Group {
    /// Parses. `members` are all endpoints of the cluster, sorted by key; those with all of `labels` belong to it.
    pub(super) fn new(
        policy: Option<&wire::Policy>,
        field: &str,
        labels: &BTreeMap<String, String>,
        members: &[Arc<Endpoint>],
        previous: Option<&Self>,
        workers: usize,
    ) -> Result<Self, InvalidCluster> {
        let policy = Policy::new(policy, field)?;
        let belongs = |member: &&Arc<Endpoint>| {
            labels.iter().all(|(name, value)| member.labels.get(name) == Some(value))
        };
        let members: Vec<_> = members.iter().filter(belongs).cloned().collect();
        let balancer =
            Balancer::new(&policy.load_balancer, &members, previous.map(|group| &group.balancer), workers);
        Ok(Self { policy, known: members.len(), balancer })
    }
}
