//! A bad day: five hundred invalid objects at once, past the webhook.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::install::{alive_since, closed, pilots};
use e2e::workload::App;
use e2e::{Client, Company, Namespace, cluster, eventually, finally, pause, test, within};
use serde_json::{Value, json};

use crate::meshctl::meshctl;

/// How long a change may take beside the flood; alone it takes a second or two.
const PROMPT: Duration = Duration::from_secs(30);
const FLOOD: usize = 500;

/// Somebody stores five hundred objects that the schema takes and the mesh does not, some of them for a neighbour's host. Each is
/// told by name; the neighbour's requests, changes and statuses go on as if they were not there.
#[test]
fn bad_days_five_hundred_invalid_objects() {
    test("bad_days_five_hundred_invalid_objects", Company::Welcome, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        closed(&ns.cluster).await?;
        ns.apply(&answers_itself(201)).await?;
        eventually("it serves", async || answer(&client, 201).await).await?;
        let before = pilots(&ns.cluster).await?;
        let load = client.load("http://web/", &["--rate", "20"])?;
        ns.beside("flood", async |flood| Box::pin(flooded(ns, flood, &client)).await).await?;
        load.end().await?.nothing_lost("the neighbour", 100)?;
        alive_since(&ns.cluster, &before).await?;
        let said = ns.refused(&invalid(0, "web")).await?;
        ensure!(said.contains("regex"), "{said}");
        Ok(())
    });
}

