//! Upgrade by revision: two control planes side by side, a namespace moves from one to the other, nothing is lost, and the new
//! one's release leaves nothing behind.
//!
//! There is no earlier release to come from yet: both are this build. That pods do get the other one's shows in what differs:
//! the images' tag and the sidecar's resources. `E2E_NEXT_TAG` names images of another build that are in the cluster.

use anyhow::{Context as _, ensure};
use e2e::install::chart;
use e2e::workload::App;
use e2e::{Company, Namespace, cluster, eventually, test};
use serde_json::Value;

const NEXT: &str = "next";

/// The memory that sidecars of the next revision ask for.
const MEMORY: &str = "40Mi";

/// The next revision's tag; without images of another build, those of this one get a second name on the nodes.
async fn next_tag(ns: &Namespace) -> anyhow::Result<String> {
    if let Ok(tag) = std::env::var("E2E_NEXT_TAG") {
        return Ok(tag);
    }
    let tag = format!("{}-next", e2e::images::tag());
    for name in ["pilot", "proxy"] {
        let image = e2e::images::image(name);
        let image = if image.matches('/').count() == 1 { format!("docker.io/{image}") } else { image };
        let again = format!("{image}-next");
        ns.cluster.on_node(&format!("ctr -n k8s.io images tag --force {image} {again}")).await?;
    }
    Ok(tag)
}

async fn install_next(ns: &Namespace, tag: &str) -> anyhow::Result<()> {
    let (path, hub) = (chart("control-plane"), format!("global.hub={}", e2e::images::hub()));
    let (tag, memory) =
        (format!("global.tag={tag}"), format!("global.proxy.resources.requests.memory={MEMORY}"));
    let mut install = vec!["upgrade", "--install", "mesh-next", &path, "-n", cluster::SYSTEM, "--wait"];
    install.extend(["--timeout", "240s", "--set", "revision=next", "--reset-values"]);
    install.extend(["--set", "base.enabled=false,pilot.replicaCount=1,pilot.resources.requests.cpu=10m"]);
    install.extend(["--set", &hub, "--set", &tag, "--set", &memory]);
    ns.cluster.run("helm", &install).await?;
    Ok(())
}

/// Whether a pod's sidecar is the next revision's.
fn moved(pod: &Value, tag: &str) -> anyhow::Result<()> {
    let init = pod["spec"]["initContainers"].as_array().context("init containers")?;
    let proxy = init.iter().find(|container| container["name"] == "istio-proxy").context("no istio-proxy")?;
    let revision = &pod["metadata"]["annotations"]["istio.io/rev"];
    ensure!(revision == NEXT, "revision {revision}");
    let (image, memory) = (&proxy["image"], &proxy["resources"]["requests"]["memory"]);
    ensure!(image.as_str().is_some_and(|image| image.ends_with(&format!(":{tag}"))), "image {image}");
    ensure!(memory == MEMORY, "memory {memory}");
    let address = proxy["env"].as_array().into_iter().flatten().find(|entry| entry["name"] == "PILOT_ADDR");
    let address = address.context("no PILOT_ADDR")?["value"].as_str().unwrap_or_default();
    ensure!(address.starts_with("mesh-pilot-next."), "its pilot is {address}");
    Ok(())
}

#[test]
fn upgrade_by_revision() {
    test("upgrade_by_revision", Company::Operator, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web").replicas(2)]).await?;
        eventually("it serves", async || client.get("http://web/", &[]).await?.expect(200)).await?;
        let load = client.load("http://web/", &["--rate", "20"])?;
        let outcome = async {
            let tag = next_tag(ns).await?;
            install_next(ns, &tag).await?;
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
            let pods = pods["items"].as_array().into_iter().flatten();
            let alive: Vec<_> = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
            ensure!(alive.len() == 2, "{} pods", alive.len());
            for pod in alive {
                moved(pod, &tag)?;
            }
            Ok(())
        }
        .await;
        let report = load.end().await?;
        let _ = ns.cluster.run("helm", &["uninstall", "mesh-next", "-n", cluster::SYSTEM, "--wait"]).await;
        outcome?;
        report.nothing_lost("the move to another revision", 50)?;
        eventually("the next revision's release leaves nothing", async || {
            let left = crate::helm::belongings(ns).await?;
            let left: Vec<_> = left.iter().filter(|name| name.contains("next")).collect();
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        e2e::install::whole(&ns.cluster).await
    });
}
