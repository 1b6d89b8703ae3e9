//! Decisions as values: Istio's order and edges by hand, everything else against the slow evaluator.

use http::Request;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::reference::{self, Asked};
use super::*;
use crate::jwt::Claims;

mod rows;

pub(super) type Match<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

fn matcher((attribute, values, not_values): Match<'_>) -> wire::AuthorizationMatch {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    wire::AuthorizationMatch {
        attribute: attribute.into(),
        values: texts(values),
        not_values: texts(not_values),
    }
}

fn clause(matches: &[Match<'_>]) -> wire::AuthorizationClause {
    wire::AuthorizationClause { matches: matches.iter().copied().map(matcher).collect() }
}

pub(super) fn rule(
    from: &[&[Match<'_>]],
    to: &[&[Match<'_>]],
    when: &[Match<'_>],
) -> wire::AuthorizationRule {
    wire::AuthorizationRule {
        from: from.iter().map(|c| clause(c)).collect(),
        to: to.iter().map(|c| clause(c)).collect(),
        when: when.iter().copied().map(matcher).collect(),
    }
}

fn policy(deny: bool, name: &str, rules: Vec<wire::AuthorizationRule>) -> wire::AuthorizationPolicy {
    let action = match deny {
        true => wire::AuthorizationAction::AuthorizationDeny,
        false => wire::AuthorizationAction::AuthorizationAllow,
    };
    wire::AuthorizationPolicy {
        origin: Some(wire::Origin { namespace: "shop".into(), name: name.into(), ..wire::Origin::default() }),
        action: action.into(),
        rules,
        ports: vec![],
    }
}

pub(super) fn allow(rules: Vec<wire::AuthorizationRule>) -> wire::AuthorizationPolicy {
    policy(false, "allow", rules)
}

pub(super) fn deny(rules: Vec<wire::AuthorizationRule>) -> wire::AuthorizationPolicy {
    policy(true, "deny", rules)
}

pub(super) fn connection(peer: Option<&str>) -> Connection {
    Connection {
        peer: peer.map(|peer| format!("spiffe://{peer}").parse().unwrap()),
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.9:8080".parse().unwrap(),
        sni: "".into(),
        ended: Ended::default(),
    }
}

const WEB: Option<&str> = Some("cluster.local/ns/shop/sa/web");

pub(super) fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

use http::request::Parts;

fn decide(policies: &[wire::AuthorizationPolicy], connection: &Connection, head: &Parts) -> Verdict {
    let policies = Policies::parse(policies).unwrap();
    Guard::of_requests(&policies, connection).decide(&RequestFacts::new(head, connection.source, None))
}

fn denied_by(rule: &str) -> Verdict {
    Verdict::Denied(Some(rule.into()))
}

#[test]
fn deny_comes_first_and_an_allow_policy_closes_the_rest() {
    let (web, get) = (connection(WEB), head("GET", "/", &[]));
    let anything = || rule(&[], &[], &[]);
    let nobody = Verdict::Denied(None);
    assert_eq!(decide(&[], &web, &get), Verdict::Allowed);
    assert_eq!(decide(&[allow(vec![])], &web, &get), nobody, "ALLOW without rules denies everything");
    assert_eq!(decide(&[allow(vec![anything()])], &web, &get), Verdict::Allowed, "rules: [{{}}]");
    assert_eq!(decide(&[deny(vec![])], &web, &get), Verdict::Allowed, "DENY without rules denies nothing");
    let both = [
        allow(vec![anything()]),
        deny(vec![rule(&[], &[], &[("source.ip", &["9.9.9.9"], &[])]), anything()]),
    ];
    assert_eq!(decide(&both, &web, &get), denied_by("ns[shop]-policy[deny]-rule[1]"));
    let two =
        [allow(vec![rule(&[], &[&[("request.method", &["POST"], &[])]], &[])]), allow(vec![anything()])];
    assert_eq!(decide(&two, &web, &get), Verdict::Allowed, "one of several is enough");
}

#[test]
fn who_asks() {
    let get = head("GET", "/", &[]);
    let from = |matches: Match<'_>, peer: Option<&str>| {
        decide(&[allow(vec![rule(&[&[matches]], &[], &[])])], &connection(peer), &get) == Verdict::Allowed
    };
    let other = Some("cluster.local/ns/other/sa/web");
    let principal: &[&str] = &["cluster.local/ns/shop/sa/web"];
    assert!(from(("source.principal", principal, &[]), WEB));
    assert!(
        !from(("source.principal", principal, &[]), other)
            && !from(("source.principal", principal, &[]), None)
    );
    assert!(from(("source.principal", &["*"], &[]), WEB) && !from(("source.principal", &["*"], &[]), None));
    // Row J10: a dot is a dot.
    assert!(!from(("source.principal", &["cluster.local/ns/shop/sa/w.b"], &[]), WEB));
    // Plaintext has no name: it is not that one either.
    assert!(
        from(("source.principal", &[], principal), None) && !from(("source.principal", &[], principal), WEB)
    );
    assert!(
        from(("source.namespace", &["sh*"], &[]), WEB) && !from(("source.namespace", &["sh*"], &[]), other)
    );
    assert!(from(("source.serviceAccount", &["web"], &[]), WEB), "of the policy's namespace");
    assert!(!from(("source.serviceAccount", &["web"], &[]), other));
    assert!(from(("source.serviceAccount", &["other/web"], &[]), other));
    assert!(from(("source.trustDomain", &["cluster.local"], &[]), WEB));
    assert!(
        from(("source.ip", &["10.0.0.0/24"], &[]), None) && !from(("source.ip", &[], &["10.0.0.1"]), None)
    );
    // No token has been verified.
    assert!(!from(("request.auth.principal", &["*"], &[]), WEB));
    assert!(from(("request.auth.principal", &[], &["*"]), WEB));
}

/// Case, port and trailing dot make no other host of it.
#[test]
fn p7_p8_hosts() {
    let secret = deny(vec![rule(&[], &[&[("request.host", &["secret.com"], &[])]], &[])]);
    let passes = |host: &str| {
        let head = head("GET", "/", &[("host", host)]);
        decide(std::slice::from_ref(&secret), &connection(None), &head) == Verdict::Allowed
    };
    for host in
        ["secret.com", "SECRET.com", "secret.com:80", "secret.com:8080", "secret.com.", "Secret.Com.:443"]
    {
        assert!(!passes(host), "{host}");
    }
    assert!(passes("other.com") && passes("xsecret.com"));
    // In each of its forms it is the one that is allowed, too: another host is none of them.
    let named = allow(vec![rule(&[], &[&[("request.host", &["secret.com", "*.shop.com"], &[])]], &[])]);
    let lets_in = |host: &str| {
        let head = head("GET", "/", &[("host", host)]);
        decide(std::slice::from_ref(&named), &connection(None), &head) == Verdict::Allowed
    };
    for host in
        ["secret.com", "SECRET.com:80", "secret.com.", "Secret.Com.:443", "a.shop.com:80", "A.SHOP.COM."]
    {
        assert!(lets_in(host), "{host}");
    }
    for host in ["secret.com.evil", "evil.com:80", "shop.com", "a.shop.com.evil:80", "xsecret.com"] {
        assert!(!lets_in(host), "{host}");
    }
    let only = allow(vec![rule(&[], &[&[("request.host", &[], &["secret.com"])]], &[])]);
    let verdict = decide(&[only], &connection(None), &head("GET", "/", &[("host", "secret.com:80")]));
    assert_eq!(verdict, Verdict::Denied(None));
}

/// What is behind a semicolon makes no other path of it; where it does for somebody, neither reading may pass.
#[test]
fn p2_paths_with_parameters() {
    let admin = deny(vec![rule(&[], &[&[("request.path", &["/admin", "/admin/*"], &[])]], &[])]);
    let public = allow(vec![rule(&[], &[&[("request.path", &["/public/*"], &[])]], &[])]);
    let passes = |policy: &wire::AuthorizationPolicy, path: &str| {
        decide(std::slice::from_ref(policy), &connection(None), &head("GET", path, &[])) == Verdict::Allowed
    };
    for path in ["/admin", "/admin?x=1", "/admin;a=b", "/admin;/x", "/;x/admin", "/admin/x;y"] {
        assert!(!passes(&admin, path), "{path}");
    }
    assert!(passes(&admin, "/public") && passes(&admin, "/adminx"));
    assert!(passes(&public, "/public/a;b=c") && passes(&public, "/public/a?b"));
    assert!(!passes(&public, "/public;x"), "/public for some");
}

/// One field several times, joined or not; bytes that are no text.
#[test]
fn j9_j12_a_field_that_comes_several_times() {
    let role = |values: &'static [&'static str], not: &'static [&'static str]| {
        rule(&[], &[], &[("request.headers[x-role]", values, not)])
    };
    let passes = |policy: wire::AuthorizationPolicy, lines: &[&str]| {
        let headers: Vec<_> = lines.iter().map(|line| ("x-role", *line)).collect();
        decide(&[policy], &connection(None), &head("GET", "/", &headers)) == Verdict::Allowed
    };
    for lines in [&["a", "b"][..], &["b", "a"], &["a,b"], &["a , b"], &["b,a"]] {
        assert!(!passes(deny(vec![role(&["a"], &[])]), lines), "DENY a: {lines:?}");
        assert!(!passes(allow(vec![role(&["a"], &[])]), lines), "ALLOW a: {lines:?}");
        assert!(!passes(allow(vec![role(&[], &["a"])]), lines), "ALLOW all but a: {lines:?}");
        assert!(!passes(deny(vec![role(&[], &["a"])]), lines), "DENY all but a: {lines:?}");
    }
    for lines in [&["a", "b"][..], &["a,b"], &["x", "a,b"]] {
        assert!(!passes(deny(vec![role(&["a,b"], &[])]), lines), "DENY a,b: {lines:?}");
    }
    assert!(passes(deny(vec![role(&["a,b"], &[])]), &["b", "a"]));
    assert!(passes(allow(vec![role(&["a"], &[])]), &["a"]) && !passes(deny(vec![role(&["a"], &[])]), &["a"]));
    assert!(
        !passes(allow(vec![role(&["a*"], &[])]), &["a1", "evil"])
            && passes(allow(vec![role(&["*"], &[])]), &["x"])
    );
    assert!(!passes(allow(vec![role(&["*"], &[])]), &[]) && passes(deny(vec![role(&["*"], &[])]), &[]));
    assert!(passes(allow(vec![role(&[], &["a"])]), &[]), "absent is not a");
    let mut bytes = head("GET", "/", &[]);
    bytes.headers.insert("x-role", http::HeaderValue::from_bytes(b"\xff").unwrap());
    let verdict = decide(&[deny(vec![role(&["*"], &[])])], &connection(None), &bytes);
    assert!(matches!(verdict, Verdict::Denied(Some(_))));
}

/// On bytes, DENY asks for one thing less, and ALLOW that asks for a request's things matches nothing.
#[test]
fn j11_bytes() {
    let verdict = |policies: &[wire::AuthorizationPolicy]| {
        Policies::parse(policies).unwrap().of_bytes(&connection(WEB)) == Verdict::Allowed
    };
    let get: Match<'_> = ("request.method", &["GET"], &[]);
    let web: Match<'_> = ("source.namespace", &["shop"], &[]);
    let other: Match<'_> = ("source.namespace", &["other"], &[]);
    assert!(!verdict(&[deny(vec![rule(&[], &[&[get]], &[])])]), "all that is left of it matches");
    assert!(!verdict(&[deny(vec![rule(&[&[web]], &[&[get]], &[])])]));
    assert!(verdict(&[deny(vec![rule(&[&[other]], &[&[get]], &[])])]));
    assert!(!verdict(&[allow(vec![rule(&[&[web]], &[&[get]], &[])])]));
    assert!(!verdict(&[allow(vec![rule(&[&[web]], &[], &[get])])]));
    assert!(
        verdict(&[allow(vec![rule(&[&[web]], &[], &[])])])
            && !verdict(&[allow(vec![rule(&[&[other]], &[], &[])])])
    );
    assert!(verdict(&[allow(vec![rule(&[], &[&[("destination.port", &["8080"], &[])]], &[])])]));
    assert!(!verdict(&[allow(vec![rule(&[], &[&[("destination.port", &["80"], &[])]], &[])])]));
    assert!(verdict(&[allow(vec![rule(&[], &[], &[("remote.ip", &["10.0.0.1"], &[])])])]));
    assert!(
        !verdict(&[deny(vec![rule(&[&[("source.principal", &["*/sa/web"], &[])]], &[], &[])])]),
        "CVE-2020-16844"
    );
}

#[test]
fn what_means_nothing_is_refused() {
    let wrong = |matches: Match<'_>| Policies::parse(&[allow(vec![rule(&[], &[], &[matches])])]).unwrap_err();
    assert!(matches!(wrong(("source.user", &["a"], &[])), InvalidPolicy::Attribute { .. }));
    assert!(matches!(wrong(("source.ip", &["a"], &[])), InvalidPolicy::Pattern { .. }));
    assert!(matches!(wrong(("source.ip", &[], &[])), InvalidPolicy::Empty { .. }));
    assert!(
        Policies::parse(&[allow(vec![rule(&[&[]], &[], &[])])]).is_err(),
        "an empty clause matches everything"
    );
    let custom = wire::AuthorizationPolicy { action: 9, ..allow(vec![]) };
    assert!(matches!(Policies::parse(&[custom]), Err(InvalidPolicy::Action { action: 9, .. })));
}

/// What the generator below draws from: values and what they are compared with overlap, so that half of it matches.
const DRAWN: [(&str, &[&str]); 24] = [
    (
        "source.principal",
        &["*", "cluster.local/ns/shop/sa/web", "cluster.local/*", "*/sa/db", "td/ns/a/sa/b"],
    ),
    ("source.namespace", &["shop", "s*p", "*", "other", "*r"]),
    ("source.serviceAccount", &["web", "shop/db", "other/web"]),
    ("source.trustDomain", &["cluster.local", "td", "*"]),
    ("source.ip", &["10.0.0.0/8", "10.0.0.1", "192.168.0.0/16", "::1", "fd00::/8", "0.0.0.0/0"]),
    ("remote.ip", &["10.0.0.0/8", "9.9.9.9", "fd00::/8"]),
    ("destination.ip", &["10.0.0.9", "10.0.0.0/24"]),
    ("destination.port", &["80", "8080", "9090"]),
    ("connection.sni", &["a.com", "*.COM", "*"]),
    ("request.host", &["web", "Web", "*.com", "web*", "*", "a.com"]),
    ("request.method", &["GET", "P*", "*T", "*"]),
    (
        "request.path",
        &["/a", "/a*", "*/b", "/", "/{*}/b", "/a/{**}", "/{**}/b", "/a/{**}/", "/{*}/{**}/c", "*", "/a;x"],
    ),
    ("request.headers[x-a]", &["1", "*", "1*", "*2", "1,2"]),
    ("request.headers[x-b]", &["1", "*"]),
    ("request.auth.principal", &["*", "iss/sub", "iss/*", "*/sub", "iss/a/sub", "i*", "*b", "iss"]),
    ("request.auth.principal", &["iss/sub", "iss/a/*", "*/a/sub"]),
    ("request.auth.audiences", &["a", "b", "*", "a*", "*b"]),
    ("request.auth.presenter", &["app", "*", "a*"]),
    ("request.auth.claims[role]", &["admin", "user", "*", "a*", "admin user"]),
    ("request.auth.claims[scope]", &["read", "write", "*", "w*", "read write"]),
    ("request.auth.claims[team]", &["red", "blue", "*", "red blue", "b*"]),
    ("request.auth.claims[a][b]", &["x", "y", "*"]),
    ("request.auth.claims[a]", &["x", "*"]),
    ("request.auth.claims[a][scope]", &["read", "*", "read write"]),
];

/// What a drawn token says, if anything, of each claim.
const CLAIMS: [(&str, &[&str]); 8] = [
    ("iss", &[r#""iss""#, r#""iss/a""#, r#""other""#]),
    ("sub", &[r#""sub""#, r#""a/sub""#, r#""""#, ""]),
    ("aud", &[r#""a""#, r#"["a", "b"]"#, r#"["c", "ab"]"#, "[]", ""]),
    ("azp", &[r#""app""#, r#""other""#, ""]),
    ("role", &[r#""admin""#, r#"["user", "admin"]"#, r#""admin user""#, "true", r#"[1, "user"]"#, "[]", ""]),
    ("scope", &[r#""read write""#, r#""write""#, r#"["read write"]"#, r#""  ""#, ""]),
    ("team", &[r#""red blue""#, r#""red""#, ""]),
    (
        "a",
        &[
            r#"{"b": "x"}"#,
            r#"{"b": ["y", "x"], "scope": "read write"}"#,
            r#"{"b": {"x": "x"}}"#,
            r#""x""#,
            "",
        ],
    ),
];

struct Draw(StdRng);

impl Draw {
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.random_range(0..of.len())]
    }

    fn some(&mut self, of: &[&str], most: usize) -> Vec<String> {
        (0..self.0.random_range(0..=most)).map(|_| self.one(of).to_owned()).collect()
    }

    fn matcher(&mut self) -> wire::AuthorizationMatch {
        let (attribute, of) = self.one(&DRAWN);
        let (mut values, not_values) = (self.some(of, 2), self.some(of, 1));
        if values.is_empty() && not_values.is_empty() {
            values.push(self.one(of).to_owned());
        }
        wire::AuthorizationMatch { attribute: attribute.into(), values, not_values }
    }

    fn clauses(&mut self) -> Vec<wire::AuthorizationClause> {
        let clause = |draw: &mut Self| wire::AuthorizationClause {
            matches: (0..draw.one(&[1, 1, 2])).map(|_| draw.matcher()).collect(),
        };
        (0..self.one(&[0, 1, 1, 2])).map(|_| clause(self)).collect()
    }

    fn policies(&mut self) -> Vec<wire::AuthorizationPolicy> {
        let rule = |draw: &mut Self| wire::AuthorizationRule {
            from: draw.clauses(),
            to: draw.clauses(),
            when: (0..draw.one(&[0, 0, 1])).map(|_| draw.matcher()).collect(),
        };
        // Now and then more than one looks through, so that an index has something to leave out.
        (0..self.one(&[1, 1, 2, 3, 3, 9]))
            .map(|index| {
                let rules = (0..self.one(&[0, 1, 1, 2])).map(|_| rule(self)).collect();
                let ports = self.one::<&[u32]>(&[&[], &[], &[], &[80], &[8080, 9090]]);
                let policy = policy(self.one(&[true, false]), &format!("p{index}"), rules);
                wire::AuthorizationPolicy { ports: ports.to_vec(), ..policy }
            })
            .collect()
    }

    fn connection(&mut self) -> Connection {
        let peers = [
            None,
            WEB,
            Some("cluster.local/ns/shop/sa/db"),
            Some("cluster.local/ns/other/sa/web"),
            Some("td/ns/a/sa/b"),
        ];
        Connection {
            peer: connection(self.one(&peers)).peer,
            source: self.one(&["10.0.0.1", "10.9.9.9", "192.168.1.1", "::1", "fd00::7"]).parse().unwrap(),
            destination: self.one(&["10.0.0.9:80", "10.0.0.9:8080", "[fd00::1]:9090"]).parse().unwrap(),
            sni: self.one(&["", "a.com", "A.com.", "b.org"]).into(),
            ended: Ended::default(),
        }
    }

    fn head(&mut self) -> Parts {
        let mut headers = vec![("host", self.one(&["web", "WEB:80", "a.com.", "a.com", "b.org:1"]))];
        for _ in 0..self.one(&[0, 1, 1, 2]) {
            headers.push(("x-a", self.one(&["1", "2", "12", "1,2", "1, 2", "x"])));
        }
        if self.one(&[true, false]) {
            headers.push(("x-b", self.one(&["1", ""])));
        }
        let path = self.one(&["/", "/a", "/a/b", "/a/b/c", "/b", "/a;x", "/a;x/b", "/a/?q=/b", "/x/b"]);
        head(self.one(&["GET", "POST", "PUT"]), path, &headers)
    }

    /// What a valid token says.
    fn token(&mut self) -> Option<String> {
        if self.one(&[true, false, false]) {
            return None;
        }
        let claims = CLAIMS.iter().map(|(name, values)| (name, self.one(values)));
        let claims = claims.filter(|(_, value)| !value.is_empty());
        let claims: Vec<_> = claims.map(|(name, value)| format!("\"{name}\": {value}")).collect();
        Some(format!("{{{}}}", claims.join(", ")))
    }
}

/// A million of them: `AUTHORIZATION_CASES=1000000 cargo test --release`.
#[test]
fn the_slow_evaluator_agrees() {
    let cases = std::env::var("AUTHORIZATION_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(4_000);
    let mut draw = Draw(StdRng::seed_from_u64(7));
    let mut passed = [0_u32; 2];
    for case in 0..cases {
        let wire = draw.policies();
        let policies = Policies::parse(&wire).unwrap();
        let (connection, head) = (draw.connection(), draw.head());
        let remote = draw.one(&["10.0.0.1", "9.9.9.9", "fd00::9"]).parse().unwrap();
        let guard = Guard::of_requests(&policies, &connection);
        let (payload, space_delimited) = (draw.token(), draw.some(&["team", "role"], 1));
        let claims = payload.as_ref().map(|payload| Claims::parse(payload.as_bytes()).unwrap().0);
        let token = claims.as_ref().map(|claims| Token::new(claims, &space_delimited));
        let facts = RequestFacts::new(&head, remote, token);
        let verdict = guard.decide(&facts);
        let said: Option<Value> = payload.as_ref().map(|payload| serde_json::from_str(payload).unwrap());
        let (token, space_delimited) = (said.as_ref(), &space_delimited[..]);
        let asked = Asked { connection: &connection, head: Some(&head), remote, token, space_delimited };
        let expected = reference::verdict(&wire, &asked);
        assert_eq!(verdict, expected, "case {case}: {wire:#?} {connection:?} {head:?} {payload:?}");
        if let Some(whole) = guard.whole() {
            let same = (verdict == Verdict::Allowed) == (whole == Verdict::Allowed);
            assert!(same, "case {case}: the same for all requests");
        }
        watched_alike(&wire, &connection, &facts, &verdict);
        let bytes = policies.of_bytes(&connection);
        let remote = connection.source;
        let asked = Asked { connection: &connection, head: None, remote, token: None, space_delimited: &[] };
        let expected = reference::verdict(&wire, &asked);
        assert_eq!(bytes, expected, "case {case}, bytes: {wire:#?} {connection:?}");
        let (verdict, bytes) = (verdict == Verdict::Allowed, bytes == Verdict::Allowed);
        passed[0] += u32::from(verdict);
        passed[1] += u32::from(bytes);
    }
    // Both answers are common, or the comparison would say little.
    assert!(passed.iter().all(|n| *n > cases / 10 && *n < cases - cases / 10), "{passed:?} of {cases}");
}

/// A dry run of the same policies decides nothing, and comes to the same.
fn watched_alike(
    wire: &[wire::AuthorizationPolicy],
    connection: &Connection,
    facts: &RequestFacts<'_>,
    verdict: &Verdict,
) {
    let guard = Guard::of_requests(&Policies::default().watching(wire).unwrap(), connection);
    assert_eq!(guard.decide(facts), Verdict::Allowed);
    let Watched { audit, deny, allow } = guard.watch(facts);
    assert_eq!(audit, None);
    match verdict {
        Verdict::Denied(Some(rule)) => {
            assert_eq!(deny, Some(Shadow { denied: true, rule: Some(rule.clone()) }));
        }
        Verdict::Denied(None) => assert!(deny.is_none_or(|d| !d.denied) && allow.is_some_and(|a| a.denied)),
        Verdict::Allowed => {
            assert!(deny.is_none_or(|d| !d.denied) && allow.is_none_or(|a| !a.denied));
        }
    }
}

/// What a token of Alice's kind says once it is verified.
fn claims(issuer: &str, subject: &str) -> crate::jwt::Claims {
    let issuer = mesh_proto::runtime::testing::TestIssuer::new(issuer, "EdDSA");
    let keys = crate::jwt::KeySet::parse(issuer.jwks().as_bytes()).unwrap();
    let token = issuer.sign(serde_json::json!({
        "sub": subject, "role": ["a", "b"], "aud": ["shop", "web"], "azp": "app"
    }));
    crate::jwt::verify(&token, &keys, std::time::SystemTime::now()).unwrap()
}

/// Whether these claims fit a condition of one value; a condition of one that it is not must say the opposite.
fn fits(claims: &crate::jwt::Claims, attribute: &str, value: &str) -> bool {
    let asks = |values: &[&str], not: &[&str]| {
        let policies = Policies::parse(&[allow(vec![rule(&[], &[], &[(attribute, values, not)])])]).unwrap();
        let (connection, head) = (connection(None), head("GET", "/", &[]));
        let facts = RequestFacts::new(&head, connection.source, Some(Token::new(claims, &[])));
        Guard::of_requests(&policies, &connection).decide(&facts) == Verdict::Allowed
    };
    let fits = asks(&[value], &[]);
    assert_eq!(asks(&[], &[value]), !fits, "{attribute} is {value}, or is not");
    fits
}

/// Divided at the last slash: an issuer is not another one whose name begins alike.
#[test]
fn principals_of_tokens() {
    let principal = "request.auth.principal";
    let alice = claims("https://idp/realms", "alice");
    assert!(
        ["*", "https://idp/realms/alice", "https://idp/realms/*", "*/alice", "*alice", "https://idp*"]
            .iter()
            .all(|value| fits(&alice, principal, value))
    );
    assert!(
        [
            "https://idp/*",
            "https://idp/realms/guest/*",
            "*/bob",
            "*/lice",
            "https://idp/realms/bob",
            "https://idp/bob"
        ]
        .iter()
        .all(|value| !fits(&alice, principal, value))
    );
    let guest = claims("https://idp/realms/guest", "alice");
    assert!(!fits(&guest, principal, "https://idp/realms/*"));
    let other = claims("https://a", "b/c");
    assert!(
        !fits(&other, principal, "https://a/b/c"),
        "whoever may choose a subject is not another issuer's"
    );
    assert!(!fits(&other, principal, "*/c"), "nor the same subject of another one");
    assert!(fits(&other, principal, "*/b/c") && fits(&other, principal, "*c"));
    for (attribute, good) in [
        ("request.auth.audiences", &["shop", "web", "s*", "*eb", "*"][..]),
        ("request.auth.presenter", &["app", "a*", "*"]),
    ] {
        assert!(good.iter().all(|value| fits(&alice, attribute, value)), "{attribute}");
        assert!(
            ["sho", "shops", "b*", "*x"].iter().all(|value| !fits(&alice, attribute, value)),
            "{attribute}"
        );
    }
    assert!(
        fits(&alice, "request.auth.claims[role]", "b") && !fits(&alice, "request.auth.claims[role]", "c")
    );
    assert!(fits(&alice, "request.auth.claims[iss]", "https://idp/realms"));
}
