//! Views built from the wire: states kept, subsets, reasons, hash keys.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use mesh_proto::wire::mesh::v1 as wire;
use mesh_proto::wire::mesh::v1::hash_key::Kind as KeyKind;
use mesh_proto::wire::mesh::v1::load_balancer::Kind;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

pub(crate) fn endpoint(name: &str, ready: bool) -> wire::Endpoint {
    let last =
        name.bytes().fold(0_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b))) % 60_000 + 1;
    let version = name.split('-').next().unwrap_or_default();
    wire::Endpoint {
        uid: name.to_owned(),
        address: format!("127.0.0.1:{last}"),
        ready,
        labels: [("version".to_owned(), version.to_owned())].into(),
        ..Default::default()
    }
}

pub(crate) fn cluster(kind: Kind) -> wire::Cluster {
    let load_balancer = Some(wire::LoadBalancer { kind: Some(kind) });
    let policy = Some(wire::Policy { load_balancer, ..Default::default() });
    let subset = |name: &str| wire::Subset {
        name: name.to_owned(),
        labels: [("version".to_owned(), name.to_owned())].into(),
        policy: policy.clone(),
    };
    wire::Cluster {
        name: Some(wire::HostPort { host: "reviews".to_owned(), port: 80 }),
        subsets: vec![subset("v1"), subset("v2"), subset("v3")],
        policy: policy.clone(),
        ..Default::default()
    }
}

fn view(
    cluster: &wire::Cluster,
    endpoints: Vec<wire::Endpoint>,
    before: Option<&ClusterView>,
) -> ClusterView {
    ClusterView::build(cluster, &wire::Endpoints { endpoints }, before, &Here::default(), 1).unwrap()
}

fn round_robin() -> wire::Cluster {
    cluster(Kind::RoundRobin(wire::Empty {}))
}

#[test]
fn a_choice_counts_as_busy_until_it_is_dropped_over_a_push() {
    let mut rng = SmallRng::seed_from_u64(1);
    let first = view(&round_robin(), vec![endpoint("v1-0", true)], None);
    let picked = first.pick(None, &PickContext::default(), &mut rng).unwrap();
    let second = view(&round_robin(), vec![endpoint("v1-0", true), endpoint("v1-1", true)], Some(&first));
    let state = |view: &ClusterView, uid: &str| {
        view.endpoints().iter().find(|e| &*e.uid == uid).unwrap().state.clone()
    };
    assert_eq!(state(&second, "v1-0").active(), 1);
    drop((first, picked));
    assert_eq!((state(&second, "v1-0").active(), state(&second, "v1-0").total()), (0, 1));
    // An address that changes is still the same uid; one that has gone and come back is new.
    let mut moved = endpoint("v1-0", true);
    moved.address = "127.0.0.9:9".to_owned();
    let third = view(&round_robin(), vec![moved], Some(&second));
    assert!(Arc::ptr_eq(&state(&second, "v1-0"), &state(&third, "v1-0")));
    let fourth = view(&round_robin(), vec![endpoint("v1-1", true)], Some(&third));
    assert!(!Arc::ptr_eq(&state(&second, "v1-1"), &state(&fourth, "v1-1")));
}

#[test]
fn what_has_not_changed_is_the_same_object_after_a_push() {
    let first = view(&round_robin(), vec![endpoint("v1-0", true), endpoint("v1-1", true)], None);
    let second = view(&round_robin(), vec![endpoint("v1-1", false), endpoint("v1-0", true)], Some(&first));
    for (before, after) in first.endpoints().iter().zip(second.endpoints()) {
        assert_eq!(Arc::ptr_eq(before, after), &*before.uid == "v1-0");
        assert!(Arc::ptr_eq(&before.party, &after.party));
    }
    assert!(Arc::ptr_eq(first.service(), second.service()));
}

#[test]
fn subsets_are_those_with_the_labels() {
    let mut rng = SmallRng::seed_from_u64(1);
    let endpoints = vec![endpoint("v1-0", true), endpoint("v2-0", true), endpoint("v2-1", false)];
    let view = view(&round_robin(), endpoints, None);
    for (subset, expected) in [("v1", "v1-0"), ("v2", "v2-0")] {
        for _ in 0..10 {
            let picked = view.pick(Some(subset), &PickContext::default(), &mut rng).unwrap();
            assert_eq!(&*picked.endpoint().uid, expected);
        }
    }
}

#[test]
fn reasons_why_there_is_nobody() {
    let mut rng = SmallRng::seed_from_u64(1);
    let name = HostPort::new("reviews", 80);
    let mut pick = |cell: &ClusterCell, subset| {
        cell.pick(subset, &PickContext::default(), &mut rng)
            .map(|p| p.endpoint().uid.to_string())
            .unwrap_err()
    };
    let cell = ClusterCell::absent(name.clone());
    assert_eq!(pick(&cell, None), NoEndpoint::ClusterAbsent(name.clone()));
    let one = view(&round_robin(), vec![endpoint("v1-0", false)], None);
    cell.publish(Some(Arc::new(one)));
    assert_eq!(pick(&cell, None), NoEndpoint::NoneReady { cluster: name.clone(), known: 1 });
    assert_eq!(pick(&cell, Some("v2")), NoEndpoint::Empty(name.clone()));
    let subset = "v9".to_owned();
    assert_eq!(pick(&cell, Some("v9")), NoEndpoint::UnknownSubset { cluster: name.clone(), subset });
    let passthrough = cluster(Kind::Passthrough(wire::Empty {}));
    cell.publish(Some(Arc::new(view(&passthrough, vec![endpoint("v1-0", true)], None))));
    assert_eq!(pick(&cell, None), NoEndpoint::Passthrough(name.clone()));
    cell.publish(None);
    assert_eq!(pick(&cell, None), NoEndpoint::ClusterAbsent(name));
}

