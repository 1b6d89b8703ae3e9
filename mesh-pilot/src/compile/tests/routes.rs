//! VirtualService: which one routes a host, and what its rules become.

use mesh_proto::wire::mesh::v1 as wire;

use super::super::fixture::{Mesh, host, object, routes, viewer};

#[test]
fn a_plain_service_is_its_own_destination() {
    let mesh = Mesh::with("");
    let rules = mesh.rules("reviews", 9080);
    assert_eq!(mesh.backends("default", "reviews", 9080), [["reviews.default:9080/=1"]]);
    let Some(wire::rule::Action::Route(route)) = &rules[0].action else { panic!() };
    let retry = route.retry.as_ref().unwrap();
    assert_eq!((retry.attempts, route.timeout, rules[0].name.as_str()), (2, None, "default"));
    assert_eq!(
        retry.retry_on,
        ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"]
    );
    assert_eq!(retry.backoff, Some(prost_types::Duration { seconds: 0, nanos: 25_000_000 }));
    assert!(mesh.destination(&viewer("default"), "reviews", 81).is_none(), "no such port");
    assert!(mesh.destination(&viewer("default"), "nobody", 80).is_none(), "no such service");
}

/// Exact before the longest wildcard before `*`; age does not matter then.
#[test]
fn the_most_specific_host_wins() {
    let star = routes("a", "'*'", "ratings");
    let wide = routes("b", "'*.svc.cluster.local'", "bank.money");
    let narrow = routes("c", "'*.default.svc.cluster.local'", "team");
    let exact = routes("d", "reviews", "reviews");
    let to = |yaml: &str| Mesh::with(yaml).backends("default", "reviews", 9080)[0][0].clone();
    assert_eq!(to(&star), "ratings.default:9080/=1");
    assert_eq!(to(&format!("{star}{wide}")), "bank.money:443/=1");
    assert_eq!(to(&format!("{star}{wide}{narrow}")), "team.default:9080/=1");
    assert_eq!(to(&format!("{star}{wide}{narrow}{exact}")), "reviews.default:9080/=1");
}

/// A short host is of the VirtualService's own namespace, as host and as destination.
#[test]
fn short_names_mean_the_own_namespace() {
    let there = routes("money/a", "reviews", "bank");
    assert_eq!(Mesh::with(&there).backends("default", "reviews", 9080), [["reviews.default:9080/=1"]]);
    let full = routes("money/a", "reviews.default.svc.cluster.local", "bank");
    assert_eq!(Mesh::with(&full).backends("default", "reviews", 9080), [["bank.money:443/=1"]]);
    let dotted = routes("money/a", "reviews.default", "bank.money.svc");
    assert_eq!(Mesh::with(&dotted).backends("default", "reviews", 9080), [["bank.money:443/=1"]]);
}

/// Oldest first, ties by name; the first has the host whole.
#[test]
fn the_oldest_has_a_host_whole() {
    let a = routes("a", "reviews", "ratings");
    let b = routes("b", "reviews", "bank.money");
    let mesh = Mesh::with(&format!("{b}{a}"));
    assert_eq!(mesh.backends("default", "reviews", 9080), [["ratings.default:9080/=1"]]);
    let told = mesh.told();
    assert!(
        told.iter().any(|t| t.starts_with(
            "!b: reviews.default.svc.cluster.local is routed by VirtualService default/a (mesh.yaml:"
        )),
        "{told:?}"
    );
    let aged = |yaml: &str, time: &str| {
        yaml.replace("namespace: default}", &format!("namespace: default, creationTimestamp: '{time}'}}"))
    };
    let older_b = format!("{}{}", aged(&a, "2024-02-01T00:00:00Z"), aged(&b, "2024-01-01T00:00:00Z"));
    assert_eq!(Mesh::with(&older_b).backends("default", "reviews", 9080), [["bank.money:443/=1"]]);
}

#[test]
fn export_to_says_who_sees_it() {
    let with = |list: &str| {
        let spec = format!(
            "{{exportTo: [{list}], hosts: [reviews], http: [{{route: [{{destination: {{host: ratings}}}}]}}]}}"
        );
        Mesh::with(&object("VirtualService", "a", &spec))
    };
    let routed = |mesh: &Mesh, from: &str| mesh.backends(from, "reviews", 9080)[0][0].starts_with("ratings");
    for (list, here, there) in [
        ("'*'", true, true),
        ("'.'", true, false),
        ("money", false, true),
        ("'~'", false, false),
        ("", true, true),
    ] {
        let mesh = with(list);
        assert_eq!((routed(&mesh, "default"), routed(&mesh, "money")), (here, there), "{list}");
    }
}

