//! One reading of paths and hosts, over raw sockets: what the application got is what policies and routes have seen.

use std::net::SocketAddr;

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use mesh_proxy::http::path::normalised;
use wire::{MtlsMode, PathNormalization, Protocol};

use crate::support::client::{self, Connection};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Spec, backend, default_route};
use crate::support::origin::Origin;

const MODES: [PathNormalization; 4] = [
    PathNormalization::PathNone,
    PathNormalization::PathBase,
    PathNormalization::PathMergeSlashes,
    PathNormalization::PathDecodeAndMergeSlashes,
];

/// A policy that denies these values of an attribute.
fn deny(attribute: &str, values: Vec<String>) -> wire::AuthorizationPolicy {
    let matches = wire::AuthorizationMatch { attribute: attribute.into(), values, not_values: vec![] };
    wire::AuthorizationPolicy {
        origin: Some(wire::Origin { namespace: "default".into(), name: "none".into(), ..Default::default() }),
        action: wire::AuthorizationAction::AuthorizationDeny.into(),
        rules: vec![wire::AuthorizationRule { when: vec![matches], ..Default::default() }],
        ports: vec![],
    }
}

/// These paths are answered 418 by the route; everything else goes to `ratings`.
fn routes(paths: &[String]) -> wire::RouteTable {
    let exact = |path: &String| wire::Match {
        path: Some(wire::PathMatch {
            kind: Some(wire::path_match::Kind::Exact(path.clone())),
            ignore_case: false,
        }),
        ..Default::default()
    };
    let teapot = wire::DirectResponse { status: 418, body: Default::default() };
    let teapot = wire::Rule {
        name: "teapot".into(),
        matches: paths.iter().map(exact).collect(),
        action: Some(wire::rule::Action::DirectResponse(teapot)),
        ..Default::default()
    };
    let onward = wire::RouteAction { backends: vec![backend("ratings", PORT)], ..Default::default() };
    let onward = wire::Rule {
        name: "onward".into(),
        action: Some(wire::rule::Action::Route(onward)),
        ..Default::default()
    };
    wire::RouteTable { rules: vec![teapot, onward], origin: None }
}

/// `ratings` and `reviews` read paths in `mode`, and `ratings` has these policies.
fn publish(pair: &Pair, app: SocketAddr, mode: PathNormalization, policies: Vec<wire::AuthorizationPolicy>) {
    for (spec, policies) in [(Spec::new("ratings", app), policies), (Spec::new("reviews", app), vec![])] {
        let mut config = Mesh::self_config(&spec);
        config.path_normalization = mode.into();
        config.authorization = policies;
        pair.mesh.pilot.publish_self(spec.name, &config);
    }
}

async fn status(at: SocketAddr, host: &str, path: &str) -> u16 {
    client::get(at, host, path).await.map_or(0, |answer| answer.status)
}

/// Every second code is named by a policy at the server and by a route at the client, as its mode spells it. The others
/// reach the application exactly so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_each_of_the_256_percent_codes_in_four_modes() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    for mode in MODES {
        let sent: Vec<String> = (0..=255).map(|code| format!("/a%{code:02x}b")).collect();
        let read: Vec<_> = sent.iter().map(|path| normalised(path, mode)).collect();
        let mark = format!("/mode-{}", mode as i32);
        let mut named: Vec<String> =
            read.iter().skip(1).step_by(2).filter_map(|read| read.as_ref().ok()).cloned().collect();
        named.push(mark.clone());
        publish(&pair, app.address, mode, vec![deny("request.path", named.clone())]);
        pair.route(Protocol::Http, routes(&named));
        let (inbound, vip) = (pair.ratings.inbound(), pair.vip());
        let mark = &mark;
        eventually("the policy is in force", || async move { status(inbound, "ratings", mark).await == 403 })
            .await;
        eventually("the route is in force", || async move { status(vip, "ratings", mark).await == 418 })
            .await;
        let named: std::collections::BTreeSet<&String> = named.iter().collect();
        for (path, read) in sent.iter().zip(&read) {
            for (at, who, refused) in [(inbound, "policy", 403), (vip, "route", 418)] {
                let answer = client::get(at, "ratings", path).await.unwrap();
                let expected = match read {
                    Err(_) => 400,
                    Ok(read) if named.contains(read) => refused,
                    Ok(_) => 200,
                };
                assert_eq!(answer.status, expected, "{path} {mode:?}, {who}");
                if let (200, Ok(read)) = (expected, read) {
                    let line = format!("ratings\nGET {read} HTTP/1.1");
                    assert!(answer.body.starts_with(&line), "{path} {mode:?}, {who}: {answer:?}");
                }
            }
        }
    }
}

