//! `meshctl request`: requests as an application in the mesh would send them (through its sidecar), or to a gateway from
//! outside. In: a URL and options; out: a summary for people, or one JSON object per response, in order.

mod answer;
mod connection;
mod grpc;
mod plan;
mod report;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::args::{Format, MeshName, OutputArgs};
use crate::cluster::{Cluster, Place, Reach};
use answer::Answer;
use connection::Connection;
use plan::{Plan, Scheme, Where};

/// `meshctl request`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Schemes: http, https, h2c (HTTP/2 by prior knowledge), grpc, ws, tcp.\n\
    Examples:\n  \
    meshctl request http://reviews:9080/ -n 100\n  \
    meshctl request http://reviews:9080/ --from frontend -H 'end-user: jason'\n  \
    meshctl request http://shop.example.com/ --via shop -o json\n  \
    meshctl request http://reviews:9080/ --cluster --from deploy/frontend.shop\n\
    On a cluster the request goes by a port-forward to the pod's sidecar and out as the application's would: the pod needs \
    no curl and no shell.")]
pub struct RequestArgs {
    /// What to request: SCHEME://HOST[:PORT][/PATH]; a service of one port may be named without it
    pub url: String,
    /// The workload that sends, by its sidecar [default: the built-in workload client]; on a cluster: a pod or workload
    #[arg(long, value_name = "WORKLOAD[.NAMESPACE]")]
    pub from: Option<String>,
    /// Send to this gateway from outside the mesh: a Gateway resource or a gateway workload
    #[arg(long, value_name = "[NAMESPACE/]GATEWAY", conflicts_with = "from")]
    pub via: Option<String>,
    /// Method [default: GET, or POST with -d]
    #[arg(short = 'X', long, value_name = "METHOD")]
    pub method: Option<String>,
    /// A header; `host: ...` overrides the URL's host
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The body; the message for grpc, ws and tcp
    #[arg(short, long, value_name = "BODY")]
    pub data: Option<String>,
    /// How many requests
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// How many at a time, each on a connection of its own
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: u32,
    /// How long one request may take, in seconds
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// The client's certificate (PEM), for https
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The client's key (PEM), for https
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// The authorities that may sign the server's certificate (PEM), for https
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub mesh: MeshName,
    /// The namespace of --from on a cluster [default: the context's]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub reach: Reach,
}

/// Sends the requests and reports. The exit code is 1 when one of them got no answer.
///
/// # Errors
/// When the mesh, the workload or the gateway is not there, or an option makes no sense.
pub async fn run(args: RequestArgs) -> anyhow::Result<ExitCode> {
    let place = match args.reach.place(&args.mesh.name)? {
        Place::Local => Where::Local(Box::new(crate::local::client::mesh(&args.mesh.name).await?)),
        Place::Cluster => Where::Cluster(Cluster::reach(&args.reach, args.namespace.as_deref()).await?),
    };
    let plan = Rc::new(Plan::new(&args, &place).await?);
    let started = Instant::now();
    let (sender, mut answers) = mpsc::channel(64);
    let local = tokio::task::LocalSet::new();
    let next = Rc::new(std::cell::Cell::new(0_u32));
    for _ in 0..args.concurrency.min(args.count) {
        local.spawn_local(worker(plan.clone(), next.clone(), args.count, sender.clone()));
    }
    drop(sender);
    let mut report = report::Report::new(args.output.output == Format::Json, args.count == 1);
    local
        .run_until(async {
            while let Some((index, answer)) = answers.recv().await {
                report.add(index, answer);
            }
        })
        .await;
    Ok(report.finish(started.elapsed()))
}

/// One client: takes the next request's number until all are taken; keeps its connection as long as it lasts.
async fn worker(
    plan: Rc<Plan>,
    next: Rc<std::cell::Cell<u32>>,
    count: u32,
    answers: mpsc::Sender<(u32, Answer)>,
) {
    let mut connection = None;
    loop {
        let index = next.get();
        if index >= count {
            return;
        }
        next.set(index + 1);
        let answer = one(&plan, &mut connection).await;
        if answers.send((index, answer)).await.is_err() {
            return;
        }
    }
}

/// One request; what goes wrong is the answer's `error`.
async fn one(plan: &Plan, connection: &mut Option<Connection>) -> Answer {
    let started = Instant::now();
    let patience = Duration::from_secs_f64(plan.timeout);
    let result = match tokio::time::timeout(patience, exchange(plan, connection)).await {
        Ok(result) => result,
        Err(_) => Err(anyhow::anyhow!("no answer within {} s", plan.timeout)),
    };
    let mut answer = result.unwrap_or_else(|error| {
        *connection = None;
        Answer::failed(&error)
    });
    answer.millis = started.elapsed().as_secs_f64() * 1000.0;
    answer
}

async fn exchange(plan: &Plan, connection: &mut Option<Connection>) -> anyhow::Result<Answer> {
    match plan.scheme {
        Scheme::Tcp => return stream::tcp(plan).await,
        Scheme::Ws => return stream::websocket(plan).await,
        Scheme::Http | Scheme::Https | Scheme::H2c | Scheme::Grpc => {}
    }
    let open = match connection.take().filter(Connection::is_open) {
        Some(open) => open,
        None => Connection::open(plan).await?,
    };
    let open = connection.insert(open);
    if plan.scheme == Scheme::Grpc { grpc::call(plan, open).await } else { open.request(plan).await }
}

#[cfg(test)]
mod tests;
