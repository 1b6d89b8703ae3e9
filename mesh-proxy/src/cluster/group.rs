//! The whole cluster or one subset: policy, members, and who of them gets traffic now.
//!
//! In: the policy and the members of a push, and the group before it. Out: choices. What changes between two pushes, ejection
//! and readmission, swaps [`Members::live`] and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_proto::wire::mesh::v1 as wire;
use rand::Rng;

use super::clock::Moment;
use super::limits::Limits;
use super::locality::{Here, Level};
use super::outlier::{Detector, Watch};
use super::{Endpoint, InvalidCluster, Member, Policy, locality};
use crate::balance::{Choice, Live};

/// Members under one policy.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) policy: Arc<Policy>,
    pub(super) members: Arc<Members>,
    /// Counted in every case, so that a limit that comes later finds its numbers.
    pub(super) limits: Arc<Limits>,
    pub(super) watch: Option<Arc<Watch>>,
}

/// Members, by level and share, and the choice among those that may get traffic.
#[derive(Debug)]
pub(super) struct Members {
    all: Vec<Arc<Member>>,
    policy: Arc<Policy>,
    levels: Vec<Level>,
    workers: usize,
    live: ArcSwap<Live>,
}

/// What a group is made of beside its policy and labels.
pub(super) struct Parts<'a> {
    /// Of the cluster, sorted by key.
    pub(super) endpoints: &'a [Arc<Endpoint>],
    pub(super) here: &'a Here,
    pub(super) workers: usize,
    /// Istio's name of the cluster.
    pub(super) name: &'a str,
}

impl Group {
    /// Parses. Those endpoints with all of `labels` belong to it.
    pub(super) fn new(
        policy: Option<&wire::Policy>,
        field: &str,
        labels: &BTreeMap<String, String>,
        parts: &Parts<'_>,
        previous: Option<&Self>,
    ) -> Result<Self, InvalidCluster> {
        let policy = Policy::new(policy, field)?;
        let policy = match previous {
            Some(previous) if *previous.policy == policy => previous.policy.clone(),
            _ => Arc::new(policy),
        };
        let watch = policy.outlier.map(|settings| {
            let before = previous.and_then(|p| p.watch.as_ref());
            let detector = before.map(|watch| watch.detector.clone());
            let detector = detector.unwrap_or_else(|| Arc::new(Detector::new(Moment::now())));
            Arc::new(Watch { settings, detector, cluster: parts.name.into() })
        });
        let all = members(labels, parts, watch.as_ref(), previous);
        let levels = locality::levels(policy.locality.as_ref(), parts.here, &all);
        let before = previous.map(|p| p.members.live.load());
        let live = Live::new(&levels, &all, &policy, before.as_deref().map(|live| &**live), parts.workers);
        let live = ArcSwap::from_pointee(live);
        Ok(Self {
            members: Arc::new(Members { all, policy: policy.clone(), levels, workers: parts.workers, live }),
            limits: previous.map(|p| p.limits.clone()).unwrap_or_default(),
            policy,
            watch,
        })
    }

    /// It is published: what is counted counts for these members and numbers from now on.
    pub(super) fn settle(&self) {
        if let Some(limits) = &self.policy.limits {
            self.limits.configure(limits);
        }
        if let Some(watch) = &self.watch {
            watch.detector.adopt(&self.members);
        }
    }

    /// Chooses.
    pub(super) fn choose<R: Rng>(&self, choice: &Choice<'_>, rng: &mut R) -> Option<Arc<Member>> {
        if let Some(watch) = &self.watch {
            watch.look(choice.now);
        }
        self.members.live.load().choose(choice, rng).cloned()
    }
}

/// The endpoints with all of `labels`, each with what is known of it.
fn members(
    labels: &BTreeMap<String, String>,
    parts: &Parts<'_>,
    watch: Option<&Arc<Watch>>,
    previous: Option<&Group>,
) -> Vec<Arc<Member>> {
    // Whose detector is new is well.
    let watched = previous.filter(|p| p.watch.is_some()).map(|p| p.members.all());
    let known: HashMap<&str, &Arc<Member>> =
        watched.unwrap_or_default().iter().map(|member| (&*member.uid, member)).collect();
    let belongs = |endpoint: &&Arc<Endpoint>| {
        labels.iter().all(|(name, value)| endpoint.labels.get(name) == Some(value))
    };
    let member = |endpoint: &Arc<Endpoint>| {
        Arc::new(Member {
            endpoint: endpoint.clone(),
            health: known.get(&*endpoint.uid).map(|member| member.health.clone()).unwrap_or_default(),
            watch: watch.cloned(),
        })
    };
    parts.endpoints.iter().filter(belongs).map(member).collect()
}

impl Members {
    /// Ready or not, sorted by key.
    pub(super) fn all(&self) -> &[Arc<Member>] {
        &self.all
    }

    /// Somebody was ejected or readmitted. Under the detector's lock, so that the last one wins.
    pub(super) fn refresh(&self) {
        let before = self.live.load_full();
        let live = Live::new(&self.levels, &self.all, &self.policy, Some(&before), self.workers);
        self.live.store(Arc::new(live));
    }
}
