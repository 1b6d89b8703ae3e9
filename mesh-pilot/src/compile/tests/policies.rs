//! PeerAuthentication merged, and what fails closed.

use mesh_proto::wire::mesh::v1 as wire;
use wire::MtlsMode::{MtlsDisable, MtlsPermissive, MtlsStrict};

use super::super::fixture::{Mesh, object, viewer};
use crate::snapshot::MeshOptions;

fn policy(name: &str, spec: &str) -> String {
    object("PeerAuthentication", name, &format!("{{{spec}}}"))
}

fn mode(mode: &str) -> String {
    format!("mtls: {{mode: {mode}}}")
}

const V1: &str = "selector: {matchLabels: {version: v1}}";

fn of(yaml: &str) -> wire::SelfConfig {
    Mesh::with(yaml).self_config("reviews-v1-0")
}

#[test]
fn workload_over_namespace_over_mesh() {
    let mesh = policy("istio-system/m", &mode("STRICT"));
    let namespace = policy("n", &mode("DISABLE"));
    let workload = policy("w", &format!("{V1}, {}", mode("STRICT")));
    assert_eq!(of("").mtls(), MtlsPermissive);
    assert_eq!(of(&mesh).mtls(), MtlsStrict);
    assert_eq!(of(&format!("{mesh}{namespace}")).mtls(), MtlsDisable);
    let all = of(&format!("{mesh}{namespace}{workload}"));
    assert_eq!((all.mtls(), all.mtls_origin.unwrap().name.as_str()), (MtlsStrict, "w"));
    assert_eq!(of(&policy("money/n", &mode("STRICT"))).mtls(), MtlsPermissive, "another namespace's");
}

#[test]
fn unset_inherits() {
    let namespace = policy("n", &mode("STRICT"));
    let unset = policy("w", &format!("{V1}, {}", mode("UNSET")));
    assert_eq!(of(&format!("{namespace}{unset}")).mtls(), MtlsStrict);
    assert_eq!(of(&format!("{namespace}{}", policy("w", V1))).mtls(), MtlsStrict);
}

#[test]
fn the_oldest_of_several() {
    let mesh = Mesh::with(&format!("{}{}", policy("b", &mode("DISABLE")), policy("a", &mode("STRICT"))));
    assert_eq!(mesh.self_config("reviews-v1-0").mtls(), MtlsStrict);
    assert!(mesh.told()[0].starts_with("!b: PeerAuthentication default/a"), "{:?}", mesh.told());
}

#[test]
fn ports_of_the_container() {
    let ports = policy(
        "w",
        &format!(
            "{V1}, {}, portLevelMtls: {{9080: {{mode: DISABLE}}, 9999: {{mode: UNSET}}}}",
            mode("STRICT")
        ),
    );
    let config = of(&ports);
    assert_eq!(config.mtls(), MtlsStrict);
    assert_eq!(config.mtls_by_port, [(9080, i32::from(MtlsDisable))].into());
    // Auto mTLS: clients see that the port is plain.
    assert!(!Mesh::with(&ports).endpoints("reviews", 9080)[0].mtls);
    assert!(
        Mesh::with(&policy("w", &format!("{V1}, {}", mode("STRICT")))).endpoints("reviews", 9080)[0].mtls
    );
}

#[test]
fn selectors_in_the_root_namespace_are_ignored_and_told() {
    let mesh = Mesh::with(&policy("istio-system/m", &format!("{V1}, {}", mode("STRICT"))));
    assert_eq!(mesh.self_config("reviews-v1-0").mtls(), MtlsPermissive);
    assert!(mesh.told()[0].starts_with("!m: a policy with a selector is ignored"), "{:?}", mesh.told());
}

