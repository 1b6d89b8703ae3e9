//! Item 9: meshctl on a cluster. Who asks the control plane does so while nobody replaces it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::workload::App;
use e2e::{Client, Cluster, Company, eventually, test};
use tokio::io::{AsyncBufReadExt as _, BufReader};

fn program() -> String {
    std::env::var("E2E_MESHCTL").unwrap_or_else(|_| "meshctl".to_owned())
}

/// `meshctl` of this build.
pub async fn meshctl(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    cluster.run(&program(), arguments).await
}

#[test]
fn item_9_version_status_and_proxy_config() {
    test("item_9_version_status_and_proxy_config", Company::Operator, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        client.get("http://web/", &[]).await?.expect(200)?;
        let version = meshctl(&ns.cluster, &["version", "--cluster"]).await?;
        ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        let pod = ns.pods("app=web").await?.remove(0);
        let status = meshctl(&ns.cluster, &["proxy-status", "--cluster"]).await?;
        ensure!(status.contains(&pod), "{pod} is not in:\n{status}");
        for what in ["listeners", "routes", "clusters", "endpoints", "secrets"] {
            let said =
                meshctl(&ns.cluster, &["proxy-config", what, &format!("client.{}", ns.name), "--cluster"])
                    .await?;
            ensure!(!said.trim().is_empty(), "proxy-config {what} says nothing");
            if what == "clusters" || what == "endpoints" {
                ensure!(said.contains("web"), "proxy-config {what}:\n{said}");
            }
        }
        Ok(())
    });
}

#[test]
fn item_9_request_from_a_pod() {
    test("item_9_request_from_a_pod", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web"), App::new("caller")]).await?;
        let pod = ns.pods("app=caller").await?.remove(0);
        let said = eventually("a request from the pod", async || {
            let arguments = [
                "request",
                "http://web/",
                "--from",
                &pod,
                "-n",
                "1",
                "-o",
                "json",
                "--namespace",
                &ns.name,
                "--cluster",
            ];
            meshctl(&ns.cluster, &arguments).await
        })
        .await?;
        ensure!(said.contains("/sa/caller"), "it did not go through the sidecar: {said}");
        Ok(())
    });
}

#[test]
fn item_9_describe_and_validate() {
    test("item_9_describe_and_validate", Company::Operator, async |ns| {
        ns.apply("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web-route}\nspec: {hosts: [web], http: [{timeout: 3s, route: [{destination: {host: web}}]}]}\n")
            .await?;
        ns.deploy(&[App::new("web")]).await?;
        let said =
            meshctl(&ns.cluster, &["describe", "service", "web", "--namespace", &ns.name, "--cluster"])
                .await?;
        ensure!(said.contains("web-route"), "{said}");
        let pod = ns.pods("app=web").await?.remove(0);
        let said =
            meshctl(&ns.cluster, &["describe", "pod", &pod, "--namespace", &ns.name, "--cluster"]).await?;
        ensure!(said.contains(&pod), "{said}");
        ns.apply("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: web-only}\nspec:\n  selector: {matchLabels: {app: web}}\n  action: DENY\n  rules: [{to: [{operation: {paths: [/private]}}]}]\n")
            .await?;
        let said =
            meshctl(&ns.cluster, &["describe", "pod", &pod, "--namespace", &ns.name, "--cluster"]).await?;
        ensure!(said.contains("web-only") && said.contains("DENY, 1 rule"), "{said}");
        meshctl(&ns.cluster, &["validate", "-A", "--cluster"])
            .await
            .context("what the suite applied is good")?;
        Ok(())
    });
}

