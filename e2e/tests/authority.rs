//! The authority on a cluster: its root is replaced under load, and an identity is revoked by name.

use std::time::Duration;

use anyhow::{bail, ensure};
use e2e::workload::App;
use e2e::{Cluster, Company, eventually, test, within};
use serde_json::Value;

use crate::meshctl::meshctl;

/// Proxies report within seconds, kubelets bring ConfigMaps within two minutes.
const SPREADING: Duration = Duration::from_secs(180);
/// Pilots that other tests have killed are taken for gone after five minutes of silence; those that end say so.
const HEARD: Duration = Duration::from_secs(360);

async fn ca(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    let said = meshctl(cluster, &[&["ca"], arguments, &["--cluster", "-o", "json"]].concat()).await?;
    Ok(serde_json::from_str(&said)?)
}

/// Ends what an attempt before this one has begun.
async fn clear(cluster: &Cluster) -> anyhow::Result<()> {
    match ca(cluster, &["status"]).await?["rotation"]["phase"].as_str() {
        Some("activated") => ca(cluster, &["rotate", "retire", "--force"]).await?,
        Some(_) => ca(cluster, &["rotate", "cancel"]).await?,
        None => return Ok(()),
    };
    Ok(())
}

/// Prepare, publish, activate, retire, with traffic between sidecars all the while. Certificates of the old root live for a
/// day, so that retiring it is forced, once every proxy has renewed.
#[test]
fn the_root_is_replaced_under_load() {
    test("the_root_is_replaced_under_load", Company::Operator, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web").replicas(2)]).await?;
        client.get("http://web/", &[]).await?.expect(200)?;
        let load = client.load("http://web/", &["--rate", "50"])?;
        let roots = |status: &Value| status["roots"].as_array().map_or(0, Vec::len);
        clear(&ns.cluster).await?;
        ca(&ns.cluster, &["rotate", "prepare"]).await?;
        ca(&ns.cluster, &["rotate", "publish"]).await?;
        within(SPREADING, "the new root is in every namespace", async || {
            let pem = ["get", "configmap", "istio-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}"];
            let pem = ns.kubectl(&pem).await?;
            ensure!(pem.matches("BEGIN CERTIFICATE").count() == 2, "{pem}");
            Ok(())
        })
        .await?;
        let activated = within(HEARD, "every proxy trusts the new root", async || {
            ca(&ns.cluster, &["rotate", "activate"]).await
        })
        .await?;
        ensure!(roots(&activated) == 2, "{activated}");
        match ca(&ns.cluster, &["rotate", "retire"]).await {
            Ok(status) => bail!("retired while certificates of the old root are valid: {status}"),
            Err(error) => ensure!(format!("{error:#}").contains("--force"), "{error:#}"),
        }
        let signing = activated["roots"][0]["sha256"].as_str().unwrap_or_default().to_owned();
        ensure!(!signing.is_empty(), "{activated}");
        // Everybody renews within half a minute or so of hearing; then nobody needs the old root.
        e2e::pause(Duration::from_secs(90)).await;
        within(HEARD, "the old root is retired", async || {
            ca(&ns.cluster, &["rotate", "retire", "--force"]).await
        })
        .await?;
        e2e::pause(Duration::from_secs(10)).await;
        load.end().await?.nothing_lost("a rotation of the root", 1000)?;
        // A newcomer and those that were there reach each other.
        let newcomer = ns.client("newcomer").await?;
        newcomer.get("http://web/", &[]).await?.expect(200)?;
        client.get("http://web/", &[]).await?.expect(200)?;
        Ok(())
    });
}

#[test]
fn a_tainted_identity_is_refused() {
    test("a_tainted_identity_is_refused", Company::Operator, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let (thief, honest) = (ns.client("thief").await?, ns.client("honest").await?);
        for client in [&thief, &honest] {
            eventually("it is let in", async || client.get("http://web/", &[]).await?.expect(200)).await?;
        }
        let identity = format!("{}/thief", ns.name);
        // Other tests' proxies come and go: that all of them have said so is not waited for.
        ca(&ns.cluster, &["taint", &identity, "--reason", "a test", "--no-wait"]).await?;
        let refused = eventually("it is refused", async || {
            let answer = thief.get("http://web/", &[]).await?;
            ensure!(answer.status != 200, "{answer:?}");
            Ok(())
        })
        .await;
        let others = honest.get("http://web/", &[]).await;
        ca(&ns.cluster, &["untaint", &identity]).await?;
        refused?;
        others?.expect(200)?;
        eventually("it is let in again", async || thief.get("http://web/", &[]).await?.expect(200)).await?;
        Ok(())
    });
}
