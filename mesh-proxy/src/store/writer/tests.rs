//! Stories of responses: what is in force after each.

use std::sync::Arc;

use mesh_proto::model::HostPort;
use mesh_proto::runtime::identity::RootsHandle;
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::wire::mesh::v1 as wire;
use rand::SeedableRng as _;

use super::*;
use crate::cluster::{ClusterView, PickContext};
use crate::destination::{Lookup, Resolved, Traffic};
use crate::store::Demand;
use crate::store::testing::*;

const A: &str = "a.test:80";
const B: &str = "b.test:80";
const C: &str = "c.test:80";

/// A sidecar that serves A by cluster A.
fn serving() -> World {
    let mut world = world(false);
    world.want(A);
    let first = vec![
        destination(A, &[A]),
        cluster(A),
        endpoints(A, &["10.0.0.1:80"]),
        self_config(&[("app", "client")]),
    ];
    assert_eq!(world.apply(first, &[]), Vec::<String>::new());
    assert_eq!(world.routes(A), Some(vec![A.into()]));
    world
}

fn view(world: &World, name: &str) -> Option<Arc<ClusterView>> {
    let name: HostPort = name.parse().unwrap();
    world.writer.clusters.find(&name).and_then(|slot| slot.cell.load_full())
}

fn held(world: &World) -> Vec<String> {
    world.writer.versions().into_keys().collect()
}

fn refused(world: &World, name: &str) -> String {
    let rejected = world.store.refused().into_iter().find(|r| r.resource == name);
    rejected.map(|r| r.reason).unwrap_or_default()
}

#[test]
fn a_new_version_waits_for_what_it_names() {
    let mut world = serving();
    world.apply(vec![destination(A, &[B, C])], &[]);
    assert_eq!(world.routes(A), Some(vec![A.into()]), "nothing of b and c is there");
    world.apply(vec![cluster(B), endpoints(B, &["10.0.0.2:80"]), cluster(C)], &[]);
    assert_eq!(world.routes(A), Some(vec![A.into()]), "c's endpoints are not there");
    assert!(view(&world, A).is_some(), "the old one serves until then");
    let before = world.store.generation();
    world.apply(vec![endpoints(C, &["10.0.0.3:80"])], &[]);
    assert_eq!(world.routes(A), Some(vec![B.into(), C.into()]));
    assert!(world.store.generation() > before);
    assert!(view(&world, A).is_none(), "nothing names it any more");
}

#[test]
fn a_subset_stays_until_no_route_in_force_names_it() {
    let with = |names: &[&str]| {
        let subset = |name: &&str| wire::Subset { name: (*name).to_owned(), ..Default::default() };
        let subsets = names.iter().map(subset).collect();
        resource("cluster/a.test:80", &wire::Cluster { subsets, ..cluster_message(A) })
    };
    let subsets = |world: &World| {
        let mut names: Vec<_> = view(world, A).unwrap().subsets().map(str::to_owned).collect();
        names.sort();
        names
    };
    let mut world = serving();
    world.apply(vec![with(&["v1", "v2"])], &[]);
    // The new routes name what is not there yet: the old ones, which may name v1, serve.
    world.apply(vec![with(&["v2", "v3"]), destination(A, &[A, B])], &[]);
    assert_eq!(subsets(&world), ["v1", "v2", "v3"]);
    // Whatever else happens meanwhile.
    world.apply(vec![endpoints(A, &["10.0.0.5:80"])], &[]);
    assert_eq!(subsets(&world), ["v1", "v2", "v3"]);
    world.apply(vec![with(&["v3"])], &[]);
    assert_eq!(subsets(&world), ["v1", "v2", "v3"]);
    world.apply(vec![with(&["v2", "v3"])], &[]);
    assert_eq!(subsets(&world), ["v1", "v2", "v3"]);
    world.apply(vec![cluster(B), endpoints(B, &[])], &[]);
    assert_eq!(subsets(&world), ["v2", "v3"]);
    // Nothing waits: gone at once.
    world.apply(vec![with(&["v3"])], &[]);
    assert_eq!(subsets(&world), ["v3"]);
}

