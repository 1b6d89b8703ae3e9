//! What `up` shows: progress while the mesh starts, the table when it is ready, then a line per change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use owo_colors::OwoColorize as _;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, sleep, timeout};

use crate::local::api::{InstanceState, Mesh, WorkloadKind};
use crate::local::client;
use crate::local::journal::Event;
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
                        self.ready(&supervisor.tell());
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
                self.ready(&mesh);
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
                        "not everything got ready within {} s; the mesh goes on: see `meshctl status`, stop it with \
                         `meshctl down`",
                        patience.as_secs()
                    );
                }
            }
        }
    }

    fn warn_late(&self, mesh: &Mesh) {
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

    fn ready(&self, mesh: &Mesh) {
        println!("\n{}", output::workloads(mesh));
        for notice in &mesh.notices {
            println!("note: {notice}");
        }
        println!(
            "note: an application's own port on 127.0.0.1 stands for the inside of its pod: whoever can open it is in the pod"
        );
        self.hints(mesh);
        println!("\nready after {:.1} s", self.began.elapsed().as_secs_f64());
    }

    /// A few commands worth trying, with names that are there.
    fn hints(&self, mesh: &Mesh) {
        let name = if self.name == "default" { String::new() } else { format!(" --name {}", self.name) };
        println!("\nTry:");
        let mut workloads = mesh.workloads.iter().filter(|w| w.kind == WorkloadKind::Deployment);
        let with_port = |w: &&crate::local::api::Workload| w.instances.iter().any(|i| !i.ports.is_empty());
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
            println!(
                "  meshctl stop reviews-v1-0{name}                                        # drained, nothing is lost"
            );
        } else if let Some(workload) = workloads.find(with_port) {
            let port = workload.instances.iter().flat_map(|i| &i.ports).map(|p| p.port).next().unwrap_or(80);
            let instance = workload.instance_name();
            println!("  meshctl request http://{}.{}:{port}/ -n 10{name}", workload.name, workload.namespace);
            println!("  meshctl stop {instance}{name}");
            println!("  meshctl start {instance}{name}");
        }
        println!("  meshctl status{name}");
        if let Some(path) = mesh.paths.first() {
            println!("  edit {}: it takes effect at once", path.display());
        }
        println!("  meshctl down{name}");
    }
}

/// One line.
fn print(event: &Event) {
    let text = &event.text;
    match event.kind.as_str() {
        "exited" | "failed" | "refused" | "drain_failed" | "withdrawal_late" | "unready" => {
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
