//! Another trust domain: MeshConfig's `caCertificates` make its authority one that is believed, for its own identities alone;
//! what they may do, policies say.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::TrustDomain;
use mesh_proto::runtime::identity::{Identity, Roots, RootsHandle};
use mesh_proto::runtime::testing::TestCa;
use mesh_proto::runtime::tls::{ClientIdentity, Expect, client_config};

use super::support::{BASE, Mesh, PATIENCE, body, eventually};

/// STRICT, and who may do what: buyers of the other trust domain may read.
const POLICIES: &str = r"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: istio-system }
spec: { mtls: { mode: STRICT } }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: buyers }
spec:
  selector: { matchLabels: { app: web } }
  rules:
    - from: [{ source: { principals: [b.test/ns/shop/sa/buyer, cluster.local/ns/default/sa/client] } }]
      to: [{ operation: { methods: [GET, HEAD] } }]
";

fn mesh_config(entries: &[(&TestCa, &str)]) -> String {
    let entry = |(ca, domains): &(&TestCa, &str)| {
        let pem: String = ca.root_pem().lines().map(|line| format!("          {line}\n")).collect();
        format!("      - trustDomains: [{domains}]\n        pem: |\n{pem}")
    };
    let entries: String = entries.iter().map(entry).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: istio, namespace: istio-system }}\ndata:\n  mesh: |\n    \
         caCertificates:\n{entries}"
    )
}

/// The mesh's own roots, as its members have them.
fn roots(mesh: &Mesh) -> RootsHandle {
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map_or_else(
        || PathBuf::from(format!("/tmp/mesh-{}", std::fs::metadata(mesh.dir()).unwrap().uid())),
        |dir| Path::new(&dir).join("mesh"),
    );
    let pem = std::fs::read(base.join(mesh.name()).join("root.pem")).unwrap();
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    RootsHandle::new(Roots::from_pem(&domain, &pem).unwrap())
}

/// A connection by mTLS of a mesh.
type Stream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A connection as `identity`, to a sidecar that must be web's.
fn open(mesh: &Mesh, identity: &Identity) -> Result<Stream, String> {
    let web = Expect::Exactly("spiffe://cluster.local/ns/default/sa/web".parse().unwrap());
    let config = client_config(ClientIdentity::Mesh(identity), roots(mesh), web, &[b"istio-http/1.1"]);
    let name = "web.default.svc.cluster.local".try_into().unwrap();
    let tls = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
    let at: SocketAddr = (mesh.pod_ip("web"), 8080).into();
    let stream = TcpStream::connect(at).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Ok(rustls::StreamOwned::new(tls, stream))
}

