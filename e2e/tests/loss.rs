//! Item 10: no request is lost while pods, pilot, CA and gateways come and go. The client uses raw sockets and never retries;
//! what the application executed is counted there. One row at a time, beside other tests: these are the loads of a small machine.
//!
//! A row can lose: `item_10_the_rows_can_lose` runs the same loads without the sidecar's drain and must see losses.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::client::{Load, Report};
use e2e::install::whole;
use e2e::workload::{App, collector};
use e2e::{Client, Company, Namespace, cluster, eventually, pause, test};
use serde_json::Value;

/// Where loads are sent: a name, and where to connect instead of resolving it.
struct Place<'a> {
    authority: &'a str,
    connect: Option<&'a str>,
}

impl Place<'_> {
    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.authority)
    }

    fn options<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let connect = self.connect.map(|at| ["--connect", at]);
        connect.into_iter().flatten().chain(more.iter().copied()).collect()
    }
}

/// HTTP/1.1, HTTP/2, gRPC, gRPC streams of six seconds (a dozen at any time), POSTs: each at a steady rate from one place.
struct Loads {
    loads: Vec<(&'static str, Load)>,
    client: Client,
}

impl Loads {
    /// To `web`, from a pod of the mesh.
    async fn begin(client: Client) -> anyhow::Result<Self> {
        let [http, grpc] = ["web", "web:81"].map(|authority| Place { authority, connect: None });
        Self::to(client, &http, &grpc).await
    }

    async fn to(client: Client, http: &Place<'_>, grpc: &Place<'_>) -> anyhow::Result<Self> {
        for (place, scheme) in [(http, "http"), (http, "h2c"), (grpc, "grpc")] {
            let (url, options) = (place.url(scheme, "/"), place.options(&[]));
            eventually("the mesh serves", async || client.get(&url, &options).await?.expect(200)).await?;
        }
        let kinds: [(_, _, _, _, &[&str]); 5] = [
            ("HTTP/1.1", http, "http", "/", &["--rate", "40", "--prefix", "one"]),
            ("HTTP/2", http, "h2c", "/", &["--rate", "40", "--connections", "2", "--prefix", "two"]),
            ("gRPC", grpc, "grpc", "/", &["--rate", "40", "--connections", "2", "--prefix", "grpc"]),
            (
                "streams",
                grpc,
                "grpc",
                "/Count",
                &["-d", "tick 60 100", "--rate", "2", "--connections", "14", "--prefix", "stream"],
            ),
            ("POST", http, "http", "/", &["-X", "POST", "-d", "order", "--rate", "100", "--prefix", "post"]),
        ];
        let mut loads = Vec::new();
        for (what, place, scheme, path, options) in kinds {
            loads.push((what, client.load(&place.url(scheme, path), &place.options(options))?));
        }
        pause(Duration::from_secs(3)).await;
        Ok(Self { loads, client })
    }

    /// Ends them: what each says.
    async fn told(self) -> anyhow::Result<Vec<(&'static str, Report)>> {
        pause(Duration::from_secs(3)).await;
        let mut told = Vec::new();
        for (what, load) in self.loads {
            told.push((what, load.end().await?));
        }
        for (what, report) in &told {
            eprintln!(
                "  {what}: {} sent, {} lost, slowest {} ms",
                report.sent, report.lost, report.slowest_millis
            );
        }
        drop(self.client);
        Ok(told)
    }