/// A PeerAuthentication that was never good: STRICT for those that it selects, and for nobody else.
#[test]
fn a_refused_peer_authentication_is_strict() {
    let bad = |name: &str, selector: &str| policy(name, &format!("{selector}, mtls: {{mode: STRIKT}}"));
    let config = of(&bad("a", V1));
    assert_eq!((config.mtls(), config.mtls_origin.unwrap().name.as_str()), (MtlsStrict, "a"));
    assert_eq!(of(&bad("a", "selector: {matchLabels: {version: v2}}")).mtls(), MtlsPermissive);
    assert_eq!(of(&bad("money/a", V1)).mtls(), MtlsPermissive);
    assert_eq!(of(&bad("istio-system/a", "selector: {}")).mtls(), MtlsStrict);
    // It is stricter than a good one.
    assert_eq!(
        of(&format!("{}{}", bad("a", V1), policy("b", &format!("{V1}, {}", mode("DISABLE"))))).mtls(),
        MtlsStrict
    );
}

/// What restricts and is refused: its targets let nothing in.
#[test]
fn a_policy_that_cannot_be_enforced_denies_all() {
    let policy = |namespace: &str, label: &str| {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {{action: CUSTOM, selector: {{matchLabels: {{version: {label}}}}}}}}}\n"
        )
    };
    let denied = |yaml: &str| of(yaml).deny_all.map(|origin| (origin.kind, origin.name));
    assert_eq!(denied(""), None);
    assert_eq!(denied(&policy("default", "v1")), Some(("AuthorizationPolicy".into(), "p".into())));
    assert_eq!(denied(&policy("default", "v2")), None);
    assert_eq!(denied(&policy("money", "v1")), None);
    assert!(denied(&policy("istio-system", "v1")).is_some());
}

#[test]
fn what_a_workload_is_told_about_itself() {
    let config = of("");
    assert_eq!(config.identity, "spiffe://cluster.local/ns/default/sa/reviews");
    let ports: Vec<_> = config.ports.iter().map(|p| (p.port, p.protocol(), p.services.len())).collect();
    assert_eq!(ports, [(9080, wire::Protocol::Http, 1), (9999, wire::Protocol::Tcp, 0)]);
    assert_eq!(config.ports[0].services[0].host, "reviews.default.svc.cluster.local");
}

#[test]
fn who_is_behind_an_address() {
    let mesh = Mesh::with(&policy("w", &format!("{V1}, portLevelMtls: {{9999: {{mode: DISABLE}}}}")));
    let pod = &mesh.snapshot.workloads[&"10.1.0.1".parse().unwrap()];
    let workload = super::super::workload(&mesh.snapshot.config, pod, pod.address).unwrap().message;
    let ports: Vec<_> = workload.ports.iter().map(|p| (p.port, p.mtls)).collect();
    assert_eq!(ports, [(9080, true), (9999, false)]);
    assert_eq!(workload.identity, "spiffe://cluster.local/ns/default/sa/reviews");
}

/// What fails closed says so.
#[test]
fn what_is_closed_is_told() {
    let bad = |name: &str, rest: &str| policy(name, &format!("{rest}mtls: {{mode: STRIKT}}"));
    let told = |yaml: &str| Mesh::with(yaml).told();
    assert_eq!(told(&bad("a", "")), ["a: until it is put right, all workloads of default take mTLS only"]);
    assert_eq!(
        told(&bad("istio-system/a", "selector: {matchLabels: {app: x}}, ")),
        ["a: until it is put right, workloads of the mesh with app=x take mTLS only"]
    );
    let authorization = "---\n{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {action: ACTION}}\n";
    let closed = "p: as long as it is there, all workloads of default let nothing in";
    assert_eq!(told(&authorization.replace("ACTION", "CUSTOM")), [closed]);
    assert_eq!(told(&authorization.replace("ACTION", "DENY")), [""; 0]);
}

/// The names of a pod's policies, with their actions and rules.
fn authorization(yaml: &str) -> Vec<(String, wire::AuthorizationAction, usize)> {
    let policies = of(yaml).authorization.into_iter();
    policies.map(|p| (p.origin.clone().unwrap().name, p.action(), p.rules.len())).collect()
}