/// Private before public, although younger.
#[test]
fn what_is_private_comes_first() {
    let public = routes("a", "reviews", "ratings");
    let private = routes("b", "reviews", "bank.money").replace("hosts:", "exportTo: ['.'], hosts:");
    let mesh = Mesh::with(&format!("{public}{private}"));
    assert_eq!(mesh.backends("default", "reviews", 9080), [["bank.money:443/=1"]]);
    assert_eq!(mesh.backends("money", "reviews", 9080), [["ratings.default:9080/=1"]]);
}

/// `gateways` without `mesh` takes a VirtualService from the sidecars.
#[test]
fn gateways_without_mesh_are_not_for_sidecars() {
    let bound = |list: &str| {
        routes("a", "reviews", "ratings").replace("hosts:", &format!("gateways: [{list}], hosts:"))
    };
    let routed = |list: &str| {
        Mesh::with(&bound(list)).backends("default", "reviews", 9080)[0][0].starts_with("ratings")
    };
    assert!(routed("mesh"));
    assert!(routed("edge, mesh"));
    assert!(!routed("edge"));
}

/// Static selectors of a match are decided here; a rule that keeps no match is gone.
#[test]
fn static_selectors() {
    let with = |selector: &str| {
        let spec = format!(
            "{{hosts: [reviews], http: [{{match: [{{{selector}}}], route: [{{destination: {{host: ratings}}}}]}}, {{route: [{{destination: {{host: reviews}}}}]}}]}}"
        );
        Mesh::with(&object("VirtualService", "a", &spec)).rules("reviews", 9080).len()
    };
    assert_eq!(with("port: 9080"), 2);
    assert_eq!(with("port: 9081"), 1);
    assert_eq!(with("gateways: [mesh]"), 2);
    assert_eq!(with("gateways: [edge]"), 1);
    assert_eq!(with("sourceNamespace: default"), 2);
    assert_eq!(with("sourceNamespace: money"), 1);
    assert_eq!(with("sourceLabels: {app: a}"), 2, "labels are the proxy's to look at");
}

#[test]
fn matches_keep_their_meaning() {
    use wire::path_match::Kind as Path;
    use wire::string_match::Kind as Text;
    let spec = "{hosts: [reviews], http: [{name: r, match: [{name: m, uri: {prefix: /a}, ignoreUriCase: true, method: {exact: GET}, \
        headers: {X-User: {regex: '*'}, y: {}}, withoutHeaders: {z: {exact: '1'}}, queryParams: {q: {exact: ''}}, sourceLabels: {app: c}}], \
        route: [{destination: {host: reviews}}]}]}";
    let mesh = Mesh::with(&object("VirtualService", "a", spec));
    let rule = &mesh.rules("reviews", 9080)[0];
    let one = &rule.matches[0];
    assert_eq!((rule.name.as_str(), one.name.as_str()), ("r", "m"));
    let path = one.path.as_ref().unwrap();
    assert_eq!((&path.kind, path.ignore_case), (&Some(Path::Prefix("/a".into())), true));
    let headers: Vec<_> = one
        .headers
        .iter()
        .map(|h| (h.name.as_str(), h.value.as_ref().unwrap().kind.as_ref().unwrap(), h.invert))
        .collect();
    assert_eq!(
        headers,
        [
            ("x-user", &Text::Present(true), false),
            ("y", &Text::Present(true), false),
            ("z", &Text::Exact("1".into()), true)
        ]
    );
    assert_eq!(one.query[0].value.as_ref().unwrap().kind, Some(Text::Exact(String::new())));
    assert_eq!(one.source_labels["app"], "c");
    let origin = rule.origin.as_ref().unwrap();
    assert_eq!((origin.kind.as_str(), origin.name.as_str(), origin.rule), ("VirtualService", "a", Some(0)));
    assert!(origin.location.starts_with("mesh.yaml:"), "{}", origin.location);
}

/// A match that asks for nothing makes the rule take everything.
#[test]
fn an_empty_match_takes_everything() {
    let with = |first: &str| {
        let spec = format!(
            "{{hosts: [reviews], http: [{{match: [{first}, {{method: {{exact: GET}}}}], route: [{{destination: {{host: reviews}}}}]}}]}}"
        );
        Mesh::with(&object("VirtualService", "a", &spec)).rules("reviews", 9080)[0].matches.len()
    };
    assert_eq!(with("{port: 9080}"), 0);
    assert_eq!(with("{port: 9080, uri: {exact: /}}"), 2);
}

