//! Routing on the cluster: weights, headers, subsets, timeouts and retries of VirtualService and DestinationRule.

use anyhow::ensure;
use e2e::workload::App;
use e2e::{Client, Company, Namespace, eventually, test};

use crate::authorization::{admins_token, forged_token, readers_token, tokens_at};

const SUBSETS: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

async fn two_versions(ns: &Namespace) -> anyhow::Result<Client> {
    ns.apply(SUBSETS).await?;
    ns.deploy_with_client(&[App::new("web"), App::new("web").version("v2")]).await
}

fn route(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: web}}\n\
         spec:\n  hosts: [web]\n  http:\n{http}"
    )
}

/// How many of `count` requests each version answers.
async fn versions(client: &Client, count: u32, options: &[&str]) -> anyhow::Result<(usize, usize)> {
    let answers = client.many(count, "http://web/", options).await?;
    for answer in &answers {
        ensure!(answer.status == 200, "{answer:?}");
    }
    let of = |version: &str| answers.iter().filter(|answer| answer.version() == version).count();
    Ok((of("v1"), of("v2")))
}

/// Weights, then only a subset, then by header: each in force without a lost request.
#[test]
fn routing_weights_subsets_and_headers() {
    test("routing_weights_subsets_and_headers", Company::Welcome, async |ns| {
        let client = two_versions(ns).await?;
        let to = |subset: &str, weight: u32| {
            format!("    - {{destination: {{host: web, subset: {subset}}}, weight: {weight}}}\n")
        };
        ns.apply(&route(&format!("  - route:\n{}{}", to("v1", 100), to("v2", 0)))).await?;
        eventually("all to v1", async || {
            let (one, two) = versions(&client, 40, &[]).await?;
            ensure!((one, two) == (40, 0), "v1 {one}, v2 {two}");
            Ok(())
        })
        .await?;
        ns.apply(&route(&format!("  - route:\n{}{}", to("v1", 80), to("v2", 20)))).await?;
        eventually("80 to 20", async || {
            let (one, two) = versions(&client, 300, &[]).await?;
            // Six standard deviations around 60 of 300.
            ensure!((19..=101).contains(&two), "v1 {one}, v2 {two}");
            Ok(())
        })
        .await?;
        let by_header = "  - match: [{headers: {end-user: {exact: jason}}}]\n    route:\n    - {destination: {host: web, subset: v2}}\n\
                         \x20 - route:\n    - {destination: {host: web, subset: v1}}\n";
        ns.apply(&route(by_header)).await?;
        eventually("by header", async || {
            let (one, two) = versions(&client, 30, &["-H", "end-user: jason"]).await?;
            ensure!((one, two) == (0, 30), "with the header: v1 {one}, v2 {two}");
            let (one, two) = versions(&client, 30, &[]).await?;
            ensure!((one, two) == (30, 0), "without: v1 {one}, v2 {two}");
            Ok(())
        })
        .await
    });
}

