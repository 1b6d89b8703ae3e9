//! Who comes first for a client in a place: Istio's `localityLbSetting`, as priority levels and shares.
//!
//! In: the policy, where this proxy is, the members. Out: [`Level`]s, the first one preferred. Which level gets how much is
//! decided by who is healthy, in [`crate::balance`].

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_proto::wire::mesh::v1 as wire;

use super::Member;
use super::endpoint::Locality;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";

/// Where this proxy is, and its labels.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Here {
    /// Its locality.
    pub locality: Locality,
    /// Its pod's labels.
    pub labels: BTreeMap<String, String>,
}

/// A policy's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Region, zone, subzone; then the region that is named for ours, then all others.
    Nearest {
        /// From region to region.
        failover: Vec<(Box<str>, Box<str>)>,
    },
    /// The more labels are ours, from the first on, the better.
    Labels(Vec<(Box<str>, Option<Box<str>>)>),
    /// Shares for clients in a place: the first that fits.
    Shares(Vec<(Pattern, Vec<(Pattern, u32)>)>),
}

/// Some localities; an empty part is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Locality);

impl Pattern {
    fn new(text: &str) -> Self {
        let Locality { region, zone, subzone } = Locality::new(text);
        let any = |part: Box<str>| if &*part == "*" { Box::default() } else { part };
        Self(Locality { region: any(region), zone: any(zone), subzone: any(subzone) })
    }

    fn fits(&self, place: &Locality) -> bool {
        let part = |wanted: &str, there: &str| wanted.is_empty() || wanted == there;
        part(&self.0.region, &place.region)
            && part(&self.0.zone, &place.zone)
            && part(&self.0.subzone, &place.subzone)
    }

    /// How many parts are named: `a/b` comes before `a`.
    fn precision(&self) -> usize {
        [&self.0.region, &self.0.zone, &self.0.subzone].iter().filter(|part| !part.is_empty()).count()
    }
}

impl Order {
    /// Parses.
    pub(super) fn new(wire: &wire::LocalityPolicy) -> Self {
        if !wire.distribute.is_empty() {
            let shares = |shares: &wire::LocalityShares| {
                let mut to: Vec<_> = shares.to.iter().map(|(to, share)| (Pattern::new(to), *share)).collect();
                to.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.precision()));
                (Pattern::new(&shares.from), to)
            };
            return Self::Shares(wire.distribute.iter().map(shares).collect());
        }
        if !wire.failover_priority.is_empty() {
            let label = |label: &String| match label.split_once('=') {
                Some((name, value)) => (name.into(), Some(value.into())),
                None => (label.as_str().into(), None),
            };
            return Self::Labels(wire.failover_priority.iter().map(label).collect());
        }
        let failover = wire.failover.iter();
        let failover = failover.map(|to| (to.from.as_str().into(), to.to.as_str().into())).collect();
        Self::Nearest { failover }
    }
}

/// Members of one priority.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) shares: Vec<Share>,
}

/// Members that get a fixed share of their level's traffic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) weight: u32,
    /// Positions, in order.
    pub(crate) members: Vec<usize>,
}

/// All members on one level, where places make no difference.
fn alike(members: &[Arc<Member>]) -> Vec<Level> {
    vec![Level { shares: vec![Share { weight: 1, members: (0..members.len()).collect() }] }]
}

/// The levels, best first, none of them empty; at least one.
pub(super) fn levels(order: Option<&Order>, here: &Here, members: &[Arc<Member>]) -> Vec<Level> {
    let known = here.locality != Locality::default();
    let ranked = |rank: &dyn Fn(&Member) -> usize| {
        let mut by_rank: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, member) in members.iter().enumerate() {
            by_rank.entry(rank(member)).or_default().push(index);
        }
        let level = |members| Level { shares: vec![Share { weight: 1, members }] };
        by_rank.into_values().map(level).collect::<Vec<_>>()
    };
    let levels = match order {
        Some(Order::Nearest { failover }) if known => {
            ranked(&|member| distance(&here.locality, &member.locality, failover))
        }
        Some(Order::Labels(labels)) => ranked(&|member| strangeness(labels, here, member)),
        Some(Order::Shares(shares)) if known => {
            match shares.iter().find(|(from, _)| from.fits(&here.locality)) {
                Some((_, to)) => vec![shared(to, members)],
                None => alike(members),
            }
        }
        _ => alike(members),
    };
    if levels.is_empty() { alike(members) } else { levels }
}

/// 0: the same subzone; then zone, region, elsewhere; 4: elsewhere, when another region is named.
fn distance(here: &Locality, there: &Locality, failover: &[(Box<str>, Box<str>)]) -> usize {
    if here.region != there.region {
        let named = failover.iter().find(|(from, _)| *from == here.region);
        return if named.is_some_and(|(_, to)| *to != there.region) { 4 } else { 3 };
    }
    match (here.zone == there.zone, here.subzone == there.subzone) {
        (false, _) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }
}

/// How many labels are left from the first that is not ours on.
fn strangeness(labels: &[(Box<str>, Option<Box<str>>)], here: &Here, member: &Member) -> usize {
    let same = labels.iter().take_while(|(name, value)| {
        let ours = value.as_deref().or_else(|| label(name, &here.labels, &here.locality));
        ours == label(name, &member.labels, &member.locality)
    });
    labels.len() - same.count()
}

/// A label; those of places are known from the locality, too.
fn label<'a>(name: &str, labels: &'a BTreeMap<String, String>, place: &'a Locality) -> Option<&'a str> {
    let of_place = match name {
        REGION => &place.region,
        ZONE => &place.zone,
        SUBZONE => &place.subzone,
        _ => "",
    };
    labels.get(name).map(String::as_str).or(Some(of_place)).filter(|value| !value.is_empty())
}

/// Whoever fits none of the patterns gets nothing.
fn shared(to: &[(Pattern, u32)], members: &[Arc<Member>]) -> Level {
    let mut shares: Vec<Share> =
        to.iter().map(|(_, weight)| Share { weight: *weight, members: Vec::new() }).collect();
    for (index, member) in members.iter().enumerate() {
        if let Some(share) = to.iter().position(|(pattern, _)| pattern.fits(&member.locality)) {
            shares[share].members.push(index);
        }
    }
    Level { shares }
}
