//! A scanner's opinion on what listens in a running mesh: a gateway's servers (SIMPLE and MUTUAL), a sidecar's STRICT port,
//! the pilot and the certificate authority.
//!
//! Needs `sslyze` (of the Python package of that name), by `MESH_SSLYZE` or in PATH; says so and passes where there is none.
//! The same facts as raw bytes: `mesh-proxy/tests/hello.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::secure_gateway::Authority;
use super::support::{BASE, Mesh, eventually, text};

const GATEWAY: &str = r"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default }
spec: { mtls: { mode: STRICT } }
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: shop }
spec:
  selector: { istio: ingressgateway }
  servers:
    - port: { number: 8443, name: https, protocol: HTTPS }
      hosts: [shop.example.com]
      tls: { mode: SIMPLE, serverCertificate: /etc/scan/tls.crt, privateKey: /etc/scan/tls.key }
    - port: { number: 8444, name: mutual, protocol: HTTPS }
      hosts: [shop.example.com]
      tls: { mode: MUTUAL, serverCertificate: /etc/scan/tls.crt, privateKey: /etc/scan/tls.key, caCertificates: /etc/scan/ca.crt }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop }
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
    - route: [{ destination: { host: web, port: { number: 80 } } }]
";

fn scanner() -> Option<PathBuf> {
    let said = std::env::var_os("MESH_SSLYZE").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join("sslyze"));
    said.or_else(|| places.find(|place| place.is_file()))
}

/// Every question that has to do with how TLS is spoken.
const QUESTIONS: [&str; 14] = [
    "--sslv2",
    "--sslv3",
    "--tlsv1",
    "--tlsv1_1",
    "--tlsv1_2",
    "--tlsv1_3",
    "--compression",
    "--early_data",
    "--openssl_ccs",
    "--heartbleed",
    "--robot",
    "--reneg",
    "--resum",
    "--elliptic_curves",
];

/// What the scanner found out. `shown`: certificate and key of its own.
fn scan(scanner: &Path, at: SocketAddr, shown: Option<(&str, &str)>, dir: &Path) -> Value {
    let told = dir.join(format!("{}.json", at.port()));
    let (out, target) = (format!("--json_out={}", told.display()), at.to_string());
    let mut arguments: Vec<&str> = QUESTIONS.to_vec();
    arguments.extend(["--sni=shop.example.com", out.as_str()]);
    if let Some((certificate, key)) = shown {
        arguments.extend(["--cert", certificate, "--key", key]);
    }
    arguments.push(&target);
    let output = Command::new(scanner).args(arguments).output().expect("the scanner can be started");
    let json = std::fs::read(&told).unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let all: Value = serde_json::from_slice(&json).expect("JSON");
    let found = all["server_scan_results"][0].clone();
    assert_eq!(found["connectivity_status"], "COMPLETED", "{at}: {}", text(&output));
    found["scan_result"].clone()
}

/// Names of what is accepted; the question must have been answered.
fn accepted(found: &Value, version: &str) -> Vec<String> {
    let result = &found[version]["result"]["accepted_cipher_suites"];
    let suites = result.as_array().unwrap_or_else(|| panic!("{version}: {}", found[version]));
    let name = |suite: &Value| suite["cipher_suite"]["name"].as_str().unwrap_or_default().to_owned();
    suites.iter().map(name).collect()
}

fn nothing_weak(found: &Value, what: &str) {
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        let suites = accepted(found, &format!("{version}_cipher_suites"));
        assert!(suites.is_empty(), "{what}: {version}: {suites:?}");
    }
    for (version, some) in [("tls_1_2", 3), ("tls_1_3", 3)] {
        let suites = accepted(found, &format!("{version}_cipher_suites"));
        let strong = |suite: &String| {
            let ephemeral = version == "tls_1_3" || suite.starts_with("TLS_ECDHE_");
            ephemeral && (suite.contains("_GCM_") || suite.contains("CHACHA20_POLY1305"))
        };
        assert!(suites.len() == some && suites.iter().all(strong), "{what}: {version}: {suites:?}");
    }
    let says = |question: &str, field: &str, wanted: Value| {
        let answer = &found[question]["result"][field];
        assert_eq!(*answer, wanted, "{what}: {question}: {}", found[question]);
    };
    says("tls_compression", "supports_compression", false.into());
    says("tls_1_3_early_data", "supports_early_data", false.into());
    says("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", false.into());
    says("heartbleed", "is_vulnerable_to_heartbleed", false.into());
    says("robot", "robot_result", "NOT_VULNERABLE_RSA_NOT_SUPPORTED".into());
    says("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", false.into());
    says("session_renegotiation", "supports_secure_renegotiation", true.into());
}

