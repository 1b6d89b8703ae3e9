//! AuthorizationPolicy and path normalization over real sockets: requests, bytes, gateways, and policies that change.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::{MtlsMode, Protocol};

use crate::support::client::{self, Connection};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Spec, default_route, every_host};
use crate::support::origin::Origin;
use crate::tcp::server_first;

const REVIEWS: &str = "cluster.local/ns/default/sa/reviews";

fn matches(attribute: &str, values: &[&str]) -> wire::AuthorizationMatch {
    wire::AuthorizationMatch {
        attribute: attribute.into(),
        values: values.iter().map(ToString::to_string).collect(),
        not_values: vec![],
    }
}

fn policy(
    name: &str,
    action: wire::AuthorizationAction,
    when: &[wire::AuthorizationMatch],
) -> wire::AuthorizationPolicy {
    wire::AuthorizationPolicy {
        origin: Some(wire::Origin { namespace: "default".into(), name: name.into(), ..Default::default() }),
        action: action.into(),
        rules: vec![wire::AuthorizationRule { when: when.to_vec(), ..Default::default() }],
        ports: vec![],
    }
}

fn allow(when: &[wire::AuthorizationMatch]) -> wire::AuthorizationPolicy {
    policy("some", wire::AuthorizationAction::AuthorizationAllow, when)
}

fn deny(when: &[wire::AuthorizationMatch]) -> wire::AuthorizationPolicy {
    policy("none", wire::AuthorizationAction::AuthorizationDeny, when)
}

/// Tells a pod its policies.
fn publish(mesh: &Mesh, spec: &Spec<'_>, policies: Vec<wire::AuthorizationPolicy>) {
    let mut config = Mesh::self_config(spec);
    config.authorization = policies;
    mesh.pilot.publish_self(spec.name, &config);
}

async fn status(pair: &Pair, path: &str) -> u16 {
    client::get(pair.vip(), "ratings", path).await.map_or(0, |answer| answer.status)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_identity_and_method() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let spec = Spec { mtls: MtlsMode::MtlsPermissive, ..Spec::new("ratings", app.address) };
    let get = [matches("source.principal", &[REVIEWS]), matches("request.headers[x-role]", &["reader"])];
    publish(&pair.mesh, &spec, vec![allow(&get)]);
    let vip = pair.vip();
    eventually("the policy is in force", || async move {
        client::get(vip, "ratings", "/").await.is_ok_and(|a| a.status == 403)
    })
    .await;
    let denied = client::get(vip, "ratings", "/").await.unwrap();
    assert_eq!((denied.status, denied.body.as_str()), (403, "RBAC: access denied"));
    let before = app.count();
    let with = |role: &str| {
        format!("GET / HTTP/1.1\r\nhost: ratings\r\nx-role: {role}\r\nconnection: close\r\n\r\n")
    };
    assert_eq!(client::send(vip, &with("reader")).await.unwrap().status, 200);
    assert_eq!(client::send(vip, &with("writer")).await.unwrap().status, 403);
    // Plaintext has no identity, whatever it says.
    assert_eq!(client::send(pair.ratings.inbound(), &with("reader")).await.unwrap().status, 403);
    assert_eq!(app.count(), before + 1, "nothing that was denied reached the application");
}

