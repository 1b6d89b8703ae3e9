//! DestinationRule: which one is in force, and what its policy becomes.

use mesh_proto::crd::destination_rule::LocalitySetting;
use mesh_proto::wire::mesh::v1 as wire;
use wire::load_balancer::Kind;

use super::super::fixture::{Mesh, labelled, object, viewer};
use crate::snapshot::MeshOptions;

fn simple(balancer: &str) -> String {
    format!("trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}")
}

fn rule(name: &str, host: &str, rest: &str) -> String {
    object("DestinationRule", name, &format!("{{host: '{host}', {rest}}}"))
}

fn kind(policy: &wire::Policy) -> Kind {
    policy.load_balancer.clone().unwrap().kind.unwrap()
}

const RR: Kind = Kind::RoundRobin(wire::Empty {});
const RANDOM: Kind = Kind::Random(wire::Empty {});
const LEAST: Kind = Kind::LeastRequest(wire::Empty {});

#[test]
fn every_default_is_filled_in() {
    let policy = Mesh::with("").policy("reviews", 9080);
    let seconds = |d: Option<prost_types::Duration>| d.unwrap().seconds;
    assert_eq!(kind(&policy), LEAST);
    assert_eq!((seconds(policy.connect_timeout), seconds(policy.idle_timeout)), (10, 3600));
    assert_eq!((policy.tls(), policy.max_requests_per_connection), (wire::UpstreamTls::Auto, 0));
}

#[test]
fn each_field_has_its_effect() {
    let policy = |policy: &str| {
        Mesh::with(&rule("a", "reviews", &format!("trafficPolicy: {{{policy}}}"))).policy("reviews", 9080)
    };
    let balancer = |balancer: &str| kind(&policy(&format!("loadBalancer: {{{balancer}}}")));
    assert_eq!(balancer("simple: ROUND_ROBIN"), RR);
    assert_eq!(balancer("simple: RANDOM"), RANDOM);
    assert_eq!(balancer("simple: PASSTHROUGH"), Kind::Passthrough(wire::Empty {}));
    assert_eq!(balancer("simple: LEAST_CONN"), LEAST);
    assert_eq!(policy("tls: {mode: DISABLE}").tls(), wire::UpstreamTls::Disable);
    assert_eq!(policy("tls: {mode: ISTIO_MUTUAL}").tls(), wire::UpstreamTls::IstioMutual);
    assert_eq!(policy("connectionPool: {tcp: {connectTimeout: 1s}}").connect_timeout.unwrap().seconds, 1);
    assert_eq!(policy("connectionPool: {http: {idleTimeout: 5s}}").idle_timeout.unwrap().seconds, 5);
    assert_eq!(
        policy("connectionPool: {http: {maxRequestsPerConnection: 7}}").max_requests_per_connection,
        7
    );
}

#[test]
fn limits_are_those_that_are_set() {
    let pool = |pool: &str| {
        let rest = format!("trafficPolicy: {{connectionPool: {{{pool}}}}}");
        Mesh::with(&rule("a", "reviews", &rest)).policy("reviews", 9080)
    };
    assert_eq!(pool("tcp: {connectTimeout: 1s}").limits, None);
    // Istio's own way to say that there is none.
    assert_eq!(pool("tcp: {maxConnections: 4294967295}, http: {maxRetries: 0}").limits, None);
    let all = pool(
        "tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRetries: 4}",
    );
    let expected = wire::Limits {
        max_connections: Some(1),
        max_pending_requests: Some(2),
        max_requests: Some(3),
        max_retries: Some(4),
        retry_budget: None,
    };
    assert_eq!(all.limits, Some(expected));
    let more = pool(
        "tcp: {idleTimeout: 5s, maxConnectionDuration: 7s, tcpKeepalive: {probes: 3, time: 9s}}, http: {maxConcurrentStreams: 8}",
    );
    let seconds = |d: Option<prost_types::Duration>| d.unwrap().seconds;
    assert_eq!((seconds(more.tcp_idle_timeout), seconds(more.max_connection_duration)), (5, 7));
    let keepalive = more.tcp_keepalive.unwrap();
    assert_eq!((keepalive.probes, seconds(keepalive.time), keepalive.interval), (3, 9, None));
    assert_eq!(more.max_concurrent_streams, 8);
    let budget = Mesh::with(&rule("a", "reviews", "trafficPolicy: {retryBudget: {}}"));
    let budget = budget.policy("reviews", 9080).limits.unwrap().retry_budget.unwrap();
    assert_eq!((budget.percent, budget.min_retry_concurrency), (20.0, 3));
}

