//! Makes an instance: its configuration files, its ports, and how each of its processes is run.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::inside::{Inside, as_application, as_sidecar};
use super::{Instance, Phase, pod};
use crate::local::api::{self, GatewayAddress, InstanceState, Place, WorkloadKind};
use crate::local::context::Context;
use crate::local::dir;
use crate::local::environment::{self, environment};
use crate::local::hub;
use crate::local::net::{self, port};
use crate::local::plan::{Container, Port, Run, Template, Workload};
use crate::local::probe::{At, Readiness};
use crate::local::process::{MYSELF, Program, Unit};

/// An instance that does not run yet, with the probe of each container.
///
/// # Errors
/// When its files cannot be written or there are no ports.
pub fn build(
    context: Arc<Context>,
    workload: &Workload,
    name: &str,
    index: u8,
    inside: Option<Inside>,
) -> anyhow::Result<(Instance, Vec<Readiness>)> {
    if let Some(why) = &workload.template.blocked {
        anyhow::bail!("{why}");
    }
    let ip = context.network.pod(index);
    let ports = ports(&context, &workload.template, ip, inside.is_some())?;
    let id = format!("{}.{name}", workload.namespace);
    let is_gateway = workload.kind == WorkloadKind::Gateway;
    let gateway = is_gateway.then(|| GatewayAddress {
        listen_ip: ip,
        port_offset: if net::may_bind(ip, 80) { 0 } else { net::PORT_OFFSET },
    });
    let inside_of = inside.as_ref();
    let parts =
        Parts { context: &context, workload, name, uid: &new_uid(), index, ip, id: &id, inside: inside_of };
    parts.write_config(&ports, gateway.as_ref())?;
    let sidecar = parts.sidecar(is_gateway);
    let (containers, readiness) = parts.containers(&ports);
    let phase = Phase { state: InstanceState::Starting, reason: None, deleted: None };
    let instance = Instance {
        kind: workload.kind,
        namespace: workload.namespace.clone(),
        name: name.to_owned(),
        uid: parts.uid.to_owned(),
        created: pod::now(),
        index,
        template: workload.template.clone(),
        ports,
        gateway,
        place: inside.as_ref().map(|inside| inside.place.clone()),
        inside: parking_lot::Mutex::new(inside),
        sidecar,
        containers,
        phase: watch::Sender::new(phase),
        minder: parking_lot::Mutex::default(),
        context: context.clone(),
    };
    Ok((instance, readiness))
}

/// A version 4 UUID.
fn new_uid() -> String {
    let bits: u128 = rand::rng().random();
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Every container port gets a free port of loopback for the application, or is its own in a pod `with_netns`; two
/// containers cannot have the same one.
fn ports(
    context: &Context,
    template: &Template,
    ip: Ipv4Addr,
    with_netns: bool,
) -> anyhow::Result<Vec<api::Port>> {
    let declared: BTreeMap<u16, &Port> =
        template.containers.iter().flat_map(|c| &c.ports).map(|p| (p.number, p)).collect();
    if with_netns {
        let port = |declared: &Port| {
            let at = SocketAddrV4::new(ip, declared.number);
            api::Port { port: declared.number, name: declared.name.clone(), listen: at, target: at }
        };
        return Ok(declared.into_values().map(port).collect());
    }
    let free = context.app_ports.lock().take(declared.len()).context("no free ports on 127.0.0.1")?;
    let port = |(declared, target): (&Port, SocketAddrV4)| api::Port {
        port: declared.number,
        name: declared.name.clone(),
        listen: SocketAddrV4::new(ip, net::served_port(ip, declared.number)),
        target,
    };
    Ok(declared.into_values().zip(free).map(port).collect())
}

/// What everything below needs.
struct Parts<'a> {
    context: &'a Arc<Context>,
    workload: &'a Workload,
    name: &'a str,
    uid: &'a str,
    index: u8,
    ip: Ipv4Addr,
    id: &'a str,
    inside: Option<&'a Inside>,
}