#[test]
fn whose_authorization_policies_a_pod_has() {
    use wire::AuthorizationAction::{AuthorizationAllow as Allow, AuthorizationDeny as Deny};
    let policy = |name: &str, spec: &str| object("AuthorizationPolicy", name, &format!("{{{spec}}}"));
    let all = [
        policy("istio-system/mesh", "action: DENY, rules: [{}]"),
        policy("istio-system/some", "selector: {matchLabels: {app: ratings}}"),
        policy("namespace", ""),
        policy("workload", &format!("{V1}, rules: [{{}}, {{}}]")),
        policy("another", "selector: {matchLabels: {version: v2}}"),
        policy("money/other", ""),
        policy("told", "action: AUDIT, rules: [{}]"),
    ];
    let expected =
        [("namespace".to_owned(), Allow, 0), ("workload".to_owned(), Allow, 2), ("mesh".to_owned(), Deny, 1)];
    assert_eq!(authorization(&all.concat()), expected);
    let dry = policy("a", "action: DENY, rules: [{}]")
        .replace("namespace: default", "namespace: default, annotations: {istio.io/dry-run: 'true'}");
    assert_eq!(authorization(&dry), []);
}

/// What decides nothing is told apart: a proxy that knows nothing of it loses nothing.
#[test]
fn what_is_only_watched() {
    use wire::AuthorizationAction::{AuthorizationAllow as Allow, AuthorizationAudit as Audit};
    let audit = object("AuthorizationPolicy", "a", "{action: AUDIT, rules: [{}]}");
    let dry = object("AuthorizationPolicy", "b", "{rules: [{}]}")
        .replace("namespace: default", "namespace: default, annotations: {istio.io/dry-run: 'true'}");
    let config = of(&format!("{audit}{dry}"));
    let watched: Vec<_> =
        config.watched_authorization.iter().map(wire::AuthorizationPolicy::action).collect();
    assert_eq!((watched, config.authorization.len()), (vec![Audit, Allow], 0));
    assert_eq!(config.deny_all, None);
    // The one that cannot be read was never to decide anything.
    assert_eq!(of(&object("AuthorizationPolicy", "a", "{action: AUDIT, rule: []}")).deny_all, None);
}

/// Policies that name whom they are for: pods of gateways by their labels, pods of services at the ports that these lead to.
#[test]
fn whom_target_refs_name() {
    let of = |name: &str, target: &str| {
        let policy = object(
            "AuthorizationPolicy",
            name,
            &format!("{{action: DENY, rules: [{{}}], targetRefs: [{target}]}}"),
        );
        let policies = of(&policy).authorization;
        policies.iter().map(|policy| policy.ports.clone()).collect::<Vec<_>>()
    };
    let none: [Vec<u32>; 0] = [];
    let gateway =
        |kind: &str, name: &str| format!("{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}");
    assert_eq!(of("a", "{kind: Service, name: reviews}"), [vec![9080]]);
    assert_eq!(of("a", "{kind: Service, name: ratings}"), none);
    assert_eq!(of("istio-system/a", "{kind: Service, name: reviews}"), none, "another namespace's");
    assert_eq!(of("money/a", "{kind: Service, name: reviews}"), none);
    assert_eq!(of("a", &gateway("Gateway", "edge")), none);
    let labelled = |policy: &str, target: &str| {
        let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: edge-0, uid: e, labels: {gateway.networking.k8s.io/gateway-name: edge, gateway.networking.k8s.io/gateway-class-name: istio}}, spec: {containers: [{name: a}]}, status: {podIP: 10.1.0.9}}\n";
        let policy = object("AuthorizationPolicy", policy, &format!("{{targetRefs: [{target}]}}"));
        Mesh::with(&format!("{pod}{policy}")).self_config("edge-0").authorization.len()
    };
    assert_eq!(labelled("a", &gateway("Gateway", "edge")), 1);
    assert_eq!(labelled("a", &gateway("Gateway", "other")), 0);
    assert_eq!(labelled("istio-system/a", &gateway("Gateway", "edge")), 0, "of its own namespace only");
    assert_eq!(labelled("istio-system/a", &gateway("GatewayClass", "istio")), 1);
    assert_eq!(labelled("istio-system/a", &gateway("GatewayClass", "other")), 0);
    assert_eq!(labelled("money/a", &gateway("GatewayClass", "istio")), 0);
}

