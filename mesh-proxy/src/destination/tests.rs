//! The look-up as a table of cases (design §3.2).

use std::collections::HashMap;

use mesh_proto::model::Protocol;
use mesh_proto::wire::mesh::v1 as wire;

use super::*;

fn entry(host: &str, kind: EntryKind, vips: &[&str], ports: &[u32]) -> wire::CatalogueEntry {
    wire::CatalogueEntry {
        host: host.into(),
        kind: kind.into(),
        vips: vips.iter().map(|v| (*v).to_owned()).collect(),
        cidrs: Vec::new(),
        ports: ports
            .iter()
            .map(|n| wire::CataloguePort { number: *n, protocol: Protocol::Http.into(), name: "http".into() })
            .collect(),
        vip_routes: false,
    }
}

fn external(host: &str, cidr: &str, ports: &[u32]) -> wire::CatalogueEntry {
    wire::CatalogueEntry { cidrs: vec![cidr.into()], ..entry(host, EntryKind::EntryExternal, &[], ports) }
}

fn namespace(name: &str, entries: Vec<wire::CatalogueEntry>) -> Namespace {
    Namespace::parse(name, wire::Catalogue { entries }).unwrap()
}

/// The client is in `default`; `*` routes exist only where a case asks for them.
fn world(star: bool) -> Catalogue {
    use EntryKind::{EntryExternal, EntryHeadless, EntryRouteOnly, EntryService};
    let gamma = wire::CatalogueEntry {
        vip_routes: true,
        ..entry("echo-v1.gamma.svc.cluster.local", EntryService, &["10.0.0.11"], &[80, 81])
    };
    let mut default = vec![
        entry("reviews.default.svc.cluster.local", EntryService, &["10.0.0.1"], &[9080]),
        entry("shop.default.svc.cluster.local", EntryService, &["10.0.0.2"], &[80, 8080]),
        entry("db.default.svc.cluster.local", EntryHeadless, &[], &[5432, 8080]),
        entry("api.example.com", EntryExternal, &[], &[80, 443]),
        entry("*.example.com", EntryExternal, &["240.0.0.1"], &[80, 443]),
        entry("*.deep.example.com", EntryExternal, &[], &[443]),
        entry("*.routes.example.com", EntryRouteOnly, &[], &[]),
        entry("only-routes.test", EntryRouteOnly, &[], &[]),
        external("wide.test", "192.0.2.0/24", &[443, 9000]),
        external("narrow.test", "192.0.2.128/25", &[443]),
        external("one.test", "192.0.2.200", &[443]),
    ];
    if star {
        default.push(entry("*", EntryRouteOnly, &[], &[]));
    }
    let other = vec![
        entry("reviews.other.svc.cluster.local", EntryService, &["10.0.1.1"], &[9080]),
        entry("lonely.other.svc.cluster.local", EntryService, &["10.0.1.2"], &[9080]),
        entry("api.example.com", EntryExternal, &[], &[80]),
    ];
    let gamma = vec![gamma, entry("echo-v2.gamma.svc.cluster.local", EntryService, &["10.0.0.12"], &[80])];
    let all = [namespace("other", other), namespace("default", default), namespace("gamma", gamma)];
    Catalogue::build("default", "cluster.local", &all)
}

/// 10.1.0.1: a pod of db, 10.1.0.2: a pod of reviews (9080 → 8080), 10.1.0.9: this one, also of reviews;
/// 10.1.0.7: never asked; the rest is nobody's.
fn pod(at: SocketAddr) -> PodAddress {
    let services = |names: &[&str]| -> Services {
        Some(names.iter().map(|n| n.parse::<HostPort>().unwrap()).collect::<Vec<_>>().into())
    };
    let reviews = ["reviews.default.svc.cluster.local:9080"];
    match (at.ip().to_string().as_str(), at.port()) {
        ("10.1.0.1", 5432) => PodAddress::Workload(services(&["db.default.svc.cluster.local:5432"])),
        ("10.1.0.2", 8080) => PodAddress::Workload(services(&reviews)),
        ("10.1.0.1" | "10.1.0.2", _) => PodAddress::Workload(None),
        ("10.1.0.9", 8080) => PodAddress::Own(services(&reviews)),
        ("10.1.0.9", _) => PodAddress::Own(None),
        ("10.1.0.7", _) => PodAddress::Unknown,
        _ => PodAddress::Absent,
    }
}

