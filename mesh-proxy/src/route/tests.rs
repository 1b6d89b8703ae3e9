//! Tables parsed from the wire, and which rule takes which request.

use http::request::{Builder, Parts};
use mesh_proto::wire::mesh::v1::path_match::Kind as PathKind;
use mesh_proto::wire::mesh::v1::string_match::Kind as TextKind;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::cluster::ClusterCell;

fn text(kind: TextKind) -> Option<wire::StringMatch> {
    Some(wire::StringMatch { kind: Some(kind) })
}

fn exact(value: &str) -> TextKind {
    TextKind::Exact(value.to_owned())
}

fn regex(value: &str) -> TextKind {
    TextKind::Regex(value.to_owned())
}

fn path(kind: PathKind, ignore_case: bool) -> wire::Match {
    wire::Match { path: Some(wire::PathMatch { kind: Some(kind), ignore_case }), ..Default::default() }
}

fn header(name: &str, kind: TextKind, invert: bool) -> wire::Match {
    let header = wire::HeaderMatch { name: name.to_owned(), value: text(kind), invert, claim: vec![] };
    wire::Match { headers: vec![header], ..Default::default() }
}

fn query(name: &str, kind: TextKind) -> wire::Match {
    let query = wire::QueryMatch { name: name.to_owned(), value: text(kind) };
    wire::Match { query: vec![query], ..Default::default() }
}

fn backend(host: &str, weight: u32) -> wire::WeightedBackend {
    let cluster = Some(wire::HostPort { host: host.to_owned(), port: 80 });
    wire::WeightedBackend { cluster, subset: String::new(), weight }
}

fn rule(name: &str, matches: Vec<wire::Match>) -> wire::Rule {
    let route = wire::RouteAction { backends: vec![backend(name, 1)], ..Default::default() };
    let action = Some(wire::rule::Action::Route(route));
    wire::Rule { name: name.to_owned(), matches, action, ..Default::default() }
}

fn parse(rules: Vec<wire::Rule>) -> Result<RouteTable, InvalidRoute> {
    let labels = [("app".to_owned(), "web".to_owned()), ("version".to_owned(), "v1".to_owned())].into();
    let source = Source { labels: &labels, namespace: "shop" };
    let table = wire::RouteTable { rules, origin: None };
    RouteTable::new(&table, &source, |name| Arc::new(ClusterCell::absent(name.clone())))
}

fn table(rules: Vec<wire::Rule>) -> RouteTable {
    parse(rules).unwrap()
}

fn head(build: impl FnOnce(Builder) -> Builder) -> Parts {
    build(http::Request::builder()).body(()).unwrap().into_parts().0
}

fn at(uri: &str) -> Parts {
    head(|r| r.uri(uri))
}

/// Whether a table of one rule with one match takes the request.
fn takes(one: &wire::Match, head: &Parts) -> bool {
    table(vec![rule("only", vec![one.clone()])]).find(head).is_some()
}

#[test]
fn first_rule_that_matches_wins() {
    let table = table(vec![
        rule(
            "b",
            vec![path(PathKind::Prefix("/b".into()), false), path(PathKind::Exact("/x".into()), false)],
        ),
        rule("bc", vec![path(PathKind::Prefix("/bc".into()), false)]),
        rule("default", vec![]),
    ]);
    for (uri, name) in [("/bc", "b"), ("/x", "b"), ("/x/", "default"), ("/", "default")] {
        assert_eq!(&*table.find(&at(uri)).unwrap().name, name, "{uri}");
    }
}

