//! AuthorizationPolicy CUSTOM with a provider that is asked by gRPC (`envoy.service.auth.v3`): requests of HTTP/1 and
//! HTTP/2, bytes, gateways; what is told, what is changed, what is refused.

#![allow(clippy::too_many_lines, reason = "stories with tables of cases")]

use std::net::SocketAddr;

use auth::check_response::HttpResponse;
use bytes::Bytes;
use mesh_proto::model::Kind;
use mesh_proto::wire::envoy::config::core::v3 as core;
use mesh_proto::wire::envoy::service::auth::v3 as auth;
use mesh_proto::wire::envoy::r#type::v3::HttpStatus;
use mesh_proto::wire::google::rpc;
use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::support::authorizer::{ByGrpc, Say, asking, publish};
use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, ServiceSpec, Spec, backend, default_route, every_host, route};
use crate::support::origin::Origin;
use crate::tcp::server_first;

fn by() -> By {
    By::Grpc(wire::Empty {})
}

fn field(key: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn allowed(ok: auth::OkHttpResponse) -> Say {
    let http_response = Some(HttpResponse::OkResponse(ok));
    Say::Message(Box::new(auth::CheckResponse {
        status: Some(rpc::Status::default()),
        http_response,
        ..Default::default()
    }))
}

fn denied(status: i32, headers: Vec<core::HeaderValueOption>, body: &str) -> Say {
    let denied =
        auth::DeniedHttpResponse { status: Some(HttpStatus { code: status }), headers, body: body.into() };
    let status = Some(rpc::Status { code: 7, ..Default::default() });
    Say::Message(Box::new(auth::CheckResponse {
        status,
        http_response: Some(HttpResponse::DeniedResponse(denied)),
        ..Default::default()
    }))
}

struct Asked {
    authz: ByGrpc,
    pair: Pair,
    protocol: Protocol,
    app: SocketAddr,
}

impl Asked {
    async fn start(app: SocketAddr, protocol: Protocol, external: wire::ExternalAuthorization) -> Self {
        let authz = ByGrpc::start().await;
        authz.says(denied(418, vec![], ""));
        let pair = Pair::start(app, protocol, MtlsMode::MtlsPermissive).await;
        publish(&pair.mesh, authz.address, None);
        let asked = Self { authz, pair, protocol, app };
        asked.publish(external);
        asked
    }

    /// In front of an application of HTTP/1.
    async fn http(external: wire::ExternalAuthorization) -> (Self, Origin) {
        let app = Origin::start("ratings").await;
        let asked = Self::start(app.address, Protocol::Http, external).await;
        let at = asked.pair.vip();
        let in_force = async || client::get(at, "ratings", "/").await.is_ok_and(|a| a.status == 418);
        eventually("the policy is in force", in_force).await;
        (asked, app)
    }

    fn publish(&self, external: wire::ExternalAuthorization) {
        let spec = Spec { protocol: self.protocol, ..Spec::new("ratings", self.app) };
        let mut config = Mesh::self_config(&spec);
        config.external_authorization = Some(external);
        self.pair.mesh.pilot.publish_self("ratings", &config);
    }

    async fn send(&self, head: &str) -> Answer {
        let request = format!("{head}\r\nhost: ratings\r\nconnection: close\r\n\r\n");
        client::send(self.pair.vip(), &request).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_and_what_comes_of_it() {
    let (asked, _app) = Asked::http(asking(by())).await;
    let appended = core::HeaderValueOption { append: Some(true), ..field("x-list", "theirs") };
    let how = |action: core::header_value_option::HeaderAppendAction, name: &str| core::HeaderValueOption {
        append_action: action.into(),
        ..field(name, "theirs")
    };
    use core::header_value_option::HeaderAppendAction as Action;
    asked.authz.says(allowed(auth::OkHttpResponse {
        headers: vec![
            field("x-user", "alice"),
            appended,
            how(Action::AddIfAbsent, "x-there"),
            how(Action::AddIfAbsent, "x-absent"),
            how(Action::OverwriteIfExists, "x-not"),
        ],
        headers_to_remove: vec!["x-gone".into(), "host".into(), ":path".into(), "content-length".into()],
        response_headers_to_add: vec![field("x-ok", "yes")],
        ..Default::default()
    }));
    let head = "GET /a/./b?q=1 HTTP/1.1\r\nx-user: mallory\r\nx-list: mine\r\nx-there: mine\r\nx-gone: 1\r\nx-two: 1\r\nx-two: 2\r\nx-request-id: 17";
    let answer = asked.send(head).await;
    assert_eq!((answer.status, answer.header("x-ok")), (200, Some("yes")), "{answer:?}");
    let came = answer.body.to_lowercase();
    for line in [
        "x-user: alice",
        "x-list: mine",
        "x-list: theirs",
        "x-there: mine",
        "x-absent: theirs",
        "host: ratings",
    ] {
        assert!(came.contains(&format!("{line}\r\n")), "{line}: {came}");
    }
    assert!(!came.contains("mallory") && !came.contains("x-gone") && !came.contains("x-not"), "{came}");

    let told = asked.authz.last();
    let (source, destination) = (told.source.unwrap(), told.destination.unwrap());
    assert_eq!(source.principal, "spiffe://cluster.local/ns/default/sa/reviews");
    assert_eq!(destination.principal, "spiffe://cluster.local/ns/default/sa/ratings");
    let at = |peer: &core::Address| match peer.address.clone().unwrap() {
        core::address::Address::SocketAddress(at) => at,
    };
    assert!(!at(&source.address.unwrap()).address.is_empty());
    let here = at(&destination.address.unwrap());
    assert_eq!(here.port_specifier, Some(core::socket_address::PortSpecifier::PortValue(PORT.into())));
    let request = told.request.unwrap();
    assert!(request.time.is_some());
    let http = request.http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str(), http.host.as_str()),
        ("GET", "/a/b?q=1", "ratings")
    );
    assert_eq!(
        (http.scheme.as_str(), http.protocol.as_str(), http.id.as_str(), http.size),
        ("http", "HTTP/1.1", "17", 0)
    );
    assert!(http.body.is_empty() && http.raw_body.is_empty());
    let told = |name: &str| http.headers.get(name).map(String::as_str);
    assert_eq!(
        (told("x-two"), told("x-user"), told(":path")),
        (Some("1,2"), Some("mallory"), Some("/a/b?q=1"))
    );
    assert_eq!((told(":authority"), told(":method"), told("host")), (Some("ratings"), Some("GET"), None));
    let heads = asked.authz.heads.lock();
    assert_eq!(
        (&heads.last().unwrap()["grpc-timeout"], &heads.last().unwrap()["te"]),
        (&"10000m".parse().unwrap(), &"trailers".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_and_what_is_none() {
    let (asked, app) = Asked::http(asking(by())).await;
    let before = app.count();
    let twice = vec![
        field("set-cookie", "a=1"),
        field("set-cookie", "b=2"),
        field("content-type", "text/x"),
        field("content-length", "1"),
    ];
    asked.authz.says(denied(401, twice, "who are you?"));
    let answer = asked.send("GET / HTTP/1.1").await;
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("content-type")),
        (401, "who are you?", Some("text/x"))
    );
    let cookies = answer.head.lines().filter(|line| line.starts_with("set-cookie")).count();
    assert_eq!((cookies, answer.header("content-length")), (2, Some("12")), "{}", answer.head);
    let bare = auth::CheckResponse {
        status: Some(rpc::Status { code: 16, ..Default::default() }),
        ..Default::default()
    };
    asked.authz.says(Say::Message(Box::new(bare)));
    assert_eq!(asked.send("GET / HTTP/1.1").await.status, 403);
    let refused = [
        Say::Status(14),
        Say::Raw(b""),
        Say::Raw(b"\0\0\0\0\x05ab"),
        Say::Raw(b"\x01\0\0\0\0"),
        Say::Raw(b"\0\0\0\0\x03\xff\xff\xff"),
    ];
    for say in refused.clone() {
        asked.authz.says(say);
        let answer = asked.send("GET / HTTP/1.1").await;
        assert_eq!((answer.status, answer.body.as_str()), (403, "ext_authz_error"));
    }
    assert_eq!(app.count(), before);
    let mut open = asking(by());
    open.fail_open = true;
    asked.publish(open);
    asked.authz.says(refused[0].clone());
    let at = asked.pair.vip();
    eventually("failOpen is in force", || async move {
        client::get(at, "ratings", "/").await.is_ok_and(|a| a.status == 200)
    })
    .await;
    for say in refused {
        asked.authz.says(say);
        assert_eq!(asked.send("GET / HTTP/1.1").await.status, 200);
    }
    // Answers that cannot be carried out never pass, not even then: another message, other lines, another host.
    let before = app.count();
    for (key, value) in [
        (":path", "/admin"),
        (":authority", "other"),
        ("host", "other"),
        ("content-length", "9"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("x-a", "b\r\nx-injected: 1"),
        ("x-a\r\nx-injected", "1"),
        ("x-a", "\0"),
        ("x-forwarded-client-cert", "By=x"),
        ("x-mesh-peer", "x"),
        ("", "x"),
    ] {
        asked
            .authz
            .says(allowed(auth::OkHttpResponse { headers: vec![field(key, value)], ..Default::default() }));
        assert_eq!(asked.send("GET / HTTP/1.1").await.status, 403, "{key:?}: {value:?} on the request");
        asked.authz.says(allowed(auth::OkHttpResponse {
            response_headers_to_add: vec![field(key, value)],
            ..Default::default()
        }));
        assert_eq!(asked.send("GET / HTTP/1.1").await.status, 403, "{key:?}: {value:?} on the answer");
    }
    let many = (0..200).map(|n| field(&format!("x-{n}"), "a")).collect();
    asked.authz.says(allowed(auth::OkHttpResponse { headers: many, ..Default::default() }));
    assert_eq!(asked.send("GET / HTTP/1.1").await.status, 403, "too many fields");
    let large = vec![field("x-large", &"a".repeat(60_000))];
    asked.authz.says(allowed(auth::OkHttpResponse { headers: large, ..Default::default() }));
    assert_eq!(asked.send("GET / HTTP/1.1").await.status, 403, "too large a field");
    for status in [99, 101, 600, -1] {
        asked.authz.says(denied(status, vec![], ""));
        assert_eq!(asked.send("GET / HTTP/1.1").await.status, 403, "the status {status}");
    }
    assert_eq!(app.count(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_in_both_forms() {
    let mut external = asking(by());
    external.body = Some(wire::CheckedBody { max_bytes: 16, allow_partial: true, as_bytes: false });
    let (asked, _app) = Asked::http(external.clone()).await;
    asked.authz.says(allowed(auth::OkHttpResponse::default()));
    let at = asked.pair.vip();
    let send = async |body: &[u8]| {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: ratings\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        client::parse(&all).unwrap().status
    };
    assert_eq!(send(b"hello").await, 200);
    let http = asked.authz.last().request.unwrap().http.unwrap();
    assert_eq!(
        (http.body.as_str(), http.size, http.headers["x-envoy-auth-partial-body"].as_str()),
        ("hello", 5, "false")
    );
    assert_eq!(send(&[b'a'; 40]).await, 200);
    let http = asked.authz.last().request.unwrap().http.unwrap();
    assert_eq!((http.body.len(), http.headers["x-envoy-auth-partial-body"].as_str()), (16, "true"));
    // What is no text is made one: the message must stay one.
    assert_eq!(send(b"a\xffb").await, 200);
    assert_eq!(asked.authz.last().request.unwrap().http.unwrap().body, "a!b");
    external.body = Some(wire::CheckedBody { max_bytes: 16, allow_partial: true, as_bytes: true });
    asked.publish(external);
    eventually("as bytes", || async {
        send(b"a\xffb").await == 200
            && asked.authz.last().request.unwrap().http.unwrap().raw_body == b"a\xffb"[..]
    })
    .await;
    assert_eq!(asked.authz.last().request.unwrap().http.unwrap().body, "");
}

/// A caller of gRPC is told in its own way, and its stream passes when it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_http2_and_grpc() {
    let asked = Asked::start(crate::grpc::echo().await, Protocol::Grpc, asking(by())).await;
    asked.authz.says(denied(
        403,
        vec![field("x-why", "because"), field("content-type", "text/html")],
        "not you",
    ));
    let at = asked.pair.vip();
    let mut client = crate::grpc::client(at).await;
    let status = async |client: &mut h2::client::SendRequest<Bytes>| {
        let (response, mut send) = client.send_request(crate::grpc::call("ratings:9080"), false).unwrap();
        let _ = send.send_data(Bytes::from_static(b"one"), true);
        response.await.map(|response| response.into_parts())
    };
    let mut last = None;
    for _ in 0..1000 {
        let (head, _) = status(&mut client).await.unwrap();
        let is_denied = head.headers.contains_key("x-why");
        last = Some(head);
        if is_denied {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let head = last.unwrap();
    assert_eq!(
        (head.status.as_u16(), &head.headers["grpc-status"]),
        (200, &"7".parse::<http::HeaderValue>().unwrap())
    );
    assert_eq!(
        (&head.headers["x-why"], &head.headers["content-type"]),
        (
            &"because".parse::<http::HeaderValue>().unwrap(),
            &"application/grpc".parse::<http::HeaderValue>().unwrap()
        )
    );
    assert_eq!(asked.authz.last().request.unwrap().http.unwrap().protocol, "HTTP/2");
    asked.authz.says(allowed(auth::OkHttpResponse {
        response_headers_to_add: vec![field("x-ok", "1")],
        ..Default::default()
    }));
    let (head, mut body) = status(&mut client).await.unwrap();
    assert_eq!((head.status.as_u16(), head.headers.contains_key("x-ok")), (200, true));
    assert_eq!(body.data().await.unwrap().unwrap(), "one");
}

/// Bytes are asked about once, as they begin; those that nobody asked about end when somebody is to be asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_asked_about() {
    let authz = ByGrpc::start().await;
    authz.says(allowed(auth::OkHttpResponse::default()));
    let app = server_first().await;
    let pair = Pair::start(app, Protocol::Tcp, MtlsMode::MtlsPermissive).await;
    publish(&pair.mesh, authz.address, None);
    let at = pair.vip();
    let greeted = async |stream: &mut TcpStream| {
        let mut first = [0; 1];
        matches!(stream.read(&mut first).await, Ok(1))
    };
    let mut before = TcpStream::connect(at).await.unwrap();
    assert!(greeted(&mut before).await);
    let asked = Asked { authz, pair, protocol: Protocol::Tcp, app };
    asked.publish(asking(by()));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), before.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "nobody had asked about it");
    let mut now = TcpStream::connect(at).await.unwrap();
    assert!(greeted(&mut now).await);
    let told = asked.authz.last();
    assert_eq!(told.source.unwrap().principal, "spiffe://cluster.local/ns/default/sa/reviews");
    assert!(told.request.is_none());
    // The same provider: what it has let in stays.
    let count = asked.authz.asked.lock().len();
    asked.authz.says(denied(0, vec![], ""));
    let mut refused = TcpStream::connect(at).await.unwrap();
    assert!(!greeted(&mut refused).await);
    assert_eq!(asked.authz.asked.lock().len(), count + 1);
    // By HTTP nobody can be asked about bytes.
    asked.publish(asking(By::Http(wire::HttpAuthorization::default())));
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), now.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "another one is to be asked");
    let mut refused = TcpStream::connect(at).await.unwrap();
    assert!(!greeted(&mut refused).await);
}

/// A gateway asks too, and `clearRouteCache` says whether what the provider sets chooses the route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_asks() {
    let app = Origin::start("ratings").await;
    let authz = ByGrpc::start().await;
    authz.says(allowed(auth::OkHttpResponse {
        headers: vec![field("x-to", "nowhere")],
        response_headers_to_add: vec![field("x-ok", "1")],
        ..Default::default()
    }));
    let pods = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsStrict).await;
    publish(&pods.mesh, authz.address, None);
    pods.mesh.service(&ServiceSpec {
        name: "nobody",
        port: PORT,
        vip: 3,
        protocol: Protocol::Http,
        pods: vec![],
    });
    let mut table = default_route("ratings", PORT);
    let mut elsewhere =
        route(wire::RouteAction { backends: vec![backend("nobody", PORT)], ..Default::default() });
    elsewhere.rules[0].matches = vec![wire::Match {
        headers: vec![wire::HeaderMatch {
            name: "x-to".into(),
            value: Some(wire::StringMatch { kind: Some(wire::string_match::Kind::Exact("nowhere".into())) }),
            invert: false,
            claim: Vec::new(),
        }],
        ..Default::default()
    }];
    table.rules.insert(0, elsewhere.rules.remove(0));
    let listener = every_host(table);
    pods.mesh.pilot.publish(Kind::Listener, "80", &listener);
    let mut spec = Spec::new("gateway", "127.0.0.1:1".parse().unwrap());
    spec.gateway = true;
    let told = |clear: bool| {
        let mut config = Mesh::self_config(&Spec {
            gateway: true,
            ..Spec::new("gateway", "127.0.0.1:1".parse().unwrap())
        });
        let mut external = asking(by());
        external.clear_route_cache = clear;
        config.external_authorization = Some(external);
        pods.mesh.pilot.publish_self("gateway", &config);
    };
    let gateway = pods.mesh.pod(spec).await;
    let at = SocketAddr::new(gateway.ip, 8080);
    told(false);
    eventually("it is asked", || async move {
        client::get(at, "a", "/").await.is_ok_and(|a| a.header("x-ok").is_some())
    })
    .await;
    let answer = client::get(at, "a", "/").await.unwrap();
    assert!(answer.status == 200 && answer.body.contains("x-to: nowhere"), "{answer:?}");
    let source = authz.last().source.unwrap();
    assert!(source.principal.is_empty(), "an outsider has no identity");
    told(true);
    eventually("the route is chosen afterwards", || async move {
        client::get(at, "a", "/").await.is_ok_and(|a| a.status == 503)
    })
    .await;
    authz.says(denied(403, vec![], "no"));
    assert_eq!(client::get(at, "a", "/").await.unwrap().body, "no");
}