#[test]
fn outlier_detection_has_envoys_defaults_and_turns_locality_on() {
    let policy = |policy: &str| {
        Mesh::with(&rule("a", "reviews", &format!("trafficPolicy: {{{policy}}}"))).policy("reviews", 9080)
    };
    let off = policy("connectionPool: {}");
    assert_eq!((off.outlier_detection, off.locality), (None, None));
    let on = policy("outlierDetection: {}");
    let outlier = on.outlier_detection.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_gateway), (5, 0));
    assert_eq!((outlier.max_ejection_percent, outlier.min_health_percent), (10, 0));
    let seconds = |d: Option<prost_types::Duration>| d.unwrap().seconds;
    assert_eq!((seconds(outlier.interval), seconds(outlier.base_ejection_time)), (10, 30));
    assert_eq!(on.locality, Some(wire::LocalityPolicy::default()));
    let set = policy(
        "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 1, maxEjectionPercent: 100, minHealthPercent: 40}",
    );
    let outlier = set.outlier_detection.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.consecutive_gateway), (0, 2));
    assert_eq!((outlier.split_local_origin, outlier.consecutive_local_origin), (true, 1));
    assert_eq!((outlier.max_ejection_percent, outlier.min_health_percent), (100, 40));
    let locality = |setting: &str, outlier: &str| {
        policy(&format!("loadBalancer: {{localityLbSetting: {{{setting}}}}}{outlier}")).locality
    };
    let outlier = ", outlierDetection: {}";
    assert_eq!(locality("enabled: false", outlier), None);
    assert_eq!(locality("failover: [{from: a, to: b}]", ""), None);
    assert_eq!(locality("failover: [{from: a, to: b}]", outlier).unwrap().failover[0].to, "b");
    assert_eq!(locality("failoverPriority: [rack]", outlier).unwrap().failover_priority, ["rack"]);
    let shares = locality("distribute: [{from: '*', to: {a: 100}}]", "").unwrap();
    assert_eq!(shares.distribute[0].to["a"], 100);
}

#[test]
fn what_the_mesh_says_counts_where_a_rule_says_nothing() {
    let options = || MeshOptions {
        locality: Some(LocalitySetting {
            failover_priority: vec!["rack".into()],
            ..LocalitySetting::default()
        }),
        connect_timeout: Some(std::time::Duration::from_secs(3)),
        ..MeshOptions::default()
    };
    let with = |policy: &str| {
        let mesh =
            Mesh::with_options(options(), &rule("a", "reviews", &format!("trafficPolicy: {{{policy}}}")));
        let policy = mesh.policy("reviews", 9080);
        (
            policy.connect_timeout.unwrap().seconds,
            policy.locality.map(|l| (l.failover_priority, l.failover.len())),
        )
    };
    let rack = Some((vec!["rack".to_owned()], 0));
    assert_eq!(with("outlierDetection: {}"), (3, rack));
    assert_eq!(
        with("connectionPool: {tcp: {connectTimeout: 1s}}"),
        (1, None),
        "nothing fails over without it"
    );
    let own = "outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}";
    assert_eq!(with(own), (3, Some((Vec::new(), 1))), "a rule's own setting replaces the mesh's as a whole");
    assert_eq!(with("outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}"), (3, None));
}

