//! What `up` shows: progress while the mesh starts, the table when it is ready, then a line per change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use owo_colors::OwoColorize as _;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, sleep, timeout};

use crate::local::api::{InstanceState, Mesh, WorkloadKind};
use crate::local::client;
use crate::local::http::Server;
use crate::local::journal::Event;
use crate::local::pilot::{PilotStatus, ServicePort};
use crate::local::plan::SYSTEM;
use crate::local::supervisor::Supervisor;
use crate::output;

/// The pause before a control socket is looked for again.
const LOOK: Duration = Duration::from_millis(30);

/// Prints for one person.
pub struct Console {
    name: String,
    bundled: bool,
    began: Instant,
}

impl Console {
    /// Nothing is printed yet.
    pub fn new(name: &str, paths: &[PathBuf]) -> Self {
        Self { name: name.to_owned(), bundled: paths.is_empty(), began: Instant::now() }
    }

    /// The foreground: until the mesh has ended.
    pub async fn live(self, supervisor: Arc<Supervisor>, mut events: Receiver<Event>, patience: Duration) {
        let mut late = Some(Box::pin(sleep(patience)));
        loop {
            let overdue = async {
                match &mut late {
                    Some(sleep) => sleep.await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                event = events.recv() => event,
                () = overdue => {
                    late = None;
                    self.warn_late(&supervisor.tell());
                    continue;
                }
            };
            match event {
                Ok(event) => {
                    print(&event);
                    if event.kind == "up" {
                        late = None;
                        self.ready(&supervisor.tell()).await;
                        println!("\nCtrl-C stops it. What changes:");
                    }
                    if event.kind == "ended" {
                        return;
                    }
                }
                Err(RecvError::Lagged(missed)) => println!("({missed} lines missed)"),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// `--detach`: until everything is ready.
    ///
    /// # Errors
    /// When it does not get ready in time, or its supervisor ends.
    pub async fn until_ready(&self, patience: Duration) -> anyhow::Result<()> {
        let deadline = self.began + patience;
        let mut lines = loop {
            match client::events(&self.name).await {
                Ok(lines) => break lines,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(LOOK).await,
            }
        };
        loop {
            let mesh = client::mesh(&self.name).await?;
            if mesh.ready {
                self.ready(&mesh).await;
                return Ok(());
            }
            match timeout(deadline.saturating_duration_since(Instant::now()), lines.next()).await {
                Ok(Some(line)) => {
                    if let Ok(event) = serde_json::from_str::<Event>(&line) {
                        print(&event);
                    }
                }
                Ok(None) => anyhow::bail!(
                    "the supervisor ended; what it wrote last is gone with it: run without --detach"
                ),
                Err(_) => {
                    let mesh = client::mesh(&self.name).await?;
                    self.warn_late(&mesh);
                    anyhow::bail!(
                        "not everything got ready within {} s; the rest runs: see `meshctl status{name}`; stop it with \
                         `meshctl down{name}`",
                        patience.as_secs(),
                        name = self.option(),
                    );
                }
            }
        }
    }

    fn warn_late(&self, mesh: &Mesh) {
        println!("\n{}", output::workloads(mesh));
        for notice in &mesh.notices {
            println!("note: {notice}");
        }
        for instance in mesh.workloads.iter().flat_map(|w| &w.instances) {
            if !matches!(instance.state, InstanceState::Ready | InstanceState::Stopped) {
                let why = instance.reason.as_deref().unwrap_or("no reason known");
                anstream::eprintln!("{} {} is not ready: {why}", "waiting:".yellow(), instance.name);
            }
        }
        for process in mesh.control_plane.iter().filter(|p| p.restarts > 0) {
            let why = process.last_exit.as_deref().unwrap_or_default();
            anstream::eprintln!(
                "{} {} {why}; see `meshctl logs {}`",
                "waiting:".yellow(),
                process.name,
                process.name
            );
        }
    }

    async fn ready(&self, mesh: &Mesh) {
        // Without an answer the hints name fewer commands.
        let pilot = PilotStatus::fetch(&Server::Tcp(mesh.pilot_admin)).await.unwrap_or_default();
        println!("\n{}", output::workloads(mesh));
        for notice in &mesh.notices {
            println!("note: {notice}");
        }
        if mesh.hub.is_none() {
            println!(
                "note: an application's own port on 127.0.0.1 stands for the inside of its pod: whoever can open it is in the pod"
            );
        }
        gateways(&pilot);
        self.hints(mesh, &pilot);
        println!("\nready after {:.1} s", self.began.elapsed().as_secs_f64());
    }

    /// What commands need to talk to this mesh.
    fn option(&self) -> String {
        if self.name == "default" { String::new() } else { format!(" --name {}", self.name) }
    }

    /// A few commands worth trying, with names that are there.
    fn hints(&self, mesh: &Mesh, pilot: &PilotStatus) {
        let name = self.option();
        println!("\nTry:");
        if self.bundled {
            println!(
                "  meshctl request http://reviews:9080/ -n 20{name}                       # who answers how often"
            );
            println!(
                "  meshctl request http://reviews:9080/ -H 'end-user: jason'{name}        # a route by header: v3"
            );
            println!(
                "  meshctl request http://shop.example.com/ --via shop{name}              # through the gateway"
            );
            if mesh.hub.is_some() {
                println!(
                    "  meshctl exec{name} client-0 -- curl http://reviews:9080/          # any program is in the mesh"
                );
            }
            println!(
                "  meshctl stop reviews-v1-0{name}                                        # drained, nothing is lost"
            );
        } else {
            if let Some(url) = worth_asking(pilot) {
                println!("  meshctl request {url} -n 10{name}");
                if mesh.hub.is_some() && url.starts_with("http:") {
                    println!("  meshctl exec{name} client-0 -- curl {url}");
                }
            }
            let deployment = mesh.workloads.iter().find(|w| w.kind == WorkloadKind::Deployment);
            if let Some(instance) = deployment.and_then(|w| w.instances.first()) {
                println!("  meshctl stop {}{name}", instance.name);
                println!("  meshctl start {}{name}", instance.name);
            }
        }
        println!("  meshctl status{name}");
        if let Some(path) = mesh.paths.first() {
            println!("  edit {}: it takes effect at once", path.display());
        }
        println!("  meshctl down{name}");
    }
}

/// The URL of a service that has somebody behind it: HTTP before other protocols.
fn worth_asking(pilot: &PilotStatus) -> Option<String> {
    let scheme = |protocol: &str| match protocol {
        "grpc" => Some("grpc"),
        "http2" => Some("h2c"),
        "http" | "auto" => Some("http"),
        "tcp" => Some("tcp"),
        _ => None,
    };
    let alive = pilot.services.iter().filter(|s| s.endpoints.iter().any(|e| e.ready));
    let mut ports: Vec<(&str, String)> = alive
        .filter_map(|service| Some((service, service.name()?)))
        .filter(|(_, (_, namespace))| *namespace != SYSTEM)
        .flat_map(|(service, (name, namespace))| {
            let url = move |port: &ServicePort| {
                let scheme = scheme(&port.protocol)?;
                Some((scheme, format!("{scheme}://{name}.{namespace}:{}/", port.number)))
            };
            service.ports.iter().filter_map(url)
        })
        .collect();
    ports.sort_by_key(|(scheme, _)| *scheme != "http");
    ports.into_iter().next().map(|(_, url)| url)
}

/// What Gateways do not serve, and why: who writes one wants to see it at once.
fn gateways(pilot: &PilotStatus) {
    for gateway in pilot.resources.iter().filter(|resource| resource.kind == "Gateway") {
        let file = gateway.location.rsplit_once(':').map_or("", |(file, _)| file);
        // What the parser says has been printed already, with its place.
        let told = gateway.warnings.iter().filter(|text| file.is_empty() || !text.starts_with(file));
        for text in told.chain([&gateway.message]).filter(|text| !text.is_empty()) {
            println!("note: Gateway {}/{}: {text}", gateway.namespace, gateway.name);
        }
    }
}

/// One line.
fn print(event: &Event) {
    let text = &event.text;
    match event.kind.as_str() {
        "exited" | "failed" | "refused" | "unserved" | "drain_failed" | "withdrawal_late" | "unready" => {
            anstream::println!("{} {text}", "!".red());
        }
        "notice" => {}
        "started"
        | "ready"
        | "up"
        | "endpoint_up"
        | "applied"
        | "proxy_connected"
        | "certificate_renewed" => {
            anstream::println!("{} {text}", "+".green());
        }
        "stopped" | "endpoint_down" | "removed" | "proxy_disconnected" | "killed" => {
            anstream::println!("{} {text}", "-".yellow());
        }
        _ => anstream::println!("  {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_a_service_that_answers() {
        let service = |host: &str, protocol: &str, ready: bool| {
            serde_json::json!({"host": format!("{host}.svc.cluster.local"), "vip": "",
                "ports": [{"number": 80, "protocol": protocol, "name": ""}],
                "endpoints": [{"uid": "u", "address": "127.9.4.1:8080", "ready": ready}]})
        };
        let of = |services: &[serde_json::Value]| {
            worth_asking(&serde_json::from_value(serde_json::json!({"services": services})).unwrap())
        };
        let (dead, db) = (service("dead.default", "http", false), service("db.default", "tcp", true));
        let (web, gateway) = (service("web.shop", "auto", true), service("gw.istio-system", "http", true));
        assert_eq!(of(&[dead.clone(), db.clone(), web, gateway]).as_deref(), Some("http://web.shop:80/"));
        assert_eq!(of(&[dead.clone(), db]).as_deref(), Some("tcp://db.default:80/"));
        assert_eq!(of(&[dead]), None);
    }
}
