//! mTLS between pods: STRICT, PERMISSIVE, DISABLE, who is refused, and what a packet capture sees.

use anyhow::ensure;
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, pause, test};

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// PERMISSIVE (the default) takes both, STRICT refuses plaintext, DISABLE speaks it.
#[test]
fn mtls_modes() {
    test("mtls_modes", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let (inside, outside) = (ns.client("inside").await?, ns.outsider("outside").await?);
        let identity = format!("spiffe://cluster.local/ns/{}/sa/inside", ns.name);
        let meshed = async || {
            let answer = inside.get("http://web/", &[]).await?.expect(200)?;
            ensure!(answer.json()["peer"] == identity, "the application sees {}", answer.json()["peer"]);
            Ok(())
        };
        eventually("the identity arrives", meshed).await?;
        let plain = outside.get("http://web/", &[]).await?.expect(200)?;
        ensure!(plain.json()["peer"].is_null(), "an outsider has an identity: {plain:?}");

        ns.apply(&mode("STRICT")).await?;
        eventually("plaintext is refused", async || {
            let answer = outside.get("http://web/", &[]).await?;
            ensure!(answer.status == 0, "{answer:?}");
            let pods = ns.pods("app=web").await?;
            let at = ns.kubectl(&["get", "pod", &pods[0], "-o", "jsonpath={.status.podIP}"]).await?;
            for url in
                [format!("http://{at}:8080/"), format!("tcp://{at}:9000"), format!("http://{at}:15006/")]
            {
                let answer = outside.get(&url, &["-d", "hello", "--timeout", "5"]).await?;
                ensure!(
                    !answer.body.contains("instance") && !answer.body.contains("hello"),
                    "{url}: {answer:?}"
                );
            }
            Ok(())
        })
        .await?;
        meshed().await?;

        ns.apply(&mode("DISABLE")).await?;
        eventually("plaintext both ways", async || {
            outside.get("http://web/", &[]).await?.expect(200)?;
            let answer = inside.get("http://web/", &["--fresh"]).await?.expect(200)?;
            ensure!(answer.json()["peer"].is_null(), "still mTLS: {answer:?}");
            Ok(())
        })
        .await
    });
}

/// Readers and writers by name, but for one path; whoever has no name is nobody.
fn members(ns: &Namespace) -> String {
    let identity = format!("cluster.local/ns/{}/sa/client", ns.name);
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: members}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n  rules:\n  - from: [{{source: {{principals: [{identity}]}}}}]\n    \
         to: [{{operation: {{notPaths: [/denied]}}}}]\n"
    )
}

/// A capture of the node's network sees ciphertext only, of what a policy lets in and of what it denies; with mTLS off it sees
/// the canary in both.
#[test]
fn mtls_no_plaintext_on_the_wire() {
    test("mtls_no_plaintext_on_the_wire", Company::Early, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        ns.apply(&mode("STRICT")).await?;
        ns.apply(&members(ns)).await?;
        eventually("the policy is in force", async || {
            client.get("http://web/", &[]).await?.expect(200)?;
            let denied = client.get("http://web/denied", &[]).await?.expect(403)?;
            ensure!(denied.body == "RBAC: access denied", "{denied:?}");
            Ok(())
        })
        .await?;
        let canary = "canary-under-strict";
        let seen = seen_on_the_wire(ns, canary, async || {
            send(&client, "http://web/", canary, 200).await?;
            send(&client, "http://web/denied", canary, 403).await?;
            // A rule that asks for a path lets no bytes in: they are encrypted on their way to the refusal.
            let bytes = client.get("tcp://web:9000", &["-d", canary, "--timeout", "5"]).await?;
            ensure!(!bytes.body.contains(canary), "bytes are let in: {bytes:?}");
            Ok(())
        });
        ensure!(!seen.await?, "plaintext on the wire under STRICT");

        // The other half of each pair: this capture can see plaintext, of what is denied too.
        ns.apply(&mode("DISABLE")).await?;
        eventually("mTLS is off: nobody has a name", async || {
            client.get("http://web/", &["--fresh"]).await?.expect(403)
        })
        .await?;
        let canary = "canary-that-is-denied";
        let seen = seen_on_the_wire(ns, canary, async || send(&client, "http://web/", canary, 403).await);
        ensure!(seen.await?, "the capture does not see what is denied");
        ns.kubectl(&["delete", "authorizationpolicy", "members"]).await?;
        eventually("everybody is let in", async || {
            let answer = client.get("http://web/", &["--fresh"]).await?.expect(200)?;
            ensure!(answer.json()["peer"].is_null(), "still mTLS");
            Ok(())
        })
        .await?;
        let canary = "canary-without";
        let seen = seen_on_the_wire(ns, canary, async || send(&client, "http://web/", canary, 200).await);
        ensure!(seen.await?, "the capture sees nothing at all");
        Ok(())
    });
}

/// A canary in header and body, on connections of their own, each answered like that.
async fn send(client: &e2e::Client, url: &str, canary: &str, status: u16) -> anyhow::Result<()> {
    let header = format!("x-canary: {canary}");
    for answer in client.many(5, url, &["-H", &header, "-X", "POST", "-d", canary, "--fresh"]).await? {
        answer.expect(status)?;
    }
    Ok(())
}

/// Whether a canary shows in what crosses the application pod's interface on the node while `traffic` runs.
async fn seen_on_the_wire(
    ns: &Namespace,
    canary: &str,
    traffic: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let pods = ns.pods("app=web").await?;
    let at = ns.kubectl(&["get", "pod", &pods[0], "-o", "jsonpath={.status.podIP}"]).await?;
    let node = ns.kubectl(&["get", "pod", &pods[0], "-o", "jsonpath={.spec.nodeName}"]).await?;
    let process = ns.cluster.run("docker", &["inspect", "-f", "{{.State.Pid}}", &node]).await?;
    let enter = ["-t", process.trim(), "-n", crate::CLIENT, "sniff", "--address", &at];
    let capture =
        ns.cluster.spawn("nsenter", &[&enter[..], &["--canary", canary, "--seconds", "12"]].concat())?;
    pause(std::time::Duration::from_secs(2)).await;
    traffic().await?;
    let output = capture.wait_with_output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(said["packets"].as_u64().is_some_and(|count| count > 10), "the capture saw no traffic: {said}");
    Ok(said["seen"] == true)
}
