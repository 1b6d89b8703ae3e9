//! Routing on claims at the caller's own sidecar: tokens that its workload believes choose, nothing that is sent is refused or
//! changed for its token, and what is removed counts from the next request on.

use mesh_proto::runtime::testing::TestIssuer;
use mesh_proto::wire::mesh::v1 as wire;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use wire::string_match::Kind as Text;
use wire::{MtlsMode, Protocol};

use crate::grpc;
use crate::support::client::{self, Answer, Connection};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Pod, ServiceSpec, Spec, backend};
use crate::support::origin::Origin;

const ISSUER: &str = "https://issuer";

/// `reviews` calls `ratings`, whose routes lead some requests to `second`.
struct Story {
    pair: Pair,
    _second: Pod,
}

fn claim(path: &[&str], value: Text, invert: bool) -> wire::HeaderMatch {
    wire::HeaderMatch {
        name: "@request.auth.claims".into(),
        value: Some(wire::StringMatch { kind: Some(value) }),
        invert,
        claim: path.iter().map(ToString::to_string).collect(),
    }
}

fn exact(text: &str) -> Text {
    Text::Exact(text.into())
}

/// Under `path`, with these claims, to a service.
fn rule(path: &str, headers: Vec<wire::HeaderMatch>, to: &str) -> wire::Rule {
    let kind = Some(wire::path_match::Kind::Prefix(path.into()));
    let path = Some(wire::PathMatch { kind, ignore_case: false });
    let action = wire::RouteAction { backends: vec![backend(to, PORT)], ..Default::default() };
    wire::Rule {
        name: to.into(),
        matches: vec![wire::Match { path, headers, ..Default::default() }],
        action: Some(wire::rule::Action::Route(action)),
        ..Default::default()
    }
}

fn table() -> wire::RouteTable {
    let rules = vec![
        rule("/stranger", vec![claim(&["sub"], Text::Present(true), true)], "second"),
        rule("/nested", vec![claim(&["realm", "a.b"], Text::Prefix("op".into()), false)], "second"),
        rule("/words", vec![claim(&["teams"], exact("red"), false)], "second"),
        rule(
            "/both",
            vec![claim(&["role"], exact("admin"), false), claim(&["sub"], exact("ann"), false)],
            "second",
        ),
        rule("/", vec![claim(&["role"], exact("admin"), false)], "second"),
        rule("/", vec![], "ratings"),
    ];
    wire::RouteTable { rules, origin: None }
}

fn of(issuer: &TestIssuer) -> wire::JwtRule {
    wire::JwtRule {
        issuer: issuer.name().into(),
        jwks: issuer.jwks().into_bytes().into(),
        space_delimited_claims: vec!["teams".into()],
        ..Default::default()
    }
}

fn publish(pair: &Pair, pod: &str, rules: &[wire::JwtRule]) {
    let spec = Spec::new(pod, pair.ratings.inbound());
    let config = wire::SelfConfig { jwt_rules: rules.to_vec(), ..Mesh::self_config(&spec) };
    pair.mesh.pilot.publish_self(pod, &config);
}

impl Story {
    async fn start(protocol: Protocol, apps: [std::net::SocketAddr; 2]) -> Self {
        let pair = Pair::start(apps[0], protocol, MtlsMode::MtlsPermissive).await;
        let second = pair.mesh.pod(Spec { protocol, ..Spec::new("second", apps[1]) }).await;
        let service = ServiceSpec { name: "second", port: PORT, vip: 3, protocol, pods: vec![&second] };
        pair.mesh.service(&service);
        pair.route(protocol, table());
        Self { pair, _second: second }
    }

    /// With two applications of HTTP/1.
    async fn http() -> Self {
        let (one, two) = (Origin::start("one").await, Origin::start("two").await);
        Self::start(Protocol::Http, [one.address, two.address]).await
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nhost: ratings\r\n{headers}connection: close\r\n\r\n");
        client::send(self.pair.vip(), &request).await.unwrap()
    }

