//! Routing on what tokens say: `@request.auth.claims` in a VirtualService, at the ingress gateway and at a client's sidecar, with
//! tokens of the suite's issuer. What a client says of itself in headers is no claim.

use std::net::SocketAddr;

use mesh_proto::runtime::testing::TestIssuer;
use serde_json::{Value, json};

use super::support::{BASE, Mesh, eventually, raw};

const ISSUER: &str = "https://issuer.example";
const PORT: u16 = 8081;

/// A token need not be there; who it is decides which answer comes. Of these rules the first that matches.
const ROUTES: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: shop }
spec:
  selector: { istio: ingressgateway }
  servers:
    - { port: { number: 8081, name: http, protocol: HTTP }, hosts: ['*'] }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop }
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
    - name: nested
      match: [{ headers: { '@request.auth.claims.realm.role': { exact: admin } } }]
      directResponse: { status: 200, body: { string: nested } }
    - name: brackets
      match: [{ headers: { '@request.auth.claims[realm][a.b]': { prefix: op } } }]
      directResponse: { status: 200, body: { string: brackets } }
    - name: list
      match: [{ headers: { '@request.auth.claims.groups': { exact: testers } } }]
      route: [{ destination: { host: api, port: { number: 8080 } } }]
    - name: words
      match: [{ headers: { '@request.auth.claims.scope': { exact: 'read:all' } } }]
      directResponse: { status: 200, body: { string: words } }
    - name: both
      match: [{ uri: { prefix: /sub }, headers: { '@request.auth.claims.sub': { regex: 'a[a-z]+' }, x-more: { exact: 'yes' } } }]
      directResponse: { status: 200, body: { string: both } }
    - name: stranger
      match: [{ uri: { prefix: /sub }, withoutHeaders: { '@request.auth.claims.sub': {} } }]
      directResponse: { status: 200, body: { string: stranger } }
    - route: [{ destination: { host: web, port: { number: 80 } } }]
";

fn authentication(issuer: &TestIssuer) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{ name: tokens, namespace: istio-system }}\n\
         spec:\n  selector: {{ matchLabels: {{ istio: ingressgateway }} }}\n  jwtRules:\n  - issuer: {ISSUER}\n    jwks: '{}'\n",
        issuer.jwks()
    )
}

/// Where the gateway's server is.
fn gateway(mesh: &Mesh) -> SocketAddr {
    let instance = mesh.instances("istio-ingressgateway").remove(0);
    let ip = instance["gateway"]["listen_ip"].as_str().unwrap();
    SocketAddr::new(ip.parse().unwrap(), PORT)
}

/// Which rule answered: a direct answer's words, or the workload's name.
fn rule(answer: &Value) -> String {
    let body = answer["body"].as_str().unwrap_or_default();
    let application = serde_json::from_str::<Value>(body).ok();
    let workload = application.and_then(|body| body["workload"].as_str().map(str::to_owned));
    workload.map_or_else(|| body.to_owned(), |workload| workload[..3].to_owned())
}

