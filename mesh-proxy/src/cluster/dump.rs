//! A cluster as people want to see it: for `/clusters`.

use serde_json::{Value, json};

use super::group::Group;
use super::{ClusterView, Endpoint, Member, Moment, Policy, Resource};

impl ClusterView {
    /// Policy, subsets, and each endpoint with what is counted about it: for the process, whatever its number of workers.
    #[must_use]
    pub fn dump(&self) -> Value {
        let subsets = self.subsets.iter().map(|(name, group)| {
            let mut told = of_group(group);
            told["endpoints"] = group.members.all().len().into();
            (name.to_string(), told)
        });
        json!({
            "name": self.name.to_string(),
            "policy": of_group(&self.whole),
            "unresolved": self.unresolved,
            "origin": self.origin.as_ref().map(crate::route::dump_origin),
            "subsets": subsets.collect::<serde_json::Map<_, _>>(),
            "endpoints": self.endpoints.iter().map(|e| endpoint(e)).collect::<Vec<_>>(),
        })
    }
}

/// A policy, with what it has led to.
fn of_group(group: &Group) -> Value {
    let mut told = policy(&group.policy);
    if let Some(watch) = &group.watch {
        watch.look(Moment::now());
        let ejected = |member: &&std::sync::Arc<Member>| member.is_ejected();
        let ejected = group.members.all().iter().filter(ejected).map(|member| member.uid.to_string());
        told["ejected"] = ejected.collect();
    }
    if group.policy.limits.is_some() {
        let limits = &group.limits;
        let all = [
            ("connections", Resource::Connections),
            ("pending", Resource::Pending),
            ("requests", Resource::Requests),
            ("retries", Resource::Retries),
        ];
        let one = |(name, resource): (&str, Resource)| {
            let limit = Some(limits.limit(resource)).filter(|limit| *limit != u32::MAX);
            let told = json!({
                "active": limits.active(resource), "limit": limit, "refused": limits.refused(resource),
            });
            (name.to_owned(), told)
        };
        told["limits"] = all.into_iter().map(one).collect::<serde_json::Map<_, _>>().into();
    }
    told
}

fn policy(policy: &Policy) -> Value {
    json!({
        "load_balancer": format!("{:?}", policy.load_balancer),
        "connect_timeout_ms": policy.connect_timeout.as_millis(),
        "idle_timeout_ms": policy.idle_timeout.as_millis(),
        "tls": format!("{:?}", policy.tls),
        "max_requests_per_connection": policy.max_requests_per_connection,
        "outlier_detection": policy.outlier.map(|outlier| format!("{outlier:?}")),
        "locality": policy.locality.as_ref().map(|order| format!("{order:?}")),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "uid": &*endpoint.uid,
        "address": endpoint.address.to_string(),
        "identity": endpoint.identity.as_ref().map(ToString::to_string),
        "mtls": endpoint.mtls,
        "ready": endpoint.ready,
        "weight": endpoint.weight,
        "labels": endpoint.labels,
        "active": endpoint.state.active(),
        "total": endpoint.state.total(),
        "latency_ms": endpoint.state.latency.at(Moment::now()),
        "locality": [&*endpoint.locality.region, &*endpoint.locality.zone, &*endpoint.locality.subzone],
    })
}
