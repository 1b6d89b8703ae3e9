//! `meshctl ca`: an operator's commands for the authority. Roots that take each other's place, identities that are refused.
//!
//! On this machine they go to a socket that only the mesh's owner can open, on a cluster through a port-forward to loopback
//! in the authority's pod: who may command is who may forward ports there.

mod report;

use std::process::ExitCode;
use std::time::Duration;

use ::http::{Method, Request as HttpRequest};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use mesh_ca::keeper::{Answer, Request};
use mesh_ca::rotation::Step;
use mesh_proto::runtime::operator::HEADER;
use tokio::time::{Instant, sleep};

use crate::args::{Format, MeshName, OutputArgs};
use crate::cluster::pilots;
use crate::cluster::pods::is_ready;
use crate::cluster::{Cluster, Place, Reach};
use crate::local::dir::StateDir;
use crate::local::http::{self, Server};

/// The port for commands, on loopback in the authority's pod.
const PORT: u16 = 15000;
/// How long the authority may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait until all proxies have heard.
const SPREADING: Duration = Duration::from_secs(20);
/// The pause between looks.
const LOOK: Duration = Duration::from_millis(100);

/// `meshctl ca`.
#[derive(Debug, Clone, Args)]
pub struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum CaCommand {
    /// Roots, a rotation that is under way, tainted identities, and how far proxies are
    Status(Where),
    /// Put another root into the place of the one that signs, step by step
    #[command(subcommand)]
    Rotate(Rotate),
    /// Refuse an identity: no new certificates, and every proxy closes its connections
    Taint(Taint),
    /// Take that back
    Untaint(Untaint),
    /// The tainted identities
    Tainted(Where),
}

/// The steps, in their order.
#[derive(Debug, Clone, Subcommand)]
enum Rotate {
    /// Make the new root; nobody hears of it yet
    Prepare {
        /// Do every further step as soon as it is safe
        #[arg(long)]
        auto: bool,
        #[command(flatten)]
        at: Where,
    },
    /// Have everybody trust the new root too; the old one still signs
    Publish(Where),
    /// Sign with the new root, once every proxy trusts it; certificates are renewed
    Activate(Forced),
    /// End the trust in the old root, once the last of its certificates has ended
    Retire(Forced),
    /// Give up a new root that has not signed yet
    Cancel(Where),
    /// How far it is
    Status(Where),
}

#[derive(Debug, Clone, Args)]
struct Forced {
    /// Go on although that costs connections
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Clone, Args)]
struct Taint {
    /// spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or NAMESPACE/ACCOUNT
    #[arg(value_name = "IDENTITY")]
    identity: String,
    /// Why: kept with it, and in the audit log
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Return at once instead of when every proxy refuses it
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Clone, Args)]
struct Untaint {
    /// spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or NAMESPACE/ACCOUNT
    #[arg(value_name = "IDENTITY")]
    identity: String,
    #[command(flatten)]
    at: Where,
}

/// Which authority, and how to print.
#[derive(Debug, Clone, Args)]
struct Where {
    #[command(flatten)]
    mesh: MeshName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    reach: Reach,
}

/// Asks, and prints the answer.
///
/// # Errors
/// When the authority refuses, or is not there.
pub async fn run(args: CaArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        CaCommand::Status(at) | CaCommand::Rotate(Rotate::Status(at)) => {
            let answer = Authority::find(&at).await?.status().await?;
            at.print(&answer, report::whole)
        }
        CaCommand::Tainted(at) => {
            let answer = Authority::find(&at).await?.status().await?;
            at.print(&answer, report::tainted)
        }
        CaCommand::Rotate(rotate) => self::rotate(rotate).await,
        CaCommand::Taint(taint) => self::taint(taint).await,
        CaCommand::Untaint(Untaint { identity, at }) => {
            let authority = Authority::find(&at).await?;
            let identity = authority.identity(&identity).await?;
            let answer = authority.command(&Request::Untaint { identity }).await?;
            at.print(&answer, report::tainted)
        }
    }
}

async fn rotate(rotate: Rotate) -> anyhow::Result<ExitCode> {
    let (step, force, automatic, at) = match rotate {
        Rotate::Prepare { auto, at } => (Step::Prepare, false, auto, at),
        Rotate::Publish(at) => (Step::Publish, false, false, at),
        Rotate::Activate(Forced { force, at }) => (Step::Activate, force, false, at),
        Rotate::Retire(Forced { force, at }) => (Step::Retire, force, false, at),
        Rotate::Cancel(at) | Rotate::Status(at) => (Step::Cancel, false, false, at),
    };
    if force {
        eprintln!(
            "warning: --force: connections of proxies that have not heard of the new root, or have not renewed, fail until \
             they have"
        );
    }
    let authority = Authority::find(&at).await?;
    let answer = authority.command(&Request::Rotate { step, force, automatic }).await?;
    at.print(&answer, report::whole)
}

