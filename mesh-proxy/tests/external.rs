//! AuthorizationPolicy CUSTOM with a provider that is asked by HTTP: allowed, denied, no answer, garbage, bodies, fields.

use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wire::external_authorization::Protocol as By;
use wire::{MtlsMode, Protocol};

use crate::support::authorizer::{ByHttp, asking, publish};
use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pair, Spec};
use crate::support::origin::Origin;

/// `ratings`, whose requests `authz` is asked about.
struct Asked {
    app: Origin,
    authz: ByHttp,
    pair: Pair,
}

fn http() -> wire::HttpAuthorization {
    wire::HttpAuthorization::default()
}

impl Asked {
    async fn start(external: wire::ExternalAuthorization) -> Self {
        let (app, authz) = (Origin::start("ratings").await, ByHttp::start().await);
        let pair = Pair::start(app.address, Protocol::Http, MtlsMode::MtlsPermissive).await;
        publish(&pair.mesh, authz.address, None);
        authz.says(418, "", "");
        let asked = Self { app, authz, pair };
        asked.publish(external, vec![]);
        // In force when the provider's own answer comes.
        let at = asked.pair.vip();
        let in_force = async || client::get(at, "ratings", "/").await.is_ok_and(|a| a.status == 418);
        eventually("the policy is in force", in_force).await;
        asked
    }

    fn publish(&self, external: wire::ExternalAuthorization, policies: Vec<wire::AuthorizationPolicy>) {
        let mut config = Mesh::self_config(&Spec::new("ratings", self.app.address));
        config.authorization = policies;
        config.external_authorization = Some(external);
        self.pair.mesh.pilot.publish_self("ratings", &config);
    }

    /// A request through both proxies.
    async fn send(&self, head: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let request = format!("{head}\r\nhost: ratings\r\n{length}connection: close\r\n\r\n{body}");
        client::send(self.pair.vip(), &request).await.unwrap()
    }