/// A ServiceEntry with pods is as a Service; one without has nowhere to enforce a policy, and so nobody reaches it.
#[test]
fn policies_for_service_entries() {
    let entry = |more: &str| {
        object(
            "ServiceEntry",
            "e",
            &format!(
                "{{hosts: [www.e.example], ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 9080}}], {more}}}"
            ),
        )
    };
    let policy = |action: &str| {
        let spec = format!(
            "{{{action}rules: [{{}}], targetRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: e}}]}}"
        );
        object("AuthorizationPolicy", "p", &spec)
    };
    let pods =
        entry("location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: reviews}}");
    assert_eq!(of(&format!("{pods}{}", policy(""))).authorization[0].ports, [9080]);
    let outside = entry("resolution: DNS");
    let reached = |yaml: &str| {
        let mesh = Mesh::with(yaml);
        (mesh.cluster(&viewer("default"), "www.e.example", 80).is_some(), mesh.told())
    };
    assert_eq!(reached(&outside), (true, vec![]));
    let (reaches, told) = reached(&format!("{outside}{}", policy("")));
    assert!(!reaches && told[0].contains("nobody reaches www.e.example"), "{told:?}");
    assert!(reached(&format!("{outside}{}", policy("action: AUDIT, "))).0);
    assert!(Mesh::with(&policy("")).told()[0].contains("there is no ServiceEntry e"));
}

#[test]
fn a_policys_fields_on_the_wire() {
    let spec = "{rules: [{from: [{source: {principals: ['cluster.local/ns/a/sa/b', 'td/*'], notIpBlocks: [10.0.0.0/8]}}, \
        {source: {namespaces: [c]}}], to: [{operation: {paths: ['/a*'], methods: [GET]}}], \
        when: [{key: 'request.headers[x]', notValues: [y]}, {key: source.trustDomain, values: [cluster.local]}]}]}";
    let config = of(&object("AuthorizationPolicy", "p", spec));
    let rule = &config.authorization[0].rules[0];
    let text = |m: &wire::AuthorizationMatch| {
        format!("{}={}!{}", m.attribute, m.values.join(","), m.not_values.join(","))
    };
    let clauses = |clauses: &[wire::AuthorizationClause]| -> Vec<Vec<String>> {
        clauses.iter().map(|clause| clause.matches.iter().map(text).collect()).collect()
    };
    assert_eq!(
        clauses(&rule.from),
        [
            vec!["source.principal=cluster.local/ns/a/sa/b,td/*!".to_owned(), "source.ip=!10.0.0.0/8".into()],
            vec!["source.namespace=c!".into()],
        ]
    );
    assert_eq!(clauses(&rule.to), [["request.method=GET!", "request.path=/a*!"]]);
    let when: Vec<_> = rule.when.iter().map(text).collect();
    assert_eq!(when, ["request.headers[x]=!y", "source.trustDomain=cluster.local!"]);
}

