//! Names outside of the mesh: a ServiceEntry, TLS to it from the sidecar, and the egress gateway as Istio documents it.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::support::{BASE, Mesh};

/// Starts a server of TLS outside of the mesh; the PEM of its authority.
fn outside(names: &[&str]) -> (SocketAddr, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(mesh_proto::runtime::crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (serve(config), authority.pem())
}

/// Serves TLS on loopback: each answer says the server name that was asked for, whether a client certificate was shown, and
/// the request's head.
pub fn serve(config: rustls::ServerConfig) -> SocketAddr {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = answer(stream).await;
                    }
                });
            }
        });
    });
    at
}

async fn answer(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) -> std::io::Result<()> {
    let sni = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
    let mut head = Vec::new();
    loop {
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let shown = stream.get_ref().1.peer_certificates().is_some();
        let body = format!("sni={sni}\nclient={shown}\n{}", String::from_utf8_lossy(&head));
        head.clear();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await?;
    }
}

/// The body of an answer as it came.
fn body(answer: &serde_json::Value) -> &str {
    answer["body"].as_str().unwrap_or_default()
}

const ENTRY: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: partner }
spec:
  hosts: [partner.example.com]
  ports:
    - { number: 80, name: http, protocol: HTTP, targetPort: PORT }
    - { number: 443, name: https, protocol: HTTPS, targetPort: PORT }
  resolution: DNS
  endpoints: [{ address: localhost }]
";

const ORIGINATE: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: partner }
spec:
  host: partner.example.com
  trafficPolicy:
    tls: { mode: SIMPLE, caCertificates: CA }
";

/// A name that nobody registered is unknown; with a ServiceEntry it is reached; with a DestinationRule its plain requests
/// leave as TLS, once the authority's file is there, and until then not at all.
#[test]
fn a_service_entry_and_tls_to_it_from_the_sidecar() {
    let (at, root) = outside(&["partner.example.com"]);
    let own = tempfile::tempdir().unwrap();
    let ca = own.path().join("ca.pem");
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    let url = ["http://partner.example.com/x"];
    assert_ne!(mesh.one(&url)["status"], 200);
    mesh.write("entry.yaml", &ENTRY.replace("PORT", &at.port().to_string()));
    let originate = ORIGINATE.replace("CA", &ca.display().to_string());
    mesh.write("originate.yaml", &originate);
    let closed = mesh.until("closed", &url, |answer| body(answer).contains("ca.pem"));
    assert_eq!(closed["status"], 503, "{closed}");
    mesh.status_says("ca.pem");
    assert_eq!(mesh.one(&["http://web/"])["status"], 200, "nothing else is disturbed");

    std::fs::write(&ca, root).unwrap();
    let answer = mesh.until("the file is there", &url, |answer| answer["status"] == 200);
    assert!(body(&answer).starts_with("sni=partner.example.com"), "{answer}");
    // Another authority: the server is not the right one any more.
    std::fs::write(&ca, outside(&["other.example.com"]).1).unwrap();
    let refused = mesh.until("the file has changed", &url, |answer| answer["status"] == 503);
    assert!(body(&refused).contains("invalid peer certificate"), "{refused}");
    mesh.delete("entry.yaml");
    mesh.until("the entry is gone", &url, |answer| answer["status"] == 502);
}

/// Istio's egress gateway with TLS origination: sidecars send to the gateway by mTLS of the mesh, it sends TLS to the outside.
const GATEWAY: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: { name: istio-egressgateway, namespace: istio-system }
spec:
  selector: { matchLabels: { istio: egressgateway } }
  template:
    metadata:
      labels: { istio: egressgateway }
      annotations: { inject.istio.io/templates: gateway }
    spec:
      serviceAccountName: exit
      containers: [{ name: istio-proxy, image: auto }]
---
apiVersion: v1
kind: Service
metadata: { name: istio-egressgateway, namespace: istio-system }
spec:
  selector: { istio: egressgateway }
  ports: [{ port: 80, name: http2, targetPort: 8080 }]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: istio-egressgateway }
spec:
  selector: { istio: egressgateway }
  servers:
    - port: { number: 80, name: https-port-for-tls-origination, protocol: HTTPS }
      hosts: [partner.example.com]
      tls: { mode: ISTIO_MUTUAL }
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: egressgateway-for-partner }
spec:
  host: istio-egressgateway.istio-system.svc.cluster.local
  subsets:
    - name: partner
      trafficPolicy:
        loadBalancer: { simple: ROUND_ROBIN }
        portLevelSettings:
          - port: { number: 80 }
            tls: { mode: ISTIO_MUTUAL, sni: partner.example.com }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: partner-through-egress-gateway }
spec:
  hosts: [partner.example.com]
  gateways: [istio-egressgateway, mesh]
  http:
    - match: [{ gateways: [mesh], port: 80 }]
      route:
        - destination:
            host: istio-egressgateway.istio-system.svc.cluster.local
            subset: partner
            port: { number: 80 }
          weight: 100
    - match: [{ gateways: [istio-egressgateway], port: 80 }]
      route:
        - destination: { host: partner.example.com, port: { number: 443 } }
          weight: 100
";

#[test]
fn the_egress_gateway_as_istio_documents_it() {
    let (at, root) = outside(&["partner.example.com"]);
    let own = tempfile::tempdir().unwrap();
    let ca = own.path().join("ca.pem");
    std::fs::write(&ca, root).unwrap();
    let entry = ENTRY.replace("PORT", &at.port().to_string());
    // At the gateway's port to the outside only: what sidecars send to port 80 is plain.
    let originate = ORIGINATE.replace(
        "    tls: { mode: SIMPLE, caCertificates: CA }",
        "    portLevelSettings: [{ port: { number: 443 }, tls: { mode: SIMPLE, caCertificates: CA } }]",
    );
    let originate = originate.replace("CA", &ca.display().to_string());
    let files = [
        ("base.yaml", BASE),
        ("entry.yaml", &entry),
        ("originate.yaml", &originate),
        ("gateway.yaml", GATEWAY),
    ];
    let mesh = Mesh::up(&files, &[]);
    let answer = mesh
        .until("by way of the gateway", &["http://partner.example.com/x"], |answer| answer["status"] == 200);
    let seen = body(&answer);
    assert!(seen.starts_with("sni=partner.example.com"), "{seen}");
    // The gateway has verified who asks, and it is the gateway that asks outside.
    let certificate = seen.lines().find(|line| line.starts_with("x-forwarded-client-cert:"));
    let certificate = certificate.unwrap_or_else(|| panic!("no client was verified: {seen}"));
    assert!(certificate.contains("By=spiffe://cluster.local/ns/istio-system/sa/exit"), "{certificate}");
    let metrics = mesh.address("istio-egressgateway", "metrics");
    let told = super::support::raw(
        metrics,
        b"GET /stats/prometheus HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    );
    assert!(told.contains("destination_service=\"partner.example.com\""), "{told}");
}
