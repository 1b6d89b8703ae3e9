//! Bad input and bad days: each is told, and nothing else is disturbed.

use std::time::Duration;

use anyhow::ensure;
use e2e::install::whole;
use e2e::workload::App;
use e2e::{Company, cluster, eventually, pause, test};

/// The API server is frozen for a minute: requests go on, and afterwards changes arrive again. (They come from here by way of a
/// gateway: an exec session would not outlive the API server's silence.)
#[test]
fn bad_days_the_api_server_is_down() {
    test("bad_days_the_api_server_is_down", Company::Alone, async |ns| {
        ns.deploy(&[App::new("web").replicas(2)]).await?;
        let address = crate::gateways::edge(ns, &[]).await?;
        let here = e2e::Client::here(ns.cluster.clone(), crate::CLIENT);
        let to = ["--connect", &address];
        eventually("it serves", async || here.get("http://shop/", &to).await?.expect(200)).await?;
        ns.alone().await;
        let load = here.load("http://shop/", &[&to[..], &["--rate", "20"]].concat())?;
        pause(Duration::from_secs(2)).await;
        ns.cluster
            .on_node(
                "pkill -STOP -x kube-apiserver; (sleep 60; pkill -CONT -x kube-apiserver) >/dev/null 2>&1 &",
            )
            .await?;
        pause(Duration::from_secs(62)).await;
        eventually("the API server is back", async || ns.kubectl(&["get", "pods"]).await).await?;
        load.end().await?.nothing_lost("a minute without an API server", 500)?;
        ns.apply("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: edge}\nspec: {hosts: [\"*\"], gateways: [edge], http: [{directResponse: {status: 418}}]}\n")
            .await?;
        eventually("changes arrive again", async || here.get("http://shop/", &to).await?.expect(418)).await?;
        whole(&ns.cluster).await
    });
}

/// The webhook's pilot is away: a pod is either injected or not made, never made without; requests go on.
#[test]
fn bad_days_the_webhook_is_down() {
    test("bad_days_the_webhook_is_down", Company::Alone, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        // What a proxy has asked for before, it goes on with.
        eventually("it serves", async || client.get("http://web/", &[]).await?.expect(200)).await?;
        ns.alone().await;
        let replicas = ns
            .cluster
            .kubectl(&[
                "get",
                "deployment",
                "mesh-pilot",
                "-n",
                cluster::SYSTEM,
                "-o",
                "jsonpath={.spec.replicas}",
            ])
            .await?;
        let scale = async |to: &str| {
            let to = format!("--replicas={to}");
            ns.cluster.kubectl(&["scale", "deployment/mesh-pilot", "-n", cluster::SYSTEM, &to]).await
        };
        scale("0").await?;
        eventually("the pilot is gone", async || {
            let pods =
                ns.cluster.json(&["get", "pods", "-n", cluster::SYSTEM, "-l", "app=mesh-pilot"]).await?;
            ensure!(pods["items"].as_array().is_some_and(Vec::is_empty), "not yet");
            Ok(())
        })
        .await?;
        let refused = ns.refused(&e2e::workload::client("late", "")).await;
        let outsiders = ns.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: unrelated}\n").await;
        let served = client.get("http://web/", &[]).await;
        scale(&replicas).await?;
        whole(&ns.cluster).await?;
        let said = refused?;
        ensure!(said.contains("webhook"), "{said}");
        outsiders?;
        served?.expect(200)?;
        ns.client("late").await?.get("http://web/", &[]).await?.expect(200)?;
        Ok(())
    });
}

/// A namespace is deleted while another one's pods call it: its callers get errors, nobody else does.
#[test]
fn bad_days_a_namespace_is_deleted_under_load() {
    test("bad_days_a_namespace_is_deleted_under_load", Company::Early, async |ns| {
        let doomed = format!("{}-doomed", ns.name);
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {doomed}, labels: {{istio-injection: enabled}}}}\n"
        );
        ns.cluster.fed("kubectl", &["apply", "-f", "-"], &yaml).await?;
        eventually("its account is there", async || {
            ns.cluster.kubectl(&["get", "serviceaccount", "default", "-n", &doomed]).await
        })
        .await?;
        ns.cluster.apply(&doomed, &App::new("gone").yaml()).await?;
        ns.cluster.rolled_out(&doomed, "deployment/gone-v1").await?;
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        let url = format!("http://gone.{doomed}/");
        eventually("both serve", async || {
            client.get("http://web/", &[]).await?.expect(200)?;
            client.get(&url, &[]).await?.expect(200)
        })
        .await?;
        let (mine, theirs) =
            (client.load("http://web/", &["--rate", "20"])?, client.load(&url, &["--rate", "20"])?);
        ns.cluster.kubectl(&["delete", "namespace", &doomed, "--timeout=120s"]).await?;
        pause(Duration::from_secs(2)).await;
        mine.end().await?.nothing_lost("the neighbour", 100)?;
        let theirs = theirs.end().await?;
        ensure!(theirs.lost > 0, "a deleted namespace still serves");
        Ok(())
    });
}

/// A Secret with garbage: its server is not served, its neighbour is; `meshctl status` names the Secret.
#[test]
fn bad_days_a_secret_with_garbage() {
    test("bad_days_a_secret_with_garbage", Company::Welcome, async |ns| {
        crate::gateways::install(ns, "istio-edge", &[]).await?;
        ns.deploy(&[App::new("web")]).await?;
        let garbage = "apiVersion: v1\nkind: Secret\nmetadata: {name: shop-cert}\ntype: kubernetes.io/tls\nstringData: {tls.crt: garbage, tls.key: garbage}\n";
        ns.apply(garbage).await?;
        let yaml = crate::gateways::own(
            ns,
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: shop}\nspec:\n  selector: {istio: edge}\n  servers:\n\
             \x20 - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: SIMPLE, credentialName: shop-cert}}\n\
             \x20 - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}\n---\n\
             apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop}\nspec:\n  hosts: [shop.example.com]\n  gateways: [shop]\n  http: [{route: [{destination: {host: web, port: {number: 80}}}]}]\n",
        );
        ns.apply(&yaml).await?;
        let address = crate::gateways::address(&ns.cluster, &ns.name, "istio-edge", 80).await?;
        let here = e2e::Client::here(ns.cluster.clone(), crate::CLIENT);
        eventually("the neighbour is served", async || {
            here.get("http://shop.example.com/", &["--connect", &address]).await?.expect(200)
        })
        .await?;
        // Of all pilots: the condition on the object is the leader's, who may not be this gateway's.
        eventually("the status names the Secret", async || {
            let said = crate::meshctl::meshctl(&ns.cluster, &["status", "--cluster"]).await?;
            ensure!(said.contains("shop-cert: tls.crt"), "{said}");
            Ok(())
        })
        .await
    });
}
