//! `meshctl version`: of this program, of the meshes that run here, and of the mesh on the cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::args::{Format, VersionArgs};
use crate::cluster::pilots::{self, Replica};
use crate::cluster::{Cluster, Place, flags, pods};
use crate::local::client;
use crate::local::dir::StateDir;

/// Prints the versions.
///
/// # Errors
/// When a mesh or cluster that was asked for does not answer.
pub async fn run(args: VersionArgs) -> anyhow::Result<ExitCode> {
    let mut running = Vec::new();
    if let Some(name) = &args.name {
        let version = client::mesh(name).await?.version;
        running.push((name.clone(), version));
    } else if !args.cluster.reach.cluster {
        for name in StateDir::names() {
            // One that starts or ends right now has nothing to say.
            let Ok(mesh) = client::mesh(&name).await else { continue };
            running.push((name, mesh.version));
        }
    }
    let cluster = match asked(&args, running.is_empty()) {
        Some(must) => match cluster(&args).await {
            Ok(told) => Some(Ok(told)),
            Err(error) if must => return Err(error),
            // Nobody asked for it: what is wrong is worth a line, not a failure.
            Err(error) => Some(Err(format!("{error:#}"))),
        },
        None => None,
    };
    let version = env!("CARGO_PKG_VERSION");
    if args.output.output == Format::Json {
        let meshes: Vec<_> = running.iter().map(|(name, v)| json!({"name": name, "version": v})).collect();
        let mut told = json!({"meshctl": version, "meshes": meshes});
        match cluster {
            Some(Ok(cluster)) => told["cluster"] = cluster.json(),
            Some(Err(why)) => told["clusterError"] = why.into(),
            None => {}
        }
        println!("{told}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("meshctl {version}");
    for (name, version) in running {
        println!("mesh {name}: {version}");
    }
    match cluster {
        Some(Ok(cluster)) => cluster.print(),
        Some(Err(why)) => println!("cluster: {why}"),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the cluster is asked, and then whether it must answer.
fn asked(args: &VersionArgs, nothing_runs_here: bool) -> Option<bool> {
    if args.name.is_some() || args.cluster.reach.local {
        return None;
    }
    let reach = &args.cluster.reach;
    if reach.cluster || reach.kubeconfig.is_some() || reach.context.is_some() {
        return Some(true);
    }
    let there_is_one = nothing_runs_here && flags::has_kubeconfig();
    there_is_one
        .then_some(false)
        .filter(|_| reach.place("default").is_ok_and(|place| place == Place::Cluster))
}

/// What runs on a cluster.
struct Versions {
    control_plane: Vec<Replica>,
    /// Proxies by version.
    data_plane: BTreeMap<String, usize>,
}

async fn cluster(args: &VersionArgs) -> anyhow::Result<Versions> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let pilots = pilots::pilots(&cluster).await?;
    let authorities = pilots::replicas(&cluster, "mesh-ca").await?;
    let control_plane = pilots.iter().chain(&authorities).map(pilots::replica).collect();
    let all: Api<Pod> = match &args.cluster.namespace {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    let mut data_plane = BTreeMap::new();
    for pod in cluster.ask("pods", all.list(&ListParams::default())).await? {
        if let Some(proxy) = pods::sidecar(&pod) {
            *data_plane.entry(pods::image_version(proxy)).or_default() += 1;
        }
    }
    Ok(Versions { control_plane, data_plane })
}

impl Versions {
    fn json(&self) -> Value {
        json!({ "controlPlane": self.control_plane, "dataPlane": self.data_plane })
    }

    fn print(&self) {
        for replica in &self.control_plane {
            println!("control plane {}: {}", replica.pod, replica.version);
        }
        if self.data_plane.is_empty() {
            println!("data plane: no proxies");
        }
        for (version, count) in &self.data_plane {
            println!("data plane: {version} ({count} proxies)");
        }
    }
}