/// `orig_dst` as text, or `:port` / `` for the HTTP proxy port with and without a port in the authority.
fn ask(star: bool, traffic: Traffic, dialled: &str, host: Option<&str>) -> String {
    let (orig_dst, port, port_given) = match dialled.strip_prefix(':') {
        Some(port) => (None, port.parse().unwrap(), true),
        None if dialled.is_empty() => (None, 80, false),
        None => {
            let at: SocketAddr = dialled.parse().unwrap();
            (Some(at), at.port(), true)
        }
    };
    let lookup = Lookup { orig_dst, port, port_given, host, traffic };
    match resolve(&world(star), &lookup, true, pod) {
        Resolved::Service(service, via) => format!("{via:?} {}", service.name),
        Resolved::Workload(at, None) => format!("Workload {at}"),
        Resolved::Workload(at, Some(policy)) => format!("Workload {at} as {policy}"),
        Resolved::Own(at) => format!("Own {at}"),
        Resolved::AskWorkload(ip) => format!("Ask {ip}"),
        Resolved::Passthrough(Outside::Address(at)) => format!("Outside {at}"),
        Resolved::Passthrough(Outside::Name(name)) => format!("Outside {name}"),
        Resolved::Blocked => "Blocked".into(),
    }
}

fn check(star: bool, traffic: Traffic, cases: &[(&str, Option<&str>, &str)]) {
    for (dialled, host, expected) in cases {
        assert_eq!(ask(star, traffic, dialled, *host), *expected, "{traffic:?} {dialled:?} Host {host:?}");
    }
}

const REVIEWS: &str = "Host reviews.default.svc.cluster.local:9080";

#[test]
fn names() {
    let vip = "10.0.0.2:9080"; // shop's VIP on a port that it has not: only Host can decide
    check(
        false,
        Traffic::Http,
        &[
            (vip, Some("reviews"), REVIEWS),
            (vip, Some("reviews:9080"), REVIEWS),
            (vip, Some("reviews.default"), REVIEWS),
            (vip, Some("reviews.default.svc"), REVIEWS),
            (vip, Some("reviews.default.svc.cluster.local"), REVIEWS),
            (vip, Some("reviews.default.svc.cluster.local."), REVIEWS),
            (vip, Some("reviews.default.svc.cluster.local.:9080"), REVIEWS),
            (vip, Some("ReViews.Default.SVC.cluster.local"), REVIEWS),
            // The port in Host is not the port that was dialled: the one that was dialled counts.
            (vip, Some("reviews:1"), REVIEWS),
            // Another namespace's service has no short name here.
            (vip, Some("reviews.other"), "Host reviews.other.svc.cluster.local:9080"),
            (vip, Some("lonely.other.svc"), "Host lonely.other.svc.cluster.local:9080"),
            (vip, Some("lonely"), "Outside 10.0.0.2:9080"),
            // No partial domains, no two dots, no empty names.
            (vip, Some("reviews.default.svc.cluster"), "Outside 10.0.0.2:9080"),
            (vip, Some("reviews.."), "Outside 10.0.0.2:9080"),
            (vip, Some(""), "Outside 10.0.0.2:9080"),
            (vip, Some("."), "Outside 10.0.0.2:9080"),
            (vip, Some(":9080"), "Outside 10.0.0.2:9080"),
            (vip, None, "Outside 10.0.0.2:9080"),
        ],
    );
}

#[test]
fn names_are_those_of_the_port() {
    check(
        false,
        Traffic::Http,
        &[
            // Host names what is not visible on this port: the VIP decides.
            ("10.0.0.2:8080", Some("reviews"), "Vip shop.default.svc.cluster.local:8080"),
            ("10.0.0.2:80", Some("shop"), "Host shop.default.svc.cluster.local:80"),
            ("10.0.0.2:8080", Some("shop"), "Host shop.default.svc.cluster.local:8080"),
            // Host wins over the VIP (Istio).
            ("10.0.0.1:9080", Some("lonely.other"), "Host lonely.other.svc.cluster.local:9080"),
            ("10.0.0.1:9080", Some("no.such"), "Vip reviews.default.svc.cluster.local:9080"),
        ],
    );
}

