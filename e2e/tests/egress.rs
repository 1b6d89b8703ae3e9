//! A name outside of the mesh, by way of the egress gateway, which speaks TLS to it: as Istio documents it, with `kubectl`.
//!
//! The outside is a gateway of the test's own with a certificate of an authority of its own: a server of TLS that knows
//! nothing of who asks.

use anyhow::{Context as _, ensure};
use e2e::pki::Authority;
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, test};

use super::gateways::{install, own, secret};

const HOST: &str = "partner.example.com";

/// The server outside: its address.
async fn outside(ns: &Namespace, authority: &Authority) -> anyhow::Result<String> {
    install(ns, "istio-partner", &["service.type=ClusterIP"]).await?;
    secret(ns, "partner-cert", &authority.sign(&[HOST])?, None).await?;
    let server = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: partner}}
spec:
  selector: {{istio: partner}}
  servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [{HOST}], tls: {{mode: SIMPLE, credentialName: partner-cert}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: partner}}
spec:
  hosts: [{HOST}]
  gateways: [partner]
  http: [{{route: [{{destination: {{host: web, port: {{number: 80}}}}}}]}}]
"
    );
    ns.apply(&own(ns, &server)).await?;
    let address =
        ns.kubectl(&["get", "service", "istio-partner", "-o", "jsonpath={.spec.clusterIP}"]).await?;
    Ok(address.trim().to_owned())
}

/// What a user applies: the name, the way to it through the gateway, and TLS from the gateway on.
fn way(ns: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: partner}}
spec:
  hosts: [{HOST}]
  ports:
  - {{number: 80, name: http, protocol: HTTP}}
  - {{number: 443, name: https, protocol: HTTPS}}
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{{address: {address}, ports: {{http: 443, https: 443}}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: exit}}
spec:
  selector: {{istio: exit}}
  servers: [{{port: {{number: 80, name: https-port-for-tls-origination, protocol: HTTPS}}, hosts: [{HOST}], tls: {{mode: ISTIO_MUTUAL}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: exit}}
spec:
  host: istio-exit.{ns}.svc.cluster.local
  subsets:
  - name: partner
    trafficPolicy: {{portLevelSettings: [{{port: {{number: 80}}, tls: {{mode: ISTIO_MUTUAL, sni: {HOST}}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: partner}}
spec:
  host: {HOST}
  trafficPolicy: {{portLevelSettings: [{{port: {{number: 443}}, tls: {{mode: SIMPLE, credentialName: partner-ca, sni: {HOST}}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: way-out}}
spec:
  hosts: [{HOST}]
  gateways: [mesh, exit]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: istio-exit.{ns}.svc.cluster.local, subset: partner, port: {{number: 80}}}}}}]
  - match: [{{gateways: [exit], port: 80}}]
    route: [{{destination: {{host: {HOST}, port: {{number: 443}}}}}}]
"
    )
}

/// The authority's Secret is what makes the gateway trust the outside: without it, and with another's, nothing leaves.
async fn trust(ns: &Namespace, authority: &Authority) -> anyhow::Result<()> {
    let pem: String = authority.pem.lines().map(|line| format!("    {line}\n")).collect();
    ns.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: partner-ca}}\nstringData:\n  ca.crt: |\n{pem}"
    ))
    .await?;
    Ok(())
}

/// A plain request of an application leaves the mesh as TLS of the egress gateway; not without its authority's Secret, not to
/// another's certificate, and by no other way.
#[test]
fn item_8_egress_with_tls() {
    test("item_8_egress_with_tls", Company::Welcome, async |ns| {
        let (authority, stranger) = (Authority::new("partner")?, Authority::new("stranger")?);
        install(ns, "istio-exit", &["service.type=ClusterIP"]).await?;
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        let address = outside(ns, &authority).await?;
        ns.apply(&own(ns, &way(&ns.name, &address))).await?;
        // What a resolver outside would have said; the request goes by its name.
        let connect = "192.0.2.10:80";
        let ask = async || client.get(&format!("http://{HOST}/"), &["--connect", connect]).await;
        let closed = async |why: &str| {
            eventually(why, async || {
                let answer = ask().await?;
                ensure!(answer.status == 503, "{answer:?}");
                Ok(())
            })
            .await
        };
        closed("without the authority's Secret nothing leaves").await?;
        trust(ns, &authority).await?;
        eventually("by way of the egress gateway", async || {
            let answer = ask().await?.expect(200)?;
            let peer = answer.json()["peer"].as_str().unwrap_or_default().to_owned();
            ensure!(peer.ends_with("/sa/istio-partner"), "{peer}");
            Ok(())
        })
        .await?;
        trust(ns, &stranger).await?;
        closed("another's certificate is refused").await?;
        trust(ns, &authority).await?;
        eventually("and back", async || ask().await?.expect(200).map(drop)).await?;
        ns.kubectl(&["scale", "deployment/istio-exit", "--replicas=0"]).await.context("the gateway goes")?;
        closed("there is no other way out").await
    });
}
