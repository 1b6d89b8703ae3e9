//! Upgrade from the previous revision: two control planes side by side, a namespace moves from one to the other, nothing is
//! lost.

use anyhow::ensure;
use e2e::install::{chart, image_values};
use e2e::workload::App;
use e2e::{Company, Namespace, cluster, eventually, test};

const NEXT: &str = "next";

async fn install_next(ns: &Namespace) -> anyhow::Result<()> {
    let (path, images) = (chart("control-plane"), image_values());
    let mut install = vec!["upgrade", "--install", "mesh-next", &path, "-n", cluster::SYSTEM, "--wait"];
    install.extend(["--timeout", "240s", "--set", "revision=next", "--reset-values"]);
    install.extend(["--set", "base.enabled=false,pilot.replicaCount=1,pilot.resources.requests.cpu=10m"]);
    for value in &images {
        install.extend(["--set", value]);
    }
    ns.cluster.run("helm", &install).await?;
    Ok(())
}

#[test]
fn upgrade_by_revision() {
    test("upgrade_by_revision", Company::Welcome, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web").replicas(2)]).await?;
        eventually("it serves", async || client.get("http://web/", &[]).await?.expect(200)).await?;
        ns.operate().await;
        let load = client.load("http://web/", &["--rate", "20"])?;
        let outcome = async {
            install_next(ns).await?;
            ns.cluster
                .kubectl(&[
                    "label",
                    "namespace",
                    &ns.name,
                    "istio-injection-",
                    &format!("istio.io/rev={NEXT}"),
                ])
                .await?;
            ns.kubectl(&["rollout", "restart", "deployment/web-v1"]).await?;
            ns.rolled_out("web-v1").await?;
            let pods = ns.json(&["get", "pods", "-l", "app=web"]).await?;
            let revisions: Vec<_> = pods["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
                .map(|pod| pod["metadata"]["annotations"]["istio.io/rev"].clone())
                .collect();
            ensure!(revisions.iter().all(|revision| revision == NEXT), "{revisions:?}");
            Ok(())
        }
        .await;
        let report = load.end().await?;
        // Back, so that nobody's sidecar is without its control plane.
        let _ = ns
            .cluster
            .kubectl(&[
                "label",
                "namespace",
                &ns.name,
                "istio.io/rev-",
                "istio-injection=enabled",
                "--overwrite",
            ])
            .await;
        let _ = ns.cluster.run("helm", &["uninstall", "mesh-next", "-n", cluster::SYSTEM, "--wait"]).await;
        outcome?;
        report.nothing_lost("the move to another revision", 50)?;
        e2e::install::whole(&ns.cluster).await
    });
}