#[test]
fn paths() {
    use PathKind::{Exact, Prefix, Regex, SegmentPrefix};
    let cases = [
        (
            path(Exact("/foo".into()), false),
            vec!["/foo", "/foo?a=b", "http://h/foo"],
            vec!["/foo/", "/Foo", "/"],
        ),
        (path(Exact("/foo".into()), true), vec!["/foo", "/FOO?A"], vec!["/foo/", "/fo"]),
        (
            path(Prefix("/foo".into()), false),
            vec!["/foo", "/foobar", "/foo/b?q"],
            vec!["/fo", "/Foo", "/?/foo"],
        ),
        (path(Prefix("/foo".into()), true), vec!["/FOObar"], vec!["/fo"]),
        (path(Prefix("/".into()), false), vec!["/", "/a", "http://h"], vec!["*"]),
        (path(SegmentPrefix("/foo".into()), false), vec!["/foo", "/foo/", "/foo/b"], vec!["/foobar", "/fo"]),
        (path(SegmentPrefix("/foo/".into()), false), vec!["/foo", "/foo/b"], vec!["/foobar"]),
        (path(SegmentPrefix("/".into()), false), vec!["/", "/foo"], vec![]),
        (path(Regex("/v[0-9]+/.*".into()), false), vec!["/v1/", "/v12/x?y=/v"], vec!["/v1", "/a/v1/", "/v/"]),
        (path(Regex("/a|/b".into()), false), vec!["/a", "/b"], vec!["/ab", "/a/b", "/xa"]),
        // Istio: ignoreUriCase is for exact and prefix.
        (path(Regex("/a".into()), true), vec!["/a"], vec!["/A"]),
    ];
    for (one, yes, no) in cases {
        for uri in yes {
            assert!(takes(&one, &at(uri)), "{one:?} {uri}");
        }
        for uri in no {
            assert!(!takes(&one, &at(uri)), "{one:?} {uri}");
        }
    }
}

#[test]
fn headers() {
    let one = |value: &'static str| head(move |r| r.header("x-user", value));
    let two = head(|r| r.header("x-user", "a").header("x-user", "b"));
    let none = head(|r| r);
    let cases = [
        (header("x-user", exact("jason"), false), &one("jason"), true),
        (header("x-user", exact("jason"), false), &one("Jason"), false),
        (header("x-user", exact("jason"), false), &none, false),
        (header("x-user", TextKind::Prefix("ja".into()), false), &one("jason"), true),
        (header("x-user", regex("j.*n"), false), &one("jason"), true),
        (header("x-user", regex("j.*n"), false), &one("jasons"), false),
        (header("x-user", TextKind::Present(true), false), &one(""), true),
        (header("x-user", TextKind::Present(true), false), &none, false),
        (header("x-user", TextKind::Present(true), true), &none, true),
        (header("x-user", TextKind::Present(true), true), &one("a"), false),
        // Several values are one text, as Envoy reads them.
        (header("x-user", exact("a,b"), false), &two, true),
        (header("x-user", exact("a"), false), &two, false),
        (header("x-user", exact("b"), true), &two, true),
        // withoutHeaders: an absent header counts as empty.
        (header("x-user", exact("jason"), true), &none, true),
        (header("x-user", exact("jason"), true), &one("jason"), false),
        (header("x-user", regex(".*"), true), &none, false),
        (header("x-user", exact(""), true), &none, false),
    ];
    for (one, head, expected) in cases {
        assert_eq!(takes(&one, head), expected, "{one:?} {:?}", head.headers);
    }
    let cookies = head(|r| r.header("cookie", "a=1").header("cookie", "user=x"));
    assert!(takes(&header("cookie", regex("^(.*?; )?(user=x)(;.*)?$"), false), &cookies));
}

#[test]
fn pseudo_headers() {
    let full = head(|r| r.method("PUT").uri("http://Reviews:9080/a?b"));
    let origin = head(|r| r.uri("/a").header("host", "reviews"));
    let field = |set: fn(&mut wire::Match, Option<wire::StringMatch>), kind| {
        let mut one = wire::Match::default();
        set(&mut one, text(kind));
        one
    };
    assert!(takes(&field(|m, v| m.method = v, exact("PUT")), &full));
    assert!(!takes(&field(|m, v| m.method = v, exact("GET")), &full));
    assert!(takes(&field(|m, v| m.scheme = v, exact("http")), &full));
    assert!(!takes(&field(|m, v| m.scheme = v, exact("https")), &origin));
    assert!(takes(&field(|m, v| m.authority = v, exact("Reviews:9080")), &full));
    assert!(takes(&field(|m, v| m.authority = v, TextKind::Prefix("rev".into())), &origin));
    for name in [":authority", "host"] {
        assert!(takes(&header(name, exact("reviews"), false), &origin));
    }
    assert!(takes(&header(":path", exact("/a?b"), false), &full));
    assert!(takes(&header(":method", exact("PUT"), false), &full));
}

