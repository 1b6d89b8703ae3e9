//! What is counted about clusters, in Prometheus' text format with Envoy's names: limits and outlier detection, of those
//! clusters (and subsets) that have them.
//!
//! In: cells. Out: text, in the order of names.

use std::fmt::{self, Write};
use std::sync::Arc;

use super::group::Group;
use super::outlier::Reason;
use super::{ClusterHandle, ClusterView, Resource};

type Read = fn(&Group) -> Option<u64>;

fn outlier(group: &Group, read: fn(&super::outlier::Told) -> u64) -> Option<u64> {
    group.watch.as_ref().map(|watch| read(watch.detector.told()))
}

fn limit(group: &Group, read: impl Fn(&super::Limits) -> u64) -> Option<u64> {
    group.policy.limits.is_some().then(|| read(&group.limits))
}

/// Whether a limit is reached, as Envoy tells it.
fn open(group: &Group, resource: Resource) -> Option<u64> {
    limit(group, |limits| u64::from(limits.active(resource) >= limits.limit(resource)))
}

const FAMILIES: &[(&str, &str, &str, Read)] = &[
    ("outlier_detection_ejections_active", "gauge", "Endpoints that are ejected now.", |g| {
        outlier(g, super::outlier::Told::active)
    }),
    (
        "outlier_detection_ejections_overflow",
        "counter",
        "Ejections not allowed by maxEjectionPercent.",
        |g| outlier(g, super::outlier::Told::overflow),
    ),
    ("outlier_detection_ejections_enforced_total", "counter", "Ejections.", |g| {
        outlier(g, |told| REASONS.iter().map(|reason| told.ejections(*reason)).sum())
    }),
    ("outlier_detection_ejections_enforced_consecutive_5xx", "counter", "Ejections for 5xx.", |g| {
        outlier(g, |told| told.ejections(Reason::ServerErrors))
    }),
    (
        "outlier_detection_ejections_enforced_consecutive_gateway_failure",
        "counter",
        "Ejections for 502, 503 and 504.",
        |g| outlier(g, |told| told.ejections(Reason::GatewayErrors)),
    ),
    (
        "outlier_detection_ejections_enforced_consecutive_local_origin_failure",
        "counter",
        "Ejections for failures to connect, resets and timeouts.",
        |g| outlier(g, |told| told.ejections(Reason::LocalOrigin)),
    ),
    ("upstream_cx_active", "gauge", "Connections.", |g| limit(g, |l| l.active(Resource::Connections).into())),
    ("upstream_cx_overflow", "counter", "Times that maxConnections was reached.", |g| {
        limit(g, |l| l.refused(Resource::Connections))
    }),
    ("upstream_rq_active", "gauge", "Requests under way.", |g| {
        limit(g, |l| l.active(Resource::Requests).into())
    }),
    ("upstream_rq_pending_active", "gauge", "Requests that wait for a connection.", |g| {
        limit(g, |l| l.active(Resource::Pending).into())
    }),
    (
        "upstream_rq_pending_overflow",
        "counter",
        "Requests refused by http1MaxPendingRequests or http2MaxRequests.",
        |g| limit(g, |l| l.refused(Resource::Pending) + l.refused(Resource::Requests)),
    ),
    ("upstream_rq_retry_overflow", "counter", "Retries refused by maxRetries.", |g| {
        limit(g, |l| l.refused(Resource::Retries))
    }),
    ("circuit_breakers_default_cx_open", "gauge", "maxConnections is reached.", |g| {
        open(g, Resource::Connections)
    }),
    ("circuit_breakers_default_rq_pending_open", "gauge", "http1MaxPendingRequests is reached.", |g| {
        open(g, Resource::Pending)
    }),
    ("circuit_breakers_default_rq_open", "gauge", "http2MaxRequests is reached.", |g| {
        open(g, Resource::Requests)
    }),
    ("circuit_breakers_default_rq_retry_open", "gauge", "maxRetries is reached.", |g| {
        open(g, Resource::Retries)
    }),
];

const REASONS: [Reason; 3] = [Reason::ServerErrors, Reason::GatewayErrors, Reason::LocalOrigin];

/// All of it.
#[must_use]
pub fn render(clusters: &[ClusterHandle]) -> String {
    let views: Vec<Arc<ClusterView>> = clusters.iter().filter_map(|cell| cell.load_full()).collect();
    let groups: Vec<(String, &Group)> = views.iter().flat_map(|view| groups(view)).collect();
    let mut out = String::new();
    for family in FAMILIES {
        // Writing to a String does not fail.
        let _ = write_family(&mut out, family, &groups);
    }
    out
}

fn write_family(
    out: &mut String,
    (name, kind, help, read): &(&str, &str, &str, Read),
    groups: &[(String, &Group)],
) -> fmt::Result {
    let mut told = groups.iter().filter_map(|(cluster, group)| Some((cluster, read(group)?))).peekable();
    if told.peek().is_none() {
        return Ok(());
    }
    writeln!(out, "# HELP envoy_cluster_{name} {help}\n# TYPE envoy_cluster_{name} {kind}")?;
    for (cluster, value) in told {
        writeln!(out, "envoy_cluster_{name}{{cluster_name=\"{cluster}\"}} {value}")?;
    }
    Ok(())
}

/// The whole and the subsets, each with Istio's name.
fn groups(view: &ClusterView) -> Vec<(String, &Group)> {
    let name = |subset: &str| format!("outbound|{}|{subset}|{}", view.name.port(), view.name.host());
    let mut groups: Vec<_> = view.subsets.iter().map(|(subset, group)| (name(subset), group)).collect();
    groups.push((name(""), &view.whole));
    groups.sort_by(|(a, _), (b, _)| a.cmp(b));
    groups
}