    /// Ends them: nothing lost, nothing executed twice.
    async fn end(self, ns: &Namespace) -> anyhow::Result<()> {
        let told = self.told().await?;
        for (what, report) in told {
            if what == "POST" {
                // At most one in ten thousand gets a clean 503.
                let clean = report.losses.iter().all(|loss| loss["status"] == 503);
                ensure!(clean && report.lost * 10_000 <= report.sent, "POST: {report:#?}");
            } else {
                report.nothing_lost(what, 20)?;
            }
        }
        let tally = Client::new(ns.cluster.clone(), &ns.name, "tally");
        let counted = tally.counted().await?;
        ensure!(
            counted["distinct"].as_u64().is_some_and(|count| count > 100),
            "nothing was counted: {counted}"
        );
        let twice = counted["twice"].as_array().map(Vec::len).unwrap_or_default();
        let posts = counted["twice"].to_string().contains("post-");
        ensure!(!posts, "POSTs were executed twice: {}", counted["twice"]);
        eprintln!("  executed: {}, of them twice (safe to repeat): {twice}", counted["executed"]);
        Ok(())
    }
}

/// The application, its collector and a client, ready.
async fn deployed(ns: &Namespace, app: &App) -> anyhow::Result<Client> {
    ns.apply(&collector()).await?;
    let client = ns.deploy_with_client(std::slice::from_ref(app)).await?;
    counting(ns).await?;
    Ok(client)
}

async fn counting(ns: &Namespace) -> anyhow::Result<()> {
    ns.kubectl(&["wait", "--for=condition=Ready", "pod/tally", "--timeout=120s"]).await?;
    Ok(())
}

/// The application: counts what it executes at the collector, past its sidecar.
fn app(replicas: u32) -> App {
    App::new("web")
        .replicas(replicas)
        .environment("TALLY", "tally:7777")
        .annotation("traffic.sidecar.istio.io/excludeOutboundPorts", "7777")
}

async fn restart(ns: &Namespace, namespace: &str, deployment: &str) -> anyhow::Result<()> {
    let what = format!("deployment/{deployment}");
    ns.cluster.kubectl(&["rollout", "restart", &what, "-n", namespace]).await?;
    ns.cluster.rolled_out(namespace, &what).await
}

/// Whether every old pod is gone: a rollout is done before the last one has ended.
async fn settled(ns: &Namespace, namespace: &str, selector: &str) -> anyhow::Result<()> {
    eventually("old pods have ended", async || {
        let pods = ns.cluster.json(&["get", "pods", "-n", namespace, "-l", selector]).await?;
        let ending = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
        ensure!(ending.count() == 0, "some are still ending");
        Ok(())
    })
    .await
}

#[test]
fn item_10_rollout_of_the_application() {
    test("item_10_rollout_of_the_application", Company::Operator, async |ns| {
        let client = deployed(ns, &app(3)).await?;
        let loads = Loads::begin(client).await?;
        restart(ns, &ns.name, "web-v1").await?;
        settled(ns, &ns.name, "app=web").await?;
        loads.end(ns).await
    });
}

#[test]
fn item_10_scaling_down_and_up() {
    test("item_10_scaling_down_and_up", Company::Operator, async |ns| {
        let client = deployed(ns, &app(3)).await?;
        let loads = Loads::begin(client).await?;
        for replicas in ["5", "1", "5"] {
            ns.kubectl(&["scale", "deployment/web-v1", &format!("--replicas={replicas}")]).await?;
            ns.rolled_out("web-v1").await?;
            settled(ns, &ns.name, "app=web").await?;
        }
        loads.end(ns).await
    });
}

/// ProxyConfig of a pod whose certificate lives for a minute, and is renewed every half.
const SHORT_LIVED: (&str, &str) = ("proxy.istio.io/config", "proxyMetadata: {SECRET_TTL: 1m}");

/// Under STRICT, while certificates are needed: those of the application and of its client expire within a minute, and new pods
/// begin without one.
#[test]
fn item_10_rollout_of_pilot_and_ca() {
    test("item_10_rollout_of_pilot_and_ca", Company::Operator, async |ns| {
        ns.apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n")
            .await?;
        let (name, value) = SHORT_LIVED;
        ns.apply(&collector()).await?;
        ns.deploy(&[app(3).annotation(name, value)]).await?;
        let client = ns.client_with("client", &format!("    annotations: {{{name}: \"{value}\"}}\n")).await?;
        counting(ns).await?;
        let loads = Loads::begin(client).await?;
        restart(ns, cluster::SYSTEM, "mesh-pilot").await?;
        the_authority_is_replaced(ns, &loads.client).await?;
        loads.end(ns).await?;
        whole(&ns.cluster).await
    });
}

/// The rollout begins just before the client's certificate is due. Till the old authority is gone, one new service after the
/// other gets ready, and serves the client.
async fn the_authority_is_replaced(ns: &Namespace, client: &Client) -> anyhow::Result<()> {
    let mut before = Vec::new();
    for pod in ns.pods("app=web").await? {
        before.push((renewals(ns, &pod).await?, pod));
    }
    // The next renewal comes when 27 to 33 seconds are left.
    let own = loop {
        let told = client.get("http://127.0.0.1:15000/certs", &[]).await?.expect(200)?.json();
        let numbers = told["seconds_left"].as_u64().zip(told["renewals"].as_u64());
        let (left, renewals) = numbers.with_context(|| told.to_string())?;
        if (30..=34).contains(&left) {
            break renewals;
        }
        pause(Duration::from_secs(left.saturating_sub(34).max(1))).await;
    };
    let over = Cell::new(false);
    let rollout = async {
        restart(ns, cluster::SYSTEM, "mesh-ca").await?;
        settled(ns, cluster::SYSTEM, "app=mesh-ca").await?;
        over.set(true);
        anyhow::Ok(())
    };
    let newcomers = async {
        let mut count = 0;
        while !over.get() {
            let name = format!("late{count}");
            ns.deploy(&[App::new(&name)]).await?;
            let answer = client.get(&format!("http://{name}/"), &[]).await?.expect(200)?;
            let peer = answer.json()["peer"].as_str().unwrap_or_default().to_owned();
            ensure!(peer.ends_with(&format!("/ns/{}/sa/client", ns.name)), "{name} was asked by {peer:?}");
            count += 1;
        }
        Ok(count)
    };
    let ((), newcomers) = tokio::try_join!(rollout, newcomers)?;
    ensure!(newcomers > 0, "no new service was ready before the rollout was over");
    ensure!(renewals(ns, "client").await? > own, "the client's certificate was not renewed meanwhile");
    eprintln!("  new services while the authority was replaced: {newcomers}");
    for (before, pod) in before {
        eventually("its certificate was renewed", async || {
            let now = renewals(ns, &pod).await?;
            ensure!(now > before, "{pod}: {now} renewals, as before");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// How often a pod's proxy has renewed its certificate.
async fn renewals(ns: &Namespace, pod: &str) -> anyhow::Result<u64> {
    let of = format!("{pod}.{}", ns.name);
    let arguments = ["proxy-config", "secrets", &of, "--cluster", "-o", "json"];
    let told: Value = serde_json::from_str(&crate::meshctl::meshctl(&ns.cluster, &arguments).await?)?;
    ensure!(told["last_error"].is_null(), "{pod}: {}", told["last_error"]);
    told["renewals"].as_u64().with_context(|| format!("{pod}: {told}"))
}

/// The pilot is killed with -9 while endpoints change. Names that nobody used before are dialled at that moment by a pod whose
/// proxy has lost its pilot, and by one that is made meanwhile.
#[test]
fn item_10_the_pilot_is_killed() {
    test("item_10_the_pilot_is_killed", Company::Alone, async |ns| {
        ns.deploy(&[App::new("cold")]).await?;
        let (client, present) = (deployed(ns, &app(3)).await?, ns.client("present").await?);
        ns.alone().await;
        let loads = Loads::begin(client).await?;
        ns.kubectl(&["scale", "deployment/web-v1", "--replicas=2"]).await?;
        ns.cluster.on_node("pkill -9 -x mesh-pilot").await?;
        // Nobody repeats it: the proxy waits for the pilot's return.
        let dialled = async {
            let answer = present.get("http://cold/", &["--timeout", "30"]).await?.expect(200)?;
            eprintln!("  a cold destination without a pilot: {} ms", answer.millis);
            Ok(())
        };
        let scaled = async {
            ns.kubectl(&["scale", "deployment/web-v1", "--replicas=4"]).await?;
            ns.rolled_out("web-v1").await
        };
        tokio::try_join!(dialled, scaled)?;
        let newcomer = ns.client("other").await?;
        newcomer.get("http://cold/", &[]).await?.expect(200)?;
        loads.end(ns).await?;
        whole(&ns.cluster).await
    });
}

/// Two gateways are replaced one after the other under the same loads, which come from outside: requests by a port of HTTP, gRPC
/// by one of GRPC. (On a plain kind cluster both are reached by a node's port.)
#[test]
fn item_10_rollout_of_the_gateway() {
    test("item_10_rollout_of_the_gateway", Company::Operator, async |ns| {
        ns.apply(&collector()).await?;
        ns.deploy(&[app(2)]).await?;
        crate::gateways::install(ns, "istio-edge", &["replicaCount=2"]).await?;
        ns.apply(&crate::gateways::own(ns, DOORS)).await?;
        counting(ns).await?;
        let at = async |port| crate::gateways::address(&ns.cluster, &ns.name, "istio-edge", port).await;
        let (http, grpc) = (at(80).await?, at(443).await?);
        let begin = async || {
            let [http, grpc] = [("shop.example.com", &http), ("orders.example.com", &grpc)]
                .map(|(authority, at)| Place { authority, connect: Some(at.as_str()) });
            Loads::to(Client::here(ns.cluster.clone(), crate::CLIENT), &http, &grpc).await
        };
        let loads = begin().await?;
        restart(ns, &ns.name, "istio-edge").await?;
        settled(ns, &ns.name, "istio=edge").await?;
        loads.end(ns).await?;
        // What its time to end is for: without it the same loads lose what is under way, of a dozen streams some.
        let loads = begin().await?;
        pause(Duration::from_secs(4)).await;
        ns.kubectl(&["delete", "pod", &ns.pods("istio=edge").await?[0], "--grace-period=1"]).await?;
        let lost: u64 = loads.told().await?.iter().map(|(_, report)| report.lost).sum();
        ensure!(lost > 0, "a gateway was killed and nothing was lost: these loads prove nothing");
        Ok(())
    });
}

const DOORS: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}
  - {port: {number: 443, name: grpc, protocol: GRPC}, hosts: [orders.example.com]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com, orders.example.com]
  gateways: [edge]
  http:
  - {match: [{port: 443}], route: [{destination: {host: web, port: {number: 81}}}]}
  - {route: [{destination: {host: web, port: {number: 80}}}]}
";

/// What the drain is for: with it switched off (a container that has a preStop hook keeps its own) and no time to end in, the
/// same rollout under the same loads loses what is under way.
#[test]
fn item_10_the_rows_can_lose() {
    test("item_10_the_rows_can_lose", Company::Operator, async |ns| {
        let undrained = app(3).container("        lifecycle: {preStop: {sleep: {seconds: 0}}}\n").grace(1);
        let client = deployed(ns, &undrained).await?;
        let loads = Loads::begin(client).await?;
        restart(ns, &ns.name, "web-v1").await?;
        settled(ns, &ns.name, "app=web").await?;
        let told = loads.told().await?;
        let lost: u64 = told.iter().map(|(_, report)| report.lost).sum();
        ensure!(lost > 0, "nothing was lost without a drain: these loads prove nothing");
        Ok(())
    });
}