async fn taint(taint: Taint) -> anyhow::Result<ExitCode> {
    let Taint { identity, reason, no_wait, at } = taint;
    let authority = Authority::find(&at).await?;
    let identity = authority.identity(&identity).await?;
    let started = Instant::now();
    let request = Request::Taint { identity: identity.clone(), reason };
    let mut answer = authority.command(&request).await?;
    let in_force = |answer: &Answer| answer.tainted.iter().any(|t| t.identity == identity && t.in_force);
    while !no_wait && !in_force(&answer) && started.elapsed() < SPREADING {
        sleep(LOOK).await;
        answer = authority.status().await?;
    }
    let done = in_force(&answer);
    if at.output.output == Format::Text {
        let proxies: u32 = answer.pilots.iter().map(|pilot| pilot.proxies).sum();
        match (done, no_wait) {
            (true, _) => {
                println!(
                    "{identity} is refused by all {proxies} proxies ({:.1} s)",
                    started.elapsed().as_secs_f64()
                );
            }
            (false, true) => println!("{identity} is tainted; proxies hear of it now"),
            (false, false) => println!(
                "{identity} is tainted, but not every proxy has said that it refuses it: {}",
                answer.waiting.as_deref().unwrap_or("asked too early")
            ),
        }
    }
    at.print(&answer, report::tainted)?;
    Ok(if done || no_wait { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Where {
    fn print(&self, answer: &Answer, text: impl Fn(&Answer) -> String) -> anyhow::Result<ExitCode> {
        match self.output.output {
            Format::Json => println!("{}", serde_json::to_string_pretty(answer)?),
            Format::Text => println!("{}", text(answer)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// An authority that answers.
enum Authority {
    Local(Server),
    Pods(Vec<crate::cluster::forward::Target>),
}

impl Authority {
    async fn find(at: &Where) -> anyhow::Result<Self> {
        if at.reach.place(&at.mesh.name)? == Place::Local {
            // Says what runs here, if this does not.
            crate::local::client::mesh(&at.mesh.name).await?;
            return Ok(Self::Local(Server::Unix(StateDir::of(&at.mesh.name).authority_socket())));
        }
        let cluster = Cluster::reach(&at.reach, None).await?;
        let pods = pilots::replicas(&cluster, "mesh-ca").await?;
        let ready: Vec<_> = pods.iter().filter(|pod| is_ready(pod)).collect();
        if ready.is_empty() {
            bail!(
                "no authority of ours is ready in namespace {} of {} ({} pods); another issuer has commands of its own",
                cluster.system,
                cluster.name,
                pods.len()
            );
        }
        Ok(Self::Pods(ready.into_iter().map(|pod| pilots::port(&cluster, pod, PORT)).collect()))
    }

    async fn status(&self) -> anyhow::Result<Answer> {
        self.ask(Method::GET, "/ca/status", Bytes::new()).await
    }

    async fn command(&self, request: &Request) -> anyhow::Result<Answer> {
        self.ask(Method::POST, "/ca/command", serde_json::to_vec(request)?.into()).await
    }

    /// The whole name of an identity.
    async fn identity(&self, text: &str) -> anyhow::Result<String> {
        match text.split_once('/') {
            Some((namespace, account)) if !text.contains(':') => {
                let domain = self.status().await?.trust_domain;
                Ok(format!("spiffe://{domain}/ns/{namespace}/sa/{account}"))
            }
            _ => Ok(text.to_owned()),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let request = || -> anyhow::Result<HttpRequest<Bytes>> {
            let request = HttpRequest::builder().method(method.clone()).uri(path).header("host", "localhost");
            Ok(request.header(HEADER, "meshctl").body(body.clone())?)
        };
        let answer = match self {
            Self::Local(server) => http::send(server, request()?, PATIENCE)
                .await
                .context("mesh-ca takes no commands now; see `meshctl status` and `meshctl logs mesh-ca`")?,
            // Replicas share what they know: the first that answers speaks for all.
            Self::Pods(targets) => {
                let mut last = None;
                for target in targets {
                    match target.exchange(request()?).await {
                        Ok(answer) => {
                            last = Some(Ok(answer));
                            break;
                        }
                        Err(error) => last = Some(Err(error)),
                    }
                }
                last.context("no pod of the authority")??
            }
        };
        if !answer.status.is_success() {
            bail!("{}", answer.text().trim());
        }
        serde_json::from_slice(&answer.body)
            .context("the authority's answer is of another version of the mesh")
    }
}