    /// Waits until this token leads to the second application.
    async fn until_believed(&self, token: &str) {
        eventually("the token is believed", || async { who(&self.get("/", &bearer(token)).await) == "two" })
            .await;
    }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// Which application has answered.
fn who(answer: &Answer) -> &str {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body.lines().next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_token_chooses_and_goes_on_as_it_is() {
    let story = Story::http().await;
    let issuer = TestIssuer::new(ISSUER, "ES256");
    let rule = wire::JwtRule { output_payload_to_header: "x-payload".into(), ..of(&issuer) };
    publish(&story.pair, "reviews", &[rule]);
    let admin = || json!({"sub": "ann", "role": "admin"});
    story.until_believed(&issuer.sign(admin())).await;
    let nested = |name: &str| json!({"realm": {name: "operator"}});
    for (path, claims, expected) in [
        ("/", admin(), "two"),
        ("/", json!({"role": ["user", "admin"]}), "two"),
        ("/", json!({"role": "user"}), "one"),
        ("/", json!({"role": {"admin": true}}), "one"),
        ("/both", admin(), "two"),
        ("/both", json!({"sub": "bob", "role": "user"}), "one"),
        ("/nested", nested("a.b"), "two"),
        ("/nested", json!({"realm": {"a": {"b": "operator"}}}), "one"),
        ("/nested", json!({"realm.a.b": "operator"}), "one"),
        ("/words", json!({"teams": "blue red"}), "two"),
        ("/words", json!({"teams": "blue redder"}), "one"),
        ("/stranger", json!({"sub": "ann"}), "one"),
        ("/stranger", json!({"role": "user"}), "two"),
    ] {
        let token = issuer.sign(claims.clone());
        // What is told of tokens is for what comes in: here fields are the application's own.
        let answer = story.get(path, &format!("{}x-payload: mine\r\n", bearer(&token))).await;
        assert_eq!(who(&answer), expected, "{path} {claims}");
        assert!(answer.body.contains(&bearer(&token)), "{answer:?}");
        assert_eq!(answer.body.matches("x-payload").count(), 1, "{answer:?}");
        assert!(answer.body.contains("x-payload: mine\r\n"), "{answer:?}");
    }
    assert!(story.pair.mesh.pilot.rejected().is_empty(), "{:?}", story.pair.mesh.pilot.rejected());
}

/// No token, and none that would be taken: there are no claims, and the request goes where it would go without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_valid_says_nothing_and_is_refused_by_nobody_here() {
    let story = Story::http().await;
    let issuer = TestIssuer::new(ISSUER, "EdDSA");
    publish(&story.pair, "reviews", &[wire::JwtRule { audiences: vec!["web".into()], ..of(&issuer) }]);
    let says = |more: Value| {
        let mut claims = json!({"sub": "ann", "aud": "web", "role": "admin", "realm": {"a.b": "op"}});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        claims
    };
    let good = issuer.sign(says(json!({})));
    story.until_believed(&good).await;
    let parts: Vec<&str> = good.split('.').collect();
    let mut tokens = vec![
        ("somebody else's key", TestIssuer::new(ISSUER, "EdDSA").sign(says(json!({})))),
        ("somebody else's token", TestIssuer::new("https://other", "EdDSA").sign(says(json!({})))),
        ("expired", issuer.sign(says(json!({"exp": 1_000_000_000})))),
        ("not yet", issuer.sign(says(json!({"nbf": 33_000_000_000_u64, "exp": 33_000_000_001_u64})))),
        ("for others", issuer.sign(says(json!({"aud": "them"})))),
        ("unsigned", format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1])),
        ("without a signature", format!("{}.{}", parts[0], parts[1])),
    ];
    tokens.push(("no token at all", "admin".into()));
    for (what, token) in &tokens {
        for (path, expected) in [("/", "one"), ("/both", "one"), ("/nested", "one"), ("/stranger", "two")] {
            let answer = story.get(path, &bearer(token)).await;
            assert_eq!(who(&answer), expected, "{what}: {path}");
            assert!(answer.body.contains(&bearer(token)), "{what}: it goes on: {answer:?}");
        }
    }
    // Which of two would be taken is not known; the claims of the good one do not count then.
    let two = format!("{}{}", bearer(&good), bearer(&tokens[0].1));
    assert_eq!(who(&story.get("/", &two).await), "one");
    assert_eq!(who(&story.get("/", "").await), "one");
    assert_eq!(who(&story.get("/stranger", "").await), "two");
    assert_eq!(who(&story.get("/", &bearer(&good)).await), "two", "and it still chooses");
}

