//! `meshctl describe`: what applies to a pod or a service of a cluster, and why.
//!
//! In: the API server's objects, what the pilot says of each, what the pod's proxy has in force. Out: one account.

mod applies;
mod injection;
mod policies;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::ListParams;
use mesh_proto::crd::Kind;
use serde::Serialize;
use serde_json::Value;

use crate::args::{Format, OutputArgs};
use crate::cluster::{Cluster, ClusterFlags, objects, pilots, pods};
use crate::local::pilot::{EndpointStatus, PilotStatus, ServiceStatus};
use applies::Applies;
use policies::OfPod;

/// `meshctl describe`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  meshctl describe service reviews -n shop\n  meshctl describe pod frontend.shop"
)]
pub struct DescribeArgs {
    #[command(subcommand)]
    pub what: What,
}

/// What to describe.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Its identity, mTLS mode, services, and the configuration of each
    #[command(visible_alias = "po")]
    Pod(Named),
    /// Its endpoints, and the configuration for it
    #[command(visible_alias = "svc")]
    Service(Named),
}

/// Which one.
#[derive(Debug, Clone, Args)]
pub struct Named {
    /// Its name
    #[arg(value_name = "NAME[.NAMESPACE]")]
    pub name: String,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// A pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodAccount {
    name: String,
    namespace: String,
    workload: Option<String>,
    ready: bool,
    /// Absent: no sidecar.
    proxy_version: Option<String>,
    identity: Option<String>,
    connected: bool,
    synced: bool,
    /// What the proxy itself has in force: mode, where it is from, by port.
    mtls: Option<Value>,
    peer_authentications: Vec<Applies>,
    request_authentications: Vec<Applies>,
    authorization_policies: Vec<Applies>,
    /// Of a gateway: what it serves.
    gateways: Vec<Applies>,
    virtual_services: Vec<Applies>,
    services: Vec<ServiceAccount>,
    warnings: Vec<String>,
}

/// A service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceAccount {
    host: String,
    address: String,
    ports: Vec<String>,
    endpoints: Vec<EndpointStatus>,
    applies: Vec<Applies>,
    warnings: Vec<String>,
}

/// Asks and prints.
///
/// # Errors
/// When there is no such pod or service, or no mesh.
pub async fn run(args: DescribeArgs) -> anyhow::Result<ExitCode> {
    match &args.what {
        What::Pod(named) => {
            let account = pod(&Cluster::connect(&named.cluster).await?, &named.name).await?;
            show(named.output.output, &account, &pod_text(&account))
        }
        What::Service(named) => {
            let account = service(&Cluster::connect(&named.cluster).await?, &named.name).await?;
            show(named.output.output, &account, &service_text(&account))
        }
    }
}