/// Rows P1 and P2: policy, route and application see one path.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_p2_one_reading_of_a_path() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let spec = Spec { mtls: MtlsMode::MtlsPermissive, ..Spec::new("ratings", app.address) };
    publish(&pair.mesh, &spec, vec![deny(&[matches("request.path", &["/admin", "/admin/*"])])]);
    let inbound = pair.ratings.inbound();
    eventually("the policy is in force", || async { status(&pair, "/admin").await == 403 }).await;
    let plain = async |path: &str| client::get(inbound, "ratings", path).await.unwrap();
    for path in [
        "/admin?x",
        "/%61dmin",
        "/./admin",
        "/a/../admin",
        "/a/%2e%2e/admin",
        r"/a\..\admin",
        "/admin/",
        "/admin;x=1",
        "/admin;/y",
        "/admin/%2e/x",
    ] {
        assert_eq!(plain(path).await.status, 403, "{path}");
        assert_eq!(status(&pair, path).await, 403, "{path} through both proxies");
    }
    for path in ["/a/..;/admin", "/%00admin", "/admin%00", r"\admin", "admin"] {
        assert_eq!(plain(path).await.status, 400, "{path}");
    }
    let answer = plain("/x/./y/%7Ez?q=/../r").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("GET /x/y/~z?q=/../r HTTP/1.1"), "{}", answer.body);
    assert_eq!(plain("/%61dmi%2e").await.status, 200, "another name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_decided_when_they_come_and_again_when_policies_change() {
    let app = server_first().await;
    let pair = Pair::start(app, Protocol::Tcp, MtlsMode::MtlsStrict).await;
    let hello = async || {
        let mut stream = TcpStream::connect(pair.vip()).await.unwrap();
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).await.map(|_| stream)
    };
    let mut open = hello().await.unwrap();
    let spec = Spec { protocol: Protocol::Tcp, mtls: MtlsMode::MtlsStrict, ..Spec::new("ratings", app) };
    // A method means nothing here: what is left of the rule matches.
    let reviews = [matches("source.principal", &[REVIEWS]), matches("request.headers[a]", &["b"])];
    publish(&pair.mesh, &spec, vec![deny(&reviews)]);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), open.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection that was open has ended");
    assert!(hello().await.is_err(), "no byte of the application");
    publish(&pair.mesh, &spec, vec![allow(&[matches("source.namespace", &["default"])])]);
    eventually("another policy lets it in", || async { hello().await.is_ok() }).await;
    let mut open = hello().await.unwrap();
    open.write_all(b"x").await.unwrap();
    publish(&pair.mesh, &spec, vec![allow(&[matches("request.headers[a]", &["b"])])]);
    let ended = tokio::time::timeout(Duration::from_secs(10), open.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "ALLOW that asks for a request's things lets no bytes in");
}