#[test]
fn weights() {
    let with = |route: &str| {
        let spec = format!("{{hosts: [reviews], http: [{{route: [{route}]}}]}}");
        Mesh::with(&object("VirtualService", "a", &spec)).backends("default", "reviews", 9080)[0].clone()
    };
    let to = |subset: &str, weight: i32| {
        format!("{{destination: {{host: reviews, subset: {subset}}}, weight: {weight}}}")
    };
    assert_eq!(
        with(&format!("{}, {}", to("v1", 90), to("v2", 10))),
        ["reviews.default:9080/v1=90", "reviews.default:9080/v2=10"]
    );
    assert_eq!(
        with(&format!("{}, {}", to("v1", -5), to("v2", 10))),
        ["reviews.default:9080/v1=0", "reviews.default:9080/v2=10"]
    );
    assert_eq!(with(&to("v1", 0)), ["reviews.default:9080/v1=1"], "a single one takes everything");
}

/// The port written, else the only one, else the one asked for.
#[test]
fn destination_ports() {
    let with = |destination: &str| {
        let spec = format!("{{hosts: [ratings], http: [{{route: [{{destination: {destination}}}]}}]}}");
        Mesh::with(&object("VirtualService", "a", &spec)).backends("default", "ratings", 80)[0][0].clone()
    };
    assert_eq!(with("{host: reviews}"), "reviews.default:9080/=1");
    assert_eq!(with("{host: ratings}"), "ratings.default:80/=1");
    assert_eq!(with("{host: ratings, port: {number: 3306}}"), "ratings.default:3306/=1");
    assert_eq!(with("{host: nobody}"), "nobody.default:80/=1", "kept: the proxy answers 503 NC");
}

#[test]
fn retries_and_timeouts() {
    let route = |more: &str| {
        let spec =
            format!("{{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews}}}}]{more}}}]}}");
        let mesh = Mesh::with(&object("VirtualService", "a", &spec));
        let Some(wire::rule::Action::Route(route)) = mesh.rules("reviews", 9080)[0].action.clone() else {
            panic!()
        };
        route
    };
    let retry = |more: &str| route(&format!(", retries: {{{more}}}")).retry.unwrap();
    assert_eq!(route("").retry.unwrap().attempts, 2);
    assert_eq!(retry("attempts: 0").attempts, 0);
    let same = retry("attempts: 3, perTryTimeout: 2s");
    assert_eq!((same.attempts, same.per_try_timeout.unwrap().seconds, same.retry_on.len()), (3, 2, 5));
    let own = retry("attempts: 1, retryOn: 'reset,503', backoff: 1s, retryIgnorePreviousHosts: false");
    assert_eq!(
        (own.retry_on, own.status_codes),
        (vec!["reset".to_owned(), "retriable-status-codes".to_owned()], vec![503])
    );
    // Words that mean nothing here do not reach the proxy, and do not become the default.
    assert!(retry("attempts: 1, retryOn: retriable-headers").retry_on.is_empty());
    assert_eq!((own.backoff.unwrap().seconds, own.ignore_previous_hosts), (1, Some(false)));
    assert_eq!(
        route(", timeout: 1.5s").timeout,
        Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 })
    );
    assert_eq!(route(", timeout: 0s").timeout, None);
}

#[test]
fn direct_responses() {
    let with = |body: &str| {
        let spec = format!("{{hosts: [reviews], http: [{{directResponse: {{status: 418{body}}}}}]}}");
        let rules = Mesh::with(&object("VirtualService", "a", &spec)).rules("reviews", 9080);
        let Some(wire::rule::Action::DirectResponse(response)) = rules[0].action.clone() else { panic!() };
        (response.status, response.body.to_vec())
    };
    assert_eq!(with(""), (418, vec![]));
    assert_eq!(with(", body: {string: tea}"), (418, b"tea".to_vec()));
    assert_eq!(with(", body: {bytes: dGVh}"), (418, b"tea".to_vec()));
}

#[test]
fn tcp_routes_are_for_opaque_ports() {
    let spec = "{hosts: [ratings], tcp: [{match: [{port: 3306}], route: [{destination: {host: reviews}}]}]}";
    let mesh = Mesh::with(&object("VirtualService", "a", spec));
    let tcp = |port| {
        let rules = mesh.destination(&viewer("default"), "ratings", port).unwrap().tcp;
        rules.iter().map(|rule| rule.backends[0].cluster.clone().unwrap().host).collect::<Vec<_>>()
    };
    assert_eq!(tcp(3306), [host("reviews.default")]);
    assert!(tcp(80).is_empty());
    // Its HTTP is untouched.
    assert_eq!(mesh.backends("default", "ratings", 80), [["ratings.default:80/=1"]]);
}