/// What the application says in other fields is no claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_no_claims() {
    let story = Story::http().await;
    let issuer = TestIssuer::new(ISSUER, "ES256");
    publish(&story.pair, "reviews", &[of(&issuer)]);
    story.until_believed(&issuer.sign(json!({"role": "admin"}))).await;
    for name in ["@request.auth.claims.role", "@request.auth.claims[role]", "@request.auth.claims"] {
        let answer = story.get("/", &format!("{name}: admin\r\n")).await;
        assert_eq!(answer.status, 400, "{name}: no field has such a name: {answer:?}");
    }
    let user = bearer(&issuer.sign(json!({"role": "user"})));
    for headers in [
        "request.auth.claims.role: admin\r\n",
        "role: admin\r\nclaims: {\"role\": \"admin\"}\r\n",
        "x-jwt-payload: eyJyb2xlIjoiYWRtaW4ifQ\r\nx-envoy-internal: true\r\n",
    ] {
        assert_eq!(who(&story.get("/", headers).await), "one", "{headers}");
        assert_eq!(who(&story.get("/", &format!("{headers}{user}")).await), "one", "{headers}");
    }
}

/// Rules of the called workload are for what comes in there: they make nobody's sidecar believe a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_rules_count_and_no_others() {
    let story = Story::http().await;
    let (own, others) = (TestIssuer::new(ISSUER, "ES256"), TestIssuer::new("https://others", "ES256"));
    publish(&story.pair, "ratings", &[of(&others), of(&own)]);
    let forged = TestIssuer::new(ISSUER, "ES256").sign(json!({"role": "admin"}));
    eventually("the called one verifies", || async { story.get("/", &bearer(&forged)).await.status == 401 })
        .await;
    let (good, of_others) = (own.sign(json!({"role": "admin"})), others.sign(json!({"role": "admin"})));
    for token in [&good, &of_others] {
        assert_eq!(who(&story.get("/", &bearer(token)).await), "one");
    }
    publish(&story.pair, "reviews", &[of(&own)]);
    story.until_believed(&good).await;
    assert_eq!(who(&story.get("/", &bearer(&of_others)).await), "one");
    assert_eq!(story.get("/", &bearer(&forged)).await.status, 401);
}

/// On a connection that stays open, each request counts by itself and by the rules of now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_counts_from_the_next_request_on() {
    let story = Story::http().await;
    let (first, second) = (TestIssuer::new(ISSUER, "ES256"), TestIssuer::new(ISSUER, "ES256").with_kid("2"));
    let [of_first, of_second] = [&first, &second].map(|issuer| issuer.sign(json!({"role": "admin"})));
    let kept = tokio::sync::Mutex::new(Connection::open(story.pair.vip()).await);
    let ask = async |token: &str| {
        let mut kept = kept.lock().await;
        let headers = if token.is_empty() { String::new() } else { bearer(token) };
        let request = format!("GET / HTTP/1.1\r\nhost: ratings\r\n{headers}\r\n");
        kept.0.write_all(request.as_bytes()).await.unwrap();
        who(&kept.answer().await.unwrap()).to_owned()
    };
    let until = async |what: &str, token: &str, expected: &str| {
        eventually(what, || async { ask(token).await == expected }).await;
    };
    assert_eq!(ask(&of_first).await, "one", "no rule yet");
    publish(&story.pair, "reviews", &[of(&first)]);
    until("a rule comes", &of_first, "two").await;
    for _ in 0..3 {
        assert_eq!(ask("").await, "one", "the claims of the request before are not those of this one");
        assert_eq!(ask(&of_second).await, "one");
        assert_eq!(ask(&of_first).await, "two");
    }
    publish(&story.pair, "reviews", &[of(&second)]);
    until("other keys come", &of_second, "two").await;
    assert_eq!(ask(&of_first).await, "one", "its verdict of before is not that of now");
    publish(&story.pair, "reviews", &[]);
    until("the rule goes", &of_second, "one").await;
    publish(&story.pair, "reviews", &[of(&first)]);
    until("it comes again", &of_first, "two").await;
    story.pair.mesh.service(&Pair::service(Protocol::Http, &story.pair.ratings));
    until("the route goes", &of_first, "one").await;
}