#[test]
fn item_9_log_levels_secrets_and_clear_errors() {
    test("item_9_log_levels_secrets_and_clear_errors", Company::Operator, async |ns| {
        ns.client("client").await?;
        ns.outsider("outsider").await?;
        let client = format!("client.{}", ns.name);
        let log = ["proxy-config", "log", &client];
        let before = meshctl(&ns.cluster, &log).await?;
        let changed =
            meshctl(&ns.cluster, &[&log[..], &["--level", "info,mesh_proxy=debug"]].concat()).await?;
        ensure!(changed.trim() == "info,mesh_proxy=debug", "{changed}");
        ensure!(meshctl(&ns.cluster, &log).await? == changed, "it was {before}");
        let bad = meshctl(&ns.cluster, &[&log[..], &["--level", "a=b=c"]].concat()).await;
        ensure!(
            bad.is_err_and(|error| format!("{error:#}").contains("log filter")),
            "a bad filter is refused"
        );
        let secrets = meshctl(&ns.cluster, &["proxy-config", "secrets", &client, "-o", "json"]).await?;
        ensure!(secrets.contains("/sa/client") && !secrets.contains("PRIVATE KEY"), "{secrets}");
        let status = meshctl(&ns.cluster, &["status", "-n", &ns.name, "-o", "json"]).await?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        ensure!(status["controlPlane"].as_array().is_some_and(|all| !all.is_empty()), "{status}");
        // What is not there is said, with what to do.
        for (arguments, says) in [
            (&["proxy-config", "routes", &format!("outsider.{}", ns.name)][..], "no sidecar"),
            (&["proxy-config", "routes", &format!("nobody.{}", ns.name)], "there are:"),
            (&["describe", "service", "nothing", "-n", &ns.name], "no service"),
            (&["status", "-i", &ns.name], "meshctl install"),
            (&["status", "--context", "nowhere"], "--kubeconfig"),
        ] {
            match meshctl(&ns.cluster, arguments).await {
                Ok(said) => anyhow::bail!("{arguments:?} succeeded: {said}"),
                Err(error) => ensure!(format!("{error:#}").contains(says), "{arguments:?}: {error:#}"),
            }
        }
        Ok(())
    });
}

/// A port of this machine leads to the pilot, to the authority, to a sidecar; it is gone with Ctrl-C.
#[test]
fn item_9_dashboard() {
    test("item_9_dashboard", Company::Welcome, async |ns| {
        ns.client("client").await?;
        let sidecar = format!("client.{}", ns.name);
        for (target, path, word) in [
            ("pilot", "/metrics", "pilot_xds"),
            ("pilot", "/debug/status", "\"proxies\""),
            ("ca", "/metrics", "citadel_server_csr_count"),
            (&sidecar, "/certs", "/sa/client"),
        ] {
            // Pilot and authority may be replaced meanwhile.
            eventually(target, async || dashboard(&ns.cluster, target, path, word).await).await?;
        }
        Ok(())
    });
}

async fn dashboard(cluster: &Cluster, target: &str, path: &str, word: &str) -> anyhow::Result<()> {
    let mut child = cluster.spawn(&program(), &["dashboard", target])?;
    let mut lines = BufReader::new(child.stdout.take().context("it was asked for")?).lines();
    let told = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await??;
    let told = told.context("it has ended before it said where")?;
    let url = told.split(' ').find(|word| word.starts_with("http://127.0.0.1:")).context(told.clone())?;
    let (url, here) = (format!("{url}{path}"), Client::here(cluster.clone(), crate::CLIENT));
    let answer = here.get(&url, &[]).await?.expect(200)?;
    ensure!(answer.body.contains(word), "no {word} at {url}: {}", answer.body);
    let process = child.id().context("it runs")?.to_string();
    cluster.run("kill", &["-INT", &process]).await?;
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.context("Ctrl-C")??;
    ensure!(status.success(), "Ctrl-C: {status}");
    let after = here.get(&url, &[]).await?;
    ensure!(after.status == 0, "it still answers: {after:?}");
    Ok(())
}

/// `meshctl inject` makes offline what the webhook would.
#[test]
fn item_4_meshctl_inject_offline() {
    test("item_4_meshctl_inject_offline", Company::Welcome, async |ns| {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("web.yaml").display().to_string();
        std::fs::write(&file, App::new("web").yaml())?;
        let said = meshctl(&ns.cluster, &["inject", "-f", &file]).await?;
        ensure!(said.contains("istio-proxy") && said.contains("istio-init"), "{said}");
        ensure!(said.contains("kind: Service"), "what is no workload is left out");
        Ok(())
    });
}