#[test]
fn answered_absent_is_there_enough() {
    let mut world = serving();
    world.apply(vec![destination(A, &[B, C]), cluster(C)], &["cluster/b.test:80", "endpoints/b.test:80"]);
    assert_eq!(world.routes(A), Some(vec![A.into()]));
    world.apply(vec![], &["endpoints/c.test:80"]);
    assert_eq!(world.routes(A), Some(vec![B.into(), C.into()]));
    assert!(view(&world, B).is_none());
    assert_eq!(view(&world, C).unwrap().endpoints().len(), 0);
}

#[test]
fn both_sides_forget_what_no_route_names() {
    let mut world = serving();
    assert_eq!(
        held(&world),
        ["cluster/a.test:80", "destination/a.test:80", "endpoints/a.test:80", "self/self"]
    );
    world.apply(vec![destination(A, &[B]), cluster(B), endpoints(B, &[])], &[]);
    assert_eq!(
        held(&world),
        ["cluster/b.test:80", "destination/a.test:80", "endpoints/b.test:80", "self/self"]
    );
    // Endpoints that nothing implies are not kept either.
    world.apply(vec![cluster(C), endpoints(C, &[])], &[]);
    assert_eq!(held(&world).len(), 4);
    world.apply(vec![], &["destination/a.test:80"]);
    assert_eq!(held(&world), ["self/self"]);
}

#[test]
fn an_endpoint_change_swaps_one_cell_and_keeps_states() {
    let mut world = serving();
    world.want(B);
    world.apply(vec![destination(B, &[B]), cluster(B), endpoints(B, &["10.0.0.2:80"])], &[]);
    let (a, b) = (view(&world, A).unwrap(), view(&world, B).unwrap());
    let routes = world.store.destination(&A.parse().unwrap()).unwrap().load_full().unwrap();
    let generation = world.store.generation();
    let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
    let busy = a.pick(None, &PickContext::default(), &mut rng).unwrap();

    world.apply(vec![endpoints(A, &["10.0.0.1:80", "10.0.0.9:80"])], &[]);
    let after = view(&world, A).unwrap();
    assert_eq!(after.endpoints().len(), 2);
    let same = after.endpoints().iter().find(|e| &*e.uid == "pod-10.0.0.1:80").unwrap();
    assert!(Arc::ptr_eq(&same.state, &busy.endpoint().state), "the same uid is the same state");
    assert_eq!(same.state.active(), 1);
    assert!(Arc::ptr_eq(&b, &view(&world, B).unwrap()), "no other cell is touched");
    let routes_after = world.store.destination(&A.parse().unwrap()).unwrap().load_full().unwrap();
    assert!(Arc::ptr_eq(&routes, &routes_after));
    assert_eq!(world.store.generation(), generation, "no look-up has another answer");
}

#[test]
fn a_bad_resource_is_refused_by_name_and_the_rest_applies() {
    let mut world = serving();
    let newer = wire::Destination { requires: vec!["quantum".into()], ..destination_message(A, &[B]) };
    let rejected = world.apply(
        vec![
            resource("destination/a.test:80", &newer),
            catalogue("default", &[("a.default.svc.cluster.local", "10.0.0.1", 80)]),
            catalogue("bad", &[("a.bad.svc.cluster.local", "ten", 80)]),
            endpoints(A, &["10.0.0.7:80"]),
        ],
        &[],
    );
    assert_eq!(rejected, ["destination/a.test:80", "catalogue/bad"]);
    assert!(refused(&world, "destination/a.test:80").contains("\"quantum\""));
    assert_eq!(world.routes(A), Some(vec![A.into()]), "the previous version stays");
    assert_eq!(world.store.catalogue().len(), 1);
    assert_eq!(&*view(&world, A).unwrap().endpoints()[0].uid, "pod-10.0.0.7:80");
    // The version in force is the one that is told when the stream resumes.
    let before = destination(A, &[A]).version.to_string();
    assert_eq!(world.writer.versions()["destination/a.test:80"], before);
    // A good one takes the mark away.
    world.apply(vec![destination(A, &[A])], &[]);
    assert_eq!(refused(&world, "destination/a.test:80"), "");
}