impl Parts<'_> {
    /// The bootstrap of the sidecar, its token, and an empty directory for its state.
    fn write_config(&self, ports: &[api::Port], gateway: Option<&GatewayAddress>) -> anyhow::Result<()> {
        let Self { context, workload, ip, .. } = self;
        let token = context.write_token(
            self.id,
            &workload.namespace,
            &workload.template.service_account,
            self.name,
        )?;
        let state = context.dir.state_of(self.id);
        remake(&state)?;
        let at = |port: u16| format!("{ip}:{port}");
        let own = ports.iter().filter(|_| self.inside.is_none());
        let inbound: Vec<Value> =
            own.map(|p| json!({"listen": p.listen, "port": p.port, "target": p.target})).collect();
        let mut config = json!({
            "node": {
                "kind": if gateway.is_some() { "router" } else { "sidecar" },
                "name": self.name,
                "namespace": workload.namespace,
                "service_account": workload.template.service_account,
                "uid": self.uid,
            },
            "trust_domain": context.trust_domain,
            "cluster_domain": context.cluster_domain,
            "pod_ip": ip.to_string(),
            "ca": {
                "address": format!("{}:{}", context.network.ca(), port::GRPC),
                "roots": context.dir.roots(),
                "token": token,
            },
            "pilot": {"address": format!("{}:{}", context.network.pilot(), port::GRPC)},
            "inbound": inbound,
            "status": at(port::STATUS),
            "metrics": at(port::METRICS),
            "admin": if self.inside.is_some() { format!("127.0.0.1:{}", port::ADMIN) } else { at(port::ADMIN) },
            "state_dir": state,
            "workers": workers(workload.template.concurrency, gateway.is_some()),
            "access_log": true,
            "parent_pid": std::process::id(),
        });
        self.ways_out(&mut config, gateway);
        dir::write(&context.dir.config_of(self.id), serde_json::to_string_pretty(&config)?.as_bytes())?;
        Ok(())
    }

    /// A gateway's listeners, or how the application's traffic comes to its sidecar.
    fn ways_out(&self, config: &mut Value, gateway: Option<&GatewayAddress>) {
        let context = self.context;
        let mounts = context.mounts.iter().map(|m| json!({"path": m.path, "dir": m.dir}));
        config["mounts"] = mounts.collect();
        match (gateway, self.inside) {
            (Some(gateway), _) => {
                config["gateway"] = json!({"listen_ip": gateway.listen_ip});
                if gateway.port_offset > 0 {
                    config["gateway"]["port_offset"] = json!(gateway.port_offset);
                }
            }
            (None, Some(inside)) => {
                let [outbound, inbound] = port::CAPTURE.map(hub::everywhere);
                config["capture"] =
                    json!({"outbound": outbound, "inbound": inbound, "tproxy": inside.tproxy});
            }
            (None, None) => {
                let vips = json!({
                    "from": context.network.cluster_subnet(),
                    "to": context.network.pod_subnet(self.index),
                });
                config["outbound"] =
                    json!({"http_proxy": format!("{}:{}", self.ip, port::OUTBOUND), "vips": vips});
            }
        }
    }

    fn sidecar(&self, is_gateway: bool) -> Unit {
        // A gateway has no application: the proxy is the instance.
        let name = if is_gateway { self.name.to_owned() } else { format!("{}/sidecar", self.name) };
        let config = self.context.dir.config_of(self.id);
        let log = self.context.dir.log(&format!("{}.{name}", self.workload.namespace));
        let context = self.context.clone();
        let inside = self.inside.map(|inside| as_sidecar(Some(&inside.place)));
        let recipe = move || {
            let config = text(&config)?;
            let proxy = ["internal", "proxy", "--config", &config];
            let Some(inside) = &inside else { return Ok(context.myself(&proxy, log.clone())) };
            let parent = std::process::id().to_string();
            let mut words = vec!["internal", "exec", "--parent", &parent];
            words.extend(inside.iter().map(String::as_str));
            words.extend(["--", MYSELF]);
            words.extend(proxy);
            Ok(context.myself(&words, log.clone()))
        };
        Unit::new(&name, self.context.journal.clone(), Box::new(recipe))
    }

    fn containers(&self, ports: &[api::Port]) -> (Vec<Unit>, Vec<Readiness>) {
        let several = self.workload.template.containers.len() > 1;
        self.workload.template.containers.iter().map(|c| self.container(c, ports, several)).unzip()
    }

    fn container(&self, container: &Container, ports: &[api::Port], several: bool) -> (Unit, Readiness) {
        let name = if several { format!("{}/{}", self.name, container.name) } else { self.name.to_owned() };
        let log = self.context.dir.log(&format!("{}.{name}", self.workload.namespace));
        let netns = self.inside.map(|inside| inside.place.netns.clone());
        let at = |address: SocketAddrV4| At { address, netns: netns.clone() };
        let target = |number: u16| ports.iter().find(|p| p.port == number).map(|p| p.target);
        let targets: Vec<(u16, SocketAddrV4)> =
            container.ports.iter().filter_map(|p| Some((p.number, target(p.number)?))).collect();
        let readiness = match &container.probe {
            Some(probe) => match target(probe.port()) {
                Some(target) => Readiness::Probe(probe.clone(), at(target)),
                None => Readiness::Accepts(Vec::new()),
            },
            None => Readiness::Accepts(targets.iter().map(|(_, target)| at(*target)).collect()),
        };
        let (context, container) = (self.context.clone(), container.clone());
        let pod = OwnedPod {
            name: self.name.to_owned(),
            uid: self.uid.to_owned(),
            workload: self.workload.clone(),
            index: self.index,
            place: self.inside.map(|inside| inside.place.clone()),
        };
        let recipe = move || pod.program(&context, &container, &targets, log.clone());
        (Unit::new(&name, self.context.journal.clone(), Box::new(recipe)), readiness)
    }
}

/// What an application's environment is made from at each of its starts.
struct OwnedPod {
    name: String,
    uid: String,
    workload: Workload,
    index: u8,
    place: Option<Place>,
}

