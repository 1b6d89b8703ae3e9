//! Issue 5, on the cluster: AuthorizationPolicy CUSTOM with a provider of MeshConfig, asked by HTTP and by gRPC, as a user
//! edits the ConfigMap `istio`.

use std::time::Duration;

use anyhow::ensure;
use e2e::eventually::within;
use e2e::workload::App;
use e2e::{Company, Namespace, cluster, test};
use serde_json::json;

/// A mounted ConfigMap arrives when the kubelet looks again.
const MOUNTED: Duration = Duration::from_secs(240);

fn policy(provider: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: ask}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  action: CUSTOM\n  provider: {{name: {provider}}}\n  rules: [{{to: [{{operation: {{paths: [/headers]}}}}]}}]\n"
    )
}

fn providers(namespace: &str) -> String {
    let service = format!("ext-authz.{namespace}.svc.cluster.local");
    format!(
        "extensionProviders:\n- name: by-http\n  envoyExtAuthzHttp: {{service: {service}, port: 80, includeRequestHeadersInCheck: [x-ext-authz], headersToUpstreamOnAllow: [x-ext-authz-check-result]}}\n- name: by-grpc\n  envoyExtAuthzGrpc: {{service: {service}, port: 80}}\n"
    )
}

async fn write(ns: &Namespace, mesh: &str) -> anyhow::Result<()> {
    let patch = json!({"data": {"mesh": mesh}}).to_string();
    let arguments = ["patch", "configmap", "istio", "-n", cluster::SYSTEM, "--type", "merge", "-p", &patch];
    ns.cluster.kubectl(&arguments).await.map(|_| ())
}

async fn story(ns: &Namespace) -> anyhow::Result<()> {
    // It says no to whoever asks, the kubelet too.
    let probe = "        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n";
    let decider = App::new("ext-authz").environment("EXT_AUTHZ", "true").container(probe);
    ns.deploy(&[App::new("web"), decider]).await?;
    let client = ns.client("client").await?;
    client.get("http://web/headers", &[]).await?.expect(200)?;
    for provider in ["by-http", "by-grpc"] {
        ns.apply(&policy(provider)).await?;
        within(MOUNTED, "the provider denies", async || {
            let answer = client.get("http://web/headers", &[]).await?.expect(403)?;
            ensure!(answer.body.contains("denied by ext_authz"), "{}", answer.body);
            Ok(())
        })
        .await?;
        let answer = client.get("http://web/headers", &["-H", "x-ext-authz: allow"]).await?.expect(200)?;
        ensure!(answer.json()["headers"]["x-ext-authz-check-result"] == "allowed", "{}", answer.body);
        client.get("http://web/", &[]).await?.expect(200)?;
    }
    ns.apply(&policy("nobody")).await?;
    within(MOUNTED, "nobody can be asked", async || {
        client.get("http://web/headers", &["-H", "x-ext-authz: allow"]).await?.expect(403)
    })
    .await?;
    client.get("http://web/", &[]).await?.expect(200)?;
    ns.kubectl(&["delete", "authorizationpolicy", "ask"]).await?;
    within(MOUNTED, "open again", async || client.get("http://web/headers", &[]).await?.expect(200)).await?;
    Ok(())
}

#[test]
fn security_8_somebody_else_decides() {
    test("security_8_somebody_else_decides", Company::Operator, async |ns| {
        let read = ["get", "configmap", "istio", "-n", cluster::SYSTEM, "-o", "jsonpath={.data.mesh}"];
        let before = ns.cluster.kubectl(&read).await?;
        ensure!(!before.contains("extensionProviders"), "somebody else has providers: {before}");
        // What the chart writes is a map of lines, or an empty one.
        let added = format!("{}\n{}", before.trim().trim_start_matches("{}"), providers(&ns.name));
        write(ns, &added).await?;
        let told = story(ns).await;
        write(ns, &before).await?;
        told
    });
}
