//! The user's own files, as written: a Deployment (with an image that exists), a DestinationRule with `rings`, a
//! VirtualService for `*` and a Gateway with `tls` and `auth`. The route for `*` is everybody's, in every namespace: with it a
//! test is alone.

use anyhow::ensure;
use e2e::images::image;
use e2e::pki::Authority;
use e2e::{Client, Company, Namespace, cluster, eventually, test};

const DEPLOYMENT: &str = include_str!("seed/deployment.yaml");
const DESTINATION_RULE: &str = include_str!("seed/destinationrule.yaml");
const VIRTUAL_SERVICE: &str = include_str!("seed/virtualservice.yaml");
const GATEWAY: &str = include_str!("seed/gateway.yaml");

/// A Service for the Deployment: on a cluster somebody has to give it a name.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: my-service}
spec:
  selector: {app: my-service}
  ports: [{name: http, port: 80, targetPort: 8080}]
";

/// All but the route.
async fn deployed(ns: &Namespace) -> anyhow::Result<Client> {
    ns.apply(SERVICE).await?;
    ns.apply(DESTINATION_RULE).await?;
    // Only the image is another one.
    let deployment = DEPLOYMENT.replace("my-service:1.0", &image("app"));
    ensure!(deployment != DEPLOYMENT, "the image is named otherwise");
    ns.apply(&deployment).await?;
    ns.rolled_out("my-service").await?;
    ns.client("client").await
}

/// The DestinationRule without a key hashes on the source address: one client, one instance.
#[test]
fn seed_deployment_rule_and_route() {
    test("seed_deployment_rule_and_route", Company::Alone, async |ns| {
        let client = deployed(ns).await?;
        ns.alone().await;
        ns.apply(VIRTUAL_SERVICE).await?;
        eventually("the route is everybody's", async || {
            let answer =
                client.get("http://some-other-name/", &["--connect", "my-service:80"]).await?.expect(200)?;
            ensure!(answer.instance().starts_with("my-service"), "{answer:?}");
            Ok(())
        })
        .await?;
        eventually("one client stays with one instance", async || {
            let who = client.instances(20, "http://my-service/", &["--fresh"]).await?;
            ensure!(who.len() == 1, "{who:?}");
            Ok(())
        })
        .await?;
        ensure!(ns.pods("app=my-service").await?.len() == 2, "two replicas are asked for");
        // Both do get traffic when the rule is gone: it is the rule that kept them apart.
        ns.kubectl(&["delete", "destinationrule", "my-service"]).await?;
        eventually("without the rule both answer", async || {
            let who = client.instances(40, "http://my-service/", &["--fresh"]).await?;
            ensure!(who.len() == 2, "{who:?}");
            Ok(())
        })
        .await
    });
}

/// The Gateway's certificates come from the Secret `istio-ingressgateway-certs`: a client with a certificate passes, without one
/// the handshake fails. Until a VirtualService names the Gateway it answers 404.
#[test]
fn seed_gateway_demands_a_client_certificate() {
    test("seed_gateway_demands_a_client_certificate", Company::Alone, async |ns| {
        deployed(ns).await?;
        ns.alone().await;
        ns.apply(VIRTUAL_SERVICE).await?;
        let authority = Authority::new("seed")?;
        let (server, client) = (authority.sign(&["shop.example.com"])?, authority.sign(&["client"])?);
        let dir = tempfile::tempdir()?;
        let file = |name: &str, text: &str| -> anyhow::Result<String> {
            let path = dir.path().join(name);
            std::fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let (crt, key) = (file("tls.crt", &server.cert)?, file("tls.key", &server.key)?);
        let (ca, mine, my_key) =
            (file("ca-cert.pem", &authority.pem)?, file("c.crt", &client.cert)?, file("c.key", &client.key)?);
        let secret = "istio-ingressgateway-certs";
        let _ = ns
            .cluster
            .kubectl(&["delete", "secret", secret, "-n", cluster::SYSTEM, "--ignore-not-found"])
            .await;
        let files = [&crt, &key, &ca].map(|path| format!("--from-file={path}"));
        let mut create = vec!["create", "secret", "generic", secret, "-n", cluster::SYSTEM];
        create.extend(files.iter().map(String::as_str));
        ns.cluster.kubectl(&create).await?;
        ns.apply(GATEWAY).await?;
        let address =
            crate::gateways::address(&ns.cluster, cluster::SYSTEM, "istio-ingressgateway", 80).await?;
        let here = Client::here(ns.cluster.clone(), crate::CLIENT);
        let with = ["--connect", &address, "--cacert", &ca, "--cert", &mine, "--key", &my_key];
        eventually("404 until a VirtualService names the Gateway", async || {
            here.get("https://shop.example.com/", &with).await?.expect(404)
        })
        .await?;
        let named = VIRTUAL_SERVICE
            .replace("  hosts:\n  - \"*\"\n", "  hosts:\n  - \"*\"\n  gateways: [my-gateway, mesh]\n");
        ensure!(named != VIRTUAL_SERVICE, "the VirtualService is written otherwise");
        ns.apply(&named).await?;
        let outcome = eventually("with a certificate the request passes", async || {
            here.get("https://shop.example.com/", &with).await?.expect(200)
        })
        .await;
        let without = here.get("https://shop.example.com/", &with[..4]).await?;
        let _ = ns.cluster.kubectl(&["delete", "secret", secret, "-n", cluster::SYSTEM]).await;
        outcome?;
        ensure!(without.status == 0, "without a certificate: {without:?}");
        Ok(())
    });
}