#[test]
fn every_kind_says_what_is_wrong() {
    let mut world = serving();
    let bad_self = wire::SelfConfig { identity: "spiffe://x".into(), ..Default::default() };
    let bad_mode = wire::SelfConfig {
        identity: "spiffe://cluster.local/ns/default/sa/client".into(),
        mtls: 7,
        ..Default::default()
    };
    let other = Incoming { name: "destination/a.test:80".parse().unwrap(), ..destination(B, &[A]) };
    let other_cluster = Incoming { name: "cluster/a.test:80".parse().unwrap(), ..cluster(B) };
    let cases = [
        (resource("self/self", &bad_self), "identity"),
        (resource("self/self", &bad_mode), "mtls"),
        (other, "b.test:80 in the resource of a.test:80"),
        (other_cluster, "not that of the resource"),
        (endpoints(A, &["nowhere"]), "nowhere"),
        (resource("cluster/a.test:80", &wire::Cluster { protocol: 99, ..cluster_message(A) }), "protocol"),
        (resource("endpoints/nothing", &wire::Endpoints::default()), "host:port"),
        (resource("trust_bundle/x", &wire::TrustBundle::default()), "trust domain"),
    ];
    for (resource, reason) in cases {
        let name = resource.name.to_string();
        assert_eq!(world.apply(vec![resource], &[]).concat(), name, "{reason}");
        assert!(refused(&world, &name).contains(reason), "{name}: {}", refused(&world, &name));
    }
    let broken = Incoming { body: b"\xff\xff".as_slice().into(), ..cluster(A) };
    assert_eq!(world.apply(vec![broken], &[]), ["cluster/a.test:80"]);
    // All of it left in force what was.
    assert_eq!(world.routes(A), Some(vec![A.into()]));
    assert_eq!(view(&world, A).unwrap().endpoints().len(), 1);
}

#[test]
fn bad_endpoints_do_not_take_a_good_cluster_along() {
    let mut world = serving();
    let strange = wire::Cluster { protocol: 3, ..cluster_message(A) };
    let strange = resource("cluster/a.test:80", &strange);
    assert_eq!(world.apply(vec![strange.clone(), endpoints(A, &["nowhere"])], &[]), ["endpoints/a.test:80"]);
    assert_eq!(world.writer.versions()["cluster/a.test:80"], *strange.version);
    assert_eq!(view(&world, A).unwrap().protocol(), mesh_proto::model::Protocol::Grpc);
    assert_eq!(view(&world, A).unwrap().endpoints().len(), 1);
    // And the other way round.
    let bad = resource("cluster/a.test:80", &wire::Cluster { protocol: 99, ..cluster_message(A) });
    assert_eq!(world.apply(vec![bad, endpoints(A, &[])], &[]), ["cluster/a.test:80"]);
    assert_eq!(view(&world, A).unwrap().endpoints().len(), 0);
}

#[test]
fn one_refused_backend_does_not_keep_a_first_version_from_serving_the_others() {
    let mut world = serving();
    world.want(B);
    let bad = resource("cluster/c.test:80", &wire::Cluster { protocol: 99, ..cluster_message(C) });
    world.apply(vec![destination(B, &[B, C]), cluster(B), endpoints(B, &[]), bad, endpoints(C, &[])], &[]);
    assert_eq!(world.routes(B), Some(vec![B.into(), C.into()]));
    assert_ne!(refused(&world, "cluster/c.test:80"), "");
    // A newer version has an older one that serves: it waits for what can be used.
    let bad = resource("cluster/c.test:80", &wire::Cluster { protocol: 99, ..cluster_message(C) });
    world.apply(vec![destination(A, &[C])], &[]);
    world.apply(vec![bad], &[]);
    assert_eq!(world.routes(A), Some(vec![A.into()]));
}

