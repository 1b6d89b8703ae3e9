//! Item 8: ingress and egress gateways from `charts/gateway`, an address in use, certificates that come, change and go live.

use anyhow::{Context as _, ensure};
use e2e::install::{chart, image_values};
use e2e::pki::{Authority, Leaf};
use e2e::workload::App;
use e2e::{Client, Cluster, Company, Namespace, eventually, test};

/// Where a gateway is reached from here: its load balancer's address or, where nobody hands those out, a node's port. Where
/// `E2E_LOAD_BALANCER` says that somebody does, nothing else will do.
pub async fn address(cluster: &Cluster, namespace: &str, service: &str, port: u16) -> anyhow::Result<String> {
    let demanded = std::env::var_os("E2E_LOAD_BALANCER").is_some();
    let patience = std::time::Duration::from_secs(if demanded { 120 } else { 20 });
    let balanced = e2e::within(patience, "a load balancer's address", async || {
        let service = cluster.json(&["get", "service", service, "-n", namespace]).await?;
        let ingress = &service["status"]["loadBalancer"]["ingress"][0]["ip"];
        Ok(format!("{}:{port}", ingress.as_str().context("none yet")?))
    })
    .await;
    if demanded {
        return balanced.context("E2E_LOAD_BALANCER is set: this cluster hands out addresses");
    }
    if balanced.is_ok() {
        return balanced;
    }
    let found = cluster.json(&["get", "service", service, "-n", namespace]).await?;
    let ports = found["spec"]["ports"].as_array().context("a Service has ports")?;
    let entry = ports.iter().find(|entry| entry["port"] == port).context("it has no such port")?;
    let node = cluster
        .kubectl(&[
            "get",
            "nodes",
            "-o",
            "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}",
        ])
        .await?;
    Ok(format!("{node}:{}", entry["nodePort"]))
}

/// The text with `{istio: edge}` (or `exit`, `partner`) as a selector of this test's gateway alone: a Gateway selects pods of every
/// namespace, and tests run side by side.
pub fn own(ns: &Namespace, yaml: &str) -> String {
    let mut text = yaml.to_owned();
    for name in ["edge", "exit", "partner"] {
        text = text.replace(&format!("{{istio: {name}}}"), &format!("{{istio: {name}, of: {}}}", ns.name));
    }
    text
}

/// A gateway of the test's own: `istio: NAME, of: NAMESPACE`.
pub async fn install(ns: &Namespace, name: &str, values: &[&str]) -> anyhow::Result<()> {
    let (path, images) = (chart("gateway"), image_values());
    let mut arguments = vec!["install", name, &path, "-n", &ns.name, "--timeout", "240s"];
    let whose = format!("labels.of={}", ns.name);
    let common = ["replicaCount=1", "resources.requests.cpu=10m", &whose];
    for value in images.iter().map(String::as_str).chain(common).chain(values.iter().copied()) {
        arguments.extend(["--set", value]);
    }
    ns.cluster.run("helm", &arguments).await?;
    // Not `--wait`: Helm 3 would wait for a load balancer's address, which nobody hands out on a plain kind cluster.
    ns.cluster.rolled_out(&ns.name, &format!("deployment/{name}")).await
}

/// A gateway of the test's own that sends every host to `web`; where it is reached from here.
pub async fn edge(ns: &Namespace, values: &[&str]) -> anyhow::Result<String> {
    install(ns, "istio-edge", values).await?;
    let yaml = own(
        ns,
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  selector: {istio: edge}\n  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: edge}\nspec:\n  hosts: [\"*\"]\n  gateways: [edge]\n  http: [{route: [{destination: {host: web, port: {number: 80}}}]}]\n",
    );
    ns.apply(&yaml).await?;
    address(&ns.cluster, &ns.name, "istio-edge", 80).await
}

/// A Gateway for one server and a VirtualService from it to `web`.
fn ingress(ns: &Namespace, server: &str) -> String {
    let yaml = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: shop}}
spec:
  selector: {{istio: edge}}
  servers:
  - hosts: [shop.example.com]
{server}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop}}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http: [{{route: [{{destination: {{host: web, port: {{number: 80}}}}}}]}}]
"
    );
    own(ns, &yaml)
}

/// Creates or changes a TLS Secret.
pub async fn secret(ns: &Namespace, name: &str, leaf: &Leaf, ca: Option<&str>) -> anyhow::Result<()> {
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let ca = ca.map(|pem| format!("  ca.crt: |\n{}", indent(pem))).unwrap_or_default();
    let yaml = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}{ca}",
        indent(&leaf.cert),
        indent(&leaf.key)
    );
    ns.apply(&yaml).await?;
    Ok(())
}

/// HTTP from outside, to the load balancer's address, to an injected application.
#[test]
fn item_8_ingress_over_http() {
    test("item_8_ingress_over_http", Company::Welcome, async |ns| {
        install(ns, "istio-edge", &[]).await?;
        ns.deploy(&[App::new("web")]).await?;
        ns.apply(&ingress(ns, "    port: {number: 80, name: http, protocol: HTTP}")).await?;
        let address = address(&ns.cluster, &ns.name, "istio-edge", 80).await?;
        let here = Client::here(ns.cluster.clone(), crate::CLIENT);
        let answer = eventually("the request comes through", async || {
            here.get("http://shop.example.com/", &["--connect", &address]).await?.expect(200)
        })
        .await?;
        let peer = answer.json()["peer"].as_str().unwrap_or_default().to_owned();
        ensure!(peer.contains(&format!("/ns/{}/sa/", ns.name)), "the gateway's identity is {peer:?}");
        here.get("http://other.example.com/", &["--connect", &address]).await?.expect(404)?;
        Ok(())
    });
}

