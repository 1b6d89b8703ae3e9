//! Which tokens a pod takes: the RequestAuthentications that are for it, for the wire. In: configuration and a pod. Out: its
//! rules by issuer, and the revisions that they hold.
//!
//! Istio's semantics: the rules of all that select the pod, in its namespace and in the root namespace, count together. Those for
//! a Service are for all ports of its pods: a token that is wrong is wrong at each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_proto::crd;
use mesh_proto::crd::request_authentication::JwtRule;
use mesh_proto::wire::mesh::v1 as wire;

use super::{origin, policy};
use crate::keys::{self, KeySource, Want, Wanted};
use crate::snapshot::{Config, Held, Pod};

type Authentication = Held<Arc<crd::RequestAuthentication>>;

/// The rules of a pod, with the revisions of their objects.
pub(super) fn jwt_rules(config: &Config, pod: &Pod) -> (Vec<wire::JwtRule>, Vec<u64>) {
    let mut found: Vec<&Authentication> = config
        .request_authentications
        .iter()
        .map(AsRef::as_ref)
        .filter(|authentication| is_for(config, authentication, pod))
        .collect();
    found.sort_by(|a, b| a.reference.cmp(&b.reference));
    let mut rules: Vec<_> = found.iter().flat_map(|authentication| of(config, authentication)).collect();
    // Those of one issuer keep their order.
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    (rules, found.iter().map(|authentication| authentication.revision).collect())
}

fn is_for(config: &Config, authentication: &Authentication, pod: &Pod) -> bool {
    let whom = authentication.spec.spec.whom();
    policy::ports(config, &authentication.reference.namespace, &whom, pod).is_some()
}

fn of(config: &Config, authentication: &Authentication) -> impl Iterator<Item = wire::JwtRule> {
    let rules = authentication.spec.spec.jwt_rules.iter().enumerate();
    rules.map(|(index, rule)| {
        let path = format!("spec.jwtRules[{index}]");
        wire::JwtRule {
            origin: Some(origin(authentication, &path, Some(index))),
            jwks: keys(config, rule),
            key_source: KeySource::of(rule).map(|source| source.to_string()).unwrap_or_default(),
            keys_unknown: unknown(config, rule),
            ..on_wire(rule)
        }
    })
}

/// A rule's own keys, or those that have been fetched; none yet: no token is valid.
fn keys(config: &Config, rule: &JwtRule) -> Bytes {
    // Checked when it was accepted; only the keys themselves go on.
    let own = || {
        mesh_proto::model::jwks::usable(rule.jwks.as_deref().unwrap_or_default().as_bytes())
            .unwrap_or_default()
            .into()
    };
    match KeySource::of(rule) {
        None => own(),
        Some(source) => config.keys.get(&source).and_then(|keys| keys.good.clone()).unwrap_or_default(),
    }
}

/// Whether its keys have not been had yet: a pilot that has just begun takes nothing away from proxies that have them.
fn unknown(config: &Config, rule: &JwtRule) -> bool {
    let Some(source) = KeySource::of(rule) else { return false };
    config.keys.get(&source).is_none_or(|keys| keys.good.is_none() && !keys.given_up)
}

/// Where the keys of all rules come from, but for those that have them with them: so many of each namespace, and of all. Those
/// that there are good keys of come first: a new one takes nobody's place.
#[must_use]
pub fn key_sources(config: &Config) -> Wanted {
    let mut all = Wanted::new();
    for held in &config.request_authentications {
        for rule in &held.spec.spec.jwt_rules {
            let Some(source) = KeySource::of(rule) else { continue };
            let none = || Want { namespaces: BTreeSet::new(), timeout: Duration::ZERO };
            let want = all.entry(source).or_insert_with(none);
            want.namespaces.insert(held.reference.namespace.clone());
            want.timeout = want.timeout.max(rule.fetch_timeout());
        }
    }
    let chosen: BTreeSet<KeySource> = chosen(config, &all).into_iter().cloned().collect();
    all.retain(|source, _| chosen.contains(source));
    all
}

/// In turn from each namespace that wants some.
fn chosen<'a>(config: &Config, all: &'a Wanted) -> Vec<&'a KeySource> {
    let new = |source: &KeySource| config.keys.get(source).is_none_or(|keys| keys.good.is_none());
    let mut by_namespace: BTreeMap<&str, Vec<(bool, &KeySource)>> = BTreeMap::new();
    for (source, want) in all {
        for namespace in &want.namespaces {
            by_namespace.entry(namespace).or_default().push((new(source), source));
        }
    }
    let mut places: BTreeMap<&KeySource, usize> = BTreeMap::new();
    for sources in by_namespace.values_mut() {
        sources.sort_unstable();
        for (place, (_, source)) in sources.iter().enumerate().take(keys::MAX_OF_NAMESPACE) {
            let best = places.entry(source).or_insert(place);
            *best = place.min(*best);
        }
    }
    let mut found: Vec<_> = places.into_iter().collect();
    found.sort_by_key(|(source, place)| (new(source), *place));
    found.into_iter().take(keys::MAX_SOURCES).map(|(source, _)| source).collect()
}

fn on_wire(rule: &JwtRule) -> wire::JwtRule {
    let lower = |name: &String| name.to_ascii_lowercase();
    wire::JwtRule {
        origin: None,
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        jwks: Bytes::new(),
        from_headers: rule
            .from_headers
            .iter()
            .map(|header| wire::JwtHeader {
                name: lower(&header.name),
                prefix: header.prefix.clone().unwrap_or_default(),
            })
            .collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        output_payload_to_header: rule.output_payload_to_header.as_ref().map(lower).unwrap_or_default(),
        output_claims: rule
            .output_claim_to_headers
            .iter()
            .map(|told| wire::ClaimToHeader { header: lower(&told.header), claim: told.claim.clone() })
            .collect(),
        forward_original_token: rule.forward_original_token.unwrap_or(false),
        space_delimited_claims: rule.space_delimited_claims.clone(),
        key_source: String::new(),
        keys_unknown: false,
    }
}
