//! Issue 5, on the cluster: AuthorizationPolicy for connections that carry bytes. Who may, by account and by namespace; what asks
//! for a request's things is read as Istio reads it: an ALLOW rule that does lets nobody in, a DENY rule goes without it.

use anyhow::ensure;
use e2e::workload::App;
use e2e::{Answer, Client, Company, Namespace, eventually, test};

use crate::authorization::policy;

const BYTES: &str = "tcp://web:9000";
const HELLO: [&str; 4] = ["-d", "hello", "--timeout", "6"];

/// Those who ask: two accounts here, one in a namespace of its own.
struct Callers {
    anna: Client,
    bert: Client,
    carl: Client,
    /// Where Carl is.
    elsewhere: String,
    url: String,
}

#[test]
fn security_8_bytes_by_account_and_namespace() {
    test("security_8_bytes_by_account_and_namespace", Company::Welcome, async |ns| {
        ns.beside("else", async |elsewhere| {
            let callers = callers(ns, elsewhere).await?;
            callers.are(ns, "without a policy", [true, true, true]).await?;
            allow(ns, &callers).await?;
            deny(ns, &callers).await?;
            requests_things(ns, &callers).await
        })
        .await
    });
}

async fn callers(ns: &Namespace, elsewhere: &str) -> anyhow::Result<Callers> {
    ns.cluster.apply(elsewhere, &e2e::workload::client("carl", "")).await?;
    ns.apply(&e2e::workload::client("bert", "")).await?;
    ns.apply(&e2e::workload::client("anna", "")).await?;
    ns.deploy(&[App::new("web")]).await?;
    let ready = ["wait", "--for=condition=Ready", "pod/carl", "--timeout=180s", "-n", elsewhere];
    ns.cluster.kubectl(&ready).await?;
    Ok(Callers {
        anna: ns.client("anna").await?,
        bert: ns.client("bert").await?,
        carl: Client::new(ns.cluster.clone(), elsewhere, "carl"),
        elsewhere: elsewhere.to_owned(),
        url: format!("tcp://web.{}:9000", ns.name),
    })
}

impl Callers {
    /// Whose bytes come back (Anna's, Bert's, Carl's); whoever is not let in is cut off at once, without one of them.
    async fn are(&self, ns: &Namespace, when: &str, expected: [bool; 3]) -> anyhow::Result<()> {
        let outcome = eventually(when, async || {
            let (anna, bert, carl) = tokio::try_join!(
                self.anna.get(BYTES, &HELLO),
                self.bert.get(BYTES, &HELLO),
                self.carl.get(&self.url, &HELLO)
            )?;
            let passed = [passed(&anna)?, passed(&bert)?, passed(&carl)?];
            ensure!(passed == expected, "{passed:?}, not {expected:?}");
            Ok(())
        });
        outcome.await.map_err(|error| error.context(format!("bytes of Anna, Bert and Carl in {}", ns.name)))
    }
}

fn passed(answer: &Answer) -> anyhow::Result<bool> {
    if answer.body == "hello" {
        return Ok(answer.error.is_none());
    }
    let error = answer.error.as_deref().unwrap_or_default();
    ensure!(
        answer.body.is_empty() && !error.contains("no answer within"),
        "neither let in nor cut off: {answer:?}"
    );
    Ok(false)
}

/// One policy in place of the last one.
async fn replaced(ns: &Namespace, spec: &str) -> anyhow::Result<()> {
    ns.apply(&policy("bytes", spec)).await?;
    Ok(())
}

async fn allow(ns: &Namespace, callers: &Callers) -> anyhow::Result<()> {
    let anna = format!("cluster.local/ns/{}/sa/anna", ns.name);
    replaced(ns, &format!("  rules: [{{from: [{{source: {{principals: [{anna}]}}}}], to: [{{operation: {{ports: ['9000']}}}}]}}]")).await?;
    callers.are(ns, "ALLOW by account", [true, false, false]).await?;
    // The rule is about that port alone, and what no rule allows is denied.
    callers.anna.get("http://web/", &[]).await?.expect(403)?;
    let elsewhere = &callers.elsewhere;
    replaced(ns, &format!("  rules: [{{from: [{{source: {{namespaces: [{elsewhere}]}}}}]}}]")).await?;
    callers.are(ns, "ALLOW by namespace", [false, false, true]).await
}

async fn deny(ns: &Namespace, callers: &Callers) -> anyhow::Result<()> {
    let bert = format!("cluster.local/ns/{}/sa/bert", ns.name);
    let ports = "to: [{operation: {ports: ['9000']}}]";
    replaced(
        ns,
        &format!("  action: DENY\n  rules: [{{from: [{{source: {{principals: [{bert}]}}}}], {ports}}}]"),
    )
    .await?;
    callers.are(ns, "DENY by account", [true, false, true]).await?;
    callers.bert.get("http://web/", &[]).await?.expect(200)?;
    let elsewhere = &callers.elsewhere;
    replaced(
        ns,
        &format!("  action: DENY\n  rules: [{{from: [{{source: {{namespaces: [{elsewhere}]}}}}], {ports}}}]"),
    )
    .await?;
    callers.are(ns, "DENY by namespace", [true, true, false]).await
}

/// A method on a port that carries bytes.
async fn requests_things(ns: &Namespace, callers: &Callers) -> anyhow::Result<()> {
    let bert = format!("cluster.local/ns/{}/sa/bert", ns.name);
    let rule = format!(
        "  rules: [{{from: [{{source: {{principals: [{bert}]}}}}], to: [{{operation: {{methods: [GET]}}}}]}}]"
    );
    replaced(ns, &format!("  action: DENY\n{rule}")).await?;
    callers.are(ns, "DENY without its method", [true, false, true]).await?;
    // Where there are requests it is a matter of the method.
    callers.bert.get("http://web/", &[]).await?.expect(403)?;
    callers.bert.get("http://web/", &["-X", "POST"]).await?.expect(200)?;
    replaced(ns, &rule).await?;
    callers.are(ns, "ALLOW that asks for a method", [false, false, false]).await?;
    callers.bert.get("http://web/", &[]).await?.expect(200)?;
    callers.bert.get("http://web/", &["-X", "POST"]).await?.expect(403)?;
    ns.kubectl(&["delete", "authorizationpolicy", "bytes"]).await?;
    callers.are(ns, "without a policy again", [true, true, true]).await
}

/// Where the mesh writes an access log: a connection that is denied is a line with the rule that did it, and its flag is Envoy's
/// (none).
pub async fn denied_bytes_are_logged(ns: &Namespace, client: &Client) -> anyhow::Result<()> {
    let spec = "  action: DENY\n  rules: [{to: [{operation: {ports: ['1']}}]}, {to: [{operation: {ports: ['9000']}}]}]";
    ns.apply(&policy("keep-out", spec)).await?;
    let line = format!(
        "\"- - -\" 0 - - rbac_access_denied_matched_policy[ns[{}]-policy[keep-out]-rule[1]] \"-\" 0 0 ",
        ns.name
    );
    eventually("the policy is in the access log", async || {
        let answer = client.get(BYTES, &HELLO).await?;
        ensure!(!passed(&answer)?, "it is let in");
        let log = ns.kubectl(&["logs", "-l", "app=web", "-c", "istio-proxy", "--tail=50"]).await?;
        ensure!(log.contains(&line), "no {line} in: {log}");
        Ok(())
    })
    .await?;
    ns.kubectl(&["delete", "authorizationpolicy", "keep-out"]).await?;
    Ok(())
}