/// A VirtualService for `*`: every service that no other names, and a name for what no service has.
#[test]
fn hosts_that_only_routes_have() {
    let mesh = Mesh::with(&routes("a", "'*', '*.example.com', reviews, later", "ratings"));
    let mut only: Vec<String> =
        mesh.catalogue("default", "default").into_iter().filter(|e| e.kind == 3).map(|e| e.host).collect();
    only.sort();
    assert_eq!(only, ["*", "*.example.com", "later.default.svc.cluster.local"]);
    assert_eq!(mesh.backends("money", "bank.money", 443), [["ratings.default:443/=1"]]);
    assert_eq!(mesh.backends("default", "*.example.com", 8080), [["ratings.default:8080/=1"]]);
    assert!(mesh.destination(&viewer("default"), "*.example.org", 8080).is_some(), "* names it");
    assert!(Mesh::with("").destination(&viewer("default"), "*.example.org", 8080).is_none());
}

#[test]
fn the_catalogue_holds_what_is_visible() {
    let hidden = "---\n{apiVersion: v1, kind: Service, metadata: {name: hidden, annotations: {networking.istio.io/exportTo: '.'}}, spec: {ports: [{port: 1}]}}\n";
    let mesh = Mesh::with(hidden);
    let hosts = |from: &str| mesh.catalogue(from, "default").into_iter().map(|e| e.host).collect::<Vec<_>>();
    assert_eq!(hosts("default"), [host("hidden.default"), host("ratings.default"), host("reviews.default")]);
    assert_eq!(hosts("money"), [host("ratings.default"), host("reviews.default")]);
    assert!(mesh.destination(&viewer("money"), "hidden", 1).is_none());
    assert!(mesh.cluster(&viewer("money"), "hidden", 1).is_none());
    let bank = &mesh.catalogue("default", "money")[0];
    assert_eq!(
        (bank.kind(), bank.vips.len(), bank.ports[0].number),
        (wire::EntryKind::EntryHeadless, 0, 443)
    );
    assert!(mesh.catalogue("default", "nowhere").is_empty());
}

/// The files that the user of this project wrote: `*` to `my-service`, whoever is asked for.
#[test]
fn the_users_virtual_service() {
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: my-service}, spec: {clusterIP: 10.0.0.9, selector: {app: my-service}, ports: [{port: 8080}]}}\n";
    let mesh = Mesh::with(&format!("{service}{}", routes("my-service", "'*'", "my-service")));
    assert_eq!(mesh.backends("default", "my-service", 8080), [["my-service.default:8080/=1"]]);
    assert_eq!(mesh.backends("default", "*", 80), [["my-service.default:8080/=1"]]);
}

#[test]
fn what_leads_nowhere_is_told() {
    let spec = "{hosts: [reviews], gateways: [mesh, edge], http: [{route: [{destination: {host: nobody}, weight: 1}, \
        {destination: {host: reviews, subset: v9}, weight: 1}, {destination: {host: reviews, port: {number: 1}}, weight: 1}]}]}";
    let told = Mesh::with(&object("VirtualService", "a", spec)).told();
    let expected = [
        "a: there is no Gateway default/edge (IST0101)",
        "a: http[0]: the host nobody.default.svc.cluster.local is unknown",
        "a: http[0]: reviews.default.svc.cluster.local has no subset v9",
        "a: http[0]: reviews.default.svc.cluster.local has no port 1",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
}

/// A short name is of the own namespace: `reviews` written in another one names nobody.
#[test]
fn hosts_of_no_service_are_told() {
    let told = |name: &str, hosts: &str| Mesh::with(&routes(name, hosts, "reviews.default")).told();
    assert_eq!(
        told("money/a", "reviews"),
        [
            "a: no service has the host reviews.money.svc.cluster.local: only requests for just that name are routed; \
          reviews.default.svc.cluster.local is another one's"
        ]
    );
    for fine in ["reviews.default", "example.com", "'*'", "'*.money.svc.cluster.local'", "bank"] {
        assert_eq!(told("money/a", fine), [""; 0], "{fine}");
    }
}

#[test]
fn destinations_with_several_ports_need_one() {
    let told = |to: &str| Mesh::with(&routes("a", "reviews", to)).told();
    let found = told("ratings");
    assert!(
        found[0].starts_with("a: http[0]: ratings.default.svc.cluster.local has several ports"),
        "{found:?}"
    );
    assert_eq!(told("ratings, port: {number: 80}"), [""; 0]);
    assert_eq!(Mesh::with(&routes("a", "ratings", "ratings")).told(), [""; 0]);
}