#[test]
fn the_http_proxy_port() {
    check(
        false,
        Traffic::Http,
        &[
            (":9080", Some("reviews:9080"), REVIEWS),
            // One port: it may be left out.
            ("", Some("reviews"), REVIEWS),
            ("", Some("lonely.other"), "Host lonely.other.svc.cluster.local:9080"),
            // Several, one of them the scheme's.
            ("", Some("shop"), "Host shop.default.svc.cluster.local:80"),
            // Several, none of them the scheme's.
            ("", Some("db"), "Outside db:80"),
            // A port that was named is meant.
            (":80", Some("reviews:80"), "Outside reviews:80"),
            // A headless name without an address: any of its endpoints, as DNS would have it.
            (":5432", Some("db:5432"), "Host db.default.svc.cluster.local:5432"),
            // One pod of it by name: nothing here says which address that is, so it is not balanced.
            (":5432", Some("db-0.db:5432"), "Outside db-0.db:5432"),
            // An address in place of a name.
            (":9080", Some("10.0.0.1:9080"), "Vip reviews.default.svc.cluster.local:9080"),
            (":8080", Some("10.1.0.2:8080"), "Workload 10.1.0.2:8080"),
            (":8080", Some("10.1.0.9:8080"), "Own 10.1.0.9:8080"),
            // The same addresses in IPv6's clothes are no way around what is known about them.
            (":9080", Some("[::ffff:10.0.0.1]:9080"), "Vip reviews.default.svc.cluster.local:9080"),
            (":8080", Some("[::ffff:10.1.0.2]:8080"), "Workload 10.1.0.2:8080"),
            (":8080", Some("[::ffff:10.1.0.9]:8080"), "Own 10.1.0.9:8080"),
            (":80", Some("203.0.113.1"), "Outside 203.0.113.1:80"),
            (":80", Some("[2001:db8::1]:80"), "Outside [2001:db8::1]:80"),
            // GAMMA: the authority's VIP is what was dialled.
            (":80", Some("echo-v1.gamma"), "Frontend echo-v1.gamma.svc.cluster.local:80"),
            (":80", Some("echo-v2.gamma"), "Host echo-v2.gamma.svc.cluster.local:80"),
        ],
    );
}

#[test]
fn wildcards_and_routes() {
    let outside = "203.0.113.1:443";
    check(
        false,
        Traffic::Http,
        &[
            (outside, Some("api.example.com"), "Host api.example.com:443"),
            (outside, Some("www.example.com"), "Host *.example.com:443"),
            (outside, Some("a.b.example.com"), "Host *.example.com:443"),
            (outside, Some("x.deep.example.com"), "Host *.deep.example.com:443"),
            // The longest is not there on port 80.
            ("203.0.113.1:80", Some("x.deep.example.com"), "Host *.example.com:80"),
            // A wildcard is not its own domain.
            (outside, Some("example.com"), "Outside 203.0.113.1:443"),
            (outside, Some("notexample.com"), "Outside 203.0.113.1:443"),
            (outside, Some(".example.com"), "Outside 203.0.113.1:443"),
            // Routes for a host without a service: on any port.
            ("203.0.113.1:7", Some("only-routes.test"), "Host only-routes.test:7"),
            ("203.0.113.1:7", Some("x.routes.example.com"), "Host *.routes.example.com:7"),
            (":7", Some("only-routes.test:7"), "Host only-routes.test:7"),
        ],
    );
    check(
        true,
        Traffic::Http,
        &[
            (outside, Some("anything.test"), "Host *:443"),
            (outside, Some("www.example.com"), "Host *.example.com:443"),
            ("10.0.0.2:9080", Some("reviews"), REVIEWS),
            ("10.0.0.2:8080", Some("anything.test"), "Host *:8080"),
            (":80", Some("anything.test"), "Host *:80"),
            // An address as Host names nothing: VIP, pod and range come first.
            ("10.0.0.2:8080", Some("10.0.0.2:8080"), "Vip shop.default.svc.cluster.local:8080"),
            ("10.1.0.2:8080", Some("10.1.0.2:8080"), "Workload 10.1.0.2:8080"),
            ("10.1.0.9:1", Some("10.1.0.9:1"), "Own 10.1.0.9:1"),
            ("192.0.2.1:443", Some("192.0.2.1"), "Cidr wide.test:443"),
            ("203.0.113.1:80", Some("203.0.113.1"), "Host *:80"),
            ("203.0.113.1:80", None, "Host *:80"),
        ],
    );
}

