//! `mesh-proxy sidecar capture`: a process that starts as root in its pod's network namespace, as a container does, and
//! serves as nobody.
//!
//! Needs root, nft, ip, curl and setpriv; says so and passes where they are missing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use mesh_proto::wire::mesh::v1::{MtlsMode, Protocol};
use mesh_proxy::capture::program::{self, Backend};
use mesh_proxy::capture::rules::{Interception, Settings};
use mesh_proxy::privileges::USER;

use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pod, ServiceSpec, Spec, host};
use crate::support::netns::{self, Netns, World};

/// What the injector gives.
const CAPABILITIES: [&str; 4] = ["net_admin", "setgid", "setpcap", "setuid"];
/// `CAP_NET_ADMIN` as /proc shows it.
const NET_ADMIN: &str = "0000000000001000";
/// A pod's `fsGroup`.
const GROUP: &str = "2000";
/// A server outside of the mesh.
const OUTSIDE: u16 = 8000;

/// The process of a container: root with `capabilities` and no others, group 1337, root's group and the pod's beside it.
fn command(capabilities: &[&str], mode: &str) -> Command {
    let bounding: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", &format!("-all{bounding}"), "--inh-caps", "-all", "--regid", &user]);
    command.args(["--groups", &format!("0,{GROUP}"), env!("CARGO_BIN_EXE_mesh-proxy"), "sidecar", "capture"]);
    command.args(["-m", mode, "-d", "15090,15021,15020"]);
    command
}

/// A sidecar of its own process; gone with this.
struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Sidecar {
    fn start(at: &Netns, mode: &str, environment: &[(&'static str, String)]) -> Self {
        Self(at.within(|| {
            let mut command = command(&CAPABILITIES, mode);
            command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
            command.env("ISTIO_META_INTERCEPTION_MODE", mode).spawn().unwrap()
        }))
    }

    /// What the kernel says of each of its threads, but for their names and numbers: all the same.
    fn credentials(&self) -> BTreeSet<String> {
        let wanted = ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"];
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let of_thread = |status: String| -> String {
            let lines =
                status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(&format!("{name}:"))));
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
        };
        // One that has ended meanwhile says nothing.
        threads
            .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("status")).ok())
            .map(of_thread)
            .collect()
    }
}

struct Meshed {
    world: World,
    mesh: Mesh,
    client: Pod,
}

impl Meshed {
    /// A client whose sidecar is here, and what a STRICT server needs.
    async fn start(world: World) -> Self {
        world.server.serve_http(PORT);
        world.hub.serve_http(OUTSIDE);
        let mesh = Mesh::start_at("10.201.0.254".parse().unwrap()).await;
        mesh.pilot.publish_self("ratings", &Mesh::self_config(&Self::server()));
        let spec = Spec::new("reviews", SocketAddr::from(([127, 0, 0, 1], 1)));
        mesh.pilot.publish_self("reviews", &Mesh::self_config(&spec));
        let enter = world.client.clone();
        let client = mesh.launch_captured(&spec, "10.201.0.1".parse().unwrap(), false, move || enter.enter());
        let rules = Settings { uids: vec![0], gids: vec![], ..Settings::default() };
        world.client.within(|| program::apply(&rules, Backend::Nftables)).unwrap();
        mesh.service(&ServiceSpec {
            name: "ratings",
            port: PORT,
            vip: 2,
            protocol: Protocol::Http,
            pods: vec![],
        });
        let endpoint = wire::Endpoint {
            uid: "ratings".into(),
            address: format!("10.201.0.2:{PORT}"),
            identity: "spiffe://cluster.local/ns/default/sa/ratings".into(),
            ..client.endpoint()
        };
        let endpoints = wire::Endpoints { endpoints: vec![endpoint] };
        mesh.pilot.publish(Kind::Endpoints, &format!("{}:{PORT}", host("ratings")), &endpoints);
        Self { world, mesh, client }
    }

