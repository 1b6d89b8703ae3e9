//! Item 6: conditions on each resource: Accepted, Programmed with counts, reasons; foreign fields are kept.

use anyhow::{Context as _, ensure};
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, test};
use serde_json::Value;

async fn condition(ns: &Namespace, what: &[&str], kind: &str) -> anyhow::Result<Value> {
    let object = ns.json(&[&["get"], what].concat()).await?;
    let conditions = object["status"]["conditions"].as_array().context("no conditions yet")?;
    let found = conditions.iter().find(|condition| condition["type"] == kind);
    found.cloned().with_context(|| format!("no condition {kind}: {}", object["status"]))
}

fn route(host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\nspec:\n  hosts: [web]\n  http: [{{route: [{{destination: {{host: {host}}}}}]}}]\n"
    )
}

#[test]
fn item_6_accepted_and_programmed() {
    test("item_6_accepted_and_programmed", Company::Welcome, async |ns| {
        ns.apply(&route("web")).await?;
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        client.get("http://web/", &[]).await?.expect(200)?;
        eventually("Accepted and Programmed", async || {
            let accepted = condition(ns, &["virtualservice", "web"], "Accepted").await?;
            ensure!(accepted["status"] == "True", "{accepted}");
            let programmed = condition(ns, &["virtualservice", "web"], "Programmed").await?;
            ensure!(programmed["status"] == "True", "{programmed}");
            ensure!(
                programmed["message"].as_str().is_some_and(|m| m.contains(|c: char| c.is_ascii_digit())),
                "no counts: {programmed}"
            );
            ensure!(programmed["observedGeneration"].is_number(), "{programmed}");
            Ok(())
        })
        .await?;
        // Another controller's condition stays.
        ns.kubectl(&[
            "patch", "virtualservice", "web", "--subresource=status", "--type=json", "-p",
            r#"[{"op":"add","path":"/status/conditions/-","value":{"type":"Foreign","status":"True","reason":"Kept","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}}]"#,
        ])
        .await?;
        ns.kubectl(&[
            "patch",
            "virtualservice",
            "web",
            "--type=merge",
            "-p",
            r#"{"spec":{"http":[{"timeout":"3s","route":[{"destination":{"host":"web"}}]}]}}"#,
        ])
        .await?;
        eventually("the new generation is told, the foreign condition kept", async || {
            let generation =
                ns.json(&["get", "virtualservice", "web"]).await?["metadata"]["generation"].clone();
            let programmed = condition(ns, &["virtualservice", "web"], "Programmed").await?;
            ensure!(programmed["observedGeneration"] == generation, "{programmed} at {generation}");
            condition(ns, &["virtualservice", "web"], "Foreign").await
        })
        .await?;
        Ok(())
    });
}

#[test]
fn item_6_what_is_not_in_force_says_why() {
    test("item_6_what_is_not_in_force_says_why", Company::Welcome, async |ns| {
        ns.apply(&route("no-such-service")).await?;
        eventually("a route to nowhere says so", async || {
            let object = ns.json(&["get", "virtualservice", "web"]).await?;
            ensure!(object["status"].to_string().contains("no-such-service"), "{}", object["status"]);
            Ok(())
        })
        .await
    });
}