impl OwnedPod {
    fn program(
        &self,
        context: &Context,
        container: &Container,
        targets: &[(u16, SocketAddrV4)],
        log: std::path::PathBuf,
    ) -> anyhow::Result<Program> {
        let ip = context.network.pod(self.index);
        let pod = environment::Pod {
            name: &self.name,
            namespace: &self.workload.namespace,
            uid: &self.uid,
            workload: &self.workload.name,
            account: &self.workload.template.service_account,
            ip,
            labels: &self.workload.template.labels,
            annotations: &self.workload.template.annotations,
            http_proxy: self.place.is_none().then(|| SocketAddrV4::new(ip, port::OUTBOUND)),
        };
        let mut environment = environment(&pod, container, targets, &context.services(self.index))?;
        let parent = std::process::id().to_string();
        let mut arguments = ["internal", "exec", "--parent", &parent].map(str::to_owned).to_vec();
        arguments.extend(as_application(self.place.as_ref()));
        arguments.push("--".to_owned());
        if let Some(place) = &self.place {
            environment.extend(listen(place, &environment));
        }
        match &container.run {
            Run::Command(command) => {
                let variables = environment.iter().cloned().collect();
                arguments.extend(command.iter().map(|word| environment::expand(word, &variables)));
            }
            Run::StandIn => arguments.extend(stand_in(container, targets)),
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut program = context.myself(&arguments, log);
        program.environment = environment;
        program.directory = container.directory.as_ref().map(Into::into);
        Ok(program)
    }
}

/// In a pod of its own the sample application is reached at the pod's addresses.
fn listen(place: &Place, environment: &[(String, String)]) -> Option<(String, String)> {
    const LISTEN: &str = "APP_LISTEN";
    let told = environment.iter().any(|(name, _)| name == LISTEN);
    (!told).then(|| (LISTEN.to_owned(), hub::any(place.pod_ip6.is_some()).to_owned()))
}

/// The sample application on all ports of a container; ports named `tcp*` echo.
fn stand_in(container: &Container, targets: &[(u16, SocketAddrV4)]) -> Vec<String> {
    let is_tcp = |number: u16| {
        let declared = container.ports.iter().find(|p| p.number == number);
        declared.and_then(|p| p.name.as_deref()).is_some_and(|name| name == "tcp" || name.starts_with("tcp-"))
    };
    let list = |tcp: bool| {
        let ports = targets.iter().filter(|(number, _)| is_tcp(*number) == tcp);
        ports.map(|(_, at)| at.port().to_string()).collect::<Vec<_>>().join(",")
    };
    let (http, tcp) = (list(false), list(true));
    let mut words = vec![MYSELF.to_owned(), "app".to_owned()];
    match (http.is_empty(), tcp.is_empty()) {
        (false, _) => words.push(format!("--port={http}")),
        // PORT is the first port of all; the application serves a port that is in both lists as TCP only.
        (true, false) => words.push(format!("--port={tcp}")),
        (true, true) => words.push("--port=0".to_owned()),
    }
    if !tcp.is_empty() {
        words.push(format!("--tcp-port={tcp}"));
    }
    words
}

/// An empty directory of ours.
fn remake(path: &Path) -> std::io::Result<()> {
    let _ = std::fs::remove_dir_all(path);
    DirBuilder::new().mode(0o700).create(path)
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("the state directory's path is not UTF-8")?.to_owned())
}

/// A sidecar has one worker unless the pod says more, a gateway as many as CPUs; 0 is as many as CPUs, as in Istio.
fn workers(concurrency: Option<u16>, is_gateway: bool) -> usize {
    match concurrency {
        Some(0) => cpus(),
        Some(count) => count.into(),
        None if is_gateway => cpus(),
        None => 1,
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_says_how_many_workers_its_proxy_has() {
        assert_eq!((workers(None, false), workers(None, true)), (1, cpus()));
        assert_eq!((workers(Some(4), false), workers(Some(0), false)), (4, cpus()));
    }

    #[test]
    fn uids_are_version_four_and_differ() {
        let (a, b) = (new_uid(), new_uid());
        assert_ne!(a, b);
        assert_eq!((a.len(), &a[14..15]), (36, "4"));
        assert!("89ab".contains(&a[19..20]), "{a}");
    }

    #[test]
    fn ports_named_tcp_echo_and_the_others_speak_http() {
        let port = |name: &str, number| Port { name: Some(name.to_owned()), number };
        let container = Container {
            name: "c".to_owned(),
            image: "i".to_owned(),
            run: Run::StandIn,
            directory: None,
            env: vec![],
            ports: vec![port("http", 80), port("tcp-echo", 90), port("tcpish", 91)],
            probe: None,
        };
        let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let words = stand_in(&container, &[(80, at(1)), (90, at(2)), (91, at(3))]);
        assert_eq!(words[2..], ["--port=1,3", "--tcp-port=2"]);
    }
}