#[test]
fn matches_on_the_source_follow_the_labels() {
    let mut world = serving();
    let mut message = destination_message(A, &[B, A]);
    message.http.as_mut().unwrap().rules[0].matches = vec![wire::Match {
        source_labels: [("tier".to_owned(), "front".to_owned())].into(),
        ..Default::default()
    }];
    world.apply(vec![resource("destination/a.test:80", &message), cluster(B), endpoints(B, &[])], &[]);
    assert_eq!(world.routes(A), Some(vec![A.into()]), "the rule is for other workloads");
    assert!(view(&world, B).is_some(), "but the pilot sends what it names");
    world.apply(vec![self_config(&[("tier", "front")])], &[]);
    assert_eq!(world.routes(A), Some(vec![B.into(), A.into()]));
}

#[test]
fn nothing_is_routed_before_the_workload_is_known() {
    let mut world = world(false);
    world.want(A);
    world.apply(vec![destination(A, &[A]), cluster(A), endpoints(A, &[])], &[]);
    assert_eq!(world.routes(A), None);
    world.apply(vec![self_config(&[])], &[]);
    assert_eq!(world.routes(A), Some(vec![A.into()]));
}

/// A pilot that was killed is back within seconds: who asks meanwhile waits for it, also who asked just before, but nobody longer
/// than that, however often it goes. One that stays away is waited for no longer than one that is silent.
#[tokio::test(start_paused = true)]
async fn a_demand_waits_for_a_pilot_that_has_just_gone() {
    use crate::store::{FIRST_ANSWER, RESTART};
    let mut world = world(false);
    world.apply(vec![self_config(&[])], &[]);
    let store = world.store.clone();
    let demand = async |name: &str| {
        let (started, name): (_, HostPort) = (Instant::now(), name.parse().unwrap());
        let answer = store.demand(&name).await.map(drop);
        assert_eq!(answer, Err(Demand::Timeout(format!("destination/{name}").parse().unwrap())));
        started.elapsed()
    };
    let lose = async |after: Duration| {
        tokio::time::sleep(after).await;
        store.lost_control_plane();
    };
    let second = Duration::from_secs(1);
    let ((), waited) = tokio::join!(lose(second), demand("a.test:80"));
    assert_eq!(waited, RESTART, "it asked before the loss");
    lose(Duration::ZERO).await;
    tokio::time::sleep(second * 3).await;
    let ((), waited) = tokio::join!(lose(second * 4), demand("b.test:80"));
    assert_eq!(waited, RESTART, "it was lost again");
    lose(Duration::ZERO).await;
    tokio::time::sleep(second * 3).await;
    assert_eq!(demand("c.test:80").await, RESTART - second * 3);
    assert_eq!(demand("d.test:80").await, FIRST_ANSWER, "it stays away");
}

#[tokio::test(start_paused = true)]
async fn a_demand_waits_two_seconds_and_negative_answers_last() {
    let mut world = world(false);
    world.apply(vec![self_config(&[])], &[]);
    let name: HostPort = A.parse().unwrap();
    let started = Instant::now();
    let answer = world.store.demand(&name).await.map(|_| ());
    assert_eq!(answer, Err(Demand::Timeout("destination/a.test:80".parse().unwrap())));
    assert_eq!(started.elapsed(), crate::store::FIRST_ANSWER);
    // It was asked for once, whoever asks again.
    let again = tokio::spawn({
        let store = world.store.clone();
        let name = name.clone();
        async move { store.demand(&name).await.map(|_| ()) }
    });
    tokio::task::yield_now().await;
    assert_eq!(world.asked.recv().await.unwrap().to_string(), "destination/a.test:80");
    assert!(world.asked.try_recv().is_err());
    // The answer wakes it.
    world.writer.subscribe("destination/a.test:80".parse().unwrap());
    world.apply(vec![], &["destination/a.test:80"]);
    assert!(matches!(again.await.unwrap(), Err(Demand::Absent(_))));
    let started = Instant::now();
    assert!(matches!(world.store.demand(&name).await, Err(Demand::Absent(_))));
    assert_eq!(started.elapsed(), Duration::ZERO);
    // Until it exists.
    world.apply(vec![destination(A, &[A]), cluster(A), endpoints(A, &[])], &[]);
    assert!(world.store.demand(&name).await.is_ok());
    world.apply(vec![], &["destination/a.test:80"]);
    assert!(matches!(world.store.demand(&name).await, Err(Demand::Absent(_))));
    // Refused, with nothing before it: said at once, with the reason.
    let newer = wire::Destination { requires: vec!["quantum".into()], ..destination_message(A, &[B]) };
    world.apply(vec![resource("destination/a.test:80", &newer)], &[]);
    let Err(Demand::Rejected(_, why)) = world.store.demand(&name).await else { panic!("not refused") };
    assert!(why.contains("quantum"));
}