/// Istio's trust domain migration: a principal of our trust domain, under whichever of its names, means all of them.
#[test]
fn principals_of_a_trust_domain_with_aliases() {
    let options = MeshOptions {
        trust_domain_aliases: vec!["old".parse().unwrap(), "older.example".parse().unwrap()],
        ..MeshOptions::default()
    };
    let values = |attribute: &str, written: &str| {
        let spec =
            format!("{{action: DENY, rules: [{{when: [{{key: {attribute}, values: ['{written}']}}]}}]}}");
        let yaml = object("AuthorizationPolicy", "p", &spec);
        let config = Mesh::with_options(options.clone(), &yaml).self_config("reviews-v1-0");
        assert_eq!(config.trust_domains, ["cluster.local", "old", "older.example"]);
        config.authorization[0].rules[0].when[0].values.join(" ")
    };
    let principal = |written: &str| values("source.principal", written);
    let all = "cluster.local/ns/a/sa/b old/ns/a/sa/b older.example/ns/a/sa/b";
    for written in ["cluster.local/ns/a/sa/b", "old/ns/a/sa/b", "older.example/ns/a/sa/b"] {
        assert_eq!(principal(written), all, "{written}");
    }
    assert_eq!(principal("old/ns/a/*"), "cluster.local/ns/a/* old/ns/a/* older.example/ns/a/*");
    // Another mesh's, and whoever's.
    for written in ["partner/ns/a/sa/b", "*/ns/a/sa/b", "*/sa/b", "*", "older/ns/a/sa/b", "cluster.*"] {
        assert_eq!(principal(written), written);
    }
    assert_eq!(principal("*.example/ns/a/sa/b"), "*.example/ns/a/sa/b cluster.local/ns/a/sa/b old/ns/a/sa/b");
    assert_eq!(values("source.trustDomain", "old"), "cluster.local old older.example");
    assert_eq!(values("source.trustDomain", "partner"), "partner");
    assert_eq!(values("source.namespace", "old"), "old");
}

/// What is known of an issuer's keys, and what is not, reaches the pod and the status.
#[test]
fn tokens_of_issuers() {
    let own = r#"{issuer: own, audiences: [a], jwks: '{"keys":[{"crv":"Ed25519","kty":"OKP","x":"a"}]}', fromHeaders: [{name: X-Jwt, prefix: 'Bearer '}]}"#;
    let fetched = "{issuer: 'https://issuer', outputClaimToHeaders: [{header: X-Sub, claim: sub}]}";
    let yaml = object("RequestAuthentication", "a", &format!("{{{V1}, jwtRules: [{own}, {fetched}]}}"));
    let rules = of(&yaml).jwt_rules;
    let known: Vec<_> = rules.iter().map(|rule| (rule.issuer.as_str(), rule.jwks.len())).collect();
    assert_eq!(known, [("https://issuer", 0), ("own", 48)]);
    assert_eq!(rules[1].from_headers[0].name, "x-jwt");
    assert_eq!(rules[0].output_claims[0].header, "x-sub");
    assert!(
        of(&object("RequestAuthentication", "money/a", &format!("{{jwtRules: [{own}]}}")))
            .jwt_rules
            .is_empty()
    );

    let source = crate::keys::KeySource::Issuer("https://issuer".into());
    let wanted = super::super::key_sources(&Mesh::with(&yaml).snapshot.config);
    assert_eq!(wanted.keys().collect::<Vec<_>>(), [&source]);
    let again =
        object("RequestAuthentication", "money/b", "{jwtRules: [{issuer: 'https://issuer', timeout: 7s}]}");
    let wanted = super::super::key_sources(&Mesh::with(&format!("{yaml}{again}")).snapshot.config);
    let namespaces: Vec<_> = wanted[&source].namespaces.iter().map(AsRef::as_ref).collect();
    assert_eq!((namespaces, wanted[&source].timeout.as_secs()), (vec!["default", "money"], 7));
    let keys = |good: Option<&'static str>, wrong: Option<&str>| crate::keys::Keys {
        good: good.map(Into::into),
        wrong: wrong.map(str::to_owned),
        given_up: false,
    };
    let with = |keys| Mesh::with_keys(&yaml, source.clone(), keys);
    let good = with(keys(Some("{}"), None));
    assert_eq!(good.self_config("reviews-v1-0").jwt_rules[0].jwks.len(), 2);
    assert_eq!(good.told(), [""; 0]);
    let failing = with(keys(Some("{}"), Some("it is away")));
    assert_eq!(failing.self_config("reviews-v1-0").jwt_rules[0].jwks.len(), 2, "the last good ones");
    assert_eq!(
        failing.told(),
        ["a: the keys of https://issuer cannot be fetched: it is away; the last good keys stay in force"]
    );
}

