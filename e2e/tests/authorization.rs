//! Issue 5, on the cluster: AuthorizationPolicy for requests, and tokens, each with `kubectl` as a user would.

use anyhow::ensure;
use e2e::workload::App;
use e2e::{Company, Namespace, eventually, test};

/// An AuthorizationPolicy of `web`.
pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n{spec}\n"
    )
}

/// Of the bundled example: a key, and two tokens that it has signed.
const POLICIES: &str = include_str!("../../mesh-cli/examples/security/policies.yaml");
const TOKENS: &str = include_str!("../../mesh-cli/examples/security/tokens.md");

fn token(name: &str) -> String {
    let line = TOKENS.lines().find(|line| line.starts_with(&format!("export {name}=")));
    line.and_then(|line| line.split_once('=')).map(|(_, token)| token.to_owned()).expect("the example has it")
}

/// The header with an administrator's token.
pub fn admins_token() -> String {
    format!("authorization: Bearer {}", token("BOB"))
}

/// The same with a signature that is not the issuer's.
pub fn forged_token() -> String {
    let token = admins_token();
    let (signed, signature) = token.rsplit_once('.').expect("a token has three parts");
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed}.{other}{}", &signature[1..])
}

/// The header with the token of somebody who may only read.
pub fn readers_token() -> String {
    format!("authorization: Bearer {}", token("ALICE"))
}

/// Whose tokens are valid at the workload `app`.
pub fn tokens_at(app: &str) -> String {
    let rules = POLICIES.split("---\n").find(|part| part.contains("kind: RequestAuthentication"));
    rules.expect("the example has it").replace("files", app)
}

/// Whose tokens are valid at `web`, in this version of the API; and that only administrators are let in.
pub fn tokens_of_admins(version: &str) -> String {
    let rules = tokens_at("web");
    let rules = rules.replace("security.istio.io/v1", &format!("security.istio.io/{version}"));
    let admins = "  rules:\n  - when: [{key: 'request.auth.claims[role]', values: [admin]}]";
    format!("{rules}---\n{}", policy("admins", admins))
}

#[test]
fn security_8_authorization_by_identity_and_attribute() {
    test("security_8_authorization_by_identity_and_attribute", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let client = ns.client("client").await?;
        client.get("http://web/", &[]).await?.expect(200)?;
        let identity = format!("cluster.local/ns/{}/sa/client", ns.name);
        let rules = format!(
            "  rules:\n  - from: [{{source: {{principals: [{identity}]}}}}]\n    to: [{{operation: {{methods: [GET], notPaths: [/admin]}}}}]"
        );
        ns.apply(&policy("readers", &rules)).await?;
        eventually("what is not allowed is denied", async || {
            client.get("http://web/admin", &[]).await?.expect(403)
        })
        .await?;
        let denied = client.get("http://web/%61dmin", &[]).await?.expect(403)?;
        ensure!(denied.body == "RBAC: access denied", "{}", denied.body);
        client.get("http://web/", &[]).await?.expect(200)?;
        let deny =
            "  action: DENY\n  rules:\n  - when: [{key: 'request.headers[x-team]', notValues: [operators]}]";
        ns.apply(&policy("operators", deny)).await?;
        eventually("an attribute is demanded", async || client.get("http://web/", &[]).await?.expect(403))
            .await?;
        client.get("http://web/", &["-H", "x-team: operators"]).await?.expect(200)?;
        ns.kubectl(&["delete", "authorizationpolicy", "--all"]).await?;
        eventually("open again", async || client.get("http://web/admin", &[]).await?.expect(200)).await?;
        Ok(())
    });
}

async fn tokens(ns: &Namespace) -> anyhow::Result<()> {
    ns.deploy(&[App::new("web")]).await?;
    let client = ns.client("client").await?;
    ns.apply(&tokens_of_admins("v1")).await?;
    eventually("without a token nobody is let in", async || {
        client.get("http://web/", &[]).await?.expect(403)
    })
    .await?;
    let get = async |token: &str| client.get("http://web/", &["-H", token]).await;
    let bob = get(&admins_token()).await?.expect(200)?;
    ensure!(bob.json()["headers"]["x-user"] == "bob", "{}", bob.body);
    get(&readers_token()).await?.expect(403)?;
    get(&forged_token()).await?.expect(401)?;
    Ok(())
}

#[test]
fn security_8_tokens() {
    test("security_8_tokens", Company::Welcome, async |ns| tokens(ns).await);
}
