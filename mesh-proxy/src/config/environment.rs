//! The bootstrap of a pod: what the injector (or a gateway's chart) puts into the environment.
//!
//! In: a lookup of variables, so that tests need no process. Out: [`Config`], or one line that names the variable. Names
//! and values are Istio's where Istio has them; the rest begins with `MESH_`.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mesh_proto::model::proxy_config::{self, Interception, ProxyConfig};
use mesh_proto::model::{HostPort, duration};

use super::agent::{self, Agent, Termination};
use super::{Ca, Capture, Config, Gateway, InvalidConfig, Node, NodeKind, Pilot};

/// The projected token, mounted by the injector.
const TOKEN: &str = "/var/run/secrets/tokens/istio-token";
/// The roots, mounted by the injector from the ConfigMap `istio-ca-root-cert`.
const ROOTS: &str = "/var/run/secrets/istio/root-cert.pem";
/// In the proxy's own volume. A directory of ours within it: the volume itself belongs to the kubelet.
const STATE: &str = "/etc/istio/proxy/state";
/// Istio's default of `MINIMUM_DRAIN_DURATION`: so long an endpoint's withdrawal may take to reach every client.
const MINIMUM_DRAIN: Duration = Duration::from_secs(5);
/// Istio's default of `terminationDrainDuration`.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Kubernetes' default of `terminationGracePeriodSeconds`.
const GRACE: u64 = 30;
/// After the grace period everything of a pod that ends has been killed; this much more is for slow kubelets.
const LIFT: Duration = Duration::from_secs(15);
/// The longest token; ours have 32 characters.
const MAX_TOKEN: usize = 256;

/// Looks up a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why an environment is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEnvironment {
    /// A variable is missing.
    #[error("{0} is not set; {1}")]
    Missing(&'static str, &'static str),
    /// A variable has no meaning.
    #[error("{name}={value:?}: {why}")]
    Invalid {
        /// Which.
        name: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// They do not fit together.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
}

/// The bootstrap of a sidecar or gateway in a pod.
///
/// # Errors
/// When a variable is missing or wrong.
pub fn config(kind: NodeKind, lookup: Lookup<'_>) -> Result<Config, InvalidEnvironment> {
    let environment = Environment(lookup);
    let (settings, mut notices) = match environment.text("PROXY_CONFIG") {
        Some(text) => settings(&text).map_err(|why| invalid("PROXY_CONFIG", text, why))?,
        None => Default::default(),
    };
    let pod = environment.pod()?;
    let control_plane = environment.text_or("MESH_CONTROL_PLANE_NAMESPACE", "istio-system");
    let service = |name: &str| format!("{name}.{control_plane}.svc:15012");
    let any = pod.any;
    let at = |port| SocketAddr::new(any, port);
    let sidecar = kind == NodeKind::Sidecar;
    let tproxy = sidecar && environment.is_tproxy(&settings)?;
    let config = Config {
        node: Node {
            kind,
            name: pod.name,
            namespace: pod.namespace,
            service_account: environment.text_or("SERVICE_ACCOUNT", "default"),
            uid: environment.required("POD_UID", "the pod needs a fieldRef to metadata.uid")?,
        },
        trust_domain: environment.parsed_or("TRUST_DOMAIN", "cluster.local")?,
        cluster_domain: environment.text_or("CLUSTER_DOMAIN", "cluster.local"),
        pod_ip: pod.ip,
        ca: Ca {
            address: environment.parsed_or::<HostPort>("CA_ADDR", &service("mesh-ca"))?,
            roots: environment.text_or("MESH_ROOTS", ROOTS).into(),
            token: environment.text_or("MESH_TOKEN", TOKEN).into(),
            life: environment.certificate_life(&settings)?,
        },
        pilot: Pilot { address: environment.parsed_or("PILOT_ADDR", &service("mesh-pilot"))? },
        control_plane_namespace: control_plane.clone(),
        inbound: Vec::new(),
        outbound: None,
        capture: sidecar.then(|| Capture { outbound: at(15001), inbound: at(15006), tproxy }),
        gateway: (!sidecar).then_some(Gateway { listen_ip: any, port_offset: None }),
        // Files of the pod are where they are.
        mounts: Vec::new(),
        name_servers: Vec::new(),
        status: at(15021),
        metrics: at(15090),
        admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 15000)),
        state_dir: PathBuf::from(environment.text_or("MESH_STATE", STATE)),
        workers: environment.workers(kind, settings.concurrency)?,
        access_log: false,
        parent_pid: None,
        agent: Some(environment.agent(at(15020), &mut notices)?),
        termination: environment.termination(&settings)?,
        notices,
    };
    Ok(config.checked()?)
}

/// ProxyConfig, and what has no effect in it.
fn settings(text: &str) -> Result<(ProxyConfig, Vec<String>), String> {
    let fields = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let (config, without_effect) = proxy_config::read(&fields)?;
    let notice = |name| format!("proxy configuration: {name} has no effect here");
    Ok((config, without_effect.into_iter().map(notice).collect()))
}

fn invalid(name: &'static str, value: String, why: impl Display) -> InvalidEnvironment {
    InvalidEnvironment::Invalid { name, value, why: why.to_string() }
}

struct Environment<'a>(Lookup<'a>);

/// Where we are.
struct Pod {
    name: String,
    namespace: String,
    ip: IpAddr,
    /// The address that stands for all of the pod's.
    any: IpAddr,
}

