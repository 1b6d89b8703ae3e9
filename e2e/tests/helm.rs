//! Items 1 and 2: the charts are clean, install beside one another, upgrade, roll back and leave nothing; images run without
//! root and without a root file system to write to.

use anyhow::ensure;
use e2e::install::{chart, image_values};
use e2e::workload::App;
use e2e::{Company, Namespace, cluster, eventually, finally, pause, test};
use serde_json::Value;

/// `helm lint` and `helm template` of each chart.
#[test]
fn item_1_charts_are_clean() {
    test("item_1_charts_are_clean", Company::Welcome, async |ns| {
        for name in ["base", "control-plane", "gateway"] {
            let path = chart(name);
            let said = ns.cluster.run("helm", &["lint", &path, "--strict"]).await?;
            ensure!(said.contains("0 chart(s) failed"), "{said}");
            ns.cluster.run("helm", &["template", "release", &path, "-n", &ns.name]).await?;
        }
        let (taken, said) = ns
            .cluster
            .told("helm", &["template", "x", &chart("gateway"), "--set", "service.tpye=ClusterIP"], "")
            .await?;
        ensure!(
            !taken,
            "a value that does not exist was taken: {}",
            said.chars().take(300).collect::<String>()
        );
        Ok(())
    });
}

/// A value changes, and back: it is in force in sidecars (their access log, which also says who denied a connection) and then
/// it is not, and the mesh serves all the time.
#[test]
fn item_1_upgrade_and_roll_back() {
    test("item_1_upgrade_and_roll_back", Company::Operator, async |ns| {
        let client = ns.deploy_with_client(&[App::new("web")]).await?;
        eventually("it serves", async || client.get("http://web/", &[]).await?.expect(200)).await?;
        let load = client.load("http://web/", &["--rate", "20"])?;
        let upgraded = async {
            upgrade(ns, "meshConfig.accessLogFile=/dev/stdout").await?;
            ensure!(mesh_config(ns).await?.contains("/dev/stdout"), "the upgrade did not arrive");
            crate::authorization_tcp::denied_bytes_are_logged(ns, &client).await
        };
        finally(upgraded, async || {
            ns.cluster.run("helm", &["rollback", "mesh", "-n", cluster::SYSTEM, "--wait"]).await?;
            Ok(())
        })
        .await?;
        let back = mesh_config(ns).await?;
        eventually("no more lines", async || {
            pause(std::time::Duration::from_secs(2)).await;
            let log = ["logs", "-l", "app=web", "-c", "istio-proxy", "--since=1s"];
            let lines = ns.kubectl(&log).await?;
            ensure!(!lines.contains("GET / HTTP/1.1"), "{lines}");
            Ok(())
        })
        .await?;
        load.end().await?.nothing_lost("upgrade and rollback", 50)?;
        ensure!(!back.contains("/dev/stdout"), "the rollback did not arrive: {back}");
        e2e::install::whole(&ns.cluster).await
    });
}

/// The suite's release with one more value.
async fn upgrade(ns: &Namespace, value: &str) -> anyhow::Result<()> {
    let (path, images) = (chart("control-plane"), image_values());
    let mut upgrade = vec!["upgrade", "mesh", &path, "-n", cluster::SYSTEM, "--reuse-values", "--wait"];
    for value in &images {
        upgrade.extend(["--set", value]);
    }
    ns.cluster.run("helm", &[&upgrade[..], &["--set", value]].concat()).await?;
    Ok(())
}

async fn mesh_config(ns: &Namespace) -> anyhow::Result<String> {
    let mesh = ["get", "configmap", "istio", "-n", cluster::SYSTEM, "-o", "jsonpath={.data.mesh}"];
    ns.cluster.kubectl(&mesh).await
}

/// A gateway's release leaves nothing behind.
#[test]
fn item_1_uninstall_leaves_nothing() {
    test("item_1_uninstall_leaves_nothing", Company::Welcome, async |ns| {
        crate::gateways::install(ns, "istio-edge", &["service.type=ClusterIP"]).await?;
        ns.cluster.run("helm", &["uninstall", "istio-edge", "-n", &ns.name, "--wait"]).await?;
        let kinds =
            "deployments,daemonsets,services,serviceaccounts,configmaps,secrets,hpa,pdb,roles,rolebindings";
        let left = ns.kubectl(&["get", kinds, "-o", "name"]).await?;
        let foreign =
            ["configmap/kube-root-ca.crt", "configmap/istio-ca-root-cert", "serviceaccount/default"];
        let left: Vec<_> = left.lines().filter(|line| !foreign.contains(line)).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    });
}