#[tokio::test(start_paused = true)]
async fn unused_names_are_forgotten_and_used_ones_kept() {
    let mut world = serving();
    world.want(B);
    world.apply(vec![destination(B, &[B]), cluster(B), endpoints(B, &[])], &[]);
    let kept = world.store.destination(&A.parse().unwrap()).unwrap();
    let start = Instant::now();
    assert_eq!(world.writer.forget_idle(start), []);
    assert_eq!(world.writer.forget_idle(start + IDLE / 2), []);
    let generation = world.store.generation();
    let gone = world.writer.forget_idle(start + IDLE * 2);
    assert_eq!(gone, ["destination/b.test:80".parse().unwrap()], "a is held by a connection");
    assert!(world.store.generation() > generation);
    assert!(world.store.destination(&B.parse().unwrap()).is_none());
    assert!(!held(&world).contains(&"cluster/b.test:80".to_owned()));
    // Used again and again, but never held.
    drop(kept);
    let _ = world.store.destination(&A.parse().unwrap()).unwrap().load();
    assert_eq!(world.writer.forget_idle(start + IDLE * 4), []);
    assert_eq!(world.writer.forget_idle(start + IDLE * 5), []);
    assert_eq!(world.writer.forget_idle(start + IDLE * 6).len(), 1);
}

