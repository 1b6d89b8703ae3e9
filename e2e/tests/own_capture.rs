//! Item 4: sidecars that program their rules of capture themselves (`mesh.local/proxy-init-container: sidecar`).

use anyhow::{Context as _, ensure};
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, test};
use serde_json::Value;

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
const OWN: (&str, &str) = ("mesh.local/proxy-init-container", "sidecar");

fn own(name: &str) -> App {
    App::new(name).annotation(OWN.0, OWN.1)
}

async fn pod(ns: &Namespace, app: &str) -> anyhow::Result<Value> {
    let pods = ns.json(&["get", "pods", "-l", &format!("app={app}")]).await?;
    pods["items"].get(0).cloned().with_context(|| format!("no pod of {app}"))
}

fn init_containers(pod: &Value) -> Vec<&str> {
    let all = pod["spec"]["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|container| container["name"].as_str()).collect()
}

/// The state of the pod's native sidecar.
fn sidecar(pod: &Value) -> Option<&Value> {
    let all = pod["status"]["initContainerStatuses"].as_array()?;
    all.iter().find(|status| status["name"] == "istio-proxy")
}

/// `PID` of the pod's sidecar on its node, and the lines of its status that say what it may.
async fn credentials(ns: &Namespace, pod: &Value) -> anyhow::Result<(String, String)> {
    let uid = pod["metadata"]["uid"].as_str().context("a UID")?.replace('-', "_");
    let script = format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = mesh-proxy ] && tr - _ < $p/cgroup | grep -q {uid} || continue; \
         echo ${{p#/proc/}}; grep -hE '^(Uid|Gid|Cap...|NoNewPrivs):' $p/task/*/status | tr -s '[:blank:]' ' ' | sort -u; done 2>/dev/null"
    );
    let said = ns.cluster.on_node(&script).await?;
    let (pid, rights) = said.split_once('\n').context("no mesh-proxy in the pod")?;
    Ok((pid.trim().to_owned(), rights.trim().to_owned()))
}

/// What the kernel says of each thread of a proxy that may use `kept`.
fn expected(kept: &str) -> String {
    let none = "0000000000000000";
    format!(
        "CapAmb: {none}\nCapBnd: {none}\nCapEff: {kept}\nCapInh: {none}\nCapPrm: {kept}\nGid: 1337 1337 1337 1337\n\
         NoNewPrivs: 1\nUid: 1337 1337 1337 1337"
    )
}

/// One init container instead of two; mTLS STRICT holds; the process is nobody; killed, it comes back, and the pod is never
/// open. A classic sidecar, which cannot keep its application from starting, keeps the separate container, and says why.
#[test]
fn item_4_capture_in_the_sidecar() {
    test("item_4_capture_in_the_sidecar", Company::Welcome, async |ns| {
        ns.apply(STRICT).await?;
        let tproxy = own("kept").annotation("sidecar.istio.io/interceptionMode", "TPROXY");
        let classic = own("classic").annotation("sidecar.istio.io/nativeSidecar", "false");
        let client = ns.deploy_with_client(&[own("web"), tproxy, classic]).await?;
        let outside = ns.outsider("outside").await?;
        let none = "0000000000000000";
        // CAP_NET_ADMIN is number 12.
        for (app, kept) in [("web", none), ("kept", "0000000000001000")] {
            let pod = pod(ns, app).await?;
            ensure!(init_containers(&pod) == ["istio-proxy"], "{app}: {:?}", init_containers(&pod));
            let (_, rights) = credentials(ns, &pod).await?;
            ensure!(rights == expected(kept), "{app}: {rights}");
        }
        let classic = pod(ns, "classic").await?;
        ensure!(init_containers(&classic) == ["istio-init"], "{:?}", init_containers(&classic));
        let status =
            classic["metadata"]["annotations"]["sidecar.istio.io/status"].as_str().unwrap_or_default();
        ensure!(status.contains("does not keep the application from starting"), "{status}");
        for app in ["web", "kept", "classic"] {
            serves(app, &client, &outside).await?;
        }
        for app in ["web", "kept"] {
            killed(ns, app, &outside).await?;
            serves(app, &client, &outside).await?;
        }
        Ok(())
    });
}

/// Over mTLS, and no other way.
async fn serves(
    app: &str,
    client: &e2e::client::Client,
    outside: &e2e::client::Client,
) -> anyhow::Result<()> {
    let url = format!("http://{app}/");
    eventually("it serves over mTLS", async || {
        let answer = client.get(&url, &[]).await?.expect(200)?;
        ensure!(answer.json()["peer"].is_string(), "no mTLS: {answer:?}");
        Ok(())
    })
    .await?;
    let plain = outside.get(&url, &["--timeout", "3"]).await?;
    ensure!(plain.status == 0, "{app} is open to plaintext: {plain:?}");
    Ok(())
}

/// Kills the sidecar of `app`, again and again while strangers knock: none gets in. Until it is back.
async fn killed(ns: &Namespace, app: &str, outside: &e2e::client::Client) -> anyhow::Result<()> {
    let before = pod(ns, app).await?;
    let (pid, _) = credentials(ns, &before).await?;
    ns.cluster.on_node(&format!("kill -9 {pid}")).await?;
    let at = before["status"]["podIP"].as_str().context("an address")?;
    eventually("the sidecar is back", async || {
        let plain = outside.get(&format!("http://{at}:8080/"), &["--timeout", "1"]).await?;
        assert!(plain.status == 0, "{app} is open while its sidecar is away: {plain:?}");
        let now = pod(ns, app).await?;
        ensure!(now["metadata"]["uid"] == before["metadata"]["uid"], "it is another pod");
        let status = sidecar(&now).context("no sidecar")?;
        ensure!(status["restartCount"].as_u64() > Some(0) && status["ready"] == true, "{status}");
        Ok(())
    })
    .await
}

/// A sidecar that cannot program its rules ends, and its application never starts.
#[test]
fn item_4_no_rules_no_application() {
    test("item_4_no_rules_no_application", Company::Welcome, async |ns| {
        let dry = own("dry").annotation("proxy.istio.io/config", "proxyMetadata: {DRY_RUN: \"true\"}");
        ns.apply(&dry.yaml()).await?;
        eventually("the sidecar has ended twice", async || {
            let pod = pod(ns, "dry").await?;
            let status = sidecar(&pod).context("no sidecar yet")?;
            ensure!(status["restartCount"].as_u64() > Some(0), "{status}");
            let app = &pod["status"]["containerStatuses"][0];
            assert!(
                app["state"]["waiting"].is_object() && app["started"] != true,
                "the application runs: {app}"
            );
            let ended = &status["lastState"]["terminated"];
            ensure!(ended["exitCode"] == 1, "{status}");
            Ok(())
        })
        .await?;
        let said = ns.kubectl(&["logs", "deploy/dry-v1", "-c", "istio-proxy", "--previous"]).await?;
        ensure!(said.contains("DRY_RUN") && said.contains("would bypass the sidecar"), "{said}");
        Ok(())
    });
}
