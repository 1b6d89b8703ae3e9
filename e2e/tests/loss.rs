//! Item 10: no request is lost while pods, pilot, CA and gateways come and go. The client uses raw sockets and never retries;
//! what the application executed is counted there. One row at a time, beside other tests: these are the loads of a small machine.
//!
//! A row can lose: `item_10_the_rows_can_lose` runs the same loads without the sidecar's drain and must see losses.

use std::time::Duration;

use anyhow::ensure;
use e2e::client::{Load, Report};
use e2e::install::whole;
use e2e::workload::{App, collector};
use e2e::{Client, Company, Namespace, cluster, eventually, pause, test};

/// HTTP/1.1, HTTP/2, gRPC, gRPC streams of six seconds (a dozen at any time), POSTs: each at a steady rate from one pod.
struct Loads {
    loads: Vec<(&'static str, Load)>,
    client: Client,
}

impl Loads {
    async fn begin(client: Client) -> anyhow::Result<Self> {
        for url in ["http://web/", "h2c://web/", "grpc://web:81"] {
            eventually("the mesh serves", async || client.get(url, &[]).await?.expect(200)).await?;
        }
        let loads = vec![
            ("HTTP/1.1", client.load("http://web/", &["--rate", "40", "--prefix", "one"])?),
            (
                "HTTP/2",
                client.load("h2c://web/", &["--rate", "40", "--connections", "2", "--prefix", "two"])?,
            ),
            (
                "gRPC",
                client.load("grpc://web:81", &["--rate", "40", "--connections", "2", "--prefix", "grpc"])?,
            ),
            (
                "streams",
                client.load(
                    "grpc://web:81/Count",
                    &["-d", "tick 60 100", "--rate", "2", "--connections", "14", "--prefix", "stream"],
                )?,
            ),
            (
                "POST",
                client.load(
                    "http://web/",
                    &["-X", "POST", "-d", "order", "--rate", "100", "--prefix", "post"],
                )?,
            ),
        ];
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
    ns.kubectl(&["wait", "--for=condition=Ready", "pod/tally", "--timeout=120s"]).await?;
    Ok(client)
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

#[test]
fn item_10_rollout_of_pilot_and_ca() {
    test("item_10_rollout_of_pilot_and_ca", Company::Operator, async |ns| {
        let client = deployed(ns, &app(3)).await?;
        let loads = Loads::begin(client).await?;
        restart(ns, cluster::SYSTEM, "mesh-pilot").await?;
        restart(ns, cluster::SYSTEM, "mesh-ca").await?;
        loads.end(ns).await?;
        whole(&ns.cluster).await
    });
}

/// The pilot is killed with -9 while endpoints change, and a name that nobody used before is dialled after it came back.
#[test]
fn item_10_the_pilot_is_killed() {
    test("item_10_the_pilot_is_killed", Company::Alone, async |ns| {
        ns.deploy(&[App::new("cold")]).await?;
        let client = deployed(ns, &app(3)).await?;
        ns.alone().await;
        let loads = Loads::begin(client).await?;
        ns.kubectl(&["scale", "deployment/web-v1", "--replicas=2"]).await?;
        ns.cluster.on_node("pkill -9 -x mesh-pilot").await?;
        ns.kubectl(&["scale", "deployment/web-v1", "--replicas=4"]).await?;
        ns.rolled_out("web-v1").await?;
        let cold = ns.client("other").await?;
        eventually("a cold destination", async || cold.get("http://cold/", &[]).await?.expect(200)).await?;
        loads.end(ns).await?;
        whole(&ns.cluster).await
    });
}

/// Two gateways are replaced one after the other under load from outside.
#[test]
fn item_10_rollout_of_the_gateway() {
    test("item_10_rollout_of_the_gateway", Company::Operator, async |ns| {
        ns.deploy(&[App::new("web").replicas(2)]).await?;
        let address = crate::gateways::edge(ns, &["replicaCount=2"]).await?;
        let here = Client::here(ns.cluster.clone(), crate::CLIENT);
        let to = ["--connect", &address];
        eventually("the gateway serves", async || here.get("http://shop/", &to).await?.expect(200)).await?;
        let loads = [
            ("HTTP/1.1", here.load("http://shop/", &[&to[..], &["--rate", "40"]].concat())?),
            ("HTTP/2", here.load("h2c://shop/", &[&to[..], &["--rate", "40"]].concat())?),
        ];
        pause(Duration::from_secs(2)).await;
        restart(ns, &ns.name, "istio-edge").await?;
        settled(ns, &ns.name, "istio=edge").await?;
        pause(Duration::from_secs(2)).await;
        for (what, load) in loads {
            load.end().await?.nothing_lost(what, 100)?;
        }
        Ok(())
    });
}

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