#[test]
fn query_parameters() {
    let cases = [
        (query("v", exact("1")), "/?a=2&v=1", true),
        (query("v", exact("1")), "/?v=2&v=1", false),
        (query("v", exact("1")), "/?w=1", false),
        (query("v", exact("1")), "/", false),
        (query("v", exact("")), "/?v", true),
        (query("v", exact("")), "/?v=", true),
        (query("v", exact("")), "/?w", false),
        (query("v", TextKind::Prefix("b".into())), "/?v=bar=x", true),
        (query("v", regex("\\d+")), "/?v=12", true),
        (query("v", regex("\\d+")), "/?v=12a", false),
        (query("v", TextKind::Present(true)), "/?v=12a", true),
    ];
    for (one, uri, expected) in cases {
        assert_eq!(takes(&one, &at(uri)), expected, "{one:?} {uri}");
    }
}

#[test]
fn all_conditions_of_a_match_must_hold() {
    let both = wire::Match { headers: header("a", exact("1"), false).headers, ..query("b", exact("2")) };
    assert!(takes(&both, &head(|r| r.uri("/?b=2").header("a", "1"))));
    assert!(!takes(&both, &at("/?b=2")));
    assert!(!takes(&both, &head(|r| r.header("a", "1"))));
}

/// Istio: a match that does not select this proxy removes the rule here; no match at all takes everything.
#[test]
fn source_is_decided_at_load() {
    let labelled = |version: &str| wire::Match {
        source_labels: [("version".to_owned(), version.to_owned())].into(),
        ..Default::default()
    };
    let namespaced = |ns: &str| wire::Match { source_namespace: ns.to_owned(), ..Default::default() };
    let table = table(vec![
        rule("v2", vec![labelled("v2")]),
        rule("bank", vec![namespaced("bank")]),
        rule("mine", vec![labelled("v2"), labelled("v1")]),
        rule("shop", vec![namespaced("shop")]),
    ]);
    let names: Vec<_> = table.rules().iter().map(|r| &*r.name).collect();
    assert_eq!(names, ["mine", "shop"]);
    assert_eq!(&*table.find(&at("/")).unwrap().name, "mine");
}

#[test]
fn a_matchs_name_is_part_of_the_routes() {
    let named = wire::Match { name: "beta".into(), ..path(PathKind::Prefix("/b".into()), false) };
    let table = table(vec![rule("r", vec![named, path(PathKind::Prefix("/".into()), false)])]);
    assert_eq!(&*table.find(&at("/b")).unwrap().name, "r.beta");
    assert_eq!(&*table.find(&at("/a")).unwrap().name, "r");
}

#[test]
fn a_bad_one_is_refused_by_field() {
    let long = "a".repeat(1025);
    let no_backend = wire::RouteAction {
        backends: vec![backend("a", 1), wire::WeightedBackend::default()],
        ..Default::default()
    };
    let retry = |retry: wire::RetryPolicy| wire::RouteAction { retry: Some(retry), ..Default::default() };
    let action = |route| wire::Rule { action: Some(wire::rule::Action::Route(route)), ..Default::default() };
    let direct = wire::rule::Action::DirectResponse(wire::DirectResponse { status: 42, body: Bytes::new() });
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let cases = [
        (rule("a", vec![path(PathKind::Regex("(".into()), false)]), "rules[1].matches[0].path.regex: "),
        (
            rule("a", vec![path(PathKind::Regex(long), false)]),
            "rules[1].matches[0].path.regex: the pattern has",
        ),
        (rule("a", vec![path(PathKind::Regex("a)|(?:b".into()), false)]), "rules[1].matches[0].path.regex: "),
        (
            rule("a", vec![header("x", regex("(a{1000}){1000}"), false)]),
            "rules[1].matches[0].headers[0].value.regex: Compiled regex exceeds size limit",
        ),
        (rule("a", vec![header("x y", exact(""), false)]), "rules[1].matches[0].headers[0].name: "),
        (
            rule(
                "a",
                vec![wire::Match { method: Some(wire::StringMatch { kind: None }), ..Default::default() }],
            ),
            "rules[1].matches[0].method: missing",
        ),
        (wire::Rule::default(), "rules[1].action: missing"),
        (wire::Rule { action: Some(direct), ..Default::default() }, "rules[1].direct_response.status: 42"),
        (action(no_backend), "rules[1].route.backends[1].cluster: missing"),
        (
            action(retry(wire::RetryPolicy { retry_on: vec!["sometimes".into()], ..Default::default() })),
            "rules[1].route.retry.retry_on: unknown condition \"sometimes\"",
        ),
        (
            action(wire::RouteAction { timeout: Some(negative), ..Default::default() }),
            "rules[1].route.timeout: ",
        ),
    ];
    for (bad, expected) in cases {
        let error = parse(vec![rule("good", vec![]), bad]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error} / {expected}");
    }
}

