//! `meshctl uninstall`: the releases that `meshctl install` (or Helm) made of our charts, and on request what they leave.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};

use super::install::RELEASE;
use super::install::helm::{Arguments, Helm, Target};

/// What an injected pod says.
const INJECTED: &str = "sidecar.istio.io/status";
/// Everything that our charts make.
const OURS: &str = "app.kubernetes.io/part-of=mesh";

/// `meshctl uninstall`.
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Only the control plane of this revision
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["purge", "crds"])]
    pub revision: Option<String>,
    /// Also what the control plane made at work: the authority's key, the roots in all namespaces, leases
    #[arg(long)]
    pub purge: bool,
    /// Also the custom resources, and with them every VirtualService, DestinationRule ... of the cluster
    #[arg(long)]
    pub crds: bool,
    #[command(flatten)]
    pub target: Target,
}

/// Removes them after a question.
///
/// # Errors
/// When nothing is installed, nobody can be asked, or the cluster refuses.
pub async fn run(args: UninstallArgs) -> anyhow::Result<ExitCode> {
    let client = args.target.client().await?;
    let helm = Helm::new(&args.target);
    let releases = find(&client, &helm, &args).await?;
    if releases.is_empty() && !args.purge && !args.crds {
        bail!(
            "nothing of the mesh is installed in namespace {} (-n names another one)",
            args.target.namespace
        );
    }
    println!("{}", plan(&releases, &args));
    tell_injected(&client).await;
    if !args.yes && !confirmed()? {
        println!("nothing was changed");
        return Ok(ExitCode::FAILURE);
    }
    for release in &releases {
        helm.run(&Arguments::default().with(["uninstall", release]).0).await?;
        println!("uninstalled {release}");
    }
    if args.purge {
        purge(&client, &args.target.namespace).await?;
    }
    if args.crds {
        let definitions: Api<CustomResourceDefinition> = Api::all(client);
        for name in names(&definitions, OURS, |one| one.metadata.name.clone()).await? {
            remove(&definitions, &name).await?;
            println!("removed {name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Our releases, gateways before the control plane that they need.
async fn find(client: &Client, helm: &Helm<'_>, args: &UninstallArgs) -> anyhow::Result<Vec<String>> {
    let listed = helm
        .run(
            &Arguments::default()
                .with([
                    "list",
                    "--deployed",
                    "--failed",
                    "--pending",
                    "--uninstalling",
                    "--output",
                    "json",
                    "--max",
                    "0",
                ])
                .0,
        )
        .await?;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).context("what `helm list` says")?;
    let listed: BTreeSet<String> =
        listed.iter().filter_map(|release| Some(release["name"].as_str()?.to_owned())).collect();
    if let Some(revision) = &args.revision {
        let name = format!("{RELEASE}-{revision}");
        return Ok(listed.into_iter().filter(|release| *release == name).collect());
    }
    // Other charts may have the same names: the objects say whose they are.
    let namespace = &args.target.namespace;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let mut found: Vec<(bool, String)> = Vec::new();
    let mut note = |metadata: &ObjectMeta| {
        let label = |name: &str| metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
        let control_plane = label("app").is_some_and(|app| app == "mesh-pilot" || app == "mesh-ca");
        found.extend(label("app.kubernetes.io/instance").map(|release| (control_plane, release)));
    };
    let ours = ListParams::default().labels(OURS);
    deployments.list(&ours).await.context("deployments")?.iter().for_each(|one| note(&one.metadata));
    daemons.list(&ours).await.context("daemon sets")?.iter().for_each(|one| note(&one.metadata));
    found.sort();
    found.dedup();
    let mut releases: Vec<String> =
        found.into_iter().map(|(_, name)| name).filter(|n| listed.contains(n)).collect();
    releases.dedup();
    Ok(releases)
}

fn plan(releases: &[String], args: &UninstallArgs) -> String {
    let mut lines = Vec::new();
    if !releases.is_empty() {
        lines.push(format!("removes: the releases {} in {}", releases.join(", "), args.target.namespace));
    }
    let made = "the authority's key (Secrets istio-ca-secret and mesh-ca-state), the ConfigMaps istio-ca-root-cert and mesh-last-good, leases";
    let crds = "the custom resources, with every VirtualService, DestinationRule, Gateway ... of the cluster";
    if args.revision.is_none() {
        lines.push(if args.purge {
            format!("removes: {made}")
        } else {
            format!("stays: {made} (--purge removes them)")
        });
        lines.push(if args.crds {
            format!("removes: {crds}")
        } else {
            format!("stays: {crds} (--crds removes them)")
        });
    }
    lines.push(format!("stays: the namespace {}, and what was not made by the mesh", args.target.namespace));
    lines.join("\n")
}

/// Pods with a sidecar are told, if the cluster lets us look.
async fn tell_injected(client: &Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let Ok(pods) = pods.list_metadata(&ListParams::default()).await else { return };
    let injected = pods.items.iter().filter(|pod| {
        pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(INJECTED))
    });
    let namespaces: Vec<_> = injected.filter_map(|pod| pod.metadata.namespace.clone()).collect();
    if !namespaces.is_empty() {
        let count = namespaces.len();
        let namespaces: BTreeSet<_> = namespaces.into_iter().collect();
        println!(
            "note: {count} pods have sidecars (in {}); those go on with what they have until their certificates expire: make \
             the pods anew",
            namespaces.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
}

fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody to ask: say --yes");
    }
    print!("uninstall? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What the control plane made while it worked.
async fn purge(client: &Client, namespace: &str) -> anyhow::Result<()> {
    remove(&Api::<Secret>::namespaced(client.clone(), namespace), "istio-ca-secret").await?;
    remove(&Api::<Secret>::namespaced(client.clone(), namespace), "mesh-ca-state").await?;
    remove(&Api::<ConfigMap>::namespaced(client.clone(), namespace), "mesh-last-good").await?;
    remove(&Api::<Lease>::namespaced(client.clone(), namespace), "mesh-pilot-leader").await?;
    let everywhere: Api<ConfigMap> = Api::all(client.clone());
    let roots = ListParams::default().fields("metadata.name=istio-ca-root-cert");
    for root in everywhere.list_metadata(&roots).await.context("the roots")?.items {
        let place = root.metadata.namespace.unwrap_or_default();
        remove(&Api::<ConfigMap>::namespaced(client.clone(), &place), "istio-ca-root-cert").await?;
    }
    println!("removed what the control plane had made");
    Ok(())
}

async fn names<K>(
    api: &Api<K>,
    labels: &str,
    name: impl Fn(&K) -> Option<String>,
) -> anyhow::Result<Vec<String>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let found = api.list(&ListParams::default().labels(labels)).await.context("listing")?;
    Ok(found.items.iter().filter_map(name).collect())
}

/// What is gone already is gone.
async fn remove<K>(api: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot remove {name}")),
    }
}