/// The last act of `e2e/run`, as there is no mesh afterwards: what `meshctl uninstall --purge` removes, it removes everywhere.
/// The custom resources stay, and only they.
#[test]
#[ignore = "it uninstalls the mesh: e2e/run does so at the end"]
fn item_1_uninstall_leaves_nothing_of_the_control_plane() {
    test("item_1_uninstall_leaves_nothing_of_the_control_plane", Company::Alone, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        ns.alone().await;
        let before = belongings(ns).await?;
        for part in [
            "clusterrole",
            "mutatingwebhookconfiguration",
            "validatingwebhookconfiguration",
            "configmap",
            "secret",
            "lease",
            "deployment",
            "serviceaccount",
            "customresourcedefinition",
        ] {
            ensure!(
                before.iter().any(|name| name.starts_with(part)),
                "this looks for no {part}: {before:#?}"
            );
        }
        crate::meshctl::meshctl(&ns.cluster, &["uninstall", "--yes", "--purge"]).await?;
        eventually("nothing is left but the custom resources", async || {
            let mut left = belongings(ns).await?;
            left.retain(|name| !name.starts_with("customresourcedefinition"));
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        })
        .await?;
        // Nor does anything come back when the last pilot has ended.
        e2e::pause(std::time::Duration::from_secs(10)).await;
        let left = belongings(ns).await?;
        ensure!(
            !left.is_empty() && left.iter().all(|n| n.starts_with("customresourcedefinition")),
            "{left:#?}"
        );
        // A pod is made as if there had never been a mesh.
        ns.apply(&e2e::workload::client("late", "")).await?;
        ns.kubectl(&["wait", "--for=condition=Ready", "pod/late", "--timeout=120s"]).await?;
        let sidecars =
            ns.kubectl(&["get", "pod", "late", "-o", "jsonpath={.spec.initContainers[*].name}"]).await?;
        ensure!(sidecars.is_empty(), "{sidecars}");
        Ok(())
    });
}

/// What of the mesh is in the cluster: by the label of our charts, by the names of what the control plane makes itself, and
/// everything in its namespace.
pub async fn belongings(ns: &Namespace) -> anyhow::Result<Vec<String>> {
    let kinds = ["api-resources", "--verbs=list,delete", "-o", "name"];
    let all = ns.cluster.kubectl(&kinds).await?;
    // Events and the copies that metrics make of pods tell of what was.
    let kinds: Vec<_> =
        all.lines().filter(|kind| !kind.starts_with("events") && !kind.contains("metrics")).collect();
    let row = "jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.labels.app\\.kubernetes\\.io/part-of}{\"\\n\"}{end}";
    let everything = ns.cluster.kubectl(&["get", &kinds.join(","), "-A", "-o", row]).await?;
    let made =
        ["istio-ca-root-cert", "istio-ca-secret", "mesh-ca-state", "mesh-last-good", "mesh-pilot-leader"];
    let clusters = ["kube-root-ca.crt", "default"];
    let belongs = |line: &&str| {
        let mut words = line.split(' ');
        let (_, place, part) = (words.next(), words.next().unwrap_or_default(), words.next());
        let (namespace, name) = place.split_once('/').unwrap_or_default();
        part == Some("mesh")
            || made.contains(&name)
            || (namespace == cluster::SYSTEM && !clusters.contains(&name))
            || name.contains("istio-") && namespace.is_empty() && !line.starts_with("Namespace")
    };
    let mut names: Vec<_> = everything.lines().filter(belongs).map(str::to_lowercase).collect();
    names.sort();
    Ok(names)
}

/// Every container of the mesh runs as a user that is not root, on a file system that it cannot write to.
#[test]
fn item_2_images_need_no_root() {
    test("item_2_images_need_no_root", Company::Welcome, async |ns| {
        ns.deploy(&[App::new("web")]).await?;
        let mut pods = ns.cluster.json(&["get", "pods", "-n", cluster::SYSTEM]).await?;
        let mut all: Vec<Value> = pods["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let mine = ns.json(&["get", "pods", "-l", "app=web"]).await?;
        all.extend(mine["items"].as_array().cloned().unwrap_or_default());
        for pod in &all {
            let lists = [&pod["spec"]["containers"], &pod["spec"]["initContainers"]];
            let containers = lists.iter().filter_map(|list| list.as_array()).flatten();
            for container in containers.filter(|c| c["name"] != "app" && c["name"] != "istio-init") {
                let context = &container["securityContext"];
                ensure!(context["readOnlyRootFilesystem"] == true, "{}: {context}", container["name"]);
                ensure!(context["allowPrivilegeEscalation"] == false, "{}: {context}", container["name"]);
                let no_root =
                    [context, &pod["spec"]["securityContext"]].iter().any(|c| c["runAsNonRoot"] == true);
                ensure!(no_root, "{} may run as root: {context}", container["name"]);
            }
        }
        Ok(())
    });
}
