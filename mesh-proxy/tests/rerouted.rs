//! Rows J15 and J17: what is changed on the way is judged as it is then, on every road to it; a path that is put behind another one
//! stays there.

use std::net::SocketAddr;

use mesh_proto::model::Kind;
use mesh_proto::runtime::testing::TestIssuer;
use mesh_proto::wire::mesh::v1 as wire;
use serde_json::json;
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::support::authorizer::{ByHttp, asking, publish};
use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Pod, ServiceSpec, Spec, backend, every_host};
use crate::support::origin::Origin;

/// A gateway in front of `ratings` and of `second`, which is not for everybody.
struct Edge {
    pair: Pair,
    apps: [Origin; 2],
    authz: ByHttp,
    at: SocketAddr,
    _pods: [Pod; 2],
}

fn to(service: &str, one: Option<wire::Match>) -> wire::Rule {
    let action = wire::RouteAction { backends: vec![backend(service, PORT)], ..Default::default() };
    wire::Rule {
        name: service.into(),
        matches: one.into_iter().collect(),
        action: Some(wire::rule::Action::Route(action)),
        ..Default::default()
    }
}

fn text(kind: wire::string_match::Kind) -> Option<wire::StringMatch> {
    Some(wire::StringMatch { kind: Some(kind) })
}

/// Whoever it is that asks: the path, a field and a claim lead to `second`.
fn routes() -> wire::RouteTable {
    let kind = Some(wire::path_match::Kind::SegmentPrefix("/admin".into()));
    let path = Some(wire::PathMatch { kind, ignore_case: false });
    let header = |name: &str, value: &str, claim: Vec<String>| wire::HeaderMatch {
        name: name.into(),
        value: text(wire::string_match::Kind::Exact(value.into())),
        invert: false,
        claim,
    };
    let with = |header| Some(wire::Match { headers: vec![header], ..Default::default() });
    let rules = vec![
        to("second", Some(wire::Match { path, ..Default::default() })),
        to("second", with(header("x-way", "second", vec![]))),
        to("second", with(header("@request.auth.claims", "second", vec!["way".into()]))),
        to("ratings", None),
    ];
    wire::RouteTable { rules, origin: None }
}

fn deny(attribute: &str, value: &str) -> wire::AuthorizationPolicy {
    let one = wire::AuthorizationMatch {
        attribute: attribute.into(),
        values: vec![value.into()],
        not_values: vec![],
    };
    wire::AuthorizationPolicy {
        origin: Some(wire::Origin { namespace: "default".into(), name: "no".into(), ..Default::default() }),
        action: wire::AuthorizationAction::AuthorizationDeny.into(),
        rules: vec![wire::AuthorizationRule { when: vec![one], ..Default::default() }],
        ports: vec![],
    }
}

impl Edge {
    async fn start() -> Self {
        let apps = [Origin::start("ratings").await, Origin::start("second").await];
        let authz = ByHttp::start().await;
        let pair = Pair::start(apps[0].address, Protocol::Http, MtlsMode::MtlsPermissive).await;
        let second = pair.mesh.pod(Spec::new("second", apps[1].address)).await;
        let (protocol, pods) = (Protocol::Http, vec![&second]);
        pair.mesh.service(&ServiceSpec { name: "second", port: PORT, vip: 3, protocol, pods });
        publish(&pair.mesh, authz.address, None);
        pair.mesh.pilot.publish(Kind::Listener, "80", &every_host(routes()));
        let spec = Spec { gateway: true, ..Spec::new("edge", SocketAddr::from(([127, 0, 0, 1], 1))) };
        let edge = pair.mesh.pod(spec).await;
        let at = SocketAddr::new(edge.ip, 8080);
        Self { pair, apps, authz, at, _pods: [second, edge] }
    }

    fn publish(&self, config: wire::SelfConfig) {
        let own = Mesh::self_config(&Spec::new("edge", self.at));
        let config = wire::SelfConfig { identity: own.identity, facts: own.facts, ..config };
        self.pair
            .mesh
            .pilot
            .publish_self("edge", &wire::SelfConfig { cluster_domain: own.cluster_domain, ..config });
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n{headers}connection: close\r\n\r\n");
        client::send(self.at, &request).await.unwrap()
    }

    /// Waits until this request has this status.
    async fn until(&self, what: &str, path: &str, headers: &str, status: u16) {
        eventually(what, || async { self.get(path, headers).await.status == status }).await;
    }

    fn reached(&self) -> [usize; 2] {
        [self.apps[0].count(), self.apps[1].count()]
    }
}

/// A path is written in many ways, and leads where it leads: each way there is judged, and none is judged as another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j15_every_writing_of_a_path_is_judged_where_it_leads() {
    let edge = Edge::start().await;
    edge.until("the listener opens", "/", "", 200).await;
    assert_eq!(edge.get("/x/../admin/users", "").await.header("x-instance"), Some("second"));
    edge.publish(wire::SelfConfig {
        authorization: vec![deny("request.path", "/admin"), deny("request.path", "/admin/*")],
        ..Default::default()
    });
    edge.until("the policy is in force", "/admin", "", 403).await;
    let before = edge.reached()[1];
    for path in [
        "/admin/users",
        "/x/../admin",
        "/x/%2e%2e/admin/users",
        "/./admin",
        "/%61dmin",
        "/x\\..\\admin",
        "/admin/../admin?x=/public",
        "http://shop/x/../admin",
    ] {
        assert_eq!(edge.get(path, "").await.status, 403, "{path}");
    }
    // What leads elsewhere does so for policy and route alike (in the mode BASE a backslash in codes is one).
    for path in
        ["/admin/../public", "/administration", "/public?path=/admin", "/public/%2fadmin", "/x/..%5cadmin"]
    {
        let answer = edge.get(path, "").await;
        assert_eq!((answer.status, answer.header("x-instance")), (200, Some("ratings")), "{path}");
    }
    assert_eq!(edge.reached()[1], before, "nothing that was denied has come");
}

