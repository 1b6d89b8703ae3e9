//! `meshctl status`: what the supervisor, the pilot and each proxy say, together.

mod cluster;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use mesh_pilot::compile::self_config::PROTOCOL_DETECTION_TIMEOUT;
use serde::Serialize;
use serde_json::Value;

use crate::args::{Format, StatusArgs};
use crate::cluster::Place;
use crate::local::api::{Mesh, ProcessState};
use crate::local::client;
use crate::local::http::{self, Server};
use crate::local::pilot::{PilotStatus, ResourceStatus};
use crate::output;

/// How long a proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that there is to say.
#[derive(Debug, Serialize)]
pub struct Status {
    pub mesh: Mesh,
    /// How long clients of ports that declare no protocol may be silent, in seconds.
    #[serde(rename = "protocolDetectionTimeout")]
    pub detection: f64,
    /// By `namespace/instance`: what the proxy's `/certs` says.
    pub certificates: BTreeMap<String, Value>,
    /// Absent while the pilot does not answer.
    pub pilot: Option<PilotStatus>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pilot_error: Option<String>,
}

/// Asks and prints.
///
/// # Errors
/// When no such mesh runs.
pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    if args.cluster.reach.place(&args.mesh.name)? == Place::Cluster {
        let good = cluster::run(&args.cluster, args.output.output).await?;
        return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mesh = client::mesh(&args.mesh.name).await?;
    let pilot = Server::Tcp(mesh.pilot_admin);
    let (certificates, pilot) = tokio::join!(certificates(&mesh), PilotStatus::fetch(&pilot));
    let (pilot, pilot_error) = match pilot {
        Ok(mut status) => {
            status.resources.iter_mut().for_each(ResourceStatus::explain);
            (Some(status), None)
        }
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let detection = PROTOCOL_DETECTION_TIMEOUT.as_secs_f64();
    let status = Status { mesh, detection, certificates, pilot, pilot_error };
    if args.output.output == Format::Json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        output::status(&status);
    }
    Ok(ExitCode::SUCCESS)
}

async fn certificates(mesh: &Mesh) -> BTreeMap<String, Value> {
    let all = mesh.workloads.iter().flat_map(|w| w.instances.iter().map(move |i| (w, i)));
    let running = all.filter(|(_, i)| i.sidecar.state == ProcessState::Running);
    let asked = running.map(|(workload, instance)| async move {
        let answer = http::get(&instance.server(instance.admin), "/certs", PATIENCE).await.ok()?;
        let told = serde_json::from_slice(&answer.body).ok()?;
        Some((format!("{}/{}", workload.namespace, instance.name), told))
    });
    futures_util::future::join_all(asked).await.into_iter().flatten().collect()
}