/// What a client in a place needs to know of the others: where they are, and the labels that an order names.
#[test]
fn places_and_the_labels_of_an_order_are_sent() {
    let order = rule(
        "a",
        "reviews",
        "trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [app, 'version=v1']}}}",
    );
    let plain = Mesh::with("").endpoints("reviews", 9080);
    assert!(plain[0].labels.is_empty() && plain[0].locality.is_empty(), "{plain:?}");
    let ordered = Mesh::with(&order).endpoints("reviews", 9080);
    assert_eq!(ordered[0].labels.keys().collect::<Vec<_>>(), ["app", "version"]);
}

#[test]
fn consistent_hash() {
    let hash = |hash: &str| {
        let policy = format!("trafficPolicy: {{loadBalancer: {{consistentHash: {{{hash}}}}}}}");
        kind(&Mesh::with(&rule("a", "reviews", &policy)).policy("reviews", 9080))
    };
    let key = |kind| Some(wire::HashKey { kind: Some(kind) });
    let source = || key(wire::hash_key::Kind::SourceIp(wire::Empty {}));
    let header = key(wire::hash_key::Kind::Header("x-user".into()));
    assert_eq!(
        hash("httpHeaderName: X-User"),
        Kind::RingHash(wire::RingHash { key: header, minimum_ring_size: 1024 })
    );
    let ring = |minimum_ring_size| Kind::RingHash(wire::RingHash { key: source(), minimum_ring_size });
    assert_eq!(hash("useSourceIp: true, ringHash: {minimumRingSize: 64}"), ring(64));
    assert_eq!(hash("useSourceIp: true, minimumRingSize: 32"), ring(32));
    // The user's own form.
    assert_eq!(hash("rings: 1, ringSize: 4"), ring(4));
    assert_eq!(
        hash("useSourceIp: true, maglev: {}"),
        Kind::Maglev(wire::Maglev { key: source(), table_size: 65537 })
    );
}

/// The client's namespace, then the service's, then the root namespace; nothing is inherited between them.
#[test]
fn whose_rule_counts() {
    let root = rule("istio-system/r", "reviews.default.svc.cluster.local", &simple("RANDOM"));
    let service = rule("default/s", "reviews", &simple("ROUND_ROBIN"));
    let client =
        rule("money/c", "reviews.default.svc.cluster.local", "trafficPolicy: {tls: {mode: DISABLE}}");
    let seen = |yaml: &str, from: &str| {
        let cluster = Mesh::with(yaml).cluster(&viewer(from), "reviews", 9080).unwrap();
        kind(&cluster.policy.unwrap())
    };
    assert_eq!(seen(&root, "money"), RANDOM);
    assert_eq!(seen(&format!("{root}{service}"), "money"), RR);
    assert_eq!(
        seen(&format!("{root}{service}{client}"), "money"),
        LEAST,
        "the client's has no balancer: the default"
    );
    assert_eq!(seen(&format!("{root}{service}{client}"), "default"), RR);
    let private = service.replace("host:", "exportTo: ['.'], host:");
    assert_eq!(seen(&format!("{root}{private}"), "money"), RANDOM);
    assert_eq!(seen(&format!("{root}{private}"), "default"), RR);
    // The root namespace's own clients have no rules of their own namespace first.
    assert_eq!(seen(&format!("{root}{service}"), "istio-system"), RR);
}

#[test]
fn the_most_specific_host_counts() {
    let wide = rule("a", "*.svc.cluster.local", &simple("RANDOM"));
    let narrow = rule("b", "*.default.svc.cluster.local", &simple("ROUND_ROBIN"));
    let exact = rule("c", "reviews", "subsets: []");
    let seen = |yaml: &str| kind(&Mesh::with(yaml).policy("reviews", 9080));
    assert_eq!(seen(&wide), RANDOM);
    assert_eq!(seen(&format!("{wide}{narrow}")), RR);
    assert_eq!(seen(&format!("{wide}{narrow}{exact}")), LEAST);
}