#[test]
fn gamma() {
    check(
        true,
        Traffic::Http,
        &[
            // A's VIP with B's Host: A's routes, whatever Host says (MeshFrontendHostname).
            ("10.0.0.11:80", Some("echo-v2.gamma"), "Frontend echo-v1.gamma.svc.cluster.local:80"),
            ("10.0.0.11:80", Some("reviews"), "Frontend echo-v1.gamma.svc.cluster.local:80"),
            ("10.0.0.11:80", None, "Frontend echo-v1.gamma.svc.cluster.local:80"),
            // B's VIP, which no Gateway API route is bound to, with A's Host: not A's frontend.
            ("10.0.0.12:80", Some("echo-v1.gamma"), "Host echo-v1.gamma.svc.cluster.local:80"),
            // A port that the service has not is no frontend.
            ("10.0.0.11:82", Some("echo-v1.gamma"), "Host *:82"),
        ],
    );
    check(false, Traffic::Tcp, &[("10.0.0.11:81", None, "Frontend echo-v1.gamma.svc.cluster.local:81")]);
}

#[test]
fn pods() {
    let policy = |of: &str| format!("Workload 10.1.0.1:5432 as {of}.default.svc.cluster.local:5432");
    check(
        true,
        Traffic::Http,
        &[
            // Headless: its policy, that pod.
            ("10.1.0.1:5432", Some("db"), &policy("db")),
            ("10.1.0.1:5432", Some("db-0.db.default.svc.cluster.local"), &policy("db")),
            ("10.1.0.1:5432", Some("10.1.0.1:5432"), "Workload 10.1.0.1:5432"),
            // A pod of another service than Host says: Host wins.
            ("10.1.0.1:9080", Some("reviews"), REVIEWS),
            ("10.1.0.7:9080", Some("reviews"), "Ask 10.1.0.7"),
            ("10.1.0.8:9080", Some("reviews"), REVIEWS),
            // The target port differs from the service's port: still one of its services, and no balancing.
            ("10.1.0.7:8080", Some("10.1.0.7"), "Ask 10.1.0.7"),
            // Own address.
            ("10.1.0.9:8080", Some("10.1.0.9:8080"), "Own 10.1.0.9:8080"),
            ("10.1.0.9:9080", Some("lonely.other"), "Host lonely.other.svc.cluster.local:9080"),
        ],
    );
    check(
        false,
        Traffic::Http,
        &[
            (
                "10.1.0.2:8080",
                Some("reviews"),
                "Workload 10.1.0.2:8080 as reviews.default.svc.cluster.local:9080",
            ),
            ("10.1.0.2:8080", Some("anything.test"), "Workload 10.1.0.2:8080"),
            ("10.1.0.2:8080", None, "Workload 10.1.0.2:8080"),
            ("10.1.0.9:8080", Some("reviews"), "Own 10.1.0.9:8080"),
        ],
    );
}

#[test]
fn bytes_have_no_host() {
    check(
        true,
        Traffic::Tcp,
        &[
            ("10.0.0.2:8080", Some("reviews"), "Vip shop.default.svc.cluster.local:8080"),
            ("10.1.0.1:5432", Some("db"), "Workload 10.1.0.1:5432"),
            ("10.1.0.7:5432", None, "Ask 10.1.0.7"),
            ("10.1.0.9:1", None, "Own 10.1.0.9:1"),
            ("203.0.113.1:25", None, "Outside 203.0.113.1:25"),
        ],
    );
}

#[test]
fn tls_has_its_sni() {
    check(
        true,
        Traffic::Tls,
        &[
            ("203.0.113.1:443", Some("api.example.com"), "Host api.example.com:443"),
            ("203.0.113.1:443", Some("X.deep.example.com"), "Host *.deep.example.com:443"),
            ("10.0.0.2:8080", Some("no.such"), "Vip shop.default.svc.cluster.local:8080"),
            // A VirtualService's HTTP routes for a host are not for TLS.
            ("203.0.113.1:443", Some("only-routes.test"), "Outside 203.0.113.1:443"),
            ("203.0.113.1:443", Some("anything.test"), "Outside 203.0.113.1:443"),
            ("203.0.113.1:443", None, "Outside 203.0.113.1:443"),
        ],
    );
}