fn backends(list: &[wire::WeightedBackend]) -> Backends {
    Backends::new(list, "b", &mut |name| Arc::new(ClusterCell::absent(name.clone()))).unwrap()
}

#[test]
fn weights() {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut share = |list: &[wire::WeightedBackend], host: &str| {
        let backends = backends(list);
        let hit = |b: Option<&Backend>| b.is_some_and(|b| b.cluster.name().host() == host);
        (0..10_000).filter(|_| hit(backends.choose(&mut rng))).count()
    };
    let list = [backend("a", 1), backend("none", 0), backend("b", 3)];
    assert!(share(&list, "a").abs_diff(2500) < 200);
    assert_eq!(share(&list, "none"), 0);
    assert!(share(&list, "b").abs_diff(7500) < 200);
    // A sole one takes all; nobody takes what has no weight at all.
    assert_eq!(share(&[backend("a", 0)], "a"), 10_000);
    let mut rng = SmallRng::seed_from_u64(1);
    assert!(backends(&[backend("a", 0), backend("b", 0)]).choose(&mut rng).is_none());
    assert!(backends(&[]).choose(&mut rng).is_none());
}

#[test]
fn actions_are_parsed() {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let mut subset = backend("a", 1);
    subset.subset = "v1".to_owned();
    let route = |timeout| wire::RouteAction { backends: vec![subset.clone()], timeout, retry: None };
    let parsed = |action| {
        let table = table(vec![wire::Rule { action: Some(action), ..Default::default() }]);
        table.rules()[0].action.clone()
    };
    let Action::Route(timed) = &*parsed(wire::rule::Action::Route(route(seconds(3)))) else { panic!() };
    assert_eq!(timed.timeout, Some(Duration::from_secs(3)));
    assert_eq!(timed.backends.as_slice()[0].subset.as_deref(), Some("v1"));
    assert_eq!(timed.retry, RetryPolicy::default());
    let Action::Route(untimed) = &*parsed(wire::rule::Action::Route(route(seconds(0)))) else { panic!() };
    assert_eq!(untimed.timeout, None);
    let response = wire::DirectResponse { status: 418, body: Bytes::from_static(b"tea") };
    let Action::Respond(direct) = &*parsed(wire::rule::Action::DirectResponse(response)) else { panic!() };
    assert_eq!((direct.status.as_u16(), &direct.body[..]), (418, &b"tea"[..]));
}

#[test]
fn a_dump_says_where_rules_come_from() {
    let origin = wire::Origin {
        kind: "VirtualService".into(),
        namespace: "shop".into(),
        name: "reviews".into(),
        rule: Some(1),
        location: "shop.yaml:7".into(),
    };
    let matched = rule("jason", vec![header("x-user", exact("jason"), false)]);
    let told = table(vec![wire::Rule { origin: Some(origin), ..matched }, rule("rest", vec![])]).dump();
    let rules = &told["rules"];
    assert_eq!(rules[0]["origin"], "VirtualService shop/reviews, rule 1, shop.yaml:7");
    assert_eq!(rules[0]["match"], "header x-user is jason");
    assert_eq!((&rules[1]["match"], &rules[1]["name"]), (&"every request".into(), &"rest".into()));
    assert_eq!(
        rules[1]["backends"][0],
        serde_json::json!({"cluster": "rest:80", "subset": null, "weight": 1, "present": false})
    );
}

fn policy(words: &[&str], status_codes: &[u32]) -> RetryPolicy {
    let wire = wire::RetryPolicy {
        attempts: 2,
        retry_on: words.iter().map(|w| (*w).to_owned()).collect(),
        status_codes: status_codes.to_vec(),
        ..Default::default()
    };
    RetryPolicy::new(Some(&wire), "retry").unwrap()
}