async fn flooded(ns: &Namespace, flood: &str, client: &Client) -> anyhow::Result<()> {
    let work = async {
        webhook_leaves_out(ns, Some(flood)).await?;
        let (stored, changed) = tokio::join!(store(ns, flood), change(ns, client));
        stored?;
        changed?;
        undisturbed(ns, client).await?;
        refused_by_name(ns, flood).await
    };
    finally(work, async || {
        webhook_leaves_out(ns, None).await?;
        let delete = ["delete", "virtualservices", "-n", flood, "--all", "--wait=false"];
        ns.cluster.kubectl(&delete).await.map(drop)
    })
    .await?;
    eventually("nothing is told of what is gone", async || {
        let left = refused(ns, flood).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}

fn invalid(number: usize, neighbour: &str) -> String {
    let host = if number.is_multiple_of(10) { neighbour.to_owned() } else { format!("web-{number}") };
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: bad-{number}}}\n\
         spec: {{hosts: [{host}], http: [{{match: [{{uri: {{regex: \"(\"}}}}], directResponse: {{status: 500}}}}]}}\n"
    )
}

/// All of them.
async fn store(ns: &Namespace, flood: &str) -> anyhow::Result<()> {
    let neighbour = format!("web.{}.svc.cluster.local", ns.name);
    // The API server hears of the webhook's new limits a little later than we.
    let first = invalid(0, &neighbour);
    eventually("the webhook is not asked", async || ns.cluster.apply(flood, &first).await).await?;
    let all: String = (1..FLOOD).map(|number| invalid(number, &neighbour)).collect();
    ns.cluster.fed("kubectl", &["create", "-n", flood, "-f", "-"], &all).await?;
    Ok(())
}

/// The neighbour's: to requests with a header it answers itself.
fn answers_itself(status: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\nspec: {{hosts: [web], http: [\
         {{match: [{{headers: {{good: {{exact: \"yes\"}}}}}}], directResponse: {{status: {status}}}}}, {{route: [{{destination: {{host: web}}}}]}}]}}\n"
    )
}

async fn answer(client: &Client, status: u16) -> anyhow::Result<()> {
    client.get("http://web/", &["-H", "good: yes"]).await?.expect(status).map(drop)
}

/// While they are being stored.
async fn change(ns: &Namespace, client: &Client) -> anyhow::Result<()> {
    pause(Duration::from_secs(1)).await;
    ns.apply(&answers_itself(202)).await?;
    within(PROMPT, "a change while they come", async || answer(client, 202).await).await
}

/// While hundreds of statuses are still to be written.
async fn undisturbed(ns: &Namespace, client: &Client) -> anyhow::Result<()> {
    ns.apply(&answers_itself(203)).await?;
    let (changed, told) = tokio::join!(
        within(PROMPT, "a change when they are there", async || answer(client, 203).await),
        within(PROMPT, "its status", async || programmed(ns).await),
    );
    changed?;
    told
}

/// The validating webhook is asked about everything, but for this namespace.
async fn webhook_leaves_out(ns: &Namespace, namespace: Option<&str>) -> anyhow::Result<()> {
    let name = format!("istio-validator-{}", cluster::SYSTEM);
    let found = ns.cluster.json(&["get", "validatingwebhookconfiguration", &name]).await?;
    let selector = namespace.map_or(json!({}), |namespace| {
        let others =
            json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [namespace]});
        json!({"matchExpressions": [others]})
    });
    let mut patch = Vec::new();
    for (index, webhook) in found["webhooks"].as_array().into_iter().flatten().enumerate() {
        let at = |field: &str| format!("/webhooks/{index}/{field}");
        patch.push(json!({"op": "test", "path": at("name"), "value": webhook["name"]}));
        patch.push(json!({"op": "add", "path": at("namespaceSelector"), "value": selector}));
    }
    let patch = json!(patch).to_string();
    let arguments = ["patch", "validatingwebhookconfiguration", &name, "--type=json", "-p", &patch];
    eventually("the webhook's limits are changed", async || ns.cluster.kubectl(&arguments).await).await?;
    Ok(())
}

/// Of the neighbour's: its newest version is told of.
async fn programmed(ns: &Namespace) -> anyhow::Result<()> {
    let object = ns.json(&["get", "virtualservice", "web"]).await?;
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut of = conditions.filter(|condition| condition["type"] == "Programmed");
    let condition = of.next().context("no condition yet")?;
    let generation = &object["metadata"]["generation"];
    ensure!(condition["observedGeneration"] == *generation, "{condition} at {generation}");
    ensure!(condition["status"] == "True", "{condition}");
    Ok(())
}

/// What `meshctl status` says is refused there: name and reason.
async fn refused(ns: &Namespace, flood: &str) -> anyhow::Result<Vec<(String, String)>> {
    let said = meshctl(&ns.cluster, &["status", "-n", flood, "-o", "json"]).await?;
    let said: Value = serde_json::from_str(&said)?;
    let all = said["resources"].as_array().into_iter().flatten();
    let refused = all.filter(|one| one["state"] == "refused");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(refused.map(|one| (text(&one["name"]), text(&one["message"]))).collect())
}

/// Each of them, and why; and the first objects say so themselves.
async fn refused_by_name(ns: &Namespace, flood: &str) -> anyhow::Result<()> {
    eventually("each is told by name", async || {
        let told = refused(ns, flood).await?;
        let is_told = |name: &str| told.iter().any(|(of, why)| of == name && why.contains("regex"));
        let named = (0..FLOOD).filter(|number| is_told(&format!("bad-{number}"))).count();
        ensure!(named == FLOOD && told.len() == FLOOD, "{named} of {}: {:?}", told.len(), told.first());
        Ok(())
    })
    .await?;
    eventually("objects say so themselves", async || {
        let objects = ns.cluster.json(&["get", "virtualservices", "-n", flood]).await?;
        let objects = objects["items"].as_array().cloned().unwrap_or_default();
        let conditions = objects.iter().flat_map(|one| one["status"]["conditions"].as_array()).flatten();
        let accepted: Vec<_> = conditions.filter(|condition| condition["type"] == "Accepted").collect();
        ensure!(!accepted.is_empty(), "none yet");
        let why = |condition: &Value| condition["message"].as_str().is_some_and(|why| why.contains("regex"));
        let good = accepted.iter().all(|condition| condition["status"] == "False" && why(condition));
        ensure!(good, "{:?}", accepted.first());
        Ok(())
    })
    .await
}