/// Rules of one host merge their subsets only; the oldest policy counts.
#[test]
fn rules_of_one_host_merge() {
    let a = rule("a", "reviews", "subsets: [{name: v1, labels: {version: v1}}]");
    let b = rule(
        "b",
        "reviews",
        &format!(
            "{}, subsets: [{{name: v2, labels: {{version: v2}}}}, {{name: v1, labels: {{version: x}}}}]",
            simple("RANDOM")
        ),
    );
    let c = rule("c", "reviews", &simple("ROUND_ROBIN"));
    let mesh = Mesh::with(&format!("{a}{b}{c}"));
    let cluster = mesh.cluster(&viewer("default"), "reviews", 9080).unwrap();
    let subsets: Vec<_> =
        cluster.subsets.iter().map(|s| (s.name.as_str(), s.labels["version"].as_str())).collect();
    assert_eq!(subsets, [("v1", "v1"), ("v2", "v2")]);
    assert_eq!(kind(cluster.policy.as_ref().unwrap()), RANDOM);
    let told = mesh.told();
    assert!(told[0].starts_with("b: the subset v1 is already in DestinationRule default/a"), "{told:?}");
    assert!(told[1].starts_with("!c: the trafficPolicy of DestinationRule default/b"), "{told:?}");
}

/// A subset's policy replaces the service's group by group.
#[test]
fn subsets_override_group_by_group() {
    let rest = |policy: &str| {
        format!(
            "trafficPolicy: {{loadBalancer: {{simple: RANDOM}}, tls: {{mode: DISABLE}}}}, subsets: [{{name: v1, trafficPolicy: {{{policy}}}}}]"
        )
    };
    let subset = |policy: &str| {
        let cluster = Mesh::with(&rule("a", "reviews", &rest(policy)))
            .cluster(&viewer("default"), "reviews", 9080)
            .unwrap();
        let policy = cluster.subsets[0].policy.clone().unwrap();
        (kind(&policy), policy.tls())
    };
    assert_eq!(subset(""), (RANDOM, wire::UpstreamTls::Disable));
    assert_eq!(subset("loadBalancer: {simple: ROUND_ROBIN}"), (RR, wire::UpstreamTls::Disable));
    let port = |number: u16| {
        format!("portLevelSettings: [{{port: {{number: {number}}}, loadBalancer: {{simple: ROUND_ROBIN}}}}]")
    };
    assert_eq!(subset(&port(9080)), (RR, wire::UpstreamTls::Auto));
    assert_eq!(subset(&port(1)), (RANDOM, wire::UpstreamTls::Disable));
}

/// Port-level settings replace everything: what they leave out is the default, not inherited.
#[test]
fn port_level_settings_do_not_inherit() {
    let rest = "trafficPolicy: {loadBalancer: {simple: RANDOM}, tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}";
    let mesh = Mesh::with(&rule("a", "ratings", rest));
    let seen = |port| (kind(&mesh.policy("ratings", port)), mesh.policy("ratings", port).tls());
    assert_eq!(seen(80), (LEAST, wire::UpstreamTls::IstioMutual));
    assert_eq!(seen(3306), (RANDOM, wire::UpstreamTls::Disable));
}

#[test]
fn workload_selectors_choose_clients() {
    let plain = rule("a", "reviews", &simple("RANDOM"));
    let chosen = rule(
        "b",
        "reviews",
        &format!("workloadSelector: {{matchLabels: {{app: c}}}}, {}", simple("ROUND_ROBIN")),
    );
    let mesh = Mesh::with(&format!("{plain}{chosen}"));
    assert!(mesh.snapshot.config.label_scoped);
    let seen = |namespace: &str, app: &str| {
        let cluster = mesh.cluster(&labelled(namespace, false, &[("app", app)]), "reviews", 9080).unwrap();
        kind(&cluster.policy.unwrap())
    };
    assert_eq!(seen("default", "c"), RR);
    assert_eq!(seen("default", "d"), RANDOM);
    assert_eq!(seen("money", "c"), RANDOM, "only of the rule's own namespace");
}

