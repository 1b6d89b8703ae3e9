//! `meshctl fault`: the switch that makes an instance of the sample application misbehave. It goes to the application
//! itself, on its own port of 127.0.0.1: past its sidecar, as a fault of the application's own would.

use std::process::ExitCode;
use std::time::Duration;

use ::http::{Method, Request};
use anyhow::{Context as _, bail};
use bytes::Bytes;

use crate::app::Fault;
use crate::args::FaultArgs;
use crate::local::api::{Instance, Mesh, Port, ProcessState};
use crate::local::client;
use crate::local::http;

/// How long the application may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sets, shows or clears the fault of an instance.
///
/// # Errors
/// When there is no such instance, or what runs there is not the sample application.
pub async fn run(args: FaultArgs) -> anyhow::Result<ExitCode> {
    let mesh = client::mesh(&args.mesh.name).await?;
    let instance = find(&mesh, &args.instance)?;
    let wanted = args.fault();
    let (method, body) = if args.clear {
        (Method::DELETE, Bytes::new())
    } else if wanted == Fault::default() {
        (Method::GET, Bytes::new())
    } else {
        (Method::POST, serde_json::to_vec(&wanted)?.into())
    };
    let set = ask(instance, &method, &body).await?;
    println!("{}: {}", instance.name, set.describe());
    Ok(ExitCode::SUCCESS)
}

/// An instance by its name, with its namespace where names are not unique; or the only one of a workload.
///
/// # Errors
/// When there is none, or several.
pub fn find<'a>(mesh: &'a Mesh, name: &str) -> anyhow::Result<&'a Instance> {
    let (bare, namespace) = name.rsplit_once('.').map_or((name, None), |(n, ns)| (n, Some(ns)));
    let workloads = || mesh.workloads.iter().filter(|w| namespace.is_none_or(|wanted| wanted == w.namespace));
    let by_name = workloads().flat_map(|w| w.instances.iter().filter(|i| i.name == bare));
    let mut found: Vec<&Instance> = by_name.collect();
    if found.is_empty() {
        found = workloads().filter(|w| w.name == bare).flat_map(|w| &w.instances).collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => {
            let instances = mesh.workloads.iter().flat_map(|w| &w.instances);
            let names: Vec<&str> = instances.map(|i| i.name.as_str()).collect();
            bail!("nothing is named {name:?}; there are: {}", names.join(", "))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|i| i.name.as_str()).collect();
            bail!("{name:?} could be any of {} (name.namespace where they are the same)", names.join(", "))
        }
    }
}

async fn ask(instance: &Instance, method: &Method, body: &Bytes) -> anyhow::Result<Fault> {
    let name = &instance.name;
    if instance.containers.is_empty() {
        bail!("{name} has no application that could fail (stop it with `meshctl stop {name}`)");
    }
    if instance.containers.iter().all(|c| c.state != ProcessState::Running) {
        let last = instance.containers.iter().find_map(|c| c.last_exit.as_deref());
        let last = last.map(|end| format!(" (it {end})")).unwrap_or_default();
        bail!("{name} does not run{last}; see `meshctl status`, bring it back with `meshctl start {name}`");
    }
    let echoes = |port: &&Port| port.name.as_deref().is_some_and(|n| n == "tcp" || n.starts_with("tcp-"));
    let port = instance.ports.iter().find(|port| !echoes(port));
    let port = port.with_context(|| format!("{name} has only TCP ports; the switch is on HTTP ports"))?;
    let request = Request::builder().method(method).uri("/fault").header("host", "localhost");
    let request = request.header("content-type", "application/json").body(body.clone())?;
    let answer = http::send(&instance.server(port.target), request, PATIENCE).await?;
    if answer.status == 400 {
        bail!("{}", answer.text().trim());
    }
    let parsed = serde_json::from_slice(&answer.body).ok().filter(|_| answer.status.is_success());
    parsed.with_context(|| {
        format!("{name} runs a program of its own; only the sample application (an image without a `command`) has this switch")
    })
}