#[test]
fn a_bad_one_is_refused_by_field() {
    let refused = |cluster: &wire::Cluster, endpoint: wire::Endpoint| {
        let endpoints = wire::Endpoints { endpoints: vec![self::endpoint("v1-9", true), endpoint] };
        ClusterView::build(cluster, &endpoints, None, &Here::default(), 1).unwrap_err().to_string()
    };
    let good = || endpoint("v1-0", true);
    let cases = [
        (wire::Endpoint { uid: String::new(), ..good() }, "endpoints[1].uid: missing"),
        (
            wire::Endpoint { address: "db:80".into(), ..good() },
            "endpoints[1].address: \"db:80\" is not ip:port",
        ),
        (wire::Endpoint { uid: "v1-9".into(), ..good() }, "endpoints[1].uid: \"v1-9\" again"),
        (wire::Endpoint { mtls: true, ..good() }, "endpoints[1].identity: mtls without an identity"),
    ];
    for (endpoint, expected) in cases {
        assert_eq!(refused(&round_robin(), endpoint), expected);
    }
    let maglev = |table_size, key| Kind::Maglev(wire::Maglev { key, table_size });
    let source_ip = Some(wire::HashKey { kind: Some(KeyKind::SourceIp(wire::Empty {})) });
    let not_prime = refused(&cluster(maglev(1000, source_ip)), good());
    assert_eq!(not_prime, "policy.load_balancer.maglev.table_size: 1000 is no prime");
    assert_eq!(refused(&cluster(maglev(0, None)), good()), "policy.load_balancer.maglev.key: missing");
}

#[test]
fn defaults_are_istios() {
    let cluster = wire::Cluster { policy: None, subsets: vec![], ..round_robin() };
    let view = view(&cluster, vec![], None);
    let policy = view.policy(None).unwrap();
    assert_eq!(policy.load_balancer, LoadBalancer::LeastRequest);
    assert_eq!(
        (policy.connect_timeout, policy.idle_timeout),
        (Duration::from_secs(10), Duration::from_secs(3600))
    );
    assert_eq!((policy.tls.clone(), policy.max_requests_per_connection), (UpstreamTls::Auto, None));
}

#[test]
fn a_dump_shows_who_is_ready_and_busy() {
    let mut rng = SmallRng::seed_from_u64(1);
    let view = view(&round_robin(), vec![endpoint("v1-0", true), endpoint("v2-0", false)], None);
    let held = view.pick(None, &PickContext::default(), &mut rng).unwrap();
    let told = view.dump();
    let of =
        |uid: &str| told["endpoints"].as_array().unwrap().iter().find(|e| e["uid"] == uid).unwrap().clone();
    assert_eq!((&of("v1-0")["active"], &of("v1-0")["ready"]), (&1.into(), &true.into()));
    assert_eq!((&of("v2-0")["active"], &of("v2-0")["ready"]), (&0.into(), &false.into()));
    assert_eq!(told["subsets"]["v2"]["endpoints"], 1);
    assert_eq!(told["policy"]["load_balancer"], "RoundRobin");
    drop(held);
}

fn head(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
    build(http::Request::builder()).body(()).unwrap().into_parts().0
}

fn key(kind: KeyKind) -> HashKey {
    HashKey::new(Some(&wire::HashKey { kind: Some(kind) }), "key").unwrap()
}

#[test]
fn hash_keys() {
    let mut rng = SmallRng::seed_from_u64(1);
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    let mut hash = |key: &HashKey, head: &Parts| key.evaluate(head, ip, &mut rng).hash;
    let header = key(KeyKind::Header("x-user".into()));
    let joined = head(|r| r.header("x-user", "a").header("x-user", "b"));
    assert_eq!(hash(&header, &joined), Some(xxh64(b"a,b", 0)));
    assert_eq!(hash(&header, &head(|r| r)), None);
    let query = key(KeyKind::Query("u".into()));
    assert_eq!(hash(&query, &head(|r| r.uri("/?x=u&u=7"))), Some(xxh64(b"7", 0)));
    assert_eq!(hash(&query, &head(|r| r.uri("/?x=u"))), None);
    let source = key(KeyKind::SourceIp(wire::Empty {}));
    assert_eq!(hash(&source, &head(|r| r)), Some(xxh64(&[10, 0, 0, 1], 0)));
}

#[test]
fn cookie_keys_are_made_up_once() {
    let mut rng = SmallRng::seed_from_u64(1);
    let ip: IpAddr = "10.0.0.1".parse().unwrap();
    let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let cookie = |ttl| key(KeyKind::Cookie(wire::HashCookie { name: "u".into(), path: "/p".into(), ttl }));
    let first = cookie(ttl).evaluate(&head(|r| r), ip, &mut rng);
    let set = first.set_cookie.unwrap();
    let text = set.to_str().unwrap();
    assert!(text.ends_with("; Max-Age=60; Path=/p; HttpOnly"), "{text}");
    // The client brings it back among others.
    let pair = text.split(';').next().unwrap();
    let again = head(|r| r.header("cookie", format!("uu=1; {pair}; v=2")));
    let again = cookie(ttl).evaluate(&again, ip, &mut rng);
    assert_eq!((again.hash, again.set_cookie), (first.hash, None));
    let without = cookie(None).evaluate(&head(|r| r), ip, &mut rng);
    assert_eq!((without.hash, without.set_cookie), (None, None));
}
