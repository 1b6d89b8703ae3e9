//! Addresses: one mesh is 127.N.0.0/16, one instance 127.N.i.0/24; with namespaces 10.N.0.0/16 and 10.N.i.1.
//!
//! A mesh holds its N by a listening socket (127.N.0.1:15900), whichever addresses it uses: the kernel gives it back when
//! the supervisor dies, however it dies, and no other user's mesh can take it meanwhile.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener};

use super::routes;

/// The port whose listener says that a network is taken.
const LOCK_PORT: u16 = 15900;
/// The networks that a mesh may take. Low ones are used by name resolvers and the like (127.0, 127.1, 127.53).
const NETWORKS: std::ops::RangeInclusive<u8> = 100..=250;
/// The instances of a mesh: .0 is the control plane, .255 the cluster addresses of services.
const INSTANCES: std::ops::RangeInclusive<u8> = 1..=254;
/// Where the ports of applications begin, and how many each network has: they end below 32768, where the kernel's own
/// choice begins.
const APP_PORTS: u16 = 20_000;
const APP_PORTS_EACH: u16 = 80;
/// Added to a port under 1024 that this user may not bind.
pub const PORT_OFFSET: u16 = 8000;

/// Which addresses a mesh has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// 127.N.0.0/16: every user may have them.
    Loopback,
    /// 10.N.0.0/16, each instance in a network namespace of its own.
    Namespaces,
}

/// A network that this mesh holds.
#[derive(Debug)]
pub struct Network {
    base: Base,
    number: u8,
    _lock: TcpListener,
}

/// Where the parts of the control plane listen.
pub mod port {
    /// Discovery and certificates.
    pub const GRPC: u16 = 15012;
    /// Admin of pilot and CA.
    pub const CONTROL_ADMIN: u16 = 15014;
    /// A sidecar's outbound HTTP proxy.
    pub const OUTBOUND: u16 = 15001;
    /// The same where everything is captured, from within the pod.
    pub const LOCAL_HTTP_PROXY: super::SocketAddrV4 =
        super::SocketAddrV4::new(super::Ipv4Addr::LOCALHOST, mesh_proxy::config::LOCAL_HTTP_PROXY.port());
    /// The kernel brings here what the application opens, and what comes to it.
    pub const CAPTURE: [u16; 2] = [15001, 15006];
    /// A proxy's admin.
    pub const ADMIN: u16 = 15000;
    /// A proxy's readiness.
    pub const STATUS: u16 = 15021;
    /// A proxy's metrics.
    pub const METRICS: u16 = 15090;
}

