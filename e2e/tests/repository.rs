//! Item 1, as a user types it: a repository of charts on a web server, `helm repo add`, `helm repo update`, `helm install`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::install::{chart, image_values};
use e2e::{Company, Namespace, eventually, finally, test};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A control plane of a revision of its own, beside the suite's, from a repository that `charts/package` makes; its `helm test`
/// passes, and its end leaves nothing.
#[test]
fn item_1_helm_as_typed() {
    test("item_1_helm_as_typed", Company::Operator, async |ns| {
        let (charts, home) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let directory = charts.path().display().to_string();
        ns.cluster.run(&chart("package"), &[&directory]).await?;
        let (url, _server) = serve(charts.path().to_owned()).await?;
        let helm = async |line: &str| typed(ns, home.path(), line).await;
        helm(&format!("repo add mesh {url}")).await?;
        let said = helm("repo update").await?;
        ensure!(said.contains("\"mesh\" chart repository"), "{said}");
        let found = helm("search repo mesh").await?;
        for name in ["mesh/base", "mesh/control-plane", "mesh/gateway"] {
            let line = found.lines().find(|line| line.starts_with(name));
            ensure!(line.is_some_and(|line| line.contains(env!("CARGO_PKG_VERSION"))), "{name}: {found}");
        }
        let values = format!(
            "--set {} --set pilot.replicaCount=1,pilot.resources.requests.cpu=10m",
            image_values().join(" --set ")
        );
        let install = async {
            let install = "install mesh-next mesh/control-plane --namespace istio-system --set revision=next";
            let said = helm(&format!("{install} {values} --wait --timeout 240s")).await?;
            ensure!(
                said.contains("helm test mesh-next -n istio-system"),
                "it does not say what to do next: {said}"
            );
            let said = helm("test mesh-next -n istio-system --timeout 120s").await?;
            ensure!(said.contains("Succeeded"), "{said}");
            let there = belongings_of_next(ns).await?;
            ensure!(
                there.iter().any(|name| name.contains("mesh-pilot-next")),
                "this looks for nothing: {there:?}"
            );
            Ok(())
        };
        finally(install, async || {
            helm("uninstall mesh-next --namespace istio-system --ignore-not-found --wait").await.map(drop)
        })
        .await?;
        eventually("nothing is left", async || {
            let left = belongings_of_next(ns).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
        e2e::install::whole(&ns.cluster).await
    });
}

/// What of that revision is in the cluster.
async fn belongings_of_next(ns: &Namespace) -> anyhow::Result<Vec<String>> {
    let all = crate::helm::belongings(ns).await?;
    Ok(all.into_iter().filter(|name| name.contains("next")).collect())
}

/// `helm LINE`, of a user who has no repository yet.
async fn typed(ns: &Namespace, home: &Path, line: &str) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut command = ns.cluster.command("helm", &words);
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.join(variable));
    }
    let output =
        tokio::time::timeout(Duration::from_secs(280), command.output()).await.context(line.to_owned())??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "helm {line}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// A web server for the files of a directory, on loopback, for as long as the second is kept.
async fn serve(directory: PathBuf) -> anyhow::Result<(String, JoinSet<()>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let mut server = JoinSet::new();
    server.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Helm asks again or says what it got: the test sees either.
            let _ = file(client, &directory).await;
        }
    });
    Ok((url, server))
}

/// One request for one file.
async fn file(mut client: TcpStream, directory: &Path) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let name = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let found = std::fs::read(directory.join(name));
    let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    client.write_all(&[head.as_bytes(), &body].concat()).await?;
    Ok(())
}