#[test]
fn retry_conditions_are_envoys() {
    use Outcome::{AttemptTimeout, ConnectFailed, RefusedStream, Reset, Response};
    let status = |s: u16| Response { status: StatusCode::from_u16(s).unwrap(), grpc_status: None };
    let grpc = |code| Response { status: StatusCode::OK, grpc_status: Some(code) };
    let (sent, unsent) = (Reset { started: true }, Reset { started: false });
    let all = [
        ConnectFailed,
        RefusedStream,
        sent,
        unsent,
        AttemptTimeout,
        status(409),
        status(500),
        status(503),
        status(200),
        grpc(1),
        grpc(4),
        grpc(8),
        grpc(13),
        grpc(14),
        grpc(0),
    ];
    let cases = [
        ("connect-failure", vec![ConnectFailed]),
        ("refused-stream", vec![RefusedStream]),
        ("reset-before-request", vec![ConnectFailed, unsent]),
        ("reset", vec![ConnectFailed, RefusedStream, sent, unsent, AttemptTimeout]),
        ("5xx", vec![ConnectFailed, RefusedStream, sent, unsent, AttemptTimeout, status(500), status(503)]),
        ("gateway-error", vec![ConnectFailed, RefusedStream, sent, unsent, AttemptTimeout, status(503)]),
        ("retriable-4xx", vec![status(409)]),
        ("cancelled", vec![grpc(1)]),
        ("deadline-exceeded", vec![grpc(4)]),
        ("resource-exhausted", vec![grpc(8)]),
        ("internal", vec![grpc(13)]),
        ("unavailable", vec![grpc(14)]),
        // Istio's default names no code.
        ("retriable-status-codes", vec![]),
    ];
    for (word, expected) in cases {
        let policy = policy(&[word], &[]);
        for outcome in &all {
            assert_eq!(policy.is_retriable(outcome), expected.contains(outcome), "{word} {outcome:?}");
        }
        let none = RetryPolicy { attempts: 0, ..policy };
        assert!(all.iter().all(|outcome| !none.is_retriable(outcome)));
    }
    let codes = policy(&[], &[503, 409]);
    assert!(codes.is_retriable(&status(503)) && codes.is_retriable(&status(409)));
    // A reset is not a 503.
    assert!(!codes.is_retriable(&status(500)) && !codes.is_retriable(&sent));
    let both = policy(&["connect-failure", "unavailable"], &[]);
    assert!(both.is_retriable(&ConnectFailed) && both.is_retriable(&grpc(14)));
}

#[test]
fn grpc_status_is_read_from_the_head() {
    let parts = http::Response::builder().header("grpc-status", "14").body(()).unwrap().into_parts().0;
    let outcome = Outcome::of_response(parts.status, &parts.headers);
    assert_eq!(outcome, Outcome::Response { status: StatusCode::OK, grpc_status: Some(14) });
}

#[test]
fn waits_grow_to_ten_intervals() {
    let mut rng = SmallRng::seed_from_u64(1);
    let policy = policy(&["5xx"], &[]);
    let mut longest = |attempt| (0..2000).map(|_| policy.wait(attempt, &mut rng)).max().unwrap().as_millis();
    assert_eq!([1, 2, 3, 4, 9, 40].map(&mut longest).map(|m| (m + 5) / 25), [1, 3, 7, 10, 10, 10]);
}

proptest! {
    /// No request makes a table panic, and find() agrees with asking each rule.
    #[test]
    fn find_is_the_first(paths in prop::collection::vec("/[ab]{0,3}", 1..6), uri in "/[ab/]{0,5}") {
        let rules = paths.iter().map(|p| rule(p, vec![path(PathKind::SegmentPrefix(p.clone()), false)]));
        let table = table(rules.collect());
        let head = at(&uri);
        let expected = paths.iter().find(|p| {
            let prefix = p.trim_end_matches('/');
            uri == prefix || uri.starts_with(&format!("{prefix}/")) || prefix.is_empty()
        });
        prop_assert_eq!(table.find(&head).map(|r| &*r.name), expected.map(String::as_str));
    }
}

/// With an engine that goes back and tries again these would not end.
#[test]
fn j13_patterns_take_linear_time() {
    let long = format!("/{}!", "a".repeat(60 << 10));
    for pattern in ["/(a+)+b", "/(a|a)*b", "/(a*)*(a*)*(a*)*b", "(.*)*x"] {
        assert!(!takes(&path(PathKind::Regex(pattern.into()), false), &at(&long)), "{pattern}");
        let request = head(|r| r.uri("/").header("x", long.as_str()));
        assert!(!takes(&header("x", regex(pattern), false), &request), "{pattern}");
    }
}

