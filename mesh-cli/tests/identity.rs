//! mTLS and PeerAuthentication, seen from outside: who is let in, who is told what, certificates that renew.

use super::support::{BASE, Mesh, body, eventually, raw};

fn policy(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: policy, namespace: {namespace} }}\nspec: {{ {spec} }}\n"
    )
}

const PLAIN: &[u8] = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";

/// Mesh, namespace, workload and port: each level is shown to win over the one before.
#[test]
fn strict_permissive_disable() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let web = (mesh.pod_ip("web"), 8080).into();
    let api = (mesh.pod_ip("api-v1"), 8080).into();
    let plain_passes = |address| raw(address, PLAIN).starts_with("HTTP/1.1 200");
    let until = |what: &str, address, passes: bool| {
        eventually(what, || {
            if plain_passes(address) == passes {
                Ok(())
            } else {
                Err(format!("plaintext passes: {}", !passes))
            }
        });
    };
    // PERMISSIVE is the default; plaintext has no peer.
    assert!(raw(web, PLAIN).contains("\"peer\":null"));
    assert_eq!(body(&mesh.one(&["http://web/"]))["peer"], "spiffe://cluster.local/ns/default/sa/client");

    mesh.write("mesh.yaml", &policy("istio-system", "mtls: { mode: STRICT }"));
    until("STRICT for the whole mesh", web, false);
    until("STRICT for the whole mesh", api, false);
    assert_eq!(mesh.one(&["http://web/"])["status"], 200, "mesh clients go on");
    // Every inbound socket of the sidecar: the TCP port too.
    let tcp = (mesh.pod_ip("web"), 9000).into();
    assert_eq!(raw(tcp, b"hello\n"), "", "plaintext must not reach the application");
    assert_eq!(mesh.one(&["tcp://web:9000", "-d", "hello"])["body"], "hello");

    mesh.write("namespace.yaml", &policy("default", "mtls: { mode: PERMISSIVE }"));
    until("the namespace wins over the mesh", web, true);
    let workload = "selector: { matchLabels: { app: web } }, mtls: { mode: STRICT }, portLevelMtls: { 9000: { mode: PERMISSIVE } }";
    mesh.write("workload.yaml", &policy("default", workload).replace("name: policy", "name: web"));
    until("the workload wins over the namespace", web, false);
    until("other workloads keep the namespace's", api, true);
    let disable = "selector: { matchLabels: { app: web } }, mtls: { mode: DISABLE }";
    mesh.write("workload.yaml", &policy("default", disable).replace("name: policy", "name: web"));
    until("DISABLE takes plaintext", web, true);
    let seen = mesh.until("the mesh calls it without TLS", &["http://web/"], |a| {
        a["status"] == 200 && body(a)["peer"].is_null()
    });
    assert_eq!(seen["status"], 200);
}

/// Certificates of a few seconds: every sidecar renews, and no request is lost.
#[test]
fn certificates_renew_under_load() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &["--cert-ttl", "8"]);
    let first = serial(&mesh);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(12);
    while std::time::Instant::now() < until {
        let statuses = mesh.statuses(&["http://web/", "-n", "200", "-c", "4"]);
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    }
    assert_ne!(serial(&mesh), first, "the certificate is the same after more than its life");
}

/// What identifies the certificate in force.
fn serial(mesh: &Mesh) -> String {
    let admin = mesh.address("web", "admin");
    let answer = raw(admin, b"GET /certs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let start = answer.find('{').unwrap_or_else(|| panic!("no JSON in {answer}"));
    answer[start..].to_owned()
}
