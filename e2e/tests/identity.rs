//! Item 7: identity from projected tokens, trust bundles in every namespace; a pod that claims another's identity gets none.

use anyhow::ensure;
use e2e::images::image;
use e2e::workload::App;
use e2e::{Company, Namespace, cluster, eventually, test};
use serde_json::{Value, json};

use crate::gateways::{install, own, secret};
use crate::meshctl::meshctl;

#[test]
fn item_7_the_roots_are_in_every_namespace() {
    test("item_7_the_roots_are_in_every_namespace", Company::Welcome, async |ns| {
        let path = ["get", "configmap", "istio-ca-root-cert", "-o", "jsonpath={.data.root-cert\\.pem}"];
        let here = ns.kubectl(&path).await?;
        ensure!(here.contains("BEGIN CERTIFICATE"), "{here}");
        let there = ns.cluster.kubectl(&[&["-n", cluster::SYSTEM], &path[..]].concat()).await?;
        ensure!(here == there, "the roots differ");
        ns.kubectl(&["delete", "configmap", "istio-ca-root-cert"]).await?;
        eventually("a deleted one comes back", async || {
            let again = ns.kubectl(&path).await?;
            ensure!(again == here, "it differs");
            Ok(())
        })
        .await
    });
}

/// Two accounts, two identities: the application sees the account of the pod that calls.
#[test]
fn item_7_identities_are_the_accounts() {
    test("item_7_identities_are_the_accounts", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        for account in ["anna", "bert"] {
            let client = ns.client(account).await?;
            let expected = format!("spiffe://cluster.local/ns/{}/sa/{account}", ns.name);
            eventually("the identity arrives", async || {
                // What a client says of itself does not count.
                let claim = ["-H", "x-forwarded-client-cert: URI=spiffe://cluster.local/ns/x/sa/admin"];
                let answer = client.get("http://web/", &claim).await?.expect(200)?;
                ensure!(answer.json()["peer"] == expected, "{}", answer.json()["peer"]);
                let xfcc = answer.json()["headers"]["x-forwarded-client-cert"].to_string();
                ensure!(!xfcc.contains("sa/admin"), "the claim came through: {xfcc}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

/// Two pods that claim to be somebody else. One says another account: the authority goes by its token and gives it its own
/// identity, which is not what its proxy was told to be, so that it serves nothing. The other one says that it is a gateway's pod:
/// its certificate is its own, and the pilot tells it nothing of that gateway. Both are in the logs, and nobody else is disturbed.
#[test]
fn bad_days_a_pod_that_claims_anothers_identity() {
    test("bad_days_a_pod_that_claims_anothers_identity", Company::Welcome, async |ns| {
        let authority = e2e::pki::Authority::new("shop")?;
        secret(ns, "shop-cert", &authority.sign(&["shop.example.com"])?, None).await?;
        ns.apply(&own(ns, SHOP)).await?;
        install(ns, "istio-edge", &["service.type=ClusterIP"]).await?;
        ns.deploy(&[App::new("web")]).await?;
        let honest = ns.client("honest").await?;
        let gateway = ns.pods("istio=edge").await?.remove(0);
        // The user's own container of that name is merged into the injected one, its environment wins.
        let liar = e2e::workload::client("liar", "").replace(
            "  containers:\n",
            "  initContainers:\n  - {name: istio-proxy, image: auto, env: [{name: SERVICE_ACCOUNT, value: honest}]}\n  containers:\n",
        );
        ns.apply(&format!("{liar}---\n{}", thief(&gateway))).await?;
        another_account(ns).await?;
        another_pod(ns, &gateway).await?;
        let expected = format!("spiffe://cluster.local/ns/{}/sa/honest", ns.name);
        let answer = honest.get("http://web/", &[]).await?.expect(200)?;
        ensure!(answer.json()["peer"] == expected, "{answer:?}");
        Ok(())
    });
}

const SHOP: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: SIMPLE, credentialName: shop-cert}}]
";

/// A proxy as the gateway's chart starts it, with an account of its own and the name of another pod.
fn thief(gateway: &str) -> String {
    format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: thief}}
---
apiVersion: v1
kind: Pod
metadata: {{name: thief, labels: {{sidecar.istio.io/inject: \"false\"}}}}
spec:
  serviceAccountName: thief
  terminationGracePeriodSeconds: 2
  securityContext: {{runAsUser: 1337, runAsGroup: 1337, fsGroup: 1337}}
  containers:
  - name: istio-proxy
    image: {}
    imagePullPolicy: IfNotPresent
    args: [router]
    env:
    - {{name: POD_NAME, value: {gateway}}}
    - {{name: POD_NAMESPACE, valueFrom: {{fieldRef: {{fieldPath: metadata.namespace}}}}}}
    - {{name: POD_UID, valueFrom: {{fieldRef: {{fieldPath: metadata.uid}}}}}}
    - {{name: INSTANCE_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    - {{name: SERVICE_ACCOUNT, value: thief}}
    volumeMounts:
    - {{name: token, mountPath: /var/run/secrets/tokens}}
    - {{name: roots, mountPath: /var/run/secrets/istio}}
    - {{name: state, mountPath: /etc/istio/proxy}}
  volumes:
  - {{name: token, projected: {{sources: [{{serviceAccountToken: {{audience: istio-ca, path: istio-token}}}}]}}}}
  - {{name: roots, configMap: {{name: istio-ca-root-cert}}}}
  - {{name: state, emptyDir: {{medium: Memory}}}}
",
        image("proxy")
    )
}

/// The last lines of a part of the control plane that contain all of this.
async fn log_of(ns: &Namespace, part: &str, words: &[&str]) -> anyhow::Result<Vec<String>> {
    let app = format!("app={part}");
    let logs = ["logs", "-n", cluster::SYSTEM, "-l", &app, "--tail=-1", "--since=10m", "--ignore-errors"];
    let text = ns.cluster.kubectl(&logs).await?;
    let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
    Ok(lines.map(str::to_owned).collect())
}

async fn another_account(ns: &Namespace) -> anyhow::Result<()> {
    let (own, claimed) = (format!("/ns/{}/sa/liar\"", ns.name), format!("/ns/{}/sa/honest\"", ns.name));
    let at = "pod=\"liar (";
    eventually("the authority has given it its own identity", async || {
        let issued = log_of(ns, "mesh-ca", &["event=\"issued\"", &own, at]).await?;
        // Again and again: it does not take it.
        ensure!(issued.len() > 1, "no such lines in the audit log: {issued:?}");
        Ok(())
    })
    .await?;
    let wrong = log_of(ns, "mesh-ca", &["event=\"issued\"", &claimed, at]).await?;
    ensure!(wrong.is_empty(), "the lie was believed: {wrong:?}");
    // Its log is not shown before its hook has ended, but its own pages are there: it has taken nothing of what it was given.
    let liar = format!("liar.{}", ns.name);
    let secrets = meshctl(&ns.cluster, &["proxy-config", "secrets", &liar, "--cluster"]).await?;
    ensure!(secrets.trim() == "no certificate yet", "{secrets}");
    let told = meshctl(&ns.cluster, &["proxy-config", "all", &liar, "--cluster"]).await?;
    ensure!(
        serde_json::from_str::<Value>(&told)? == json!({"resources": []}),
        "it was told of something: {told}"
    );
    let started =
        ns.json(&["get", "pod", "liar"]).await?["status"]["containerStatuses"][0]["started"].clone();
    ensure!(started != true, "its application was started");
    Ok(())
}

async fn another_pod(ns: &Namespace, gateway: &str) -> anyhow::Result<()> {
    let refusal = format!(
        "expected spiffe://cluster.local/ns/{0}/sa/istio-edge, the identity of pod {0}/{gateway}",
        ns.name
    );
    let presented = format!("peer is spiffe://cluster.local/ns/{}/sa/thief", ns.name);
    eventually("the pilot has refused it by name", async || {
        let refused = log_of(ns, "mesh-pilot", &["proxy refused", &presented, &refusal]).await?;
        ensure!(!refused.is_empty(), "no such line in the pilot's log");
        Ok(())
    })
    .await?;
    let all = async |pod: &str| {
        let pod = format!("{pod}.{}", ns.name);
        let said = meshctl(&ns.cluster, &["proxy-config", "all", &pod, "--cluster"]).await?;
        anyhow::Ok(serde_json::from_str::<Value>(&said)?)
    };
    let (stolen, owned) = (all("thief").await?, all(gateway).await?);
    let of_shop = |told: &Value| told.to_string().contains("shop");
    ensure!(of_shop(&owned["listeners"]), "the gateway has lost it: {owned}");
    ensure!(stolen["resources"] == json!([]) && !of_shop(&stolen), "it was told of the gateway's: {stolen}");
    Ok(())
}