impl Network {
    /// Takes the first network that nobody uses.
    ///
    /// # Errors
    /// When all are taken.
    pub fn take(base: Base) -> io::Result<Self> {
        let all = match base {
            Base::Loopback => {
                "no free loopback network among 127.100.0.0/16 to 127.250.0.0/16 (does another program listen on \
                 0.0.0.0:15012 or 0.0.0.0:15014?)"
            }
            Base::Namespaces => {
                "this machine has routes into all of 10.100.0.0/16 to 10.250.0.0/16, or meshes there"
            }
        };
        let free = NETWORKS.into_iter().find_map(|number| Self::try_take(base, number));
        free.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, all))
    }

    fn try_take(base: Base, number: u8) -> Option<Self> {
        let lock = TcpListener::bind((Ipv4Addr::new(127, number, 0, 1), LOCK_PORT)).ok()?;
        let network = Self { base, number, _lock: lock };
        let free = match base {
            Base::Loopback => {
                let needed = [
                    (network.ca(), port::GRPC),
                    (network.ca(), port::CONTROL_ADMIN),
                    (network.pilot(), port::GRPC),
                    (network.pilot(), port::CONTROL_ADMIN),
                    (network.pod(1), port::OUTBOUND),
                ];
                needed.into_iter().all(|(ip, port)| TcpListener::bind((ip, port)).is_ok())
            }
            Base::Namespaces => !routes::are_used(network.host(), 16),
        };
        free.then_some(network)
    }

    fn at(&self, subnet: u8, host: u8) -> Ipv4Addr {
        let first = if self.base == Base::Loopback { 127 } else { 10 };
        Ipv4Addr::new(first, self.number, subnet, host)
    }

    /// N of 127.N.0.0/16 or 10.N.0.0/16.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// What it has, as people write it.
    #[must_use]
    pub fn range(&self) -> String {
        format!("{}/16", self.at(0, 0))
    }

    /// This machine's address in it, where there are namespaces.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.at(0, 1)
    }

    /// The certificate authority's address.
    #[must_use]
    pub fn ca(&self) -> Ipv4Addr {
        self.at(0, 2)
    }

    /// The pilot's address.
    #[must_use]
    pub fn pilot(&self) -> Ipv4Addr {
        self.at(0, 3)
    }

    /// The address of the pod with the subnet `index`.
    #[must_use]
    pub fn pod(&self, index: u8) -> Ipv4Addr {
        self.at(index, 1)
    }

    /// The addresses that the pod with the subnet `index` has for services.
    #[must_use]
    pub fn pod_subnet(&self, index: u8) -> String {
        format!("{}/24", self.at(index, 0))
    }

    /// The cluster addresses of services.
    #[must_use]
    pub fn cluster_subnet(&self) -> String {
        format!("{}/24", self.at(255, 0))
    }

    /// The same of IPv6.
    #[must_use]
    pub fn cluster_subnet6(&self) -> String {
        format!("{}/112", self.v6(self.at(255, 0)))
    }

    /// Where the instance reaches the service with this cluster address: at that address where everything is captured,
    /// else at a listener of its own, with the same host bits in its own subnet.
    #[must_use]
    pub fn vip(&self, index: u8, cluster: Ipv4Addr) -> Option<Ipv4Addr> {
        let host = cluster.octets()[3];
        (self.at(255, host) == cluster).then(|| match self.base {
            Base::Loopback => self.at(index, host),
            Base::Namespaces => cluster,
        })
    }

    /// An IPv6 address of the mesh (of the range for private use): those of instances, services and this machine end as
    /// their IPv4 addresses do.
    #[must_use]
    pub fn v6(&self, v4: Ipv4Addr) -> Ipv6Addr {
        let [_, _, subnet, host] = v4.octets();
        Ipv6Addr::new(0xfd6d, 0x6573, 0x6800, self.number.into(), 0, 0, subnet.into(), host.into())
    }
}

/// Which instance has which subnet. An instance keeps its own while the mesh runs, stopped or not.
#[derive(Debug, Default)]
pub struct Subnets {
    taken: BTreeSet<u8>,
}

impl Subnets {
    /// The lowest free one.
    pub fn take(&mut self) -> Option<u8> {
        let free = INSTANCES.into_iter().find(|index| !self.taken.contains(index))?;
        self.taken.insert(free);
        Some(free)
    }

    /// Gives one back.
    pub fn give_back(&mut self, index: u8) {
        self.taken.remove(&index);
    }
}

/// Where a container port is served on a pod's address: the port itself, or 8000 + port where low ports cannot be bound.
/// All low ports of a pod are treated alike, so that one annotation tells the pilot.
#[must_use]
pub fn served_port(ip: Ipv4Addr, port: u16) -> u16 {
    if port >= 1024 || may_bind(ip, 1) { port } else { PORT_OFFSET + port }
}