#[test]
fn the_catalogue_decides_and_an_unknown_address_is_asked_for() {
    let mut world = world(false);
    let lookup = |host, at: &str| {
        let orig_dst: std::net::SocketAddr = at.parse().unwrap();
        Lookup {
            orig_dst: Some(orig_dst),
            port: orig_dst.port(),
            port_given: true,
            host,
            traffic: Traffic::Http,
        }
    };
    let before = world.store.generation();
    world.apply(
        vec![
            self_config(&[]),
            catalogue("default", &[("a.default.svc.cluster.local", "10.0.0.1", 80)]),
            catalogue("other", &[("b.other.svc.cluster.local", "10.0.0.2", 80)]),
        ],
        &[],
    );
    assert!(world.store.generation() > before);
    let service = |world: &World, host, at: &str| match world.store.resolve(&lookup(host, at)) {
        Resolved::Service(service, _) => service.name.to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(service(&world, Some("a"), "10.0.0.2:80"), "a.default.svc.cluster.local:80");
    assert_eq!(service(&world, None, "10.0.0.2:80"), "b.other.svc.cluster.local:80");
    assert_eq!(service(&world, None, "10.1.0.9:80"), "Own(10.1.0.9:80)");
    assert_eq!(service(&world, None, "10.1.0.2:80"), "AskWorkload(10.1.0.2)");
    // Nobody's: outside.
    let ip = "10.1.0.2".parse().unwrap();
    world.store.workloads.find_or_make(&ip, 10).unwrap();
    world.writer.subscribe("workload/10.1.0.2".parse().unwrap());
    world.apply(vec![], &["workload/10.1.0.2"]);
    assert_eq!(service(&world, None, "10.1.0.2:80"), "Passthrough(Address(10.1.0.2:80))");
    // Somebody's.
    let workload = wire::Workload { address: "10.1.0.2".into(), ..Default::default() };
    world.apply(vec![resource("workload/10.1.0.2", &workload)], &[]);
    assert_eq!(service(&world, None, "10.1.0.2:80"), "Workload(10.1.0.2:80, None)");
    // A namespace goes away.
    world.apply(vec![], &["catalogue/default"]);
    assert_eq!(service(&world, Some("a"), "10.0.0.2:80"), "b.other.svc.cluster.local:80");
}

#[test]
fn bundles_become_the_roots() {
    let (old, new) = (TestCa::new(), TestCa::new());
    let roots = old.roots_handle();
    let (store, _asked) = Store::new(crate::store::testing::world(false).store.place.clone());
    let mut writer = Writer::new(store.clone(), roots.clone());
    let domain = "cluster.local".parse().unwrap();
    let now = |roots: &RootsHandle| roots.get().domain(&domain).unwrap().certificates.clone();
    // From the disk: beside those of the bootstrap, which may be newer.
    writer.load(vec![bundle(&new)]);
    assert_eq!(now(&roots), [new.root_der(), old.root_der()]);
    // From the pilot: what it says.
    writer.apply(Origin::Stream, vec![bundle(&new)], &[]);
    assert_eq!(now(&roots), [new.root_der()]);
    let generation = roots.generation();
    writer.apply(Origin::Stream, vec![bundle(&new)], &[]);
    assert_eq!(roots.generation(), generation, "no change, no new handshakes");
    let empty = wire::TrustBundle { trust_domain: "cluster.local".into(), ..Default::default() };
    let rejected = writer.apply(Origin::Stream, vec![resource("trust_bundle/cluster.local", &empty)], &[]);
    assert_eq!(rejected.len(), 1, "nobody trusted is not what anybody meant");
    assert_eq!(now(&roots), [new.root_der()]);
    assert!(store.readiness().borrow().trust_bundle);
}

#[test]
fn a_gateway_is_ready_when_all_that_its_listeners_name_is_there() {
    let ca = TestCa::new();
    let mut world = world_of(true, &ca);
    assert!(!world.store.ready());
    let hosts: [(&[&str], &str); 3] =
        [(&["shop.test", "*.shop.test"], A), (&["*.deep.shop.test"], B), (&["*"], C)];
    let first = vec![self_config(&[]), bundle(&ca), listener(80, &hosts), cluster(A), endpoints(A, &[])];
    world.apply(first, &[]);
    assert_eq!(world.store.readiness().borrow().missing, 2);
    assert!(!world.store.ready());
    assert!(world.store.listeners().is_empty());
    world.apply(vec![cluster(B), endpoints(B, &[])], &["cluster/c.test:80"]);
    assert!(world.store.ready());
    let listeners = world.store.listeners();
    let routes = |host: &str| {
        let host = listeners[0].hosts.find(host)?;
        host.table.clusters().map(|c| c.name().to_string()).next()
    };
    let cases = [
        ("shop.test", A),
        ("SHOP.test.:80", A),
        ("x.shop.test", A),
        ("x.y.shop.test", A),
        ("x.deep.shop.test", B),
        ("deep.shop.test", A),
        ("other.test", C),
        ("10.0.0.1", C),
    ];
    for (host, expected) in cases {
        assert_eq!(routes(host).as_deref(), Some(expected), "{host}");
    }
    assert_eq!(routes(""), None);
    world.apply(vec![], &["listener/80"]);
    assert!(world.store.listeners().is_empty());
    // Two hosts with one domain: which one would serve it?
    assert_eq!(world.apply(vec![listener(81, &[(&["a"], A), (&["a"], B)])], &[]), ["listener/81"]);
}

#[test]
fn a_sidecar_takes_no_listeners_and_nothing_unasked() {
    let mut world = serving();
    assert_eq!(
        world.apply(vec![listener(80, &[(&["*"], A)]), destination(B, &[A])], &[]),
        Vec::<String>::new()
    );
    assert!(world.store.listeners().is_empty());
    assert!(world.store.destination(&B.parse().unwrap()).is_none());
    assert!(!held(&world).contains(&"destination/b.test:80".to_owned()));
}

/// A gateway that is ready before its listeners came would be sent traffic that it refuses.
#[test]
fn a_proxy_is_ready_with_the_last_of_several_first_responses() {
    let ca = TestCa::new();
    let mut world = world_of(true, &ca);
    let first = vec![self_config(&[]), bundle(&ca)];
    assert!(world.writer.apply(Origin::Part, first, &[]).is_empty());
    assert!(!world.store.ready());
    world.writer.apply(Origin::Stream, Vec::new(), &[]);
    assert!(world.store.ready());
}

#[test]
fn what_was_in_force_serves_after_a_restart() {
    let mut world = serving();
    let resources = world.store.held().into_iter().map(|(name, held)| Incoming {
        name,
        version: held.version,
        body: held.body,
    });
    let versions = world.writer.versions();
    assert_eq!(world.writer.take_changes().len(), 4);
    assert!(!world.writer.has_changes());

    let mut restarted = crate::store::testing::world(false);
    restarted.writer.load(resources.collect());
    assert_eq!(restarted.routes(A), Some(vec![A.into()]));
    assert_eq!(restarted.writer.versions(), versions);
    assert_eq!(
        restarted.writer.subscribed().map(ToString::to_string).collect::<Vec<_>>(),
        ["destination/a.test:80"]
    );
    assert!(restarted.store.readiness().borrow().answered);
    assert!(!restarted.writer.has_changes(), "what came from the disk is not written again");
    // A changed version and a removal are.
    restarted.apply(vec![endpoints(A, &[])], &["destination/a.test:80"]);
    let changes = restarted.writer.take_changes();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|(_, held)| held.is_none()));
}

