//! Failover on the cluster: consistent hash, outlier detection, readiness, localities.

use std::collections::BTreeSet;

use anyhow::ensure;
use e2e::workload::App;
use e2e::{Client, Company, Namespace, eventually, test};

/// Sets the fault switch of one pod of the sample application, by its pod address.
pub async fn fault(ns: &Namespace, from: &Client, pod: &str, fault: &str) -> anyhow::Result<()> {
    let address = ns.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).await?;
    let url = format!("http://{address}:8080/fault");
    eventually("the fault switch is set", async || {
        from.get(&url, &["-X", "POST", "-H", "content-type: application/json", "-d", fault])
            .await?
            .expect(200)
    })
    .await?;
    Ok(())
}

/// It behaves again.
async fn clear(ns: &Namespace, from: &Client, pod: &str) -> anyhow::Result<()> {
    let address = ns.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).await?;
    from.get(&format!("http://{address}:8080/fault"), &["-X", "DELETE"]).await?.expect(200)?;
    Ok(())
}

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web}}\n\
         spec:\n  host: web\n  trafficPolicy:\n{policy}"
    )
}

/// Who answers each of `keys`, by the header that is hashed on.
async fn owners(client: &Client, keys: u32) -> anyhow::Result<Vec<String>> {
    let mut owners = Vec::new();
    for key in 0..keys {
        let header = format!("x-user: user-{key}");
        let who = client.instances(2, "http://web/", &["-H", &header]).await?;
        ensure!(who.len() == 1, "user-{key} went to {who:?}");
        owners.extend(who);
    }
    Ok(owners)
}