/// The role in a token chooses the version, at the sidecar of a caller whose workload believes the token: others' rules count for
/// nothing there, and a forged token is refused by nobody but says nothing.
#[test]
fn routing_on_claims_at_sidecars() {
    test("routing_on_claims_at_sidecars", Company::Welcome, async |ns| {
        let client = two_versions(ns).await?;
        ns.kubectl(&["label", "pod", "client", "app=client"]).await?;
        let by_role = "  - match: [{headers: {'@request.auth.claims.role': {exact: admin}}}]\n    route:\n    - {destination: {host: web, subset: v2}}\n\
                       \x20 - match: [{uri: {exact: /stranger}, withoutHeaders: {'@request.auth.claims.sub': {}}}]\n    route:\n    - {destination: {host: web, subset: v2}}\n\
                       \x20 - route:\n    - {destination: {host: web, subset: v1}}\n";
        ns.apply(&route(by_role)).await?;
        let (admin, reader, forged) = (admins_token(), readers_token(), forged_token());
        let all_to = async |what: &str, url: &str, header: &str, expected: &str| {
            let options: &[&str] = if header.is_empty() { &[] } else { &["-H", header] };
            for answer in client.many(20, url, options).await? {
                let (status, version) = (answer.status, answer.version());
                ensure!(
                    (status, version) == (200, expected),
                    "{what}: {status} of {version}, not {expected}"
                );
            }
            Ok(())
        };
        let (web, stranger) = ("http://web/", "http://web/stranger");
        eventually("without a rule a token is none", async || {
            all_to("an admin", web, &admin, "v1").await?;
            all_to("an admin", stranger, &admin, "v2").await
        })
        .await?;
        ns.apply(&tokens_at("client")).await?;
        eventually("an administrator's token is believed", async || {
            all_to("an admin", web, &admin, "v2").await
        })
        .await?;
        all_to("a reader", web, &reader, "v1").await?;
        all_to("a forged token", web, &forged, "v1").await?;
        all_to("no token", web, "", "v1").await?;
        all_to("a field", web, "request.auth.claims.role: admin", "v1").await?;
        all_to("a reader", stranger, &reader, "v1").await?;
        all_to("no token", stranger, "", "v2").await?;
        let answer = client.get(web, &["-H", &admin]).await?.expect(200)?;
        let sent = answer.json()["headers"]["authorization"].clone();
        ensure!(
            format!("authorization: {}", sent.as_str().unwrap_or_default()) == admin,
            "it went on as {sent}"
        );
        ns.kubectl(&["delete", "requestauthentication", "--all"]).await?;
        eventually("its rule is gone", async || all_to("an admin", web, &admin, "v1").await).await
    });
}

/// A timeout ends a slow answer with 504; without it the answer comes.
#[test]
fn routing_timeouts() {
    test("routing_timeouts", Company::Welcome, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        client.get("http://web/delay/1.5", &[]).await?.expect(200)?;
        ns.apply(&route("  - timeout: 0.5s\n    route: [{destination: {host: web}}]\n")).await?;
        eventually("the timeout is in force", async || {
            client.get("http://web/delay/1.5", &[]).await?.expect(504)
        })
        .await?;
        client.get("http://web/", &[]).await?.expect(200)?;
        Ok(())
    });
}

/// Half of the instances answer 503: with retries on 503 none is seen, without them they are.
#[test]
fn routing_retries() {
    test("routing_retries", Company::Welcome, async |ns| {
        let apps = [App::new("web").replicas(2)];
        let (client, outside) = tokio::try_join!(ns.deploy_with_client(&apps), ns.client("operator"))?;
        let broken = ns.pods("app=web").await?.remove(0);
        crate::failover::fault(ns, &outside, &broken, r#"{"status":503}"#).await?;
        let policy = |retries: &str| {
            route(&format!("  - route: [{{destination: {{host: web}}}}]\n    retries: {retries}\n"))
        };
        ns.apply(&policy("{attempts: 0}")).await?;
        eventually("without retries failures are seen", async || {
            let answers = client.many(30, "http://web/", &[]).await?;
            ensure!(answers.iter().any(|answer| answer.status == 503), "none of 30 failed");
            Ok(())
        })
        .await?;
        ns.apply(&policy("{attempts: 3, retryOn: \"5xx\"}")).await?;
        eventually("with retries none is seen", async || {
            let answers = client.many(60, "http://web/", &[]).await?;
            let failed = answers.iter().filter(|answer| answer.status != 200).count();
            ensure!(failed == 0, "{failed} of 60 failed");
            Ok(())
        })
        .await
    });
}

/// HTTP/2, gRPC and plain TCP go through the mesh as HTTP/1.1 does, each with the caller's identity checked on the way.
#[test]
fn routing_every_protocol() {
    test("routing_every_protocol", Company::Welcome, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        let answer = client.get("h2c://web/", &[]).await?.expect(200)?;
        ensure!(answer.json()["protocol"] == "HTTP/2", "{answer:?}");
        client.get("grpc://web:81", &["-d", "hello"]).await?.expect(200)?;
        let back = client.get("tcp://web:9000", &["-d", "echo this"]).await?.expect(200)?;
        ensure!(back.body.contains("echo this"), "{back:?}");
        let unknown = client.get("http://no-such-service.invalid/", &[]).await?;
        ensure!(unknown.status != 200, "{unknown:?}");
        Ok(())
    });
}