/// One request as `identity`; the answer, or why there is none.
fn call(mesh: &Mesh, identity: &Identity, method: &str) -> Result<String, String> {
    let mut stream = open(mesh, identity)?;
    let request = format!("{method} / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A connection that stays open after its first answer.
fn kept(mesh: &Mesh, identity: &Identity) -> Stream {
    let mut stream = open(mesh, identity).unwrap();
    stream.write_all(b"HEAD / HTTP/1.1\r\nHost: web\r\n\r\n").unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
}

/// It has been ended, or is while this waits.
fn has_ended(stream: &mut Stream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// Waits for an answer, or for none (what the other side says of the certificate).
fn until(mesh: &Mesh, what: &str, identity: &Identity, method: &str, wanted: Result<&str, &str>) -> String {
    eventually(what, || {
        let seen = call(mesh, identity, method);
        match (&seen, wanted) {
            (Ok(answer), Ok(begin)) if answer.starts_with(begin) => Ok(answer.clone()),
            (Err(why), Err(part)) if why.contains(part) => Ok(why.clone()),
            _ => Err(format!("{seen:?}")),
        }
    })
}

const NO_TRUST: &str = "received fatal alert";

/// Without the root nobody of the other trust domain gets through the handshake; with it policies decide by principal.
#[test]
fn a_foreign_principal_is_let_in_by_its_root_and_judged_by_policies() {
    let other = TestCa::of("b.test");
    let (buyer, thief) = (other.identity("shop", "buyer"), other.identity("shop", "thief"));
    let mesh = Mesh::up(
        &[("base.yaml", &BASE.replace("replicas: 2", "replicas: 1")), ("policies.yaml", POLICIES)],
        &[],
    );
    mesh.until("policies are in force", &["http://web/", "-X", "POST"], |answer| answer["status"] == 403);
    let why = call(&mesh, &buyer, "GET").unwrap_err();
    assert!(why.contains(NO_TRUST), "{why}");

    mesh.write("istio.yaml", &mesh_config(&[(&other, "b.test")]));
    let answer = until(&mesh, "the root is in force", &buyer, "GET", Ok("HTTP/1.1 200 "));
    assert!(answer.contains("\"peer\":\"spiffe://b.test/ns/shop/sa/buyer\""), "{answer}");
    let denied = "HTTP/1.1 403 ";
    assert!(call(&mesh, &buyer, "POST").unwrap().starts_with(denied), "another method");
    assert!(call(&mesh, &thief, "GET").unwrap().starts_with(denied), "another account");
    // A root vouches for its own trust domain: signed by it, nobody is one of ours or of a third one.
    for uri in ["spiffe://cluster.local/ns/default/sa/client", "spiffe://c.test/ns/shop/sa/buyer"] {
        let leaf = other.leaf_for(&uri.parse().unwrap(), Duration::from_secs(3600));
        let why = call(&mesh, &Identity::new(leaf, other.roots_handle()), "GET").unwrap_err();
        assert!(why.contains(NO_TRUST), "{uri}: {why}");
    }
    // Nor does another authority of that name.
    let impostor = TestCa::of("b.test").identity("shop", "buyer");
    assert!(call(&mesh, &impostor, "GET").unwrap_err().contains(NO_TRUST));
    // Ours are what they were.
    assert_eq!(body(&mesh.one(&["http://web/"]))["peer"], "spiffe://cluster.local/ns/default/sa/client");

    // A second root of the same trust domain, as in a rotation; then the first one alone is gone.
    let newer = TestCa::of("b.test");
    let next = newer.identity("shop", "buyer");
    mesh.write("istio.yaml", &mesh_config(&[(&other, "b.test"), (&newer, "b.test, c.test")]));
    until(&mesh, "both roots", &next, "GET", Ok("HTTP/1.1 200 "));
    until(&mesh, "both roots", &buyer, "GET", Ok("HTTP/1.1 200 "));
    let (mut old, mut new) = (kept(&mesh, &buyer), kept(&mesh, &next));
    mesh.write("istio.yaml", &mesh_config(&[(&newer, "b.test")]));
    assert!(has_ended(&mut old), "a connection of a root that is gone goes on");
    until(&mesh, "the first root is gone", &buyer, "GET", Err(NO_TRUST));
    until(&mesh, "the second one stays", &next, "GET", Ok("HTTP/1.1 200 "));
    new.sock.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(!has_ended(&mut new), "a connection of the other root has ended");

    // What is no root is said, and what was in force stays.
    let broken = mesh_config(&[(&newer, "b.test")]).replace("-----BEGIN", "-----BEGUN");
    mesh.write("istio.yaml", &broken);
    mesh.status_says("caCertificates[0].pem");
    assert!(call(&mesh, &next, "GET").unwrap().starts_with("HTTP/1.1 200 "));
    mesh.delete("istio.yaml");
    until(&mesh, "nobody of b.test", &next, "GET", Err(NO_TRUST));
    assert_eq!(mesh.one(&["http://web/"])["status"], 200);
}

/// Without `trustDomains` it is one more root of our own: for members whose certificates somebody else signs.
#[test]
fn a_root_of_no_trust_domain_is_one_of_ours() {
    let other = TestCa::of("cluster.local");
    let client = other.identity("default", "client");
    let mesh = Mesh::up(
        &[("base.yaml", &BASE.replace("replicas: 2", "replicas: 1")), ("policies.yaml", POLICIES)],
        &[],
    );
    mesh.until("policies are in force", &["http://web/", "-X", "POST"], |answer| answer["status"] == 403);
    assert!(call(&mesh, &client, "GET").unwrap_err().contains(NO_TRUST));
    mesh.write("istio.yaml", &mesh_config(&[(&other, "")]));
    until(&mesh, "the root is in force", &client, "GET", Ok("HTTP/1.1 200 "));
    assert!(call(&mesh, &client, "POST").unwrap().starts_with("HTTP/1.1 403 "));
    // Who is refused by name is refused whoever signs.
    mesh.must(&["ca", "taint", "default/client"]);
    assert!(call(&mesh, &client, "GET").unwrap_err().contains(NO_TRUST));
    mesh.must(&["ca", "untaint", "default/client"]);
    until(&mesh, "taken back", &client, "GET", Ok("HTTP/1.1 200 "));
    mesh.delete("istio.yaml");
    until(&mesh, "the root is gone", &client, "GET", Err(NO_TRUST));
}