/// A key stays with its instance; when an instance goes, its keys move and all others stay.
#[test]
fn failover_consistent_hash_moves_only_its_keys() {
    test("failover_consistent_hash_moves_only_its_keys", Company::Early, async |ns| {
        ns.apply(&rule("    loadBalancer: {consistentHash: {httpHeaderName: x-user}}\n")).await?;
        let client = ns.deploy_with_client(&[App::new("web").replicas(3)]).await?;
        let before = eventually("keys stick", async || owners(&client, 12).await).await?;
        let used: BTreeSet<_> = before.iter().collect();
        ensure!(used.len() >= 2, "12 keys all went to {used:?}");
        let gone = before[0].clone();
        // A pod that only ceases to be ready stays where it is: no other pod comes to take keys.
        let operator = ns.client("operator").await?;
        fault(ns, &operator, &gone, r#"{"status":500}"#).await?;
        eventually("only the keys of the instance that went have moved", async || {
            let after = owners(&client, 12).await?;
            for (key, (old, new)) in before.iter().zip(&after).enumerate() {
                if *old == gone {
                    ensure!(*new != gone, "user-{key} is still with {gone}");
                } else {
                    ensure!(old == new, "user-{key} moved from {old} to {new}, which was not touched");
                }
            }
            Ok(())
        })
        .await
    });
}

/// An instance that answers 500 is ejected after five of them, and comes back when it behaves.
#[test]
fn failover_outlier_detection_ejects_and_readmits() {
    test("failover_outlier_detection_ejects_and_readmits", Company::Welcome, async |ns| {
        ns.apply(&rule(
            "    outlierDetection: {consecutive5xxErrors: 5, interval: 1s, baseEjectionTime: 5s, maxEjectionPercent: 100}\n",
        ))
        .await?;
        // Readiness must not see the fault: only the proxy may act.
        let probe = "        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n";
        let apps = [App::new("web").replicas(2).container(probe)];
        let (client, operator) = tokio::try_join!(ns.deploy_with_client(&apps), ns.client("operator"))?;
        let broken = ns.pods("app=web").await?.remove(0);
        fault(ns, &operator, &broken, r#"{"status":500}"#).await?;
        eventually("the broken one is ejected", async || {
            let answers = client.many(30, "http://web/", &[]).await?;
            let failed = answers.iter().filter(|answer| answer.status != 200).count();
            ensure!(failed == 0, "{failed} of 30 failed");
            Ok(())
        })
        .await?;
        clear(ns, &operator, &broken).await?;
        eventually("it is readmitted", async || {
            let who = client.instances(30, "http://web/", &[]).await?;
            ensure!(who.contains(&broken), "only {who:?} answer");
            Ok(())
        })
        .await
    });
}

/// An instance that is not ready gets nothing any more, and its share again when it is; no request is lost on either way.
#[test]
fn failover_readiness_withdraws() {
    test("failover_readiness_withdraws", Company::Welcome, async |ns| {
        // It serves as well as ever: nothing but readiness can tell.
        let probe = "        readinessProbe: {exec: {command: [test, \"!\", -e, /tmp/away]}, periodSeconds: 1, failureThreshold: 1}\n";
        let client = ns.deploy_with_client(&[App::new("web").replicas(2).container(probe)]).await?;
        let pods = ns.pods("app=web").await?;
        let both = async || {
            let who = client.instances(40, "http://web/", &[]).await?;
            ensure!(who.len() == 2, "{who:?}");
            Ok(())
        };
        eventually("both answer", both).await?;
        let load = client.load("http://web/", &["--rate", "40"])?;
        ns.exec(&pods[0], "app", &["touch", "/tmp/away"]).await?;
        let ready = async |expected: &str| {
            let ready = is_ready(ns, &pods[0]).await?;
            ensure!(ready == expected, "{ready}");
            Ok(())
        };
        eventually("it is not ready", async || ready("False").await).await?;
        eventually("it is withdrawn", async || {
            let who = client.instances(40, "http://web/", &[]).await?;
            ensure!(!who.contains(&pods[0]), "it still answers");
            Ok(())
        })
        .await?;
        ready("False").await?;
        ns.exec(&pods[0], "app", &["rm", "/tmp/away"]).await?;
        eventually("it gets its share again", both).await?;
        ready("True").await?;
        load.end().await?.nothing_lost("not ready and ready again", 60)
    });
}

async fn is_ready(ns: &Namespace, pod: &str) -> anyhow::Result<String> {
    let condition = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    ns.kubectl(&["get", "pod", pod, "-o", condition]).await
}

/// The nearest locality serves; when it has nobody healthy, the next one does. Localities are told by `istio-locality`, as
/// one node has only one.
#[test]
fn failover_locality_from_zone_to_zone() {
    test("failover_locality_from_zone_to_zone", Company::Welcome, async |ns| {
        ns.apply(&rule(
            "    loadBalancer: {localityLbSetting: {enabled: true}}\n    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}\n",
        ))
        .await?;
        let probe = "        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n";
        let app = |version: &str, zone: &str| {
            App::new("web").version(version).label("istio-locality", &format!("here.{zone}")).container(probe)
        };
        ns.deploy(&[app("near", "one"), app("far", "two")]).await?;
        let client = ns.client_in("client", "here.one").await?;
        eventually("the near one serves alone", async || {
            let answers = client.many(20, "http://web/", &[]).await?;
            let near = answers.iter().filter(|answer| answer.version() == "near").count();
            ensure!(near == 20, "{near} of 20 stayed near");
            Ok(())
        })
        .await?;
        let operator = ns.client("operator").await?;
        let near = ns.pods("app=web,version=near").await?.remove(0);
        fault(ns, &operator, &near, r#"{"status":503}"#).await?;
        eventually("the far one takes over", async || {
            let answers = client.many(20, "http://web/", &[]).await?;
            let far = answers.iter().filter(|a| a.version() == "far" && a.status == 200).count();
            ensure!(far == 20, "{far} of 20 came from afar");
            Ok(())
        })
        .await
    });
}

/// Where pods say nothing of their place, their node does (`topology.kubernetes.io/zone`): the client's zone serves alone, and
/// when it has nobody healthy, the next one does. One node has one zone, so the servers of the other zone say theirs themselves;
/// until the node is labelled, both serve.
#[test]
fn failover_zone_from_the_labels_of_nodes() {
    test("failover_zone_from_the_labels_of_nodes", Company::Welcome, async |ns| {
        ns.apply(&rule(
            "    loadBalancer: {localityLbSetting: {enabled: true}}\n    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 100}\n",
        ))
        .await?;
        let probe = "        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n";
        let far = App::new("web").version("far").label("istio-locality", "here.two").container(probe);
        let apps = [App::new("web").version("near").container(probe), far];
        let (client, operator) = tokio::try_join!(ns.deploy_with_client(&apps), ns.client("operator"))?;
        let served = async |near: &str, count: usize| {
            let answers = client.many(20, "http://web/", &[]).await?;
            let of = answers.iter().filter(|answer| answer.version() == near && answer.status == 200).count();
            ensure!(of >= count, "{of} of 20 came from {near}");
            Ok(())
        };
        eventually("without labels both serve", async || {
            served("near", 1).await?;
            served("far", 1).await
        })
        .await?;
        let place = |zone: &str, region: &str| {
            [format!("topology.kubernetes.io/zone{zone}"), format!("topology.kubernetes.io/region{region}")]
        };
        let label = async |[zone, region]: [String; 2]| {
            let arguments = ["label", "nodes", "--all", "--overwrite", &zone, &region];
            ns.cluster.kubectl(&arguments).await
        };
        label(place("=one", "=here")).await?;
        let outcome = async {
            eventually("the near one serves alone", async || served("near", 20).await).await?;
            let near = ns.pods("app=web,version=near").await?.remove(0);
            fault(ns, &operator, &near, r#"{"status":503}"#).await?;
            eventually("the far one takes over", async || served("far", 20).await).await
        }
        .await;
        label(place("-", "-")).await?;
        outcome
    });
}
