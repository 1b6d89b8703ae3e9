//! A bad day: the definition of a custom resource is missing, or of an older version. What is restricted stays restricted.

use anyhow::{Context as _, bail, ensure};
use e2e::install::{alive_since, pilots, whole};
use e2e::workload::App;
use e2e::{Client, Cluster, Company, Namespace, cluster, eventually, finally, pause, test};
use serde_json::Value;

use crate::authorization::{admins_token, forged_token, tokens_of_admins};
use crate::meshctl::meshctl;

const CRD: &str = "requestauthentications.security.istio.io";

/// The kind that says whose tokens are valid is not served, then in its older version alone. The pilot names it and says what to
/// do, one that has never seen it starts without it, everything else goes on; and a forged token is worth nothing all the while.
#[test]
fn bad_days_a_crd_is_missing() {
    test("bad_days_a_crd_is_missing", Company::Alone, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web"), App::new("other")]).await?;
        ns.apply(&tokens_of_admins("v1")).await?;
        in_force(ns, &client, "v1").await?;
        ns.alone().await;
        let saved = definition(&ns.cluster).await?;
        let load = client.load("http://other/", &["--rate", "20"])?;
        let work = async {
            tokio::select! {
                done = async {
                    missing(ns, &client).await?;
                    older(ns, &client, &saved).await?;
                    never_seen(ns, &client).await
                } => done,
                error = believed(&client) => Err(error),
            }
        };
        finally(work, async || {
            remove(&ns.cluster).await?;
            // As Helm, whose definition it is: its next upgrade finds nobody else's fields.
            let apply = ["apply", "--server-side", "--field-manager=helm", "-f", "-"];
            ns.cluster.fed("kubectl", &apply, &saved.to_string()).await?;
            established(&ns.cluster).await
        })
        .await?;
        load.end().await?.nothing_lost("the neighbour", 100)?;
        ns.apply(&tokens_of_admins("v1")).await?;
        in_force(ns, &client, "v1").await?;
        let said = meshctl(&ns.cluster, &["status"]).await?;
        ensure!(!said.contains("CustomResourceDefinition"), "{said}");
        whole(&ns.cluster).await
    });
}

/// What `web` answers to a forged token and to an administrator's.
async fn answers(client: &Client) -> anyhow::Result<(u16, u16)> {
    let ask = async |token: &str| anyhow::Ok(client.get("http://web/", &["-H", token]).await?.status);
    Ok((ask(&forged_token()).await?, ask(&admins_token()).await?))
}

/// Why, as soon as a forged token is believed.
async fn believed(client: &Client) -> anyhow::Error {
    loop {
        // An API server that is busy with its definitions may cut an exec session.
        if let Ok(answer) = client.get("http://web/", &["-H", &forged_token()]).await
            && answer.status == 200
        {
            return anyhow::anyhow!("a forged token was believed: {answer:?}");
        }
        pause(std::time::Duration::from_millis(500)).await;
    }
}

/// Tokens are asked for, and the object says that it holds.
async fn in_force(ns: &Namespace, client: &Client, version: &str) -> anyhow::Result<()> {
    let what = format!("{}.{version}.security.istio.io", plural());
    eventually("tokens are checked", async || {
        let answers = answers(client).await?;
        ensure!(answers == (401, 200), "{answers:?}");
        let object = ns.json(&["get", &what, "web"]).await?;
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let mut programmed = conditions.filter(|condition| condition["type"] == "Programmed");
        let programmed = programmed.next().context("no condition yet")?;
        ensure!(programmed["status"] == "True", "{programmed}");
        Ok(())
    })
    .await
}

/// The neighbour's configuration changes.
async fn changes_arrive(ns: &Namespace, client: &Client, status: u16) -> anyhow::Result<()> {
    let other = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: other}}\nspec: {{hosts: [other], http: [\
         {{match: [{{uri: {{prefix: /changed}}}}], directResponse: {{status: {status}}}}}, {{route: [{{destination: {{host: other}}}}]}}]}}\n"
    );
    // Where the pilot was rolled out a moment ago the API server may call the webhook of one that has ended.
    eventually("a change is taken", async || ns.apply(&other).await).await?;
    eventually("a change arrives", async || client.get("http://other/changed", &[]).await?.expect(status))
        .await?;
    Ok(())
}