impl Environment<'_> {
    /// Empty is not set: that is how a downward API field without a value comes.
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|text| !text.trim().is_empty())
    }

    fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    fn required(&self, name: &'static str, hint: &'static str) -> Result<String, InvalidEnvironment> {
        self.text(name).ok_or(InvalidEnvironment::Missing(name, hint))
    }

    fn parsed<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, InvalidEnvironment> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|why| invalid(name, text, why))
    }

    fn parsed_or<T: FromStr<Err: Display>>(
        &self,
        name: &'static str,
        default: &str,
    ) -> Result<T, InvalidEnvironment> {
        let text = self.text_or(name, default);
        text.trim().parse().map_err(|why| invalid(name, text, why))
    }

    fn pod(&self) -> Result<Pod, InvalidEnvironment> {
        let hint = "the pod needs a fieldRef to status.podIP";
        let text = self.text("INSTANCE_IPS").or_else(|| self.text("INSTANCE_IP"));
        let text = text.ok_or(InvalidEnvironment::Missing("INSTANCE_IP", hint))?;
        let ips: Result<Vec<IpAddr>, _> = text.split(',').map(|ip| ip.trim().parse()).collect();
        let ips = ips.map_err(|why| invalid("INSTANCE_IPS", text, why))?;
        let first: Option<IpAddr> = self.parsed("INSTANCE_IP")?;
        // An IPv6 socket serves both families; where the kernel has no IPv6, no pod has such an address.
        let any = if ips.iter().any(IpAddr::is_ipv6) {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        Ok(Pod {
            name: self.required("POD_NAME", "the pod needs a fieldRef to metadata.name")?,
            namespace: self.required("POD_NAMESPACE", "the pod needs a fieldRef to metadata.namespace")?,
            ip: first.unwrap_or(ips[0]),
            any,
        })
    }

    fn is_tproxy(&self, settings: &ProxyConfig) -> Result<bool, InvalidEnvironment> {
        let name = "ISTIO_META_INTERCEPTION_MODE";
        match self.text(name).as_deref() {
            None => Ok(settings.interception == Some(Interception::Tproxy)),
            Some("REDIRECT") => Ok(false),
            Some("TPROXY") => Ok(true),
            Some(other) => Err(invalid(name, other.to_owned(), "expected REDIRECT or TPROXY")),
        }
    }

    /// Design §3.3: a sidecar has one worker unless it is told otherwise, a gateway as many as CPUs.
    fn workers(&self, kind: NodeKind, told: Option<u16>) -> Result<NonZeroUsize, InvalidEnvironment> {
        let cpus = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let limit: Option<NonZeroUsize> = self.parsed("ISTIO_CPU_LIMIT")?;
        let all = limit.map_or(cpus, |limit| limit.min(cpus));
        Ok(match (told.map(usize::from).map(NonZeroUsize::new), kind) {
            (Some(Some(told)), _) => told,
            (Some(None), _) | (None, NodeKind::Router) => all,
            (None, NodeKind::Sidecar) => NonZeroUsize::MIN,
        })
    }

    fn agent(&self, listen: SocketAddr, notices: &mut Vec<String>) -> Result<Agent, InvalidEnvironment> {
        let drain_token = self.text("MESH_DRAIN_TOKEN");
        if let Some(token) = &drain_token
            && (token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        {
            let why = "expected letters, digits and '-'";
            return Err(InvalidEnvironment::Invalid {
                name: "MESH_DRAIN_TOKEN",
                value: "...".into(),
                why: why.into(),
            });
        }
        let name = "ISTIO_KUBE_APP_PROBERS";
        let probes = match self.text(name) {
            Some(text) => agent::probes(&text).map_err(|why| invalid(name, text, why))?,
            None => Default::default(),
        };
        // The application's own annotations, written by its people: wrong ones must not keep the pod from starting.
        let name = "ISTIO_PROMETHEUS_ANNOTATIONS";
        let scrape = self.text(name).and_then(|text| {
            agent::scrape(&text).unwrap_or_else(|why| {
                notices.push(format!(
                    "prometheus.io annotations: {why}; the application's metrics are not told"
                ));
                None
            })
        });
        Ok(Agent { listen, drain_token, probes, scrape })
    }

    /// A variable of `proxyMetadata`: the injector makes environment of it, a gateway's chart does not.
    fn metadata(&self, settings: &ProxyConfig, name: &str) -> Option<String> {
        self.text(name).or_else(|| settings.metadata.get(name).cloned())
    }

    fn certificate_life(&self, settings: &ProxyConfig) -> Result<Option<Duration>, InvalidEnvironment> {
        let name = proxy_config::CERTIFICATE_LIFE;
        let Some(text) = self.metadata(settings, name) else { return Ok(None) };
        proxy_config::certificate_life(&text).map(Some).map_err(|why| invalid(name, text, why))
    }

    fn termination(&self, settings: &ProxyConfig) -> Result<Termination, InvalidEnvironment> {
        let grace: Option<u64> = self.parsed("MESH_TERMINATION_GRACE_SECONDS")?;
        let grace = Duration::from_secs(grace.unwrap_or(GRACE).min(24 * 3600));
        let name = proxy_config::MINIMUM_DRAIN;
        let minimum = match self.metadata(settings, name) {
            Some(text) => duration::parse(&text).map_err(|why| invalid(name, text, why))?,
            None => MINIMUM_DRAIN,
        };
        // A third of the grace period is left for the application's own end.
        let drain = settings.termination_drain.unwrap_or(grace * 2 / 3);
        Ok(Termination {
            minimum: minimum.min(drain),
            drain,
            shutdown: settings.termination_drain.unwrap_or(SHUTDOWN),
            lift_after: Some(grace + LIFT),
            with_application: self.text("MESH_CLASSIC_SIDECAR").is_some_and(|t| t == "true"),
        })
    }
}
