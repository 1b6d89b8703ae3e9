//! Issue 5, on the cluster: AuthorizationPolicy CUSTOM with a provider of MeshConfig, asked by HTTP and by gRPC, as a user
//! adds it to the release's values.

use std::time::Duration;

use anyhow::ensure;
use e2e::eventually::within;
use e2e::install::{chart, image_values};
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
    json!([
        {"name": "by-http", "envoyExtAuthzHttp": {"service": service, "port": 80,
            "includeRequestHeadersInCheck": ["x-ext-authz"],
            "headersToUpstreamOnAllow": ["x-ext-authz-check-result"]}},
        {"name": "by-grpc", "envoyExtAuthzGrpc": {"service": service, "port": 80}},
    ])
    .to_string()
}

/// The release with these providers. (A ConfigMap that is patched by hand is in the way of the next upgrade.)
async fn upgrade(ns: &Namespace, providers: &str) -> anyhow::Result<()> {
    let (path, images) = (chart("control-plane"), image_values());
    let mut arguments = vec!["upgrade", "mesh", &path, "-n", cluster::SYSTEM, "--reuse-values", "--wait"];
    for value in &images {
        arguments.extend(["--set", value]);
    }
    let value = format!("meshConfig.extensionProviders={providers}");
    arguments.extend(["--set-json", &value]);
    ns.cluster.run("helm", &arguments).await.map(|_| ())
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
        upgrade(ns, &providers(&ns.name)).await?;
        let told = story(ns).await;
        ns.cluster.run("helm", &["rollback", "mesh", "-n", cluster::SYSTEM, "--wait"]).await?;
        told
    });
}
