//! Transparent capture: programs that know nothing of the mesh, in network namespaces with real rules and real sidecars.
//!
//! Needs root, nft, ip, iptables and curl; says so and passes where they are missing.

use std::net::SocketAddr;

use mesh_proto::model::Kind;
use mesh_proto::wire::mesh::v1 as wire;
use mesh_proto::wire::mesh::v1::{MtlsMode, Protocol};
use mesh_proxy::capture::program::{self, Backend};
use mesh_proxy::capture::rules::{Interception, Settings};

use crate::support::eventually;
use crate::support::mesh::{Mesh, PORT, Pod, ServiceSpec, Spec, host};
use crate::support::netns::{self, World};

/// A port that speaks first.
const FIRST: u16 = 7000;
/// A port that nobody declares.
const UNDECLARED: u16 = 9999;
/// A server outside of the mesh.
const OUTSIDE: u16 = 8000;

/// In these tests the proxy is root, and applications are somebody else.
fn settings(mode: Interception) -> Settings {
    Settings { uids: vec![0], gids: vec![], mode, ..Settings::default() }
}

struct Meshed {
    world: World,
    mesh: Mesh,
    backend: Backend,
    mode: Interception,
    pods: [Pod; 2],
}

impl Meshed {
    /// STRICT server, client that may only reach what is registered.
    async fn start(world: World, backend: Backend, mode: Interception) -> Self {
        world.hub.serve_http(OUTSIDE);
        world.server.serve_http(PORT);
        world.server.serve_first(FIRST);
        world.server.serve_http(UNDECLARED);
        let mesh = Mesh::start_at("10.201.0.254".parse().unwrap()).await;
        let tproxy = mode == Interception::Tproxy;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut spec = Spec::new("ratings", nowhere);
        spec.mtls = MtlsMode::MtlsStrict;
        let mut own = Mesh::self_config(&spec);
        let mut first = own.ports[0].clone();
        (first.port, first.protocol) = (FIRST.into(), Protocol::Tcp.into());
        own.ports.push(first);
        mesh.pilot.publish_self("ratings", &own);
        let enter = world.server.clone();
        let ratings =
            mesh.launch_captured(&spec, "10.201.0.2".parse().unwrap(), tproxy, move || enter.enter());
        let spec = Spec::new("reviews", nowhere);
        let mut own = Mesh::self_config(&spec);
        own.outbound_policy = wire::OutboundPolicy::OutboundRegistryOnly.into();
        mesh.pilot.publish_self("reviews", &own);
        let enter = world.client.clone();
        let reviews =
            mesh.launch_captured(&spec, "10.201.0.1".parse().unwrap(), tproxy, move || enter.enter());
        let meshed = Self { world, mesh, backend, mode, pods: [ratings, reviews] };
        meshed.publish();
        meshed.program(&settings(mode), &settings(mode));
        for pod in ["10.201.0.1", "10.201.0.2"] {
            let at = SocketAddr::new(pod.parse().unwrap(), 15021);
            eventually("ready", || async move {
                crate::support::client::get(at, "status", "/healthz/ready")
                    .await
                    .is_ok_and(|a| a.status == 200)
            })
            .await;
        }
        meshed
    }

    /// `ratings` and `first` on IPv4, `six` on IPv6.
    fn publish(&self) {
        let services = [
            ("ratings", PORT, 2, Protocol::Http, format!("10.201.0.2:{PORT}")),
            ("first", FIRST, 3, Protocol::Tcp, format!("10.201.0.2:{FIRST}")),
            ("six", PORT, 6, Protocol::Http, format!("[fd77::2]:{PORT}")),
        ];
        let mut entries = Vec::new();
        for (name, port, vip, protocol, address) in services {
            self.mesh.service(&ServiceSpec { name, port, vip, protocol, pods: vec![] });
            let endpoint = wire::Endpoint { uid: name.into(), address, ..self.pods[0].endpoint() };
            let endpoints = wire::Endpoints { endpoints: vec![endpoint] };
            self.mesh.pilot.publish(Kind::Endpoints, &format!("{}:{port}", host(name)), &endpoints);
            entries.push(wire::CatalogueEntry {
                host: host(name),
                vips: vec![format!("10.99.0.{vip}"), format!("fd99::{vip}")],
                ports: vec![wire::CataloguePort {
                    number: port.into(),
                    protocol: protocol.into(),
                    name: String::new(),
                }],
                ..Default::default()
            });
        }
        self.mesh.pilot.publish(Kind::Catalogue, "default", &wire::Catalogue { entries });
    }

    /// Programs both pods, twice: that is as good as once.
    fn program(&self, client: &Settings, server: &Settings) {
        for _ in 0..2 {
            self.world.client.within(|| program::apply(client, self.backend)).unwrap();
            self.world.server.within(|| program::apply(server, self.backend)).unwrap();
        }
    }

    /// Whom the application sees: its client under TPROXY, else the sidecar beside it.
    fn seen(&self, sidecar: &str, client: &str) -> String {
        if self.mode == Interception::Tproxy { client } else { sidecar }.to_owned()
    }