/// Nested claims, lists, words; beside other conditions; absent.
#[test]
fn claims_choose_routes_at_a_gateway() {
    let issuer = TestIssuer::new(ISSUER, "ES256");
    let files = [("base.yaml", BASE), ("routes.yaml", ROUTES), ("tokens.yaml", &authentication(&issuer))];
    let mesh = Mesh::up(&files, &[]);
    let ask = |path: &str, claims: Option<Value>, more: &[&str]| {
        let url = format!("http://shop.example.com:{PORT}{path}");
        let token = claims.map(|claims| format!("authorization: Bearer {}", issuer.sign(claims)));
        let token: Vec<&str> = token.iter().flat_map(|token| ["-H", token.as_str()]).collect();
        mesh.one(&[&[url.as_str(), "--via", "shop"], &token[..], more].concat())
    };
    let admin = json!({"sub": "ann", "realm": {"role": "admin"}});
    mesh.until(
        "the gateway knows the issuer",
        &[
            &format!("http://shop.example.com:{PORT}/"),
            "--via",
            "shop",
            "-H",
            &format!("authorization: Bearer {}", issuer.sign(admin.clone())),
        ],
        |answer| rule(answer) == "nested",
    );
    let more: &[&str] = &["-H", "x-more: yes"];
    for (path, claims, headers, expected) in [
        ("/", Some(admin.clone()), &[][..], "nested"),
        // Of a list one is enough, at every depth.
        ("/", Some(json!({"realm": {"role": ["user", "admin"]}})), &[], "nested"),
        ("/", Some(json!({"realm": {"role": "administrator"}})), &[], "web"),
        // Names are no paths of other claims, and a claim that is an object is no text.
        ("/", Some(json!({"realm.role": "admin", "role": "admin", "realm": "admin"})), &[], "web"),
        ("/", Some(json!({"realm": {"a.b": "operator"}})), &[], "brackets"),
        ("/", Some(json!({"realm": {"a": {"b": "operator"}}})), &[], "web"),
        ("/", Some(json!({"groups": ["staff", "testers"]})), &[], "api"),
        ("/", Some(json!({"groups": "testers"})), &[], "api"),
        ("/", Some(json!({"groups": ["staff", "testers2"]})), &[], "web"),
        ("/", Some(json!({"groups": {"testers": true}})), &[], "web"),
        ("/", Some(json!({"groups": "staff testers"})), &[], "web"),
        ("/", Some(json!({"scope": "write read:all"})), &[], "words"),
        ("/", Some(json!({"scope": "write read:all2"})), &[], "web"),
        ("/", None, &[], "web"),
        ("/sub", Some(json!({"sub": "ann"})), more, "both"),
        ("/sub", Some(json!({"sub": "ann"})), &[], "web"),
        ("/sub", Some(json!({"sub": "bob"})), more, "web"),
        ("/sub", None, more, "stranger"),
    ] {
        let answer = ask(path, claims.clone(), headers);
        assert_eq!(
            (answer["status"].as_u64(), rule(&answer)),
            (Some(200), expected.to_owned()),
            "{claims:?}"
        );
    }
    forged(&mesh, &issuer, &ask("/", Some(admin), &[]));
}

/// Neither headers of a claim's name nor tokens that are not the issuer's lead to a claim's route.
fn forged(mesh: &Mesh, issuer: &TestIssuer, genuine: &Value) {
    assert_eq!(rule(genuine), "nested");
    let at = gateway(mesh);
    let send = |headers: &str| {
        raw(
            at,
            format!("GET / HTTP/1.1\r\nHost: shop.example.com\r\n{headers}Connection: close\r\n\r\n")
                .as_bytes(),
        )
    };
    // Names that are no header's at all.
    for name in ["@request.auth.claims.realm.role", "@request.auth.claims[realm][role]"] {
        let answer = send(&format!("{name}: admin\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{name}: {answer}");
    }
    // Names that somebody could take for the claim's.
    for headers in [
        "request.auth.claims.realm.role: admin\r\n",
        "realm.role: admin\r\nrole: admin\r\ngroups: testers\r\nscope: read:all\r\n",
        "x-jwt-payload: eyJyZWFsbSI6eyJyb2xlIjoiYWRtaW4ifX0\r\nx-envoy-internal: true\r\n",
    ] {
        let answer = send(headers);
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"workload\":\"web\""),
            "{headers}: {answer}"
        );
    }
    // Somebody else's signature, of the same name and key id; a token without one; a good token's claims changed.
    let admin = json!({"realm": {"role": "admin"}});
    let stranger = TestIssuer::new(ISSUER, "ES256").sign(admin.clone());
    let other = TestIssuer::new("https://other.example", "ES256").sign(admin.clone());
    let good = issuer.sign(json!({"realm": {"role": "user"}}));
    let parts: Vec<&str> = good.split('.').collect();
    let forged = issuer.sign(admin);
    let payload = forged.split('.').nth(1).unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for token in
        [stranger, other, format!("{}.{payload}.{}", parts[0], parts[2]), format!("{none}.{payload}.")]
    {
        let answer = send(&format!("Authorization: Bearer {token}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 401 "), "{token}: {answer}");
    }
    let genuine = send(&format!("Authorization: Bearer {forged}\r\n"));
    assert!(genuine.starts_with("HTTP/1.1 200 ") && genuine.ends_with("nested"), "{genuine}");
}

