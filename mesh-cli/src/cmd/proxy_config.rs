//! `meshctl proxy-config`: what a proxy has, from the proxy itself.

mod tables;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::args::{Format, MeshName, OutputArgs};
use crate::cluster::forward::Target;
use crate::cluster::{Cluster, ClusterFlags, Place, pods};
use crate::local::client;
use crate::local::http::{self, Server};

/// How long a local proxy may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `meshctl proxy-config`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "POD is a pod or a workload (reviews, deploy/reviews), with .NAMESPACE or -n; of a local mesh: an \
    instance.\nExamples:\n  \
    meshctl proxy-config routes reviews-v1-7d4c9-x2x8k.shop\n  \
    meshctl proxy-config endpoints frontend -n shop -o json\n  \
    meshctl proxy-config log frontend --level info,mesh_proxy::xds=debug"
)]
pub struct ProxyConfigArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What to look at.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Inbound ports with their mTLS mode; ports and hosts of a gateway
    #[command(visible_alias = "listener")]
    Listeners(PodArgs),
    /// The rules of each host that the proxy uses, in order, and where each was written
    #[command(visible_alias = "route")]
    Routes(PodArgs),
    /// Balancing, TLS and limits of each host that the proxy sends to
    #[command(visible_alias = "cluster")]
    Clusters(PodArgs),
    /// The instances behind each host, their identity, and what is counted about them
    #[command(visible_alias = "endpoint")]
    Endpoints(PodArgs),
    /// Certificate and roots (never keys)
    #[command(visible_alias = "secret")]
    Secrets(PodArgs),
    /// The log filter; with --level: change it until the proxy's next start
    Log(LogArgs),
    /// Everything, as JSON
    All(PodArgs),
}

/// Whose.
#[derive(Debug, Clone, Args)]
pub struct PodArgs {
    /// A pod or workload; of a local mesh: an instance
    #[arg(value_name = "POD[.NAMESPACE]")]
    pub pod: String,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub mesh: MeshName,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// `proxy-config log`.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// off, error, warn, info, debug or trace, for all or for parts: info,mesh_proxy::xds=debug
    #[arg(long, value_name = "FILTER")]
    pub level: Option<String>,
}

/// Asks and prints.
///
/// # Errors
/// When there is no such proxy, or it does not answer.
pub async fn run(args: ProxyConfigArgs) -> anyhow::Result<ExitCode> {
    let (pod, path) = match &args.what {
        What::Listeners(pod)
        | What::Routes(pod)
        | What::Clusters(pod)
        | What::Endpoints(pod)
        | What::All(pod) => (pod, "/config_dump"),
        What::Secrets(pod) => (pod, "/certs"),
        What::Log(log) => return self::log(log).await,
    };
    let told = Proxy::find(pod).await?.json(path).await?;
    let json = pod.output.output == Format::Json;
    let (part, table) = match &args.what {
        What::Listeners(_) => (tables::parts(&told, &["self", "listeners"]), tables::listeners(&told)),
        What::Routes(_) => (told["routes"].clone(), tables::routes(&told)),
        What::Clusters(_) => (told["clusters"].clone(), tables::clusters(&told)),
        What::Endpoints(_) => (tables::endpoints_json(&told), tables::endpoints(&told)),
        What::Secrets(_) => (told.clone(), tables::secrets(&told)),
        What::All(_) | What::Log(_) => (told.clone(), serde_json::to_string_pretty(&told)?),
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&part)?);
    } else {
        println!("{table}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn log(args: &LogArgs) -> anyhow::Result<ExitCode> {
    let proxy = Proxy::find(&args.pod).await?;
    let told = match &args.level {
        None => proxy.get("/logging").await?,
        Some(level) => {
            anyhow::ensure!(
                level.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:=,-.".contains(&b)),
                "--level {level:?}: expected e.g. info, debug or warn,mesh_proxy::xds=debug"
            );
            proxy.post(&format!("/logging?level={level}")).await?
        }
    };
    if args.pod.output.output == Format::Json {
        println!("{}", serde_json::json!({ "level": told.trim() }));
    } else {
        println!("{}", told.trim());
    }
    Ok(ExitCode::SUCCESS)
}

/// The admin port of a proxy.
pub enum Proxy {
    /// Of a local mesh.
    Local(Server),
    /// Of a pod.
    Pod(Box<Target>),
}

impl Proxy {
    /// The proxy that the arguments name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn find(args: &PodArgs) -> anyhow::Result<Self> {
        match args.cluster.reach.place(&args.mesh.name)? {
            Place::Cluster => {
                let cluster = Cluster::connect(&args.cluster).await?;
                let pod = pods::find(&cluster, &args.pod).await?;
                Ok(Self::Pod(Box::new(pods::admin(&cluster, &pod)?)))
            }
            Place::Local => {
                let mesh = client::mesh(&args.mesh.name).await?;
                let all: Vec<_> = mesh.workloads.iter().flat_map(|w| &w.instances).collect();
                let found = all.iter().find(|i| i.name == args.pod).with_context(|| {
                    let names: Vec<&str> = all.iter().map(|i| i.name.as_str()).collect();
                    format!("no instance {:?} in this local mesh; there are: {}", args.pod, names.join(", "))
                })?;
                Ok(Self::Local(found.server(found.admin)))
            }
        }
    }

    /// A document.
    ///
    /// # Errors
    /// When there is no answer, or another one.
    pub async fn json(&self, path: &str) -> anyhow::Result<Value> {
        let text = self.get(path).await?;
        serde_json::from_str(&text).context("the proxy answers in another form: is it of another version?")
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        match self {
            Self::Local(server) => good(http::get(server, path, PATIENCE).await?),
            Self::Pod(target) => Ok(target.get(path).await?.text()),
        }
    }

    async fn post(&self, path: &str) -> anyhow::Result<String> {
        match self {
            Self::Local(server) => good(http::post(server, path, Bytes::new(), PATIENCE).await?),
            Self::Pod(target) => Ok(target.post(path).await?.text()),
        }
    }
}

fn good(answer: http::Answer) -> anyhow::Result<String> {
    anyhow::ensure!(
        answer.status.is_success(),
        "the proxy answered {}: {}",
        answer.status,
        answer.text().trim()
    );
    Ok(answer.text())
}