    fn unchanged_programs_are_in_the_mesh(&self) {
        let World { hub, client, server } = &self.world;
        let v4 = self.seen("127.0.0.6", "10.201.0.1");
        assert_eq!(client.curl("http://10.99.0.2:9080/"), Some(v4.clone()), "by VIP");
        assert_eq!(client.listen_to("10.99.0.3", FIRST), format!("hello {v4}"), "server first");
        assert_eq!(client.curl("http://[fd99::6]:9080/"), Some(self.seen("::6", "fd77::1")), "IPv6");
        // Its own service, through both sides of its own sidecar.
        assert_eq!(
            server.curl("http://10.99.0.2:9080/"),
            Some(self.seen("127.0.0.6", "10.201.0.2")),
            "itself"
        );
        assert_eq!(server.curl("http://127.0.0.1:9080/"), Some("127.0.0.1".to_owned()), "loopback is free");
        // STRICT holds on every port, declared or not.
        for port in [PORT, FIRST, UNDECLARED] {
            assert_eq!(hub.curl(&format!("http://10.201.0.2:{port}/")), None, "plaintext to {port}");
            assert_eq!(hub.curl(&format!("http://[fd77::2]:{port}/")), None, "plaintext to {port}");
        }
    }

    fn loops_are_refused(&self) {
        let World { hub, client, .. } = &self.world;
        for port in [15001, 15006] {
            assert_eq!(client.curl(&format!("http://127.0.0.1:{port}/")), None);
            assert_eq!(client.curl(&format!("http://10.201.0.1:{port}/")), None);
            assert_eq!(hub.curl(&format!("http://10.201.0.1:{port}/")), None);
        }
        // And it goes on serving.
        assert!(client.curl("http://10.99.0.2:9080/").is_some());
    }

    fn what_is_excluded_is_left_alone(&self) {
        let World { hub, client, .. } = &self.world;
        let base = || settings(self.mode);
        let outside = format!("http://10.201.0.254:{OUTSIDE}/");
        let outside6 = format!("http://[fd77::ff]:{OUTSIDE}/");
        assert_eq!(client.curl(&outside), None, "REGISTRY_ONLY");
        assert_eq!(client.curl(&outside6), None, "REGISTRY_ONLY");
        let ranges = ["10.201.0.254/32", "fd77::ff/128"].map(|r| r.parse().unwrap()).to_vec();
        self.program(&Settings { exclude_outbound: ranges, ..base() }, &base());
        assert_eq!(client.curl(&outside), Some("10.201.0.1".to_owned()), "excluded by range");
        assert_eq!(client.curl(&outside6), Some("fd77::1".to_owned()), "excluded by range");
        self.program(&Settings { exclude_outbound_ports: vec![OUTSIDE], ..base() }, &base());
        assert_eq!(client.curl(&outside), Some("10.201.0.1".to_owned()), "excluded by port");
        self.program(&base(), &Settings { exclude_inbound_ports: vec![UNDECLARED], ..base() });
        assert_eq!(client.curl(&outside), None, "included again");
        let port = format!("http://10.201.0.2:{UNDECLARED}/");
        assert_eq!(hub.curl(&port), Some("10.201.0.254".to_owned()), "excluded inbound");
        assert_eq!(hub.curl("http://10.201.0.2:9080/"), None, "and only that port");
    }

    fn nothing_is_left(&self) {
        for namespace in [&self.world.client, &self.world.server] {
            for _ in 0..2 {
                namespace.within(|| program::clean_up(&settings(self.mode), self.backend)).unwrap();
            }
            assert_eq!(namespace.shown("nft", &["list", "ruleset"]).matches("mesh_capture").count(), 0);
            assert!(!namespace.shown("iptables-save", &[]).contains("MESH_"));
            assert!(!namespace.shown("ip6tables-save", &[]).contains("MESH_"));
            assert!(!namespace.shown("ip", &["rule"]).contains("fwmark"));
        }
        assert_eq!(self.world.hub.curl("http://10.201.0.2:9080/"), Some("10.201.0.254".to_owned()));
    }
}

/// Runs a whole mesh in namespaces; blocks.
fn story(backend: Backend, mode: Interception) {
    if let Some(why) = netns::missing() {
        eprintln!("SKIPPED: transparent capture ({backend:?}, {mode:?}) is not tested here: {why}");
        return;
    }
    World::new().run(move |world, runtime| {
        let mut meshed = runtime.block_on(Meshed::start(world, backend, mode));
        // Blocking, while the pilot serves on the runtime's own threads.
        meshed.unchanged_programs_are_in_the_mesh();
        meshed.loops_are_refused();
        meshed.what_is_excluded_is_left_alone();
        meshed.nothing_is_left();
        meshed.pods.iter_mut().for_each(Pod::stop);
        for pod in &mut meshed.pods {
            runtime.block_on(pod.ended());
        }
    });
}

#[test]
fn nftables_redirect() {
    story(Backend::Nftables, Interception::Redirect);
}

#[test]
fn iptables_redirect() {
    story(Backend::Iptables, Interception::Redirect);
}

#[test]
fn nftables_tproxy() {
    story(Backend::Nftables, Interception::Tproxy);
}

#[test]
fn iptables_tproxy() {
    story(Backend::Iptables, Interception::Tproxy);
}
