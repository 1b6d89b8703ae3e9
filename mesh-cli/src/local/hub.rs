//! The wires of a mesh with namespaces (`up --netns`): a hub with a bridge, a link from it to this machine (`mesh-N`), and
//! one to each pod (`eth0` there), whose capture rules are put into force before anything runs in it.
//!
//! The bridge is in a namespace of its own: a machine's rules for what it forwards (Docker drops it) do not apply between
//! pods, and when the supervisor dies, however it dies, the kernel takes hub, links and pods away.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use mesh_proxy::capture::loopback::has_ipv6;
use mesh_proxy::capture::program::{self, Backend};
use mesh_proxy::capture::rules::{Interception, Settings};

use super::net::Network;
use super::netns::Netns;
use super::plan::Template;

/// The group of sidecars: what it sends is not captured. (Their user stays the caller, whose files they read.)
pub const PROXY_GROUP: u32 = 1337;

/// The hub of a mesh.
#[derive(Debug)]
pub struct Hub {
    netns: Netns,
    backend: Backend,
    /// Whether pods get IPv6 addresses.
    pub ipv6: bool,
}

/// The namespace of one pod.
#[derive(Debug)]
pub struct PodNetns {
    netns: Netns,
    link: String,
}

impl Hub {
    /// Makes the hub and this machine's link to it.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn new(network: &Network) -> anyhow::Result<Self> {
        let backend = program::detect().context("--netns cannot capture traffic here")?;
        let netns = Netns::create().context(
            "--netns cannot make a network namespace (in a container it needs the capabilities SYS_ADMIN and NET_ADMIN)",
        )?;
        let ipv6 = netns.within(|| {
            ip("link set lo up\n")?;
            anyhow::Ok(has_ipv6())
        })?;
        netns.within(|| ip("link add br0 type bridge\nlink set br0 up\n"))?;
        let device = format!("mesh-{}", network.number());
        let mut host =
            format!("link add {device} type veth peer name host netns {}\n", netns.path().display());
        for address in [network.host(), network.ca(), network.pilot()] {
            let _ = writeln!(host, "addr add {address}/16 dev {device}");
        }
        let _ = writeln!(host, "link set {device} up");
        ip(&host)?;
        netns.within(|| ip("link set host master br0 up\n"))?;
        // The machine may have switched IPv6 off for itself.
        let host6 = format!("addr add {}/64 dev {device} nodad\n", network.v6(network.host()));
        let ipv6 = ipv6 && ip(&host6).is_ok();
        Ok(Self { netns, backend, ipv6 })
    }

    /// Where the bridge is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.netns.path()
    }

    /// Makes the namespace of the pod with the subnet `index`, with the rules that bring its traffic to its sidecar; a
    /// gateway (`settings: None`) takes everything as it comes.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn pod(&self, network: &Network, index: u8, settings: Option<&Settings>) -> anyhow::Result<PodNetns> {
        let netns = Netns::create().context("cannot make a network namespace")?;
        let link = format!("pod{index}");
        let hub = format!(
            "link add {link} type veth peer name eth0 netns {}\nlink set {link} master br0 up\n",
            netns.path().display()
        );
        self.netns.within(|| {
            // One that another life of the pod has left goes with its namespace, some time.
            let _ = ip(&format!("link del {link}\n"));
            ip(&hub)
        })?;
        let pod = network.pod(index);
        let mut inside = format!(
            "link set lo up\naddr add {pod}/16 dev eth0\nlink set eth0 up\nroute add default via {}\n",
            network.host()
        );
        if self.ipv6 {
            let (pod6, host6) = (network.v6(pod), network.v6(network.host()));
            let _ = writeln!(inside, "addr add {pod6}/64 dev eth0 nodad");
            let _ = writeln!(inside, "route add default via {host6}");
        }
        let pod = PodNetns { netns, link };
        pod.netns.within(|| {
            ip(&inside)?;
            // As container runtimes do: who is not root may serve port 80 in a namespace of its own.
            let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
            if let Some(settings) = settings {
                program::apply(settings, self.backend).context("the capture rules are not in force")?;
            }
            anyhow::Ok(())
        })?;
        Ok(pod)
    }

    /// Takes a pod's link away: nothing reaches it any more. Its namespace goes with its last process.
    pub fn cut(&self, pod: &PodNetns) {
        // It may be gone already.
        let _ = self.netns.within(|| ip(&format!("link del {}\n", pod.link)));
    }
}

impl PodNetns {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.netns.path()
    }
}

/// What is captured of a pod: as its annotations say, and nothing that its sidecar sends.
///
/// # Errors
/// Names the annotation.
pub fn settings(template: &Template) -> anyhow::Result<Settings> {
    let settings = Settings::of_annotations(&template.annotations)?;
    Ok(Settings { uids: Vec::new(), gids: vec![PROXY_GROUP], ..settings })
}

/// Whether applications see their clients' addresses.
#[must_use]
pub fn is_tproxy(settings: &Settings) -> bool {
    settings.captures_inbound() && settings.mode == Interception::Tproxy
}

/// Runs commands of `ip`, one a line, in the namespace of this thread; the first that fails ends them.
fn ip(commands: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow::anyhow!("--netns needs `ip`: install iproute2"),
        _ => anyhow::anyhow!("cannot run ip: {error}"),
    })?;
    if let Some(mut input) = child.stdin.take() {
        // It may have ended without reading: it says why.
        let _ = input.write_all(commands.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether this user may do all that.
///
/// # Errors
/// Says what to do.
pub fn allowed() -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "--netns makes network namespaces, which only root may: run `sudo meshctl up --netns ...` (and sudo meshctl for what \
         talks to that mesh), or leave out --netns: then programs reach the mesh by HTTP_PROXY and <SERVICE>_SERVICE_HOST"
    )
}

/// The address that stands for an instance's own: for the application to listen on.
#[must_use]
pub fn any(ipv6: bool) -> &'static str {
    if ipv6 { "::" } else { "0.0.0.0" }
}

/// An unspecified IPv4 address and a port, as text.
#[must_use]
pub fn everywhere(port: u16) -> String {
    format!("{}:{port}", Ipv4Addr::UNSPECIFIED)
}