    async fn get(&self) -> Answer {
        self.send("GET / HTTP/1.1", "").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_and_what_comes_of_it() {
    let settings = wire::HttpAuthorization {
        path_prefix: "/check".into(),
        request_headers: vec!["x-team".into(), "x-in-*".into()],
        additional_headers: [("x-static".to_owned(), "1".to_owned())].into(),
        to_upstream_on_allow: vec!["x-user".into(), "x-set-*".into()],
        to_downstream_on_allow: vec!["x-ok".into()],
        to_downstream_on_deny: vec!["x-no".into()],
    };
    let asked = Asked::start(asking(By::Http(settings))).await;
    asked.authz.says(200, "x-user: alice\r\nx-set-a: 1\r\nx-other: 1\r\nx-ok: yes\r\nx-envoy-auth-headers-to-remove: x-gone, host\r\n", "");
    let head = "DELETE /a/../b?q=1 HTTP/1.1\r\nx-team: a\r\nx-in-b: c\r\nx-not: shown\r\nauthorization: Bearer t\r\nx-user: mallory\r\nx_user: mallory\r\nx-set-b: mine\r\nx-gone: 1";
    let answer = asked.send(head, "").await;
    assert_eq!((answer.status, answer.header("x-ok")), (200, Some("yes")), "{answer:?}");
    assert_eq!(answer.header("x-other"), None);
    let told = asked.authz.last().to_lowercase();
    assert!(told.starts_with("delete /check/b?q=1 http/1.1\r\n"), "{told}");
    for line in ["host: ratings", "x-team: a", "x-in-b: c", "authorization: bearer t", "x-static: 1"] {
        assert!(told.contains(&format!("{line}\r\n")), "{line}: {told}");
    }
    assert!(
        !told.contains("x-not") && !told.contains("x-user") && !told.contains("transfer-encoding"),
        "{told}"
    );
    let came = answer.body.to_lowercase();
    assert!(came.contains("x-user: alice\r\n") && came.contains("x-set-a: 1\r\n"), "{came}");
    // Nobody but the provider says who the user is, in whatever spelling.
    assert!(!came.contains("mallory") && !came.contains("x-set-b") && !came.contains("x-gone"), "{came}");
    assert!(came.contains("host: ratings") && came.contains("delete /b?q=1 http/1.1"), "{came}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_the_providers_own() {
    let asked = Asked::start(asking(By::Http(http()))).await;
    let before = asked.app.count();
    asked.authz.says(
        302,
        "location: https://login/\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-type: text/html\r\n",
        "<a>",
    );
    let answer = asked.get().await;
    assert_eq!((answer.status, answer.body.as_str()), (302, "<a>"));
    assert_eq!(
        (answer.header("location"), answer.header("content-type")),
        (Some("https://login/"), Some("text/html"))
    );
    let lines = |name: &str| answer.head.lines().filter(|line| line.to_lowercase().starts_with(name)).count();
    assert_eq!(
        (lines("set-cookie"), lines("content-length"), lines("transfer-encoding")),
        (2, 1, 0),
        "{}",
        answer.head
    );
    // Only what is listed, and what belongs to a refusal.
    let listed = wire::HttpAuthorization { to_downstream_on_deny: vec!["x-why".into()], ..http() };
    asked.publish(asking(By::Http(listed)), vec![]);
    asked.authz.says(401, "x-why: because\r\nwww-authenticate: Bearer\r\nset-cookie: a=1\r\n", "no");
    let at = asked.pair.vip();
    eventually("the list is in force", || async move {
        client::get(at, "ratings", "/").await.is_ok_and(|a| a.header("set-cookie").is_none())
    })
    .await;
    let answer = asked.get().await;
    assert_eq!(
        (answer.status, answer.body.as_str(), answer.header("content-type")),
        (401, "no", Some("text/plain"))
    );
    assert_eq!(
        (answer.header("x-why"), answer.header("www-authenticate")),
        (Some("because"), Some("Bearer"))
    );
    assert_eq!(asked.app.count(), before, "nothing of that reached the application");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_a_no_unless_it_is_said_otherwise() {
    let settings = wire::HttpAuthorization { to_upstream_on_allow: vec!["x-user".into()], ..http() };
    let mut external = asking(By::Http(settings));
    (external.timeout, external.status_on_error) =
        (Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 }), 503);
    let asked = Asked::start(external.clone()).await;
    let before = asked.app.count();
    let none = [
        "HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n",
        "what?\r\n\r\n",
        "HTTP/1.1 200 x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 x\r\n\r\n",
        "", // for ever
    ];
    for raw in none {
        asked.authz.answers(raw);
        let answer = asked.get().await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "ext_authz_error"), "{raw:?}");
    }
    assert_eq!(asked.app.count(), before);
    external.fail_open = true;
    asked.publish(external.clone(), vec![]);
    let at = asked.pair.vip();
    eventually("failOpen is in force", || async move {
        client::get(at, "ratings", "/").await.is_ok_and(|a| a.status == 200)
    })
    .await;
    for raw in none {
        asked.authz.answers(raw);
        let answer = asked.send("GET / HTTP/1.1\r\nx-user: mallory", "").await;
        assert_eq!(answer.status, 200, "{raw:?}");
        assert!(!answer.body.contains("mallory"), "{}", answer.body);
    }
    // A no is a no.
    asked.authz.says(403, "", "");
    assert_eq!(asked.get().await.status, 403);
    // Nobody is there at all.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (fail_open, status) in [(true, 200), (false, 503)] {
        external.fail_open = fail_open;
        asked.publish(external.clone(), vec![]);
        publish(&asked.pair.mesh, nobody, None);
        eventually("nobody answers", || async move {
            client::get(at, "ratings", "/").await.is_ok_and(|a| a.status == status)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_shown_within_bounds_and_go_on_whole() {
    let mut external = asking(By::Http(http()));
    external.body = Some(wire::CheckedBody { max_bytes: 8, ..Default::default() });
    let asked = Asked::start(external.clone()).await;
    asked.authz.says(200, "", "");
    let post = "POST / HTTP/1.1\r\ncontent-type: text/x\r\nx-envoy-auth-partial-body: lie";
    let answer = asked.send(post, "12345678").await;
    assert_eq!(answer.status, 200);
    let told = asked.authz.last();
    assert!(
        told.ends_with("\r\n\r\n12345678") && told.contains("x-envoy-auth-partial-body: false\r\n"),
        "{told}"
    );
    assert!(told.contains("content-length: 8\r\n") && !told.contains("lie"), "{told}");
    let reached = || String::from_utf8_lossy(&asked.app.seen.lock()).into_owned();
    assert!(reached().contains("12345678"), "{}", reached());
    let before = (asked.app.count(), asked.authz.asked.lock().len());
    let long = asked.send(post, "123456789").await;
    assert_eq!((long.status, long.body.as_str()), (413, "request_payload_too_large"));
    let chunked = "POST / HTTP/1.1\r\nhost: ratings\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\nabcde\r\n5\r\nfghij\r\n0\r\n\r\n";
    assert_eq!(client::send(asked.pair.vip(), chunked).await.unwrap().status, 413);
    assert_eq!((asked.app.count(), asked.authz.asked.lock().len()), before, "nobody was asked");
    external.body = Some(wire::CheckedBody { max_bytes: 8, allow_partial: true, as_bytes: false });
    asked.publish(external, vec![]);
    let at = asked.pair.vip();
    eventually("the beginning is enough", || async move {
        client::send(at, chunked).await.is_ok_and(|a| a.status == 200)
    })
    .await;
    let told = asked.authz.last();
    assert!(told.ends_with("abcdefgh") && told.contains("x-envoy-auth-partial-body: true\r\n"), "{told}");
    assert!(reached().contains("abcde") && reached().contains("fghij"), "{}", reached());
}

/// Whatever the provider makes of a request: DENY and ALLOW see what goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_see_what_the_provider_made_of_it() {
    let settings = wire::HttpAuthorization { to_upstream_on_allow: vec!["x-role".into()], ..http() };
    let asked = Asked::start(asking(By::Http(settings.clone()))).await;
    let deny = wire::AuthorizationPolicy {
        origin: Some(wire::Origin { namespace: "default".into(), name: "no".into(), ..Default::default() }),
        action: wire::AuthorizationAction::AuthorizationDeny.into(),
        rules: vec![wire::AuthorizationRule {
            when: vec![wire::AuthorizationMatch {
                attribute: "request.headers[x-role]".into(),
                values: vec!["guest".into()],
                not_values: vec![],
            }],
            ..Default::default()
        }],
        ports: vec![],
    };
    asked.publish(asking(By::Http(settings)), vec![deny]);
    asked.authz.says(200, "x-role: guest\r\n", "");
    let at = asked.pair.vip();
    eventually("DENY is in force", || async move {
        client::get(at, "ratings", "/").await.is_ok_and(|a| a.body == "RBAC: access denied")
    })
    .await;
    asked.authz.says(200, "x-role: owner\r\n", "");
    assert_eq!(asked.send("GET / HTTP/1.1\r\nx-role: guest", "").await.status, 200);
    // And what a policy would deny anyway is no matter for the provider's answer.
    asked.authz.says(200, "", "");
    let spoofed = asked.send("GET / HTTP/1.1\r\nx-role: owner", "").await;
    assert!(!spoofed.body.contains("x-role"), "{}", spoofed.body);
}

/// Only what a rule selects is asked about; a provider that cannot be asked denies just that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_selected_is_asked_about() {
    let mut external = asking(By::Http(http()));
    external.policies[0].rules[0].to = vec![wire::AuthorizationClause {
        matches: vec![wire::AuthorizationMatch {
            attribute: "request.path".into(),
            values: vec!["/".into(), "/admin/*".into()],
            not_values: vec![],
        }],
    }];
    let asked = Asked::start(external.clone()).await;
    let count = || asked.authz.asked.lock().len();
    let before = count();
    assert_eq!(asked.send("GET /open HTTP/1.1", "").await.status, 200);
    assert_eq!(count(), before);
    assert_eq!(asked.send("GET /x/../%61dmin/a HTTP/1.1", "").await.status, 418);
    assert_eq!(count(), before + 1);
    external.trouble = "no extensionProvider of MeshConfig is called authz".into();
    asked.publish(external, vec![]);
    let at = asked.pair.vip();
    eventually("nobody can be asked", || async move {
        client::get(at, "ratings", "/")
            .await
            .is_ok_and(|a| (a.status, a.body.as_str()) == (403, "ext_authz_error"))
    })
    .await;
    assert_eq!(asked.send("GET /open HTTP/1.1", "").await.status, 200);
    // The client's side is told nothing more than that.
    assert!(!asked.get().await.head.contains("MeshConfig"));
}

/// The provider is reached like any service of the mesh: with mTLS, where its pod has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_is_a_service_of_the_mesh() {
    let asked = Asked::start(asking(By::Http(http()))).await;
    let strict = Spec { mtls: MtlsMode::MtlsStrict, ..Spec::new("authz", asked.authz.address) };
    let pod = asked.pair.mesh.pod(strict).await;
    publish(&asked.pair.mesh, asked.authz.address, Some(&pod));
    let at = asked.pair.vip();
    let authz = asked.authz.clone();
    authz.says(200, "", "");
    eventually("asked through its sidecar", || {
        let authz = authz.clone();
        async move {
            let answer = client::get(at, "ratings", "/").await;
            answer.is_ok_and(|a| a.status == 200) && authz.last().contains("x-forwarded-client-cert")
        }
    })
    .await;
    assert!(authz.last().contains("URI=spiffe://cluster.local/ns/default/sa/ratings"), "{}", authz.last());
    assert_eq!(PORT, asked.pair.vip().port());
}

/// A client that goes away takes its question with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_ends_the_question() {
    let asked = Asked::start(asking(By::Http(http()))).await;
    asked.authz.answers("");
    let before = asked.authz.asked.lock().len();
    let mut stream = TcpStream::connect(asked.pair.vip()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: ratings\r\n\r\n").await.unwrap();
    let authz = asked.authz.clone();
    let asked_now = |more: usize| {
        let authz = authz.clone();
        async move { authz.asked.lock().len() >= before + more }
    };
    eventually("it is asked", || asked_now(1)).await;
    drop(stream);
    let ended =
        tokio::time::timeout(Duration::from_secs(8), eventually("the question ends", || asked_now(2))).await;
    assert!(ended.is_ok(), "before the provider's timeout of 10 s");
    assert_eq!(asked.authz.last(), "gone");
}