/// So many issuers of a namespace, whatever others have; those that are in use come first.
#[test]
fn issuers_of_one_author_take_nobodys_place() {
    use crate::keys::{KeySource, Keys, MAX_OF_NAMESPACE};
    let rules = |begin: &str, count: usize| {
        let issuers: Vec<_> =
            (0..count).map(|n| format!("{{issuer: i, jwksUri: 'http://{begin}/{n:03}'}}")).collect();
        format!("{{jwtRules: [{}]}}", issuers.join(", "))
    };
    let mut objects: Vec<_> = (0..4)
        .map(|n| object("RequestAuthentication", &format!("many/a{n}"), &rules(&format!("0{n}"), 100)))
        .collect();
    objects.push(object("RequestAuthentication", "many/z", &rules("used", 1)));
    objects.push(object("RequestAuthentication", "other/z", &rules("zz", 2)));
    let used = KeySource::Uri("http://used/000".into());
    let good = Keys { good: Some("{}".into()), ..Keys::default() };
    let mesh = Mesh::with_keys(&objects.concat(), used.clone(), good);
    let wanted = super::super::key_sources(&mesh.snapshot.config);
    let of = |namespace: &str| wanted.values().filter(|want| want.namespaces.contains(namespace)).count();
    assert_eq!((of("many"), of("other")), (MAX_OF_NAMESPACE, 2));
    assert!(wanted.contains_key(&used));
    let told = mesh.told();
    assert_eq!(told.len(), 401 - MAX_OF_NAMESPACE, "{told:?}");
    assert!(told[0].contains("more than 256 issuers in many"), "{}", told[0]);
}

fn on_claims(more: &str, one: &str) -> String {
    let rule = format!(
        "{{match: [{{uri: {{prefix: /a}}}}, {{{one}}}], route: [{{destination: {{host: ratings}}}}]}}"
    );
    let rest = "{route: [{destination: {host: reviews}}]}";
    object("VirtualService", "a", &format!("{{{more} hosts: [reviews], http: [{rule}, {rest}]}}"))
}

fn tokens(name: &str, whom: &str) -> String {
    let whom = if whom.is_empty() { String::new() } else { format!("{whom}, ") };
    let keys = r#"{issuer: own, jwks: '{"keys":[{"crv":"Ed25519","kty":"OKP","x":"a"}]}'}"#;
    object("RequestAuthentication", name, &format!("{{{whom}jwtRules: [{keys}]}}"))
}

const ROLE: &str = "headers: {'@request.auth.claims[realm][a.b]': {exact: x}}, withoutHeaders: {'@request.auth.claims.sub': {}}";

/// A sidecar gets the claims that routes look at, by names, and the rules of the tokens that its own workload takes.
#[test]
fn sidecars_get_routes_on_claims_and_their_own_tokens_rules() {
    let mesh = Mesh::with(&format!("{}{}", on_claims("", ROLE), tokens("t", V1)));
    let headers = &mesh.rules("reviews", 9080)[0].matches[1].headers;
    let told: Vec<_> = headers.iter().map(|header| (header.claim.join("/"), header.invert)).collect();
    assert_eq!(told, [("realm/a.b".to_owned(), false), ("sub".to_owned(), true)]);
    let rules = |pod: &str| mesh.self_config(pod).jwt_rules.len();
    assert_eq!((rules("reviews-v1-0"), rules("reviews-v2-0")), (1, 0));
}