/// Streams of one connection, each with its own token, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_connection_have_their_own_claims() {
    let story = Story::start(Protocol::Grpc, [grpc::echo().await, grpc::echo().await]).await;
    let issuer = TestIssuer::new(ISSUER, "ES256");
    publish(&story.pair, "reviews", &[of(&issuer)]);
    let client = grpc::client(story.pair.vip()).await;
    let ask = |token: Option<String>| {
        let mut client = client.clone();
        async move {
            let mut request = grpc::call("ratings:9080");
            if let Some(token) = token {
                request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            let (response, _) = client.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let peer = response.headers()["x-peer"].to_str().unwrap().to_owned();
            peer.split(';').next().unwrap().rsplit('/').next().unwrap().to_owned()
        }
    };
    let admin = issuer.sign(json!({"role": "admin"}));
    let user = issuer.sign(json!({"role": "user"}));
    let forged = TestIssuer::new(ISSUER, "ES256").sign(json!({"role": "admin"}));
    eventually("the token is believed", || async { ask(Some(admin.clone())).await == "second" }).await;
    for _ in 0..10 {
        let all = tokio::join!(
            ask(Some(admin.clone())),
            ask(None),
            ask(Some(user.clone())),
            ask(Some(admin.clone())),
            ask(Some(forged.clone())),
        );
        let (first, none, of_user, again, wrong) = all;
        let all = [first, none, of_user, again, wrong];
        assert_eq!(all, ["second", "ratings", "ratings", "second", "ratings"]);
    }
}

/// Row J7: keys come with the configuration. A storm of tokens with keys that nobody knows asks nobody for them, on the way in and
/// on the way out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j7_unknown_keys_ask_nobody() {
    let story = Story::http().await;
    let issuers = Origin::start("issuer").await;
    let at = format!("http://{}", issuers.address);
    let good = TestIssuer::new(&at, "ES256");
    let rules = [
        wire::JwtRule { key_source: format!("{at}/keys"), ..of(&good) },
        wire::JwtRule {
            issuer: format!("{at}/none"),
            key_source: format!("issuer {at}/none"),
            keys_unknown: true,
            ..Default::default()
        },
    ];
    publish(&story.pair, "reviews", &rules);
    publish(&story.pair, "ratings", &rules);
    story.until_believed(&good.sign(json!({"role": "admin"}))).await;
    let other = TestIssuer::new(&at, "ES256");
    for n in 0..100 {
        let mut header = other.header();
        header["kid"] = json!(format!("unknown-{n}"));
        header["jku"] = json!(format!("{at}/keys/{n}"));
        header["x5u"] = json!(format!("{at}/x5u/{n}"));
        let issuer = if n % 2 == 0 { at.clone() } else { format!("{at}/none") };
        let claims = json!({"iss": issuer, "role": "admin", "exp": 4_102_444_800_u64}).to_string();
        let token = other.sign_raw(&header.to_string(), claims.as_bytes());
        assert_eq!(story.get("/", &bearer(&token)).await.status, 401);
    }
    assert_eq!(issuers.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}