#[test]
fn ranges_longest_prefix_first() {
    check(
        false,
        Traffic::Tcp,
        &[
            ("192.0.2.1:443", None, "Cidr wide.test:443"),
            ("192.0.2.129:443", None, "Cidr narrow.test:443"),
            ("192.0.2.200:443", None, "Cidr one.test:443"),
            // The longest that has the port.
            ("192.0.2.200:9000", None, "Cidr wide.test:9000"),
            ("192.0.2.200:9001", None, "Outside 192.0.2.200:9001"),
        ],
    );
}

#[test]
fn outside_is_blocked_where_only_the_registry_counts() {
    for (orig_dst, host) in [(Some("203.0.113.1:80"), None), (None, Some("no.such")), (None, None)] {
        let orig_dst = orig_dst.map(|at| at.parse().unwrap());
        let lookup = Lookup { orig_dst, port: 80, port_given: true, host, traffic: Traffic::Http };
        assert_eq!(resolve(&world(false), &lookup, false, pod), Resolved::Blocked, "{lookup:?}");
    }
}

#[test]
fn one_host_in_two_namespaces_is_ones_own() {
    let index = world(false);
    let found = index.by_name("api.example.com", 80, true, true).unwrap();
    assert_eq!(&*found.namespace, "default");
}

#[test]
fn a_name_that_somebody_wrote_is_not_taken_by_an_alias() {
    let all = [namespace(
        "default",
        vec![
            entry("reviews.default.svc.cluster.local", EntryKind::EntryService, &[], &[80]),
            entry("reviews", EntryKind::EntryExternal, &[], &[80]),
        ],
    )];
    let index = Catalogue::build("default", "cluster.local", &all);
    assert_eq!(index.by_name("reviews", 80, true, true).unwrap().name.to_string(), "reviews:80");
}

#[test]
fn what_is_no_catalogue_is_refused_by_name() {
    let base = || entry("a.test", EntryKind::EntryService, &[], &[80]);
    let mut cases = HashMap::new();
    cases.insert("host", wire::CatalogueEntry { host: "A.test".into(), ..base() });
    cases.insert("empty", wire::CatalogueEntry { host: String::new(), ..base() });
    cases.insert("star inside", wire::CatalogueEntry { host: "a.*.test".into(), ..base() });
    cases.insert("vip", wire::CatalogueEntry { vips: vec!["10.0.0".into()], ..base() });
    cases.insert("cidr", wire::CatalogueEntry { cidrs: vec!["10.0.0.0/33".into()], ..base() });
    cases.insert("kind", wire::CatalogueEntry { kind: 99, ..base() });
    cases.insert("port", entry("a.test", EntryKind::EntryService, &[], &[70_000]));
    for (what, entry) in cases {
        assert!(Namespace::parse("x", wire::Catalogue { entries: vec![entry] }).is_err(), "{what}");
    }
}

#[test]
fn bytes_to_nobody_wait_for_a_name_only_where_one_could_be_meant() {
    let speaking = |host: &str, port: u32, protocol: Protocol| {
        let mut entry = entry(host, EntryKind::EntryService, &[], &[port]);
        entry.ports[0].protocol = protocol.into();
        entry
    };
    let entries = vec![
        speaking("db.test", 3306, Protocol::Tcp),
        speaking("web.test", 8080, Protocol::Http),
        speaking("tls.test", 443, Protocol::Tls),
        speaking("db2.test", 443, Protocol::Tcp),
        speaking("tls2.test", 8443, Protocol::Tls),
        speaking("web2.test", 8443, Protocol::Http2),
    ];
    let catalogue = Catalogue::build("default", "cluster.local", [&namespace("default", entries)]);
    let cases = [
        (3306, Protocol::Tcp),
        (8080, Protocol::Auto),
        (443, Protocol::Tls),
        (8443, Protocol::Auto),
        (80, Protocol::Tcp),
        (22, Protocol::Tcp),
    ];
    for (port, expected) in cases {
        assert_eq!(catalogue.spoken_on(port), expected, "{port}");
    }
    // Hosts that only routes have.
    assert_eq!(world(false).spoken_on(22), Protocol::Tcp);
    let route = namespace("a", vec![entry("only.test", EntryKind::EntryRouteOnly, &[], &[])]);
    assert_eq!(Catalogue::build("a", "cluster.local", [&route]).spoken_on(80), Protocol::Auto);
}
