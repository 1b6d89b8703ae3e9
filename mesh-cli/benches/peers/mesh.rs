//! Our side: a real CA, a real pilot (both off core 0), and the proxies that are measured (dist build, core 0).
//!
//! `backend` has no sidecar: one plain hop. `secure` has one: a pair with mTLS. The catalogue holds 200 names.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::Settings;
use crate::contender::{Contender, Process, pause, wait_for};
use crate::measure::rss_mb;
use crate::peer::BACKEND_PORT;
use crate::report::Report;

/// How many names the proxies see.
const NAMES: usize = 200;
/// The port of both services.
const PORT: u16 = 9_080;

/// A small mesh without a supervisor.
pub struct Mesh {
    /// 127.N.0.0/16.
    network: u8,
    client: Process,
    server: Process,
    started: Instant,
    _pilot: Process,
    _ca: Process,
}

/// What one process of the mesh needs to start.
struct Launcher<'a> {
    settings: &'a Settings,
    network: u8,
    token_key: [u8; 32],
}

impl Mesh {
    /// Starts everything and waits until requests pass.
    pub fn start(settings: &Settings, proxy: &Path) -> anyhow::Result<Self> {
        let network = free_network()?;
        let launcher = Launcher { settings, network, token_key: rand::random() };
        for dir in ["pods", "user"] {
            std::fs::create_dir_all(settings.dir.join(dir))?;
        }
        std::fs::write(settings.dir.join("user/services.yaml"), services())?;
        launcher.write_pods()?;
        let ca = launcher.ca()?;
        let pilot = launcher.pilot()?;
        let server = launcher.proxy(proxy, 2, "secure-0", "secure", true)?;
        let started = Instant::now();
        let client = launcher.proxy(proxy, 1, "client-0", "client", false)?;
        let mesh = Self { network, client, server, started, _pilot: pilot, _ca: ca };
        for host in ["backend", "secure"] {
            mesh.wait_until_it_answers(host)?;
        }
        Ok(mesh)
    }

    fn entry(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, self.network, 1, 1), 15_001))
    }

    fn wait_until_it_answers(&self, host: &str) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        let mut last = String::new();
        while Instant::now() < until {
            match get(self.entry(), host, "/") {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            pause();
        }
        bail!("our proxy does not reach {host} after 30 s: {last}")
    }

    /// The rows of our proxies.
    pub fn contenders(&self) -> Vec<Contender> {
        let row = |name: &str, host: &str, pids: Vec<u32>| {
            Contender::over(name, self.entry(), &format!("{host}.default.svc.cluster.local:{PORT}"), pids)
        };
        vec![
            row("plain: mesh-proxy", "backend", vec![self.client.pid()]),
            row("plain: mesh-proxy again", "backend", vec![self.client.pid()]),
            row("mTLS pair: mesh-proxy", "secure", vec![self.client.pid(), self.server.pid()]),
        ]
    }

    /// The client sidecar's memory at an age of `rss_after` seconds, before any load.
    pub fn idle_memory(&self, settings: &Settings) -> anyhow::Result<String> {
        let due = self.started + Duration::from_secs(settings.rss_after);
        while Instant::now() < due {
            pause();
        }
        let mb = rss_mb(&[self.client.pid()]);
        let age = self.started.elapsed().as_secs();
        Ok(format!(
            "Idle sidecar, dist build, {NAMES} names, {age} s after its start: {mb:.1} MB RSS (goal <= 12 MB)\n"
        ))
    }

    /// Compares `istio_requests_total` with what wrk counted. wrk leaves out what was in flight when it stopped.
    pub fn check_counts(&self, report: &Report) -> anyhow::Result<String> {
        let metrics = SocketAddr::from((Ipv4Addr::new(127, self.network, 1, 1), 15_090));
        let text = get(metrics, "metrics", "/stats/prometheus")?;
        let mut out = String::new();
        for (service, rows) in [
            ("backend", ["plain: mesh-proxy", "plain: mesh-proxy again"]),
            ("secure", ["mTLS pair: mesh-proxy", ""]),
        ] {
            let counted: f64 = text
                .lines()
                .filter(|line| {
                    line.starts_with("istio_requests_total{")
                        && line.contains(&format!("destination_service_name=\"{service}\""))
                })
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum();
            let sent: u64 = report
                .requests()
                .iter()
                .filter(|(name, _)| rows.contains(name))
                .map(|(_, count)| count)
                .sum();
            let _ = writeln!(
                out,
                "istio_requests_total for {service}: {counted:.0}; wrk counted {sent} (and left out what was in flight)"
            );
        }
        Ok(out)
    }
}