/// Whether this user may bind a low port.
#[must_use]
pub fn may_bind(ip: Ipv4Addr, port: u16) -> bool {
    !matches!(TcpListener::bind((ip, port)), Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

/// Ports of 127.0.0.1 for the applications of a mesh.
///
/// Each network has a range of its own, below those that the kernel hands out for outgoing connections: no other mesh takes
/// one between here and the application's own bind, and no connection happens to sit on it.
#[derive(Debug)]
pub struct AppPorts {
    range: std::ops::Range<u16>,
    taken: BTreeSet<u16>,
}

impl AppPorts {
    /// Those of a network.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        let from = APP_PORTS + u16::from(network.number() - NETWORKS.start()) * APP_PORTS_EACH;
        Self { range: from..from + APP_PORTS_EACH, taken: BTreeSet::new() }
    }

    /// Takes free ones; where the range is used up, any that the kernel has.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<SocketAddrV4>> {
        let free = |port: &u16| !self.taken.contains(port) && bind(*port).is_ok();
        let mut ports: Vec<u16> = self.range.clone().filter(free).take(count).collect();
        // Held together while being chosen, so that no two are the same.
        let held: Vec<TcpListener> = (ports.len()..count).map(|_| bind(0)).collect::<Result<_, _>>()?;
        for listener in &held {
            ports.push(listener.local_addr()?.port());
        }
        self.taken.extend(&ports);
        Ok(ports.into_iter().map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).collect())
    }

    /// Gives some back.
    pub fn give_back(&mut self, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            self.taken.remove(&port);
        }
    }
}

fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_meshes_get_different_networks_and_one_is_free_again_after_its_end() {
        let one = Network::take(Base::Loopback).unwrap();
        let two = Network::take(Base::Loopback).unwrap();
        assert_ne!(one.number(), two.number());
        let number = two.number();
        drop(two);
        assert!(Network::try_take(Base::Loopback, number).is_some());
    }

    #[test]
    fn a_service_has_the_same_host_bits_in_every_instance() {
        let network = Network::take(Base::Loopback).unwrap();
        let n = network.number();
        assert_eq!(network.vip(7, Ipv4Addr::new(127, n, 255, 9)), Some(Ipv4Addr::new(127, n, 7, 9)));
        assert_eq!(network.vip(7, Ipv4Addr::new(127, n, 4, 9)), None);
        assert_eq!(network.vip(7, Ipv4Addr::new(10, 0, 0, 1)), None);
    }

    #[test]
    fn with_namespaces_a_service_has_one_address_for_all() {
        let network = Network::take(Base::Namespaces).unwrap();
        let n = network.number();
        assert_eq!(network.range(), format!("10.{n}.0.0/16"));
        let vip = Ipv4Addr::new(10, n, 255, 9);
        assert_eq!(network.vip(7, vip), Some(vip));
        assert_eq!(network.vip(7, Ipv4Addr::new(127, n, 255, 9)), None);
        assert_eq!(network.v6(vip).to_string(), format!("fd6d:6573:6800:{n:x}::ff:9"));
        // A mesh of the other kind does not get the same number.
        assert!(Network::try_take(Base::Loopback, n).is_none());
    }

    #[test]
    fn subnets_are_reused_and_run_out() {
        let mut subnets = Subnets::default();
        assert_eq!((subnets.take(), subnets.take()), (Some(1), Some(2)));
        subnets.give_back(1);
        assert_eq!(subnets.take(), Some(1));
        for _ in 2..254 {
            assert!(subnets.take().is_some());
        }
        assert_eq!(subnets.take(), None);
    }

    #[test]
    fn ports_of_applications_differ_also_between_meshes() {
        let (one, two) = (Network::take(Base::Loopback).unwrap(), Network::take(Base::Loopback).unwrap());
        let (mut first, mut second) = (AppPorts::of(&one), AppPorts::of(&two));
        let ports: Vec<_> = first.take(3).unwrap().into_iter().chain(second.take(100).unwrap()).collect();
        let more = first.take(2).unwrap();
        let different: BTreeSet<_> = ports.iter().chain(&more).collect();
        assert_eq!(different.len(), 105);
        first.give_back([ports[0].port()]);
        assert_eq!(first.take(1).unwrap(), [ports[0]]);
    }
}