/// A client's own sidecar reads tokens by the rules for the client's workload: those for the called one make nobody believe a
/// token, and whoever wrote such a route is told.
#[test]
fn claims_choose_routes_at_the_callers_sidecar() {
    let issuer = TestIssuer::new(ISSUER, "EdDSA");
    let routes = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web }
spec:
  hosts: [web]
  http:
    - match: [{ headers: { '@request.auth.claims[realm][role]': { exact: admin } } }]
      route: [{ destination: { host: api, port: { number: 8080 } } }]
    - match: [{ uri: { exact: /here } }]
      directResponse: { status: 204 }
    - match: [{ uri: { exact: /stranger }, withoutHeaders: { '@request.auth.claims.sub': {} } }]
      directResponse: { status: 200, body: { string: stranger } }
    - route: [{ destination: { host: web, port: { number: 80 } } }]
";
    let tokens = |app: &str| {
        let tokens = authentication(&issuer).replace("istio-system", "default");
        tokens.replace("istio: ingressgateway", &format!("app: {app}"))
    };
    let of_web = tokens("web");
    let mesh = Mesh::up(&[("base.yaml", BASE), ("routes.yaml", routes), ("tokens.yaml", &of_web)], &[]);
    mesh.until("the routes are in force", &["http://web/here"], |answer| answer["status"] == 204);
    let told = mesh.status_says("sidecars know no claims here");
    for part in
        ["http[0].match[0]", "http[2].match[0]", "RequestAuthentication default/tokens", "tokens.yaml:"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let ask = |path: &str, more: &[&str]| {
        let answer = mesh.one(&[&[format!("http://web{path}").as_str()], more].concat());
        (answer["status"].as_u64().unwrap_or_default(), rule(&answer))
    };
    let answered = |by: &str| (200, by.to_owned());
    let bearer = |claims: Value| format!("authorization: Bearer {}", issuer.sign(claims));
    let admin = bearer(json!({"sub": "ann", "realm": {"role": "admin"}}));
    assert_eq!(ask("/", &["-H", &admin]), answered("web"));
    assert_eq!(ask("/stranger", &["-H", &admin]), answered("stranger"));

    mesh.write("more.yaml", &tokens("client").replace("name: tokens", "name: own"));
    mesh.until("the client's sidecar knows the issuer", &["http://web/", "-H", &admin], |answer| {
        rule(answer) == "api"
    });
    assert_eq!(ask("/stranger", &["-H", &bearer(json!({"sub": "ann"}))]), answered("web"));
    assert_eq!(ask("/stranger", &[]), answered("stranger"));
    assert_eq!(ask("/", &["-H", &bearer(json!({"realm": {"role": "user"}}))]), answered("web"));
    assert_eq!(ask("/", &[]), answered("web"));
    assert_eq!(
        ask("/", &["-H", "role: admin", "-H", "request.auth.claims.realm.role: admin"]),
        answered("web")
    );
    // It chooses nothing, and the one that gets it refuses it.
    let wrong = TestIssuer::new(ISSUER, "EdDSA").sign(json!({"realm": {"role": "admin"}}));
    assert_eq!(ask("/", &["-H", &format!("authorization: Bearer {wrong}")]).0, 401);
    eventually("nothing is told of it any more", || {
        let told = mesh.must(&["status"]);
        if told.contains("know no claims") { Err(told) } else { Ok(()) }
    });

    mesh.delete("more.yaml");
    mesh.until("its rule is gone", &["http://web/", "-H", &admin], |answer| rule(answer) == "web");
}