impl Launcher<'_> {
    fn address(&self, a: u8, b: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(127, self.network, a, b), port)
    }

    fn config(&self, name: &str, config: &Value) -> anyhow::Result<PathBuf> {
        let file = self.settings.dir.join(format!("{name}.json"));
        std::fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn internal(&self, what: &str, config: &Value) -> anyhow::Result<Process> {
        let file = self.config(what, config)?;
        let arguments = ["internal", what, "--config", &file.display().to_string()];
        Process::start(
            1,
            Path::new(env!("CARGO_BIN_EXE_meshctl")),
            &arguments,
            &self.settings.dir.join(format!("{what}.log")),
        )
    }

    fn token(&self, name: &str, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        let claims = mesh_ca::token::Claims {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            pod: name.to_owned(),
            expires: SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 86_400,
        };
        let file = self.settings.dir.join(format!("{name}.token"));
        std::fs::write(
            &file,
            mesh_ca::token::mint(&mesh_ca::token::TokenKey::new(&self.token_key), &claims),
        )?;
        Ok(file)
    }

    fn ca(&self) -> anyhow::Result<Process> {
        let dir = &self.settings.dir;
        let key = dir.join("token.key");
        std::fs::write(
            &key,
            self.token_key.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")),
        )?;
        let ca = self.internal(
            "ca",
            &json!({
                "listen": self.address(0, 2, 15_012), "trust_domain": "cluster.local", "state_dir": dir.join("ca"),
                "local_token_key": key, "leaf_ttl_seconds": 86_400, "max_leaf_ttl_seconds": 86_400,
                "root_out": dir.join("root.pem"), "admin": self.address(0, 2, 15_014), "parent_pid": std::process::id(),
            }),
        )?;
        wait_for(self.address(0, 2, 15_012).into(), "mesh-ca")?;
        Ok(ca)
    }

    fn authority(&self, name: &str, namespace: &str, account: &str) -> anyhow::Result<Value> {
        let token = self.token(name, namespace, account)?;
        Ok(
            json!({"address": self.address(0, 2, 15_012), "roots": self.settings.dir.join("root.pem"), "token": token}),
        )
    }

    fn pilot(&self) -> anyhow::Result<Process> {
        let dir = &self.settings.dir;
        let pilot = self.internal(
            "pilot",
            &json!({
                "listen": self.address(0, 3, 15_012), "admin": self.address(0, 3, 15_014), "trust_domain": "cluster.local",
                "cluster_domain": "cluster.local", "root_namespace": "istio-system",
                "source": {"user_paths": [dir.join("user")], "state_pods": dir.join("pods")}, "state_dir": dir.join("pilot"),
                "ca": self.authority("mesh-pilot", "istio-system", "mesh-pilot")?,
                "vip_cidr": format!("127.{}.255.0/24", self.network), "parent_pid": std::process::id(),
            }),
        )?;
        wait_for(self.address(0, 3, 15_012).into(), "mesh-pilot")?;
        Ok(pilot)
    }

    fn proxy(
        &self,
        program: &Path,
        block: u8,
        name: &str,
        account: &str,
        inbound: bool,
    ) -> anyhow::Result<Process> {
        let inbound = if inbound {
            let target = SocketAddr::from(([127, 0, 0, 1], BACKEND_PORT));
            json!([{"listen": self.address(block, 1, PORT), "port": PORT, "target": target}])
        } else {
            json!([])
        };
        let config = json!({
            "node": {"kind": "sidecar", "name": name, "namespace": "default", "service_account": account, "uid": name},
            "trust_domain": "cluster.local", "cluster_domain": "cluster.local", "pod_ip": self.address(block, 1, 0).ip(),
            "ca": self.authority(name, "default", account)?, "pilot": {"address": self.address(0, 3, 15_012)},
            "inbound": inbound, "outbound": {"http_proxy": self.address(block, 1, 15_001)},
            "status": self.address(block, 1, 15_021), "metrics": self.address(block, 1, 15_090), "admin": self.address(block, 1, 15_000),
            "state_dir": self.settings.dir.join(name), "workers": 1, "access_log": false, "parent_pid": std::process::id(),
        });
        let file = self.config(name, &config)?;
        let process = Process::start(
            0,
            program,
            &["--config", &file.display().to_string()],
            &self.settings.dir.join(format!("{name}.log")),
        )?;
        wait_for(self.address(block, 1, 15_001).into(), name)
            .with_context(|| tail(&self.settings.dir.join(format!("{name}.log"))))?;
        Ok(process)
    }

    /// The Pod objects that a supervisor would write.
    fn write_pods(&self) -> anyhow::Result<()> {
        let pods = [
            ("client-0", "client", self.address(1, 1, 0), PORT, true),
            ("secure-0", "secure", self.address(2, 1, 0), PORT, true),
            // Without a sidecar: the backend itself, on an address of its own.
            ("backend-0", "backend", self.address(3, 1, 0), BACKEND_PORT, false),
        ];
        for (name, app, address, port, sidecar) in pods {
            let annotations =
                if sidecar { json!({"sidecar.istio.io/status": "injected"}) } else { json!({}) };
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app, "version": "v1"}, "annotations": annotations},
                "spec": {"serviceAccountName": app, "containers": [{"name": "main", "ports": [{"containerPort": port, "name": "http"}]}]},
                "status": {"podIP": address.ip(), "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            });
            // JSON is YAML.
            std::fs::write(self.settings.dir.join("pods").join(format!("{name}.yaml")), pod.to_string())?;
        }
        Ok(())
    }
}

/// The Services that matter, and enough others to make up the names.
fn services() -> String {
    let service = |name: &str, target: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec:\n  selector: {{ app: {name} }}\n  \
             ports: [ {{ name: http, port: {PORT}, targetPort: {target} }} ]\n---\n"
        )
    };
    let others = (2..NAMES).map(|index| service(&format!("other-{index}"), PORT));
    [service("secure", PORT), service("backend", BACKEND_PORT)].into_iter().chain(others).collect()
}

/// A 127.N.0.0/16 that nobody listens on.
fn free_network() -> anyhow::Result<u8> {
    let free = |n: &u8| std::net::TcpListener::bind((Ipv4Addr::new(127, *n, 0, 2), 15_012)).is_ok();
    (200..=250_u8).find(free).context("no free loopback network")
}

/// One HTTP/1.0-style GET; head and body as text.
fn get(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