/// Claims of a valid token: of a list one is enough, without a token there is none.
#[test]
fn claims_of_tokens() {
    use mesh_proto::runtime::testing::TestIssuer;
    let issuer = TestIssuer::new("https://idp", "EdDSA");
    let keys = crate::jwt::KeySet::parse(issuer.jwks().as_bytes()).unwrap();
    let token = issuer.sign(serde_json::json!({
        "sub": "ann", "group": ["a", "b"], "nested": {"role": "admin"}, "scope": "read write", "age": 7,
    }));
    let claims = crate::jwt::verify(&token, &keys, std::time::SystemTime::now()).unwrap();
    let with = {
        let mut head = head(|request| request.header("group", "c"));
        let verified = VerifiedClaims { claims: Arc::new(claims), space_delimited: Arc::default() };
        head.extensions.insert(verified);
        head
    };
    let without = head(|request| request.header("group", "a").header("sub", "ann"));
    let finds = |claim: &[&str], kind: TextKind, invert: bool, head: &Parts| {
        let claim = claim.iter().map(ToString::to_string).collect();
        let name = "@request.auth.claims".to_owned();
        let header = wire::HeaderMatch { name, value: text(kind), invert, claim };
        let matches = vec![wire::Match { headers: vec![header], ..Default::default() }];
        table(vec![rule("a", matches)]).find(head).is_some()
    };
    let exact = |text: &str| TextKind::Exact(text.into());
    for (claim, kind, expected) in [
        (&["sub"][..], exact("ann"), true),
        (&["sub"], exact("bob"), false),
        (&["sub"], TextKind::Prefix("an".into()), true),
        (&["sub"], regex("a.n"), true),
        (&["sub"], regex("a"), false),
        (&["sub"], TextKind::Present(true), true),
        (&["group"], exact("b"), true),
        (&["group"], exact("c"), false),
        (&["nested", "role"], exact("admin"), true),
        (&["nested"], exact("admin"), false),
        (&["scope"], exact("write"), true),
        (&["age"], exact("7"), false),
        (&["none"], TextKind::Present(true), false),
    ] {
        assert_eq!(finds(claim, kind.clone(), false, &with), expected, "{claim:?} {kind:?}");
        assert_eq!(finds(claim, kind.clone(), true, &with), !expected, "not {claim:?} {kind:?}");
        assert!(!finds(claim, kind.clone(), false, &without), "no token: {claim:?} {kind:?}");
        assert!(finds(claim, kind, true, &without));
    }
}

/// A token is verified once, and only where a rule that matches otherwise looks at it.
#[test]
fn claims_are_asked_for_last_once_or_never() {
    use std::cell::Cell;
    let claim = |name: &str, invert: bool| wire::HeaderMatch {
        name: "@request.auth.claims".to_owned(),
        value: text(exact("x")),
        invert,
        claim: vec![name.to_owned()],
    };
    let both = |path: wire::Match, claims: &[wire::HeaderMatch]| wire::Match {
        headers: [claims, &path.headers].concat(),
        ..path
    };
    let under = |at: &str| path(PathKind::Prefix(at.into()), false);
    let table = table(vec![
        rule("plain", vec![under("/plain")]),
        rule("header", vec![both(header("end-user", exact("ann"), false), &[claim("a", false)])]),
        rule("query", vec![both(query("q", exact("1")), &[claim("a", false)])]),
        rule("two", vec![both(under("/api"), &[claim("a", false), claim("b", false)])]),
        rule("none", vec![both(under("/api"), &[claim("a", true)])]),
        rule("rest", vec![]),
    ]);
    let asked = Cell::new(0);
    let find = |head: &Parts| {
        asked.set(0);
        let none = || {
            asked.set(asked.get() + 1);
            None
        };
        (table.find_with(head, none).unwrap().name.to_string(), asked.get())
    };
    assert_eq!(find(&at("/plain")), ("plain".to_owned(), 0));
    assert_eq!(find(&at("/other")), ("rest".to_owned(), 0));
    assert_eq!(find(&at("/other?q=2")), ("rest".to_owned(), 0));
    assert_eq!(find(&at("/other?q=1")), ("rest".to_owned(), 1));
    assert_eq!(find(&head(|r| r.uri("/other").header("end-user", "bob"))), ("rest".to_owned(), 0));
    assert_eq!(find(&head(|r| r.uri("/other").header("end-user", "ann"))), ("rest".to_owned(), 1));
    // Several conditions and rules, one token.
    assert_eq!(find(&at("/api?q=1")), ("none".to_owned(), 1));
    assert!(table.dump().to_string().contains("not: claim a is x"), "{}", table.dump());
}
