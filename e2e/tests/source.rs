//! Item 3: the pilot's watches: changes arrive, two replicas share the work, a killed leader loses nothing.

use anyhow::ensure;
use e2e::install::whole;
use e2e::workload::App;
use e2e::{Company, cluster, eventually, test};

const LEADER: [&str; 4] =
    ["get", "lease", "-o", "jsonpath={range .items[*]}{.metadata.name}={.spec.holderIdentity} {end}"];

/// The leader is killed: another replica leads, statuses are written again, changes arrive all the time.
#[test]
fn item_3_a_killed_leader_loses_nothing() {
    test("item_3_a_killed_leader_loses_nothing", Company::Alone, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        ns.alone().await;
        ns.cluster
            .kubectl(&["scale", "deployment/mesh-pilot", "-n", cluster::SYSTEM, "--replicas=2"])
            .await?;
        whole(&ns.cluster).await?;
        let lease = [&["-n", cluster::SYSTEM], &LEADER[..]].concat();
        let before = eventually("somebody leads", async || {
            let held = ns.cluster.kubectl(&lease).await?;
            ensure!(held.contains("mesh-pilot"), "leases: {held}");
            Ok(held)
        })
        .await?;
        let pods = ns.cluster.json(&["get", "pods", "-n", cluster::SYSTEM, "-l", "app=mesh-pilot"]).await?;
        let leader = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .find(|pod| before.contains(pod))
            .ok_or_else(|| anyhow::anyhow!("no pod leads: {before}"))?;
        ns.cluster
            .kubectl(&["delete", "pod", leader, "-n", cluster::SYSTEM, "--grace-period=0", "--force"])
            .await?;
        ns.apply("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web}\nspec: {hosts: [web], http: [{directResponse: {status: 418}}]}\n")
                .await?;
        eventually("a change arrives", async || client.get("http://web/", &[]).await?.expect(418)).await?;
        eventually("its status is written", async || {
            let status = ns.json(&["get", "virtualservice", "web"]).await?["status"].to_string();
            ensure!(status.contains("Programmed"), "{status}");
            Ok(())
        })
        .await?;
        whole(&ns.cluster).await
    });
}