/// A provider and a token may lead to another route: policies look at the request that goes there, not at the one that came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j15_another_route_is_another_decision() {
    let edge = Edge::start().await;
    let issuer = TestIssuer::new("https://issuer", "ES256");
    let bearer = |way: &str| format!("authorization: Bearer {}\r\n", issuer.sign(json!({ "way": way })));
    let settings =
        || wire::HttpAuthorization { to_upstream_on_allow: vec!["x-way".into()], ..Default::default() };
    let rule = wire::JwtRule {
        issuer: issuer.name().into(),
        jwks: issuer.jwks().into_bytes().into(),
        ..Default::default()
    };
    for clears in [true, false] {
        let with = |authorization: Vec<wire::AuthorizationPolicy>| {
            let mut external = asking(By::Http(settings()));
            external.clear_route_cache = clears;
            edge.publish(wire::SelfConfig {
                authorization,
                external_authorization: Some(external),
                jwt_rules: vec![rule.clone()],
                ..Default::default()
            });
        };
        edge.authz.says(418, "", "");
        with(vec![]);
        edge.until("the provider is asked", "/", "", 418).await;
        edge.authz.says(200, "x-way: second\r\n", "");
        // What the round before has denied may be in force still.
        eventually("a way that it has chosen", || async {
            edge.get("/", "").await.header("x-instance") == Some("second")
        })
        .await;
        with(vec![deny("request.headers[x-way]", "second"), deny("request.auth.claims[way]", "second")]);
        edge.until("what the provider has made of it is denied", "/", "", 403).await;
        let before = edge.reached()[1];
        edge.authz.says(200, "", "");
        assert_eq!(edge.get("/", &bearer("second")).await.status, 403, "a way that the token has chosen");
        assert_eq!(edge.get("/", &bearer("first")).await.status, 200);
        // What the client says of it is taken away, before policies and before routes.
        let answer = edge.get("/", "x-way: second\r\n").await;
        assert_eq!((answer.status, answer.header("x-instance")), (200, Some("ratings")));
        assert_eq!(edge.reached()[1], before, "nothing that was denied has come");
    }
}

/// Where an application sends its client is the client's affair: nobody goes there for him, past the policies in front.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j15_nothing_is_followed_for_the_client() {
    let edge = Edge::start().await;
    edge.publish(wire::SelfConfig {
        authorization: vec![deny("request.path", "/admin*")],
        ..Default::default()
    });
    edge.until("the policy is in force", "/admin", "", 403).await;
    let before = edge.reached();
    for status in [301, 302, 303, 307, 308, 305] {
        edge.apps[0].answer_with(&[status]);
        assert_eq!(edge.get("/", "").await.status, status);
    }
    assert_eq!(edge.reached(), [before[0] + 6, before[1]]);
}

/// Whoever is asked has the path behind the prefix that MeshConfig says: what ends a path elsewhere is part of it here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j17_a_path_stays_behind_its_prefix() {
    let edge = Edge::start().await;
    edge.authz.says(200, "", "");
    let settings = wire::HttpAuthorization { path_prefix: "/check".into(), ..Default::default() };
    edge.publish(wire::SelfConfig {
        external_authorization: Some(asking(By::Http(settings))),
        ..Default::default()
    });
    eventually("the provider is asked", || async {
        edge.get("/", "").await.status == 200 && edge.authz.last().starts_with("GET /check/ ")
    })
    .await;
    for (path, shown) in [
        ("/../../admin", "/admin"),
        ("/a/%2e%2e/%2e%2e/admin", "/admin"),
        ("/..%2f..%2fadmin", "/..%2f..%2fadmin"),
        ("/a?b=../../c&d=http://e/", "/a?b=../../c&d=http://e/"),
        ("/a%3fb%23c", "/a%3fb%23c"),
        ("/a%0d%0aX-Evil:%20yes", "/a%0d%0aX-Evil:%20yes"),
        ("/a?%0d%0aX-Evil:%20yes", "/a?%0d%0aX-Evil:%20yes"),
        ("http://shop/a", "/a"),
    ] {
        let answer = edge.get(path, "").await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let asked = edge.authz.last();
        let lines: Vec<&str> = asked.lines().collect();
        assert!(lines[0].eq_ignore_ascii_case(&format!("GET /check{shown} HTTP/1.1")), "{path}: {asked}");
        assert!(!lines[1..].iter().any(|line| line.to_lowercase().contains("x-evil")), "{asked}");
        let reached = answer.body.lines().nth(1).unwrap_or_default();
        assert!(reached.eq_ignore_ascii_case(&format!("GET {shown} HTTP/1.1")), "{path}: {answer:?}");
    }
}
