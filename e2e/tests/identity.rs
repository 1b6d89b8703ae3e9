//! Item 7: identity from projected tokens, trust bundles in every namespace; a pod that claims another's identity gets none.

use anyhow::ensure;
use e2e::workload::App;
use e2e::{Company, cluster, eventually, test};

#[test]
fn item_7_the_roots_are_in_every_namespace() {
    test("item_7_the_roots_are_in_every_namespace", Company::Welcome, async |ns| {
        let path = ["get", "configmap", "istio-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}"];
        let here = ns.kubectl(&path).await?;
        ensure!(here.contains("BEGIN CERTIFICATE"), "{here}");
        let there = ns.cluster.kubectl(&[&["-n", cluster::SYSTEM], &path[..]].concat()).await?;
        ensure!(here == there, "the roots differ");
        ns.kubectl(&["delete", "configmap", "istio-ca-root-cert"]).await?;
        eventually("a deleted one comes back", async || {
            let again = ns.kubectl(&path).await?;
            ensure!(again == here, "it differs");
            Ok(())
        })
        .await
    });
}

/// Two accounts, two identities: the application sees the account of the pod that calls.
#[test]
fn item_7_identities_are_the_accounts() {
    test("item_7_identities_are_the_accounts", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        for account in ["anna", "bert"] {
            let client = ns.client(account).await?;
            let expected = format!("spiffe://cluster.local/ns/{}/sa/{account}", ns.name);
            eventually("the identity arrives", async || {
                // What a client says of itself does not count.
                let claim = ["-H", "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/x/sa/admin"];
                let answer = client.get("http://web/", &claim).await?.expect(200)?;
                ensure!(answer.json()["peer"] == expected, "{}", answer.json()["peer"]);
                let xfcc = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
                ensure!(!xfcc.contains("sa/admin"), "the claim came through: {xfcc}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

/// A pod whose environment claims another account: its token says who it is, so that it never gets that identity.
#[test]
fn bad_days_a_pod_that_claims_anothers_identity() {
    test("bad_days_a_pod_that_claims_anothers_identity", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let honest = ns.client("honest").await?;
        // The user's own container of that name is merged into the injected one, its environment wins.
        let liar = e2e::workload::client("liar", "").replace(
            "  containers:\n",
            "  initContainers:\n  - {name: istio-proxy, image: auto, env: [{name: SERVICE_ACCOUNT, value: honest}]}\n  containers:\n",
        );
        ns.apply(&liar).await?;
        let never = format!("spiffe://cluster.local/ns/{}/sa/honest", ns.name);
        let liar = e2e::Client::new(ns.cluster.clone(), &ns.name, "liar");
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::time::Instant::now() < until {
            if let Ok(answer) = liar.get("http://web/", &["--timeout", "3"]).await {
                ensure!(answer.json()["peer"] != never, "the lie was believed: {answer:?}");
            }
            e2e::pause(std::time::Duration::from_secs(2)).await;
        }
        // Nobody else is disturbed.
        let answer = honest.get("http://web/", &[]).await?.expect(200)?;
        ensure!(answer.json()["peer"] == never, "{answer:?}");
        Ok(())
    });
}
