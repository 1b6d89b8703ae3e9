//! Item 5: what cannot be in force is refused when it is applied, with what is wrong; what is doubtful is taken with a warning.

use anyhow::ensure;
use e2e::{Company, test};

#[test]
fn item_5_refused_with_the_reason() {
    test("item_5_refused_with_the_reason", Company::Welcome, async |ns| {
        // The fail policy is Istio's: open until the pilot answers, closed from then on.
        e2e::install::closed(&ns.cluster).await?;
        let bad = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n  hosts: [web]\n  http:\n  - match: [{uri: {regex: \"(\"}}]\n    route: [{destination: {host: web}}]\n";
        let said = ns.refused(bad).await?;
        ensure!(said.contains("regex"), "the refusal does not name the field: {said}");
        let filter = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: bad}\nspec: {configPatches: []}\n";
        let said = ns.refused(filter).await?;
        ensure!(said.contains("EnvoyFilter"), "{said}");
        Ok(())
    });
}

#[test]
fn item_5_doubtful_with_a_warning() {
    test("item_5_doubtful_with_a_warning", Company::Welcome, async |ns| {
        let doubtful = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: doubtful}\nspec:\n  hosts: [web]\n  http:\n  - route: [{destination: {host: web}, weight: -5}, {destination: {host: web}, weight: 100}]\n";
        let arguments = ["apply", "-n", &ns.name, "-f", "-"];
        let mut command = ns.cluster.command("kubectl", &arguments);
        command.stdin(std::process::Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            tokio::io::AsyncWriteExt::write_all(&mut stdin, doubtful.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        let warned = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{warned}");
        ensure!(warned.contains("Warning"), "no warning: {warned}");
        Ok(())
    });
}

/// Kinds that are known and not in force yet are refused by name: nobody is to believe that a policy holds.
#[test]
fn item_5_what_is_not_in_force_yet_is_refused() {
    test("item_5_what_is_not_in_force_yet_is_refused", Company::Welcome, async |ns| {
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: web}\nspec:\n  action: CUSTOM\n  provider: {name: elsewhere}\n  rules: [{from: [{source: {requestPrincipals: ['*']}}]}]\n";
        let said = ns.refused(policy).await?;
        ensure!(said.contains("requestPrincipals with CUSTOM"), "{said}");
        let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: partner}\nspec: {hosts: ['*.example.com'], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DYNAMIC_DNS}\n";
        let said = ns.refused(entry).await?;
        ensure!(said.contains("DYNAMIC_DNS is not in force yet"), "{said}");
        Ok(())
    });
}