/// Labels that no subset of the host looks at stay at home: a change of them is no change of the endpoints.
#[test]
fn endpoints_carry_what_subsets_look_at() {
    let labels = |yaml: &str| -> Vec<Vec<String>> {
        let endpoints = Mesh::with(yaml).endpoints("reviews", 9080);
        endpoints.iter().map(|e| e.labels.keys().cloned().collect()).collect()
    };
    assert_eq!(labels(""), [Vec::<String>::new(), vec![]]);
    let subsets =
        rule("money/a", "reviews.default.svc.cluster.local", "subsets: [{name: v1, labels: {version: v1}}]");
    assert_eq!(labels(&subsets), [["version"], ["version"]]);
}

#[test]
fn endpoints_say_who_is_there() {
    let endpoints = Mesh::with("").endpoints("reviews", 9080);
    let seen: Vec<_> =
        endpoints.iter().map(|e| (e.address.as_str(), e.identity.as_str(), e.mtls, e.ready)).collect();
    assert_eq!(
        seen,
        [
            ("10.1.0.1:9080", "spiffe://cluster.local/ns/default/sa/reviews", true, true),
            ("10.1.0.2:9080", "", false, false),
        ]
    );
    let facts = endpoints[0].facts.as_ref().unwrap();
    assert_eq!((facts.canonical_service.as_str(), facts.canonical_revision.as_str()), ("reviews", "v1"));
    assert_eq!(facts.instance, "reviews-v1-0");
}

/// Where the local supervisor may not bind low ports, it serves them elsewhere and says so on the pod.
#[test]
fn a_low_port_may_be_served_elsewhere() {
    let pod = |annotations: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: low, uid: low, labels: {{app: low}}, annotations: \
             {{{annotations}}}}}, spec: {{containers: [{{name: a, ports: [{{containerPort: 80}}]}}]}}, status: \
             {{podIP: 10.1.0.9, phase: Running}}}}\n---\n{{apiVersion: v1, kind: Service, metadata: {{name: low}}, \
             spec: {{selector: {{app: low}}, ports: [{{port: 80, name: a}}, {{port: 81, targetPort: 8081, name: b}}]}}}}\n"
        )
    };
    let addresses = |annotations: &str, port: u16| -> Vec<String> {
        let endpoints = Mesh::with(&pod(annotations)).endpoints("low", port);
        endpoints.into_iter().map(|e| e.address).collect()
    };
    assert_eq!(addresses("", 80), ["10.1.0.9:80"]);
    assert_eq!(addresses("mesh.local/low-port-offset: '8000'", 80), ["10.1.0.9:8080"]);
    assert_eq!(addresses("mesh.local/low-port-offset: '8000'", 81), ["10.1.0.9:8081"]);
}

/// A refused rule that was to secure connections (MUTUAL without a certificate): nobody reaches its host until it is put right.
#[test]
fn a_refused_rule_with_tls_fails_closed() {
    let tls = |name: &str, host: &str, mode: &str| {
        rule(name, host, &format!("trafficPolicy: {{tls: {{mode: {mode}}}}}"))
    };
    let reachable =
        |yaml: &str, from: &str| Mesh::with(yaml).cluster(&viewer(from), "reviews", 9080).is_some();
    assert!(!reachable(&tls("a", "reviews", "MUTUAL"), "default"));
    assert!(!reachable(&tls("a", "reviews", "MUTUAL"), "money"));
    assert!(reachable(&tls("a", "reviews", "ISTIO_MUTUAL"), "default"));
    assert!(reachable(&tls("a", "ratings", "MUTUAL"), "default"));
    let other = tls("money/a", "reviews.default.svc.cluster.local", "MUTUAL");
    assert!(!reachable(&other, "money"));
    assert!(reachable(&other, "default"), "only for clients of its own namespace");
    let told = Mesh::with(&tls("a", "reviews", "MUTUAL")).told();
    assert!(told.iter().any(|t| t.contains("cannot be reached")), "{told:?}");
}

#[test]
fn unknown_hosts_are_told() {
    assert_eq!(
        Mesh::with(&rule("a", "nobody", "subsets: []")).told(),
        ["a: no service has the host nobody.default.svc.cluster.local (IST0174)"]
    );
}