/// Where no caller can believe a token, whoever wrote the route is told, and where.
#[test]
fn routes_on_claims_that_no_sidecar_knows() {
    let told = |routes: &str, more: &str| -> Vec<String> {
        let told = Mesh::with(&format!("{routes}{more}")).told();
        told.into_iter().filter(|text| text.contains("know no claims")).collect()
    };
    let all = told(&on_claims("", ROLE), "");
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with("a: http[0].match[1]: sidecars know no claims here"), "{all:?}");
    assert!(all[0].ends_with("add one for the callers"), "{all:?}");
    let edge = object(
        "Gateway",
        "edge",
        "{selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
    );
    let labelled = |label: &str| format!("selector: {{matchLabels: {{{label}}}}}");
    let named = |name: &str| format!("targetRefs: [{{kind: Service, name: {name}}}]");
    let class = "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio}]";
    // Some caller may have it.
    for (more, one, more_tokens) in [
        ("", ROLE, tokens("t", "")),
        ("", ROLE, tokens("money/t", "")),
        ("", ROLE, tokens("istio-system/t", "")),
        ("", ROLE, tokens("istio-system/t", &labelled("app: reviews"))),
        ("", ROLE, tokens("t", &labelled("team: a"))),
        ("", ROLE, tokens("t", &labelled("app: ratings"))),
        ("", ROLE, tokens("t", &named("ratings"))),
        ("exportTo: ['.'],", ROLE, tokens("t", "")),
        ("", &format!("sourceNamespace: money, {ROLE}"), tokens("money/t", "")),
        ("", &format!("sourceLabels: {{app: x}}, {ROLE}"), tokens("t", &labelled("app: x, team: a"))),
        // It is not for sidecars, or looks at no claims.
        ("gateways: [edge],", ROLE, String::new()),
        ("gateways: [edge, mesh],", &format!("gateways: [edge], {ROLE}"), String::new()),
        ("", "headers: {sub: {exact: x}}", String::new()),
    ] {
        let told = told(&on_claims(more, one), &format!("{edge}{more_tokens}"));
        assert!(told.is_empty(), "{more} {one} {more_tokens}: {told:?}");
    }
    // Those who have it are gateways, called, or other ones.
    for (more, one, more_tokens, hint) in [
        ("", ROLE, tokens("t", &labelled("app: reviews")), true),
        ("", ROLE, tokens("t", &labelled("app: reviews, version: v1")), true),
        ("", ROLE, tokens("t", &named("reviews")), true),
        ("", ROLE, tokens("t", class), false),
        ("", ROLE, tokens("t", &labelled("istio: edge")), false),
        ("", ROLE, tokens("istio-system/t", &labelled("istio: edge, a: b")), false),
        ("exportTo: ['.'],", ROLE, tokens("money/t", ""), false),
        ("gateways: [edge, mesh],", ROLE, String::new(), false),
        ("", &format!("sourceNamespace: money, {ROLE}"), tokens("t", ""), false),
        ("", &format!("sourceLabels: {{app: x}}, {ROLE}"), tokens("t", &labelled("app: y")), false),
        ("", "withoutHeaders: {'@request.auth.claims.sub': {}}", String::new(), false),
    ] {
        let told = told(&on_claims(more, one), &format!("{edge}{more_tokens}"));
        assert_eq!(told.len(), 1, "{more} {one} {more_tokens}: {told:?}");
        let hinted = told[0].contains("; RequestAuthentication default/t (mesh.yaml:");
        assert_eq!(hinted, hint, "{told:?}");
    }
    // One that is called does not hide one that calls.
    let both = format!("{}{}", tokens("t", &named("reviews")), tokens("u", &labelled("team: a")));
    assert!(told(&on_claims("", ROLE), &both).is_empty());
}