fn show(format: Format, account: &impl Serialize, text: &str) -> anyhow::Result<ExitCode> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(account)?);
    } else {
        println!("{}", text.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

const TOKENS: &str = "RequestAuthentication";
const POLICIES: &str = "AuthorizationPolicy";
/// Istio's annotation of a pod that is made a gateway.
const TEMPLATES: &str = "inject.istio.io/templates";

/// The objects that may apply, of all namespaces.
struct Config {
    routes: Vec<Value>,
    rules: Vec<Value>,
    authentications: Vec<Value>,
    tokens: Vec<Value>,
    policies: Vec<Value>,
    gateways: Vec<Value>,
    entries: Vec<Value>,
}

impl Config {
    async fn read(cluster: &Cluster) -> anyhow::Result<Self> {
        let list = async |kind: Kind| {
            let wanted = objects::KINDS.into_iter().find(|(of, _)| *of == kind);
            objects::list(cluster, wanted.context("a kind without a plural")?, None).await
        };
        Ok(Self {
            routes: list(Kind::VirtualService).await?,
            rules: list(Kind::DestinationRule).await?,
            authentications: list(Kind::PeerAuthentication).await?,
            tokens: list(Kind::RequestAuthentication).await?,
            policies: list(Kind::AuthorizationPolicy).await?,
            gateways: list(Kind::Gateway).await?,
            entries: list(Kind::ServiceEntry).await?,
        })
    }
}

impl Config {
    /// The names of the ServiceEntries of a namespace that select pods with these labels.
    fn entries_of(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
        let of = self.entries.iter().filter(|entry| applies::meta(entry, "namespace") == namespace);
        let selects = |entry: &&Value| {
            let wanted = entry["spec"]["workloadSelector"]["labels"].as_object();
            wanted.is_some_and(|wanted| !wanted.is_empty() && applies::matched(wanted, labels).is_some())
        };
        of.filter(selects).map(|entry| applies::meta(entry, "name").to_owned()).collect()
    }
}

async fn service(cluster: &Cluster, text: &str) -> anyhow::Result<ServiceAccount> {
    let (name, namespace) = pods::split(text, &cluster.namespace);
    let api: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
    let what = format!("services of namespace {namespace}");
    if cluster.ask(&what, api.get_opt(name)).await?.is_none() {
        let all = cluster.ask(&what, api.list(&ListParams::default())).await?;
        let known: Vec<String> = all.items.into_iter().filter_map(|s| s.metadata.name).take(20).collect();
        anyhow::bail!("no service {name:?} in namespace {namespace}; there are: {}", known.join(", "));
    }
    let (_, pilot) = pilots::ask(cluster).await?;
    let config = Config::read(cluster).await?;
    account(&pilot, &config, name, namespace).with_context(|| {
        format!("the pilot does not know service {namespace}/{name} (`meshctl status` says whether it has read everything)")
    })
}

/// What the pilot and the objects say of a service.
fn account(pilot: &PilotStatus, config: &Config, name: &str, namespace: &str) -> Option<ServiceAccount> {
    let known: &ServiceStatus = pilot.services.iter().find(|s| s.name() == Some((name, namespace)))?;
    let of = |objects: &[Value], kind| applies::to_host(objects, kind, &known.host, pilot);
    let mut all = of(&config.routes, "VirtualService");
    all.extend(of(&config.rules, "DestinationRule"));
    let service = (name, namespace);
    all.extend(policies::to_service(&config.tokens, TOKENS, service, pilot));
    all.extend(policies::to_service(&config.policies, POLICIES, service, pilot));
    let mut warnings: Vec<String> = all.iter().flat_map(Applies::warnings).collect();
    if known.endpoints.is_empty() {
        warnings.push("no endpoints: no pod has the labels that the service selects".to_owned());
    } else if !known.endpoints.iter().any(|endpoint| endpoint.ready) {
        warnings.push("no endpoint is ready: requests get 503 (UH)".to_owned());
    }
    let auto = known.ports.iter().filter(|port| port.protocol == "auto");
    warnings.extend(auto.map(|port| {
        format!(
            "port {}: its protocol is not declared and is detected (name it http-..., or set appProtocol)",
            port.number
        )
    }));
    let port = |port: &crate::local::pilot::ServicePort| match &port.name {
        Some(name) if !name.is_empty() => format!("{} {name} ({})", port.number, port.protocol),
        _ => format!("{} ({})", port.number, port.protocol),
    };
    Some(ServiceAccount {
        host: known.host.clone(),
        address: known.vip.clone().filter(|vip| !vip.is_empty()).unwrap_or_else(|| "headless".to_owned()),
        ports: known.ports.iter().map(port).collect(),
        endpoints: known.endpoints.clone(),
        applies: all,
        warnings,
    })
}

async fn pod(cluster: &Cluster, text: &str) -> anyhow::Result<PodAccount> {
    let pod = pods::find(cluster, text).await?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let (_, pilot) = pilots::ask(cluster).await?;
    let config = Config::read(cluster).await?;
    let mut warnings = injection::warnings(&pod);
    let own = own(cluster, &pod, &mut warnings).await?;
    let selecting = services_of(cluster, &pod, &namespace).await?;
    let services: Vec<ServiceAccount> =
        selecting.iter().filter_map(|name| account(&pilot, &config, name, &namespace)).collect();
    if services.is_empty() {
        warnings.push("no service selects this pod: nobody reaches it by a name".to_owned());
    }
    let proxy = pilot.proxies.iter().find(|proxy| proxy.name == name && proxy.namespace == namespace);
    if let Some(closed) = own["deny_all"].as_str() {
        warnings.push(format!("nothing inbound is let through: {closed}"));
    }
    warnings.extend(
        proxy
            .iter()
            .flat_map(|p| &p.rejected)
            .map(|r| format!("the proxy refuses {}: {}", r.resource, r.reason)),
    );
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let entries = config.entries_of(&namespace, &labels);
    let of_pod = OfPod {
        namespace: &namespace,
        system: &cluster.system,
        labels: &labels,
        services: &selecting,
        entries: &entries,
    };
    let served =
        if is_gateway(&pod) { policies::gateways(&config.gateways, &labels, &pilot) } else { Vec::new() };
    let request_authentications = policies::to_pod(&config.tokens, TOKENS, of_pod, &pilot);
    let authorization_policies = policies::to_pod(&config.policies, POLICIES, of_pod, &pilot);
    let all = request_authentications.iter().chain(&authorization_policies).chain(&served);
    warnings.extend(all.flat_map(Applies::warnings));
    Ok(PodAccount {
        request_authentications,
        authorization_policies,
        virtual_services: policies::bound(&config.routes, &served, &pilot),
        gateways: served,
        workload: pods::workload(&pod),
        ready: pods::is_ready(&pod),
        proxy_version: pods::sidecar(&pod).map(pods::image_version),
        identity: own["identity"].as_str().map(ToOwned::to_owned).or_else(|| proxy.map(|p| p.identity.clone())),
        connected: proxy.is_some_and(|p| p.connected),
        synced: proxy.is_some_and(|p| p.synced),
        mtls: (!own.is_null()).then(|| {
            serde_json::json!({ "mode": own["mtls"], "origin": own["mtls_origin"], "byPort": own["mtls_by_port"] })
        }),
        peer_authentications: applies::to_pod(&config.authentications, &namespace, &cluster.system, &labels, &pilot),
        services,
        warnings,
        name,
        namespace,
    })
}

/// What its proxy says of itself; null where there is none that answers, which is a warning.
async fn own(cluster: &Cluster, pod: &Pod, warnings: &mut Vec<String>) -> anyhow::Result<Value> {
    let dump = match pods::admin(cluster, pod) {
        Ok(target) => target.get("/config_dump").await,
        Err(error) => Err(error),
    };
    match dump {
        Ok(answer) => Ok(serde_json::from_slice::<Value>(&answer.body)?["self"].clone()),
        Err(error) => {
            warnings.push(format!("{error:#}"));
            Ok(Value::Null)
        }
    }
}

fn is_gateway(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(TEMPLATES)).is_some_and(|list| list.contains("gateway"))
}

/// The services that select the pod.
async fn services_of(cluster: &Cluster, pod: &Pod, namespace: &str) -> anyhow::Result<Vec<String>> {
    let api: Api<Service> = Api::namespaced(cluster.client.clone(), namespace);
    let all = cluster.ask("services", api.list(&ListParams::default())).await?;
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let selects = |service: &Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|s| !s.is_empty() && s.iter().all(|(key, value)| labels.get(key) == Some(value)))
    };
    Ok(all.items.into_iter().filter(selects).filter_map(|service| service.metadata.name).collect())
}