/// A connection that waits for its next request has no use when none can pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_requests_is_asked_for_each() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let mut connection = Connection::open(pair.vip()).await;
    assert_eq!(connection.get("ratings", "/").await.unwrap().status, 200);
    let spec = Spec { mtls: MtlsMode::MtlsStrict, ..Spec::new("ratings", app.address) };
    publish(&pair.mesh, &spec, vec![deny(&[matches("request.path", &["/b"])])]);
    eventually("the policy is in force", || async { status(&pair, "/b").await == 403 }).await;
    assert_eq!(connection.get("ratings", "/b").await.unwrap().status, 403);
    assert_eq!(connection.get("ratings", "/a").await.unwrap().status, 200);
    publish(&pair.mesh, &spec, vec![allow(&[matches("source.namespace", &["other"])])]);
    eventually("nobody is let in", || async { status(&pair, "/a").await == 403 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_decide_too() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    let listener = every_host(default_route("ratings", PORT));
    pair.mesh.pilot.publish(Kind::Listener, "80", &listener);
    let spec = Spec { gateway: true, ..Spec::new("edge", app.address) };
    let gateway = pair.mesh.pod(Spec { gateway: true, ..Spec::new("edge", app.address) }).await;
    let at = SocketAddr::new(gateway.ip, 8080);
    eventually("the gateway serves", || async move {
        client::get(at, "shop.example", "/").await.is_ok_and(|a| a.status == 200)
    })
    .await;
    publish(&pair.mesh, &spec, vec![deny(&[matches("request.path", &["/admin"])])]);
    eventually("the policy is in force", || async move {
        client::get(at, "shop.example", "/%61dmin").await.is_ok_and(|a| a.status == 403)
    })
    .await;
    assert_eq!(client::get(at, "shop.example", "/").await.unwrap().status, 200);
    // A policy that cannot be enforced closes gateways as it does workloads.
    let mut config = Mesh::self_config(&spec);
    config.deny_all = Some(wire::Origin { kind: "AuthorizationPolicy".into(), ..Default::default() });
    pair.mesh.pilot.publish_self("edge", &config);
    eventually("nothing is let in", || async move {
        client::get(at, "shop.example", "/").await.is_ok_and(|a| a.status == 403)
    })
    .await;
}

/// Where a client is: at an edge of the mesh its own end of the connection, whatever it says; behind that what the last proxy
/// that was verified tells (`remoteIpBlocks`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_of_clients() {
    let app = Origin::start("ratings").await;
    let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
    let listener = every_host(default_route("ratings", PORT));
    pair.mesh.pilot.publish(Kind::Listener, "80", &listener);
    let gateway = pair.mesh.pod(Spec { gateway: true, ..Spec::new("edge", app.address) }).await;
    let edge = SocketAddr::new(gateway.ip, 8080);
    let from = async |at: SocketAddr, told: &str| {
        let fields: String = told.lines().map(|line| format!("x-forwarded-for: {line}\r\n")).collect();
        let request = format!("GET / HTTP/1.1\r\nhost: ratings:9080\r\n{fields}connection: close\r\n\r\n");
        client::send(at, &request).await.map_or(0, |answer| answer.status)
    };
    let (inbound, vip) = (pair.ratings.inbound(), pair.vip());
    eventually("the gateway serves", || async { from(edge, "").await == 200 }).await;
    let ratings = Spec { mtls: MtlsMode::MtlsPermissive, ..Spec::new("ratings", app.address) };
    let six = |attribute: &str| deny(&[matches(attribute, &["6.6.6.0/24"])]);
    publish(
        &pair.mesh,
        &ratings,
        vec![six("remote.ip"), allow(&[matches("remote.ip", &["127.0.0.0/8", "9.9.9.9"])])],
    );
    eventually("the policy is in force", || async { from(vip, "6.6.6.6").await == 403 }).await;
    for (at, told, status) in [
        // Plaintext says nothing of itself.
        (inbound, "9.9.9.9", 200),
        (inbound, "6.6.6.6", 200),
        (inbound, "8.8.8.8", 200),
        // Of a verified peer the last word counts, in whatever line.
        (vip, "", 200),
        (vip, "9.9.9.9", 200),
        (vip, "8.8.8.8", 403),
        (vip, "6.6.6.6, 9.9.9.9", 200),
        (vip, "9.9.9.9, 6.6.6.6", 403),
        (vip, "9.9.9.9\n6.6.6.6", 403),
        (vip, "6.6.6.6\n 9.9.9.9", 200),
        // What is no address names nobody.
        (vip, "9.9.9.9, unknown", 200),
        // A gateway puts its client behind whatever that says.
        (edge, "6.6.6.6", 200),
        (edge, "8.8.8.8, 6.6.6.6", 200),
    ] {
        assert_eq!(from(at, told).await, status, "{told:?} at {at}");
    }
    // The other end of a connection is not what is told.
    publish(&pair.mesh, &ratings, vec![six("source.ip")]);
    eventually("another policy is in force", || async { from(vip, "6.6.6.6").await == 200 }).await;
    // At the edge nobody else has a say.
    let at_edge = Spec { gateway: true, ..Spec::new("edge", app.address) };
    publish(&pair.mesh, &at_edge, vec![six("remote.ip"), deny(&[matches("request.path", &["/mark"])])]);
    let marked = || async { client::get(edge, "ratings:9080", "/mark").await.is_ok_and(|a| a.status == 403) };
    eventually("the gateway's policy is in force", marked).await;
    assert_eq!(from(edge, "6.6.6.6").await, 200);
    publish(&pair.mesh, &at_edge, vec![allow(&[matches("remote.ip", &["6.6.6.6"])])]);
    eventually("nobody is let in who only says so", || async { from(edge, "6.6.6.6").await == 403 }).await;
    publish(&pair.mesh, &at_edge, vec![allow(&[matches("remote.ip", &["127.0.0.0/8"])])]);
    eventually("who is there is let in", || async { from(edge, "6.6.6.6").await == 200 }).await;
}