/// A path is no URI whose first part could be a host; what merges slashes does so for policy and application alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_two_slashes_hide_no_segment() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let at = pair.ratings.inbound();
    let paths = |paths: &[&str]| deny("request.path", paths.iter().map(ToString::to_string).collect());
    let spellings =
        ["//admin/secret", "http://ratings//admin/secret", "///admin//secret", "//admin/%2e/secret"];
    publish(&pair, app.address, PathNormalization::PathMergeSlashes, vec![paths(&["/admin/secret"])]);
    eventually("the policy is in force", || async { status(at, "ratings", "/admin/secret").await == 403 })
        .await;
    for path in spellings {
        assert_eq!(status(at, "ratings", path).await, 403, "{path}");
    }
    let answer = client::get(at, "ratings", "//public///x").await.unwrap();
    assert!(answer.body.starts_with("ratings\nGET /public/x HTTP/1.1"), "{answer:?}");
    // BASE keeps them, for everybody: a policy may name them, and the application gets them.
    publish(&pair, app.address, PathNormalization::PathBase, vec![paths(&["//admin/secret", "/base"])]);
    eventually("the policy is in force", || async { status(at, "ratings", "/base").await == 403 }).await;
    assert_eq!(status(at, "ratings", spellings[0]).await, 403);
    assert_eq!(status(at, "ratings", spellings[1]).await, 403);
    let answer = client::get(at, "ratings", "///admin/secret").await.unwrap();
    assert!(answer.body.starts_with("ratings\nGET ///admin/secret HTTP/1.1"), "{answer:?}");
}

/// A code within a code would be another path for the application than for the policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_nothing_is_decoded_twice() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let at = pair.ratings.inbound();
    publish(
        &pair,
        app.address,
        PathNormalization::PathBase,
        vec![deny("request.path", vec!["/admin".into()])],
    );
    eventually("the policy is in force", || async { status(at, "ratings", "/admin").await == 403 }).await;
    for path in ["/a/%%32e%%32e/admin", "/%%61dmin", "/%2%65%2%65/admin", "/%0%30", "/admin%00"] {
        assert_eq!(status(at, "ratings", path).await, 400, "{path}");
    }
    assert!(app.lines().iter().all(|line| line == "GET /admin HTTP/1.1"), "{:?}", app.lines());
    let answer = client::get(at, "ratings", "/%252e%252e/%c0%af").await.unwrap();
    assert!(answer.body.starts_with("ratings\nGET /%252e%252e/%c0%af HTTP/1.1"), "{answer:?}");
}

/// Requests for one host are answered 418 by its route; all others go to `ratings`.
fn open_and_any() -> wire::Listener {
    let host = |domain: &str, table| wire::VirtualHost {
        domains: vec![domain.into()],
        table: Some(table),
        https_redirect: false,
    };
    let virtual_hosts =
        vec![host("open.com", routes(&["/".into()])), host("*", default_route("ratings", PORT))];
    wire::Listener { port: 80, protocol: Protocol::Http.into(), virtual_hosts, ..Default::default() }
}

/// One host for policy, router and application: spellings of a name are that name, what is none is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_p8_p9_spellings_of_a_host() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let listener = open_and_any();
    pair.mesh.pilot.publish(Kind::Listener, "80", &listener);
    let spec = || Spec { gateway: true, ..Spec::new("edge", app.address) };
    let gateway = pair.mesh.pod(spec()).await;
    let mut config = Mesh::self_config(&spec());
    config.authorization = vec![deny("request.host", vec!["secret.com".into()])];
    pair.mesh.pilot.publish_self("edge", &config);
    let at = SocketAddr::new(gateway.ip, 8080);
    eventually("the policy is in force", || async move { status(at, "secret.com", "/probe").await == 403 })
        .await;
    let spellings = |name: &str| {
        let upper = name.to_uppercase();
        [
            name.to_owned(),
            upper.clone(),
            format!("{name}:80"),
            format!("{upper}:8080"),
            format!("{name}."),
            format!("{upper}.:443"),
        ]
    };
    for host in spellings("secret.com") {
        assert_eq!(status(at, &host, "/").await, 403, "policy: {host}");
    }
    for host in spellings("open.com") {
        assert_eq!(status(at, &host, "/").await, 418, "router: {host}");
    }
    for host in [
        "secret.com..",
        ".secret.com",
        "secret..com",
        "u@secret.com",
        "secret.com/",
        "secret.com?",
        "\u{17f}ecret.com",
        "secret.com, a",
        "secret.com:99999",
        "",
    ] {
        assert_eq!(status(at, host, "/").await, 400, "{host:?}");
    }
    let lines = app.lines();
    assert!(lines.iter().all(|line| line == "GET /probe HTTP/1.1"), "nothing of it reached it: {lines:?}");
    let mut connection = Connection::open(at).await;
    let answer = connection.get("Other.com:80", "/").await.unwrap();
    assert!(answer.status == 200 && answer.body.contains("host: Other.com:80"), "{answer:?}");
    assert_eq!(connection.get("SECRET.com.", "/").await.unwrap().status, 403, "each request is asked for");
}