/// The Secret of `credentialName` is made, changed and deleted while the gateway serves.
#[test]
fn item_8_ingress_certificates_live() {
    test("item_8_ingress_certificates_live", Company::Welcome, async |ns| {
        install(ns, "istio-edge", &[]).await?;
        ns.deploy(&[App::new("web")]).await?;
        let server = "    port: {number: 443, name: https, protocol: HTTPS}\n    tls: {mode: SIMPLE, credentialName: shop-cert}";
        ns.apply(&ingress(ns, server)).await?;
        let address = address(&ns.cluster, &ns.name, "istio-edge", 443).await?;
        let here = Client::here(ns.cluster.clone(), crate::CLIENT);
        let dir = tempfile::tempdir()?;
        let mut authorities = Vec::new();
        for name in ["first", "second"] {
            let authority = Authority::new(name)?;
            let path = dir.path().join(name).display().to_string();
            std::fs::write(&path, &authority.pem)?;
            authorities.push((authority, path));
        }
        for (authority, roots) in &authorities {
            secret(ns, "shop-cert", &authority.sign(&["shop.example.com"])?, None).await?;
            eventually("the certificate is served", async || {
                here.get("https://shop.example.com/", &["--connect", &address, "--cacert", roots])
                    .await?
                    .expect(200)
            })
            .await?;
        }
        let old = here
            .get("https://shop.example.com/", &["--connect", &address, "--cacert", &authorities[0].1])
            .await?;
        ensure!(old.status == 0, "the first certificate is still served: {old:?}");
        ns.kubectl(&["delete", "secret", "shop-cert"]).await?;
        eventually("no certificate, no handshake", async || {
            let answer = here
                .get("https://shop.example.com/", &["--connect", &address, "--cacert", &authorities[1].1])
                .await?;
            ensure!(answer.status == 0, "{answer:?}");
            Ok(())
        })
        .await
    });
}

/// MUTUAL: with a certificate of the Secret's authority the request passes, without one or with a stranger's it does not.
#[test]
fn item_8_ingress_mutual() {
    test("item_8_ingress_mutual", Company::Welcome, async |ns| {
        install(ns, "istio-edge", &[]).await?;
        ns.deploy(&[App::new("web")]).await?;
        let (authority, stranger) = (Authority::new("shop")?, Authority::new("stranger")?);
        secret(ns, "shop-cert", &authority.sign(&["shop.example.com"])?, Some(&authority.pem)).await?;
        let server = "    port: {number: 443, name: https, protocol: HTTPS}\n    tls: {mode: MUTUAL, credentialName: shop-cert}";
        ns.apply(&ingress(ns, server)).await?;
        let address = address(&ns.cluster, &ns.name, "istio-edge", 443).await?;
        let here = Client::here(ns.cluster.clone(), crate::CLIENT);
        let dir = tempfile::tempdir()?;
        let file = |name: &str, text: &str| -> anyhow::Result<String> {
            std::fs::write(dir.path().join(name), text)?;
            Ok(dir.path().join(name).display().to_string())
        };
        let (good, bad) = (authority.sign(&["customer"])?, stranger.sign(&["customer"])?);
        let ca = file("ca", &authority.pem)?;
        let base = ["--connect", &address, "--cacert", &ca];
        let (cert, key) = (file("good.crt", &good.cert)?, file("good.key", &good.key)?);
        eventually("a customer passes", async || {
            let options = [&base[..], &["--cert", &cert, "--key", &key]].concat();
            here.get("https://shop.example.com/", &options).await?.expect(200)
        })
        .await?;
        let nobody = here.get("https://shop.example.com/", &base).await?;
        ensure!(nobody.status == 0, "without a certificate: {nobody:?}");
        let (cert, key) = (file("bad.crt", &bad.cert)?, file("bad.key", &bad.key)?);
        let strange = here
            .get("https://shop.example.com/", &[&base[..], &["--cert", &cert, "--key", &key]].concat())
            .await?;
        ensure!(strange.status == 0, "with a stranger's: {strange:?}");
        Ok(())
    });
}

/// A service is reached by way of the egress gateway: it sees the gateway's identity, not the client's. (Names outside of the
/// mesh: `egress.rs`.)
#[test]
fn item_8_egress() {
    test("item_8_egress", Company::Welcome, async |ns| {
        install(ns, "istio-exit", &["service.type=ClusterIP"]).await?;
        let client = ns.deploy_with_client(&[App::new("partner")]).await?;
        let way = format!(
            "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: exit}}
spec:
  selector: {{istio: exit}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [partner.{ns}.svc.cluster.local]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: partner}}
spec:
  hosts: [partner.{ns}.svc.cluster.local]
  gateways: [mesh, exit]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: istio-exit.{ns}.svc.cluster.local, port: {{number: 80}}}}}}]
  - match: [{{gateways: [exit], port: 80}}]
    route: [{{destination: {{host: partner.{ns}.svc.cluster.local, port: {{number: 80}}}}}}]
",
            ns = ns.name
        );
        ns.apply(&own(ns, &way)).await?;
        let url = format!("http://partner.{}.svc.cluster.local/", ns.name);
        eventually("by way of the egress gateway", async || {
            let answer = client.get(&url, &[]).await?.expect(200)?;
            let peer = answer.json()["peer"].as_str().unwrap_or_default().to_owned();
            ensure!(peer.ends_with("/sa/istio-exit"), "it came directly, from {peer}: {answer:?}");
            Ok(())
        })
        .await
    });
}