/// Each connection is checked against what is in force when it is opened.
fn nothing_resumed(found: &Value, what: &str) {
    let resumed = &found["session_resumption"]["result"];
    for field in ["session_id_resumption_result", "tls_ticket_resumption_result"] {
        assert_eq!(resumed[field], "NOT_SUPPORTED", "{what}: {resumed}");
    }
}

/// Where the scanner is no member of the mesh, what comes before certificates is all that it sees.
fn nothing_weak_before_certificates(found: &Value, what: &str) {
    for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"] {
        let suites = accepted(found, &format!("{version}_cipher_suites"));
        assert!(suites.is_empty(), "{what}: {version}: {suites:?}");
    }
    let suites = accepted(found, "tls_1_2_cipher_suites");
    let strong = |suite: &String| suite.starts_with("TLS_ECDHE_ECDSA_") && !suite.contains("_CBC_");
    assert!(!suites.is_empty() && suites.iter().all(strong), "{what}: {suites:?}");
    assert_eq!(found["tls_compression"]["result"]["supports_compression"], false, "{what}");
}

#[test]
fn nothing_that_listens_speaks_anything_weak() {
    let Some(scanner) = scanner() else {
        return eprintln!("skipped: there is no sslyze in PATH, and MESH_SSLYZE does not say where one is");
    };
    let authority = Authority::new();
    let (certs, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    authority.write(certs.path(), "shop.example.com", ["tls.crt", "tls.key"]);
    std::fs::write(certs.path().join("ca.crt"), authority.root()).unwrap();
    authority.write(own.path(), "client", ["client.crt", "client.key"]);
    let path = |name: &str| own.path().join(name).display().to_string();
    std::fs::write(path("root.pem"), authority.root()).unwrap();
    let mount = format!("/etc/scan={}", certs.path().display());
    let mesh = Mesh::up(&[("base.yaml", BASE), ("gateway.yaml", GATEWAY)], &["--mount", &mount]);
    let url = ["https://shop.example.com:8443/", "--via", "shop", "--cacert", &path("root.pem")];
    mesh.until("the gateway serves", &url, |answer| answer["status"] == 200);
    let gateway = mesh.pod_ip("istio-ingressgateway").into();
    let sidecar = SocketAddr::new(mesh.pod_ip("web").into(), 8080);
    eventually("the sidecar is strict", || {
        match super::support::raw(sidecar, b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n") {
            answer if answer.is_empty() => Ok(()),
            answer => Err(answer),
        }
    });

    let (certificate, key) = (path("client.crt"), path("client.key"));
    let shown = Some((certificate.as_str(), key.as_str()));
    let simple = scan(&scanner, SocketAddr::new(gateway, 8443), None, own.path());
    nothing_weak(&simple, "SIMPLE");
    let mutual = scan(&scanner, SocketAddr::new(gateway, 8444), shown, own.path());
    nothing_weak(&mutual, "MUTUAL");
    nothing_resumed(&mutual, "MUTUAL");
    // Who asks for a first certificate has none to show: the scanner is let in as far.
    let network = u32::from(mesh.pod_ip("web")) & 0xffff_0000;
    let control = |host: u32| SocketAddr::new(Ipv4Addr::from(network | host).into(), 15012);
    let ca = scan(&scanner, control(2), None, own.path());
    nothing_weak(&ca, "authority");
    nothing_resumed(&ca, "authority");
    for (what, at) in [("sidecar", sidecar), ("pilot", control(3))] {
        nothing_weak_before_certificates(&scan(&scanner, at, None, own.path()), what);
    }
}