/// With the definition its objects go: nobody has a valid token any more, and nobody is let in.
async fn missing(ns: &Namespace, client: &Client) -> anyhow::Result<()> {
    let before = pilots(&ns.cluster).await?;
    remove(&ns.cluster).await?;
    eventually("no token is valid", async || {
        let answers = answers(client).await?;
        ensure!(answers == (403, 403), "{answers:?}");
        Ok(())
    })
    .await?;
    eventually("the pilot names it and says what to do", async || {
        let said = meshctl(&ns.cluster, &["status"]).await?;
        let line = said
            .lines()
            .find(|line| line.contains("CustomResourceDefinition"))
            .with_context(|| said.clone())?;
        for part in [
            "RequestAuthentication.security.istio.io",
            "does not serve",
            "security.istio.io/v1beta1",
            "chart `base`",
        ] {
            ensure!(line.contains(part), "no {part:?} in: {line}");
        }
        Ok(())
    })
    .await?;
    changes_arrive(ns, client, 418).await?;
    alive_since(&ns.cluster, &before).await
}

/// The definition comes back without its newer version, as an older chart would have it.
async fn older(ns: &Namespace, client: &Client, saved: &Value) -> anyhow::Result<()> {
    let before = pilots(&ns.cluster).await?;
    let mut older = saved.clone();
    let versions = older["spec"]["versions"].as_array_mut().context("a definition has versions")?;
    versions.retain(|version| version["name"] == "v1beta1");
    versions.first_mut().context("v1beta1 is there")?["storage"] = true.into();
    ns.cluster.fed("kubectl", &["create", "-f", "-"], &older.to_string()).await?;
    established(&ns.cluster).await?;
    let newer = format!("/apis/security.istio.io/v1/{}", plural());
    eventually("the newer version is not served any more", async || {
        match ns.cluster.told("kubectl", &["get", "--raw", &newer], "").await? {
            (false, said) if said.contains("NotFound") => Ok(()),
            other => bail!("{other:?}"),
        }
    })
    .await?;
    eventually("kubectl knows it", async || ns.apply(&tokens_of_admins("v1beta1")).await).await?;
    in_force(ns, client, "v1beta1").await?;
    alive_since(&ns.cluster, &before).await
}

/// It goes again, and a pilot starts that knows of it by name alone.
async fn never_seen(ns: &Namespace, client: &Client) -> anyhow::Result<()> {
    remove(&ns.cluster).await?;
    ns.cluster.kubectl(&["rollout", "restart", "deployment/mesh-pilot", "-n", cluster::SYSTEM]).await?;
    ns.cluster.rolled_out(cluster::SYSTEM, "deployment/mesh-pilot").await?;
    changes_arrive(ns, client, 451).await?;
    // The exec session may be cut, a forged token believed never: that is looked at all the while.
    eventually("no token is valid", async || {
        let answers = answers(client).await?;
        ensure!(answers == (403, 403), "{answers:?}");
        Ok(())
    })
    .await
}

fn plural() -> &'static str {
    CRD.split('.').next().unwrap_or(CRD)
}

/// As it is, without what the API server added.
async fn definition(cluster: &Cluster) -> anyhow::Result<Value> {
    let mut definition = cluster.json(&["get", "crd", CRD]).await?;
    let fields = definition.as_object_mut().context("an object")?;
    fields.remove("status");
    let metadata = fields["metadata"].as_object_mut().context("an object has metadata")?;
    metadata.retain(|name, _| ["name", "labels", "annotations"].contains(&name.as_str()));
    Ok(definition)
}

async fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl(&["delete", "crd", CRD, "--ignore-not-found", "--timeout=60s"]).await?;
    Ok(())
}

async fn established(cluster: &Cluster) -> anyhow::Result<()> {
    let crd = format!("crd/{CRD}");
    cluster.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=60s"]).await?;
    Ok(())
}
