//! `meshctl dashboard`: a port of this machine that leads to loopback inside a pod.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;

use crate::cluster::forward::Target;
use crate::cluster::{Cluster, ClusterFlags, pilots, pods};

/// `meshctl dashboard`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    meshctl dashboard pilot            /metrics and /debug/status of the pilot\n  \
    meshctl dashboard frontend.shop    /stats/prometheus, /config_dump, /certs of a sidecar")]
pub struct DashboardArgs {
    /// pilot, ca, or a pod or workload whose sidecar (or gateway) is meant
    #[arg(value_name = "pilot|ca|POD[.NAMESPACE]")]
    pub target: String,
    /// The port on this machine [default: a free one]
    #[arg(short, long, default_value_t = 0, hide_default_value = true, value_name = "PORT")]
    pub port: u16,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// Forwards until Ctrl-C.
///
/// # Errors
/// When there is no such target, or the port is taken.
pub async fn run(args: DashboardArgs) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let (target, pages) = match args.target.as_str() {
        "pilot" => (control_plane(&cluster, "mesh-pilot").await?, "/metrics, /debug/status, /debug/events"),
        "ca" => (control_plane(&cluster, "mesh-ca").await?, "/metrics"),
        pod => {
            let pod = pods::find(&cluster, pod).await?;
            (pods::admin(&cluster, &pod)?, "/stats/prometheus, /stats, /config_dump, /certs, /ready")
        }
    };
    // One try before there is something to open in a browser.
    drop(target.connect().await?);
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, args.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    println!("http://{} leads to {target} ({pages}); Ctrl-C ends it", listener.local_addr()?);
    let mut signal = std::pin::pin!(mesh_proto::runtime::shutdown::signal());
    loop {
        let accepted = tokio::select! {
            _ = &mut signal => return Ok(ExitCode::SUCCESS),
            accepted = listener.accept() => accepted,
        };
        let (mut here, _) = accepted.context("accepting a connection")?;
        let target = target.clone();
        tokio::spawn(async move {
            match target.connect().await {
                Ok(mut there) => {
                    // Either side may end it.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                }
                Err(error) => anstream::eprintln!("{error:#}"),
            }
        });
    }
}

async fn control_plane(cluster: &Cluster, name: &str) -> anyhow::Result<Target> {
    // The same words when nothing is installed, whatever was asked for.
    let pilots = pilots::pilots(cluster).await?;
    let replicas = if name == "mesh-pilot" { pilots } else { pilots::replicas(cluster, name).await? };
    let ready = replicas.iter().find(|pod| pods::is_ready(pod)).or(replicas.first());
    let pod = ready.with_context(|| format!("no pod of {name} in namespace {}", cluster.system))?;
    Ok(match name {
        "mesh-pilot" => pilots::target(cluster, pod),
        _ => pilots::port(cluster, pod, pilots::CA),
    })
}
