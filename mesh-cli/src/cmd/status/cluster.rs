//! `meshctl status` on a cluster: what every replica of the pilot says, together.

use serde::Serialize;

use crate::args::Format;
use crate::cluster::pilots::{self, Replica};
use crate::cluster::{Cluster, ClusterFlags};
use crate::local::pilot::{PilotStatus, ResourceStatus};
use crate::output;

/// Everything that there is to say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub cluster: String,
    pub control_plane: Vec<Replica>,
    #[serde(flatten)]
    pub pilot: PilotStatus,
}

/// Asks and prints. False when something is not as it should be.
///
/// # Errors
/// When no mesh is installed, or the API server does not answer.
pub async fn run(flags: &ClusterFlags, format: Format) -> anyhow::Result<bool> {
    let cluster = Cluster::connect(flags).await?;
    let (mut control_plane, mut pilot) = pilots::ask(&cluster).await?;
    control_plane.extend(pilots::replicas(&cluster, "mesh-ca").await?.iter().map(pilots::replica));
    // -n asks for one namespace; without it, the mesh is meant.
    if let Some(namespace) = &flags.namespace {
        pilot.resources.retain(|resource| resource.namespace == *namespace);
        pilot.proxies.retain(|proxy| proxy.namespace == *namespace);
    }
    let good = control_plane.iter().any(|replica| replica.error.is_none());
    let status = Status { cluster: cluster.name, control_plane, pilot };
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(good)
}

fn print(status: &Status) {
    println!("mesh on {}", status.cluster);
    println!("\n{}", replicas(&status.control_plane));
    let pilot = &status.pilot;
    if status.control_plane.iter().all(|replica| replica.error.is_some() || !replica.pod.contains("pilot")) {
        println!("\nno pilot answers; proxies go on with what they have");
        return;
    }
    if !pilot.loaded {
        println!("\nthe pilot has not finished its first listing: nothing is complete yet");
    }
    println!("\n{}", output::resources(&telling(&pilot.resources)));
    if pilot.proxies.is_empty() {
        println!(
            "\nno sidecars: label a namespace (`kubectl label namespace NAME istio-injection=enabled`) and start its pods anew"
        );
    } else {
        println!("\n{}", output::proxies(&pilot.proxies));
    }
}

/// Without those that only say what runs where, and about which there is nothing to say.
fn telling(resources: &[ResourceStatus]) -> Vec<ResourceStatus> {
    let is_quiet = |resource: &&ResourceStatus| {
        let runs = ["Namespace", "ServiceAccount", "ConfigMap", "Secret", "Pod", "Deployment"];
        runs.contains(&resource.kind.as_str()) && resource.state == "accepted" && resource.warnings.is_empty()
    };
    resources.iter().filter(|resource| !is_quiet(resource)).cloned().collect()
}

fn replicas(replicas: &[Replica]) -> String {
    let mut all = output::table(&["CONTROL PLANE", "READY", "VERSION", "WHY"]);
    for replica in replicas {
        all.add_row([
            replica.pod.as_str(),
            if replica.ready { "yes" } else { "no" },
            replica.version.as_str(),
            replica.error.as_deref().unwrap_or_default(),
        ]);
    }
    all.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_left_out_and_what_is_wrong_is_not() {
        let resource = |kind: &str, state: &str| ResourceStatus {
            kind: kind.to_owned(),
            state: state.to_owned(),
            ..ResourceStatus::default()
        };
        let all = [
            resource("Namespace", "accepted"),
            resource("Secret", "refused"),
            resource("Service", "accepted"),
            resource("VirtualService", "in_force"),
        ];
        let kinds: Vec<String> = telling(&all).into_iter().map(|r| r.kind).collect();
        assert_eq!(kinds, ["Secret", "Service", "VirtualService"]);
    }
}