    fn server() -> Spec<'static> {
        let mut spec = Spec::new("ratings", SocketAddr::from(([127, 0, 0, 1], 1)));
        spec.mtls = MtlsMode::MtlsStrict;
        spec
    }

    async fn serves(&self, seen: &str) {
        // Before its rules are in force a sidecar's client would talk to the application itself.
        eventually("it is ready", || async {
            self.world.hub.curl("http://10.201.0.2:15021/healthz/ready").is_some()
        })
        .await;
        eventually("it serves", || async {
            self.world.client.curl(&format!("http://10.99.0.2:{PORT}/")).as_deref() == Some(seen)
        })
        .await;
        assert_eq!(self.open(), (false, true), "STRICT; what the application sends goes through its sidecar");
    }

    /// Whether strangers reach the application, and it strangers.
    fn open(&self) -> (bool, bool) {
        let from = |namespace: &Netns, url: &str| {
            let get = ["-sS", "-f", "--noproxy", "*", "-m", "2", url];
            namespace.run("curl", &get).status.success()
        };
        let World { hub, server, .. } = &self.world;
        let inbound = from(hub, &format!("http://10.201.0.2:{PORT}/"));
        (inbound, from(server, &format!("http://10.201.0.254:{OUTSIDE}/")))
    }

    /// Started, killed, started again.
    async fn story(&self, mode: Interception) {
        let (mode, kept, seen) = match mode {
            Interception::Redirect => ("REDIRECT", "0000000000000000", "127.0.0.6"),
            Interception::Tproxy => ("TPROXY", NET_ADMIN, "10.201.0.1"),
        };
        let environment = self.mesh.container(&Self::server(), "10.201.0.2,fd77::2", USER);
        let none = "0000000000000000";
        let expected = format!(
            "Uid: 1337 1337 1337 1337\nGid: 1337 1337 1337 1337\nGroups: {GROUP}\nCapInh: {none}\nCapPrm: {kept}\n\
             CapEff: {kept}\nCapBnd: {none}\nCapAmb: {none}\nNoNewPrivs: 1\n"
        );
        for _ in 0..2 {
            let sidecar = Sidecar::start(&self.world.server, mode, &environment);
            self.serves(seen).await;
            assert_eq!(sidecar.credentials(), BTreeSet::from([expected.clone()]));
            drop(sidecar);
            assert_eq!(self.open(), (false, false), "the rules outlive it");
        }
    }
}

/// Runs it in namespaces; blocks.
fn run(mode: Interception) {
    if let Some(why) = netns::missing() {
        eprintln!("SKIPPED: a sidecar that captures for itself ({mode:?}) is not tested here: {why}");
        return;
    }
    World::new().run(move |world, runtime| {
        let mut meshed = runtime.block_on(Meshed::start(world));
        runtime.block_on(meshed.story(mode));
        meshed.client.stop();
        runtime.block_on(meshed.client.ended());
    });
}

#[test]
fn redirect_keeps_nothing_of_root() {
    run(Interception::Redirect);
}

#[test]
fn tproxy_keeps_one_capability() {
    run(Interception::Tproxy);
}

/// It ends, and says which; nothing has listened.
#[test]
fn without_a_right_that_it_needs_it_does_not_serve() {
    if let Some(why) = netns::missing() {
        eprintln!("SKIPPED: a sidecar that may not capture is not tested here: {why}");
        return;
    }
    let world = World::new();
    let refused = |mut command: Command| {
        let Output { status, stderr, .. } =
            world.client.within(|| command.stdout(Stdio::null()).output().unwrap());
        let told = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{told}");
        assert!(told.starts_with("mesh-proxy: sidecar capture: ") && told.lines().count() == 1, "{told}");
        told
    };
    for (without, step) in [
        ("net_admin", "CAP_NET_ADMIN is needed"),
        ("setgid", "root's rights cannot be given up: cannot leave root's group"),
        ("setpcap", "root's rights cannot be given up: cannot remove a capability from the bounding set"),
        ("setuid", "root's rights cannot be given up: cannot become user 1337"),
    ] {
        let others: Vec<_> = CAPABILITIES.into_iter().filter(|name| *name != without).collect();
        let told = refused(command(&others, "REDIRECT"));
        assert!(told.contains(step), "without {without}: {told}");
        assert!(told.contains("securityContext.capabilities.add: ["), "{told}");
    }
    let mut dry = command(&CAPABILITIES, "REDIRECT");
    dry.env("DRY_RUN", "true");
    assert!(refused(dry).contains("without rules"));
    let mut strange = command(&CAPABILITIES, "REDIRECT");
    strange.args(["-u", "7", "-g", "8"]);
    assert!(refused(strange).contains("would be captured"));
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid", "1337", "--regid", "1337", "--clear-groups", "--inh-caps", "+net_admin"]);
    nobody.args(["--ambient-caps", "+net_admin", env!("CARGO_BIN_EXE_mesh-proxy"), "sidecar", "capture"]);
    assert!(refused(nobody).contains("must be started by root, not by user 1337"));
}