fn addresses(world: &World, name: &str) -> Vec<String> {
    let view = view(world, name).unwrap();
    let mut all: Vec<_> = view.endpoints().iter().map(|e| format!("{} {}", e.uid, e.address)).collect();
    all.sort();
    all
}

fn resolved(world: &mut World, name: &str, addresses: &[&str]) {
    let found = Ok(addresses.iter().map(|ip| ip.parse().unwrap()).collect());
    world.writer.resolved(Answer { name: Arc::from(name), found });
}

#[test]
fn routes_wait_for_the_names_of_endpoints_and_what_is_there_serves_until_new_ones_are_known() {
    let mut world = world(false);
    world.want(A);
    let names = world.writer.names();
    let named = endpoints(A, &["x.test:80", "10.0.0.9:80"]);
    world.apply(vec![self_config(&[]), destination(A, &[A]), cluster(A), named], &[]);
    assert_eq!(world.routes(A), None, "nobody knows x.test");
    assert_eq!(*names.borrow(), Names::from([Arc::from("x.test")]));
    resolved(&mut world, "x.test", &["10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    assert_eq!(world.routes(A), Some(vec![A.into()]));
    let before = addresses(&world, A);
    assert_eq!(
        before,
        [
            "pod-10.0.0.9:80 10.0.0.9:80",
            "pod-x.test:80/10.0.0.1 10.0.0.1:80",
            "pod-x.test:80/10.0.0.2 10.0.0.2:80"
        ]
    );
    world.apply(vec![endpoints(A, &["y.test:81"])], &[]);
    assert_eq!(addresses(&world, A), before, "nobody knows y.test");
    let why = Err("refused".to_owned());
    world.writer.resolved(Answer { name: Arc::from("y.test"), found: why });
    assert!(addresses(&world, A).is_empty());
    let nobody = view(&world, A).unwrap().pick(None, &PickContext::default(), &mut rand::rng()).unwrap_err();
    assert!(nobody.to_string().contains("DNS has no address for y.test: refused"), "{nobody}");
    resolved(&mut world, "y.test", &["2001:db8::1"]);
    assert_eq!(addresses(&world, A), ["pod-y.test:81/2001:db8::1 [2001:db8::1]:81"]);
    // One address of a name at a time.
    let first = wire::Cluster { addresses: wire::Addresses::First.into(), ..cluster_message(A) };
    world.apply(vec![resource("cluster/a.test:80", &first)], &[]);
    resolved(&mut world, "y.test", &["10.0.0.4", "10.0.0.3"]);
    assert_eq!(addresses(&world, A), ["pod-y.test:81/10.0.0.4 10.0.0.4:81"]);
}
