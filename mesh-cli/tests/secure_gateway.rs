//! Gateways that end TLS: the user's own Gateway as written, with certificates in files; Secrets by name, as they come and go.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::support::{BASE, Mesh, eventually, meshctl, text};

const DEPLOYMENT: &str = include_str!("../examples/my-service/deployment.yaml");
const VIRTUAL_SERVICE: &str = include_str!("../examples/my-service/virtualservice.yaml");
const DESTINATION_RULE: &str = include_str!("../examples/my-service/destinationrule.yaml");
const GATEWAY: &str = include_str!("../examples/my-service/gateway.yaml");

/// Signs certificates of servers and clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, PEM.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// What clients trust, PEM.
    pub fn root(&self) -> String {
        self.0.pem()
    }

    /// Writes a certificate and its key.
    pub fn write(&self, dir: &Path, name: &str, files: [&str; 2]) {
        let (certificate, key) = self.leaf(name);
        std::fs::write(dir.join(files[0]), certificate).unwrap();
        std::fs::write(dir.join(files[1]), key).unwrap();
    }
}

/// The files as the user gave them: `spec.tls` and `spec.auth` beside the servers, paths of the gateway workload.
#[test]
fn the_users_gateway_as_written() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (certs, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mount = format!("/etc/istio/ingressgateway-certs={}", certs.path().display());
    let files = [
        ("deployment.yaml", DEPLOYMENT),
        ("virtualservice.yaml", VIRTUAL_SERVICE),
        ("destinationrule.yaml", DESTINATION_RULE),
        ("gateway.yaml", GATEWAY),
    ];
    let mesh = Mesh::up(&files, &["--mount", &mount]);
    // Files that are missing: said by name, also where they are here.
    mesh.status_says("/etc/istio/ingressgateway-certs/tls.crt");
    mesh.status_says("it is not served");

    let path = |name: &str| own.path().join(name).display().to_string();
    authority.write(certs.path(), "shop.example.com", ["tls.crt", "tls.key"]);
    std::fs::write(certs.path().join("ca-cert.pem"), authority.0.pem()).unwrap();
    std::fs::write(own.path().join("root.pem"), authority.0.pem()).unwrap();
    authority.write(own.path(), "client", ["client.crt", "client.key"]);
    stranger.write(own.path(), "client", ["stranger.crt", "stranger.key"]);
    let (root, good) = (path("root.pem"), [path("client.crt"), path("client.key")]);
    let via = ["https://shop.example.com:80/", "--via", "my-gateway", "--cacert", &root];
    let shown = [&via[..], &["--cert", &good[0], "--key", &good[1]]].concat();
    // No VirtualService names it, as in Istio: 404, and the line to add is named.
    mesh.until("the certificates are there", &shown, |answer| answer["status"] == 404);
    mesh.status_says(
        "add the line `gateways: [mesh, my-gateway]` to spec of VirtualService default/my-service",
    );
    let validated = text(&meshctl(&["validate", "-f", &mesh.dir().display().to_string()]));
    assert!(validated.contains("add the line `gateways: [mesh, my-gateway]`"), "{validated}");

    mesh.write(
        "virtualservice.yaml",
        &VIRTUAL_SERVICE.replace("  http:", "  gateways: [mesh, my-gateway]\n  http:"),
    );
    mesh.until("the line is in force", &shown, |answer| answer["status"] == 200);
    // Without a certificate, with somebody else's, in plaintext: nothing is answered.
    let bad = [path("stranger.crt"), path("stranger.key")];
    let strange = [&via[..], &["--cert", &bad[0], "--key", &bad[1]]].concat();
    for refused in [&via[..], &strange[..], &["http://shop.example.com/", "--via", "my-gateway"]] {
        let output = mesh.run(&[&["request"], refused].concat());
        assert!(!output.status.success(), "{refused:?}: {}", text(&output));
    }
    // The VirtualService is still for the mesh.
    assert_eq!(mesh.one(&["http://my-service:8080/"])["status"], 200);

    // Garbage is said, and the last good one stays; new certificates are taken as they come.
    std::fs::write(certs.path().join("tls.key"), "garbage").unwrap();
    mesh.status_says("no private key in PEM");
    assert_eq!(mesh.one(&shown)["status"], 200);
    stranger.write(certs.path(), "shop.example.com", ["tls.crt", "tls.key"]);
    eventually("the other certificate is shown", || {
        let output = mesh.run(&[&["request"], &shown[..]].concat());
        if output.status.success() { Err(text(&output)) } else { Ok(()) }
    });
    let second = path("second.pem");
    std::fs::write(&second, stranger.0.pem()).unwrap();
    let shown: Vec<&str> =
        shown.iter().map(|word| if *word == root { second.as_str() } else { word }).collect();
    mesh.until("it is served with it", &shown, |answer| answer["status"] == 200);
}

const SHOP: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: shop }
spec:
  selector: { istio: ingressgateway }
  servers:
    - port: { number: 8443, name: https, protocol: HTTPS }
      hosts: [shop.example.com]
      tls: { mode: SIMPLE, credentialName: shop-cert }
    - port: { number: 8081, name: http, protocol: HTTP }
      hosts: [shop.example.com]
      tls: { httpsRedirect: true }
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

/// `credentialName`: not served before the Secret is there, served with what it holds, gone with it. Plaintext is sent to https.
#[test]
fn secrets_by_name() {
    let authority = Authority::new();
    let own = tempfile::tempdir().unwrap();
    let root = own.path().join("root.pem").display().to_string();
    std::fs::write(&root, authority.0.pem()).unwrap();
    let mesh = Mesh::up(&[("base.yaml", BASE), ("gateway.yaml", SHOP)], &[]);
    mesh.status_says("there is no Secret istio-system/shop-cert");
    let redirected = mesh.one(&["http://shop.example.com:8081/a?b=c", "--via", "shop"]);
    assert_eq!(redirected["status"], 301, "{redirected}");

    let (certificate, key) = authority.leaf("shop.example.com");
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let secret = |key: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: shop-cert, namespace: istio-system }}\ntype: kubernetes.io/tls\n\
             stringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(&certificate),
            indent(key)
        )
    };
    mesh.write("secret.yaml", &secret(&key));
    let url = ["https://shop.example.com:8443/", "--via", "shop", "--cacert", &root];
    mesh.until("the Secret is in force", &url, |answer| answer["status"] == 200);
    // A key of another certificate: refused, by whom and why, and nothing is lost.
    mesh.write("secret.yaml", &secret(&authority.leaf("shop.example.com").1));
    mesh.status_says("the private key is not that of the certificate");
    assert_eq!(mesh.one(&url)["status"], 200);
    // What is secret is nowhere to be read.
    let admin = mesh.address("istio-ingressgateway", "admin");
    let dump = super::support::raw(
        admin,
        b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    );
    assert!(dump.contains("secret/istio-system/shop-cert") && !dump.contains("PRIVATE KEY"), "{dump}");

    mesh.delete("secret.yaml");
    eventually("it is not served any more", || {
        let output = mesh.run(&[&["request"], &url[..]].concat());
        if output.status.success() { Err(text(&output)) } else { Ok(()) }
    });
}