fn pod_text(pod: &PodAccount) -> String {
    let mut text = format!("pod {}/{}", pod.namespace, pod.name);
    if let Some(workload) = &pod.workload {
        text.push_str(&format!(" of {workload}"));
    }
    text.push_str(if pod.ready { ", ready\n" } else { ", not ready\n" });
    match &pod.proxy_version {
        None => text.push_str("sidecar: none\n"),
        Some(version) => {
            let connected = match (pod.connected, pod.synced) {
                (true, true) => "connected, has the newest configuration",
                (true, false) => "connected, has not acknowledged everything",
                (false, _) => "not connected to a pilot",
            };
            text.push_str(&format!("sidecar: {version}, {connected}\n"));
        }
    }
    if let Some(identity) = &pod.identity {
        text.push_str(&format!("identity: {identity}\n"));
    }
    if let Some(mtls) = &pod.mtls {
        let origin = mtls["origin"].as_str().unwrap_or("the default");
        text.push_str(&format!("mTLS: {} ({origin})\n", mtls["mode"].as_str().unwrap_or("unknown")));
        for (port, mode) in mtls["byPort"].as_object().into_iter().flatten() {
            text.push_str(&format!("mTLS of port {port}: {}\n", mode.as_str().unwrap_or_default()));
        }
    }
    let lists = [
        &pod.peer_authentications,
        &pod.request_authentications,
        &pod.authorization_policies,
        &pod.gateways,
        &pod.virtual_services,
    ];
    for applies in lists.into_iter().flatten() {
        text.push_str(&format!("{applies}\n"));
    }
    for warning in &pod.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    for service in &pod.services {
        text.push('\n');
        text.push_str(&service_text(service));
    }
    text
}

fn service_text(service: &ServiceAccount) -> String {
    let mut text = format!("service {} ({})\n", service.host, service.address);
    text.push_str(&format!("ports: {}\n", service.ports.join(", ")));
    let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready).count();
    text.push_str(&format!("endpoints: {ready} of {} ready\n", service.endpoints.len()));
    for endpoint in &service.endpoints {
        let state = if endpoint.ready { "" } else { " (not ready)" };
        text.push_str(&format!("  {}{state}\n", endpoint.address));
    }
    if !service.applies.iter().any(|one| one.kind == "VirtualService" || one.kind == "DestinationRule") {
        text.push_str(
            "no VirtualService and no DestinationRule names it: every request goes to any endpoint\n",
        );
    }
    for applies in &service.applies {
        text.push_str(&format!("{applies}\n"));
    }
    for warning in &service.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}
