//! The ingress gateway: HTTP servers and hosts, VirtualServices bound by `gateways`.

use super::support::{BASE, Mesh, body};

const GATEWAY: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: { name: shop }
spec:
  selector: { istio: ingressgateway }
  servers:
    - port: { number: 80, name: http, protocol: HTTP }
      hosts: [shop.example.com, '*.wild.example.com']
    - port: { number: 8081, name: http-other, protocol: HTTP }
      hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop }
spec:
  hosts: [shop.example.com, a.wild.example.com]
  gateways: [shop]
  http:
    - match: [{ uri: { prefix: /api } }]
      route: [{ destination: { host: api } }]
    - route: [{ destination: { host: web, port: { number: 80 } } }]
";

/// Hosts and ports decide; what no host or route matches is 404; the mesh behind it sees the gateway's identity.
#[test]
fn hosts_ports_and_routes() {
    let mesh = Mesh::up(&[("base.yaml", BASE), ("gateway.yaml", GATEWAY)], &[]);
    let via = |url: &'static str| mesh.one(&[url, "--via", "shop"]);
    let answer = mesh
        .until("the gateway serves", &["http://shop.example.com/", "--via", "shop"], |a| a["status"] == 200);
    let seen = body(&answer);
    assert_eq!((&seen["workload"], &seen["host"]), (&"web".into(), &"shop.example.com".into()));
    assert_eq!(
        seen["peer"],
        "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account"
    );
    assert!(body(&via("http://shop.example.com/api/x"))["workload"].as_str().unwrap().starts_with("api-"));
    assert_eq!(via("http://a.wild.example.com/")["status"], 200);
    // Within the server's hosts, but no VirtualService names it; outside of them; another port of the same gateway.
    for url in ["http://b.wild.example.com/", "http://other.example.com/", "http://wild.example.com/"] {
        assert_eq!(via(url)["status"], 404, "{url}");
    }
    assert_eq!(via("http://shop.example.com:8081/")["status"], 200);
    assert_eq!(
        mesh.one(&["http://10.9.9.9/", "--via", "shop", "-H", "host: shop.example.com"])["status"],
        200
    );
    assert_eq!(mesh.one(&["http://shop.example.com/", "--via", "istio-ingressgateway"])["status"], 200);
    // A route bound to the gateway alone says nothing to sidecars.
    assert_ne!(mesh.one(&["http://shop.example.com/"])["status"], 200);
}
