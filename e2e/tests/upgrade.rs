//! Upgrade by revision, with `meshctl install` and `meshctl uninstall`: two control planes side by side, a namespace moves from one
//! to the other, nothing is lost, and the new one's release leaves nothing behind.
//!
//! There is no earlier release to come from yet: both are this build. That pods do get the other one's shows in what differs:
//! the images' tag and the sidecar's resources. `E2E_NEXT_TAG` names images of another build that are in the cluster.

use anyhow::{Context as _, ensure};
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, finally, test};
use serde_json::Value;

use crate::meshctl::meshctl;

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

/// `meshctl install`, which tells what it waits for.
async fn install_next(ns: &Namespace, tag: &str) -> anyhow::Result<()> {
    let (hub, memory) = (e2e::images::hub(), format!("global.proxy.resources.requests.memory={MEMORY}"));
    let small = "base.enabled=false,pilot.replicaCount=1,pilot.resources.requests.cpu=10m";
    let images = ["install", "--revision", NEXT, "--hub", &hub, "--tag", tag, "--timeout", "240"];
    let said = meshctl(&ns.cluster, &[&images[..], &["--set", small, "--set", &memory]].concat()).await?;
    let mut rest = said.as_str();
    for part in [
        "installing mesh-next",
        "s  mesh-pilot-next: 0 of 1 ready",
        "s  mesh-pilot-next: ready",
        "istio.io/rev=next",
    ] {
        rest = rest
            .split_once(part)
            .with_context(|| format!("it does not tell {part:?} in its turn: {said}"))?
            .1;
    }
    for webhooks in ["istio-sidecar-injector-next", "istio-validator-next-istio-system"] {
        ensure!(said.contains(&format!("{webhooks}: ready")), "{said}");
    }
    Ok(())
}

/// `meshctl uninstall`: this revision, and nothing else.
async fn uninstall_next(ns: &Namespace) -> anyhow::Result<()> {
    let said = meshctl(&ns.cluster, &["uninstall", "--revision", NEXT, "--yes"]).await?;
    let told: Vec<_> = said.lines().filter(|line| line.starts_with("uninstalled")).collect();
    ensure!(told == ["uninstalled mesh-next"], "{said}");
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
        let work = async {
            let tag = next_tag(ns).await?;
            install_next(ns, &tag).await?;
            let revision = format!("istio.io/rev={NEXT}");
            let label = ["label", "namespace", &ns.name, "istio-injection-", &revision];
            ns.cluster.kubectl(&label).await?;
            ns.kubectl(&["rollout", "restart", "deployment/web-v1"]).await?;
            ns.rolled_out("web-v1").await?;
            let pods = ns.json(&["get", "pods", "-l", "app=web"]).await?;
            let pods = pods["items"].as_array().into_iter().flatten();
            let alive: Vec<_> = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
            ensure!(alive.len() == 2, "{} pods", alive.len());
            for pod in alive {
                moved(pod, &tag)?;
            }
            load.end().await
        };
        let report = finally(work, async || uninstall_next(ns).await).await?;
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
