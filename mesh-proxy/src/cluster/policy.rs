//! How a cluster or subset is to be reached: balancing, timeouts, TLS.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use mesh_proto::model::{InvalidIdentity, SpiffeId};
use mesh_proto::wire::mesh::v1 as wire;
use rustls::pki_types::ServerName;

use super::InvalidCluster;
use super::hash::HashKey;
use super::limits::LimitSettings;
use super::locality::Order;
use super::outlier::Outlier;
use crate::route::parse_duration;
use crate::tls::originate::Origination;

/// Istio's defaults, for what the pilot left out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const MINIMUM_RING_SIZE: u64 = 1024;
/// Envoy's limit.
const MAXIMUM_RING_SIZE: u64 = 8 << 20;
const TABLE_SIZE: u64 = 65_537;
/// Envoy's limit.
const MAXIMUM_TABLE_SIZE: u64 = 5_000_011;

/// Complete: every default is filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which algorithm.
    pub load_balancer: LoadBalancer,
    /// For one connection attempt.
    pub connect_timeout: Duration,
    /// Whether to originate TLS.
    pub tls: UpstreamTls,
    /// What TLS of the mesh asks for; none: Istio's name of the cluster.
    pub mesh_sni: Option<Box<str>>,
    /// Whom TLS of the mesh takes for the right server; none: the endpoint's own identity.
    pub mesh_names: Box<[SpiffeId]>,
    /// How long a connection may be idle in the pool. Zero: without limit.
    pub idle_timeout: Duration,
    /// After how many requests a connection is closed.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// How much may be under way. `None`: anything.
    pub limits: Option<LimitSettings>,
    /// Who fails is taken out. `None`: nobody is.
    pub outlier: Option<Outlier>,
    /// Which endpoints come first. `None`: places make no difference.
    pub locality: Option<Order>,
    /// Of connections that carry bytes. Zero: without limit.
    pub tcp_idle_timeout: Duration,
    /// How connections are opened and used.
    pub connections: ConnectionSettings,
}

/// How connections are opened and used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionSettings {
    /// Probes of idle sockets.
    pub keepalive: Option<Keepalive>,
    /// How long a connection that carries bytes may live.
    pub max_duration: Option<Duration>,
    /// Streams of one HTTP/2 connection.
    pub max_streams: Option<NonZeroU32>,
}

/// TCP keepalive; `None` is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// How many probes without an answer end it.
    pub probes: Option<NonZeroU32>,
    /// When the first comes.
    pub time: Option<Duration>,
    /// How often they come.
    pub interval: Option<Duration>,
}

/// Which balancing algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadBalancer {
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two.
    LeastRequest,
    /// At random, by weight.
    Random,
    /// A ketama ring.
    RingHash {
        /// What is hashed.
        key: HashKey,
        /// Points on the ring, at least.
        minimum_ring_size: u64,
    },
    /// Maglev's table.
    Maglev {
        /// What is hashed.
        key: HashKey,
        /// Its length, a prime.
        table_size: u64,
    },
    /// Not balanced: to the original destination.
    Passthrough,
}

/// Whether TLS is originated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTls {
    /// Mesh mTLS where the endpoint has it.
    Auto,
    /// Never.
    Disable,
    /// Always, with the mesh's certificates.
    IstioMutual,
    /// Always, to a server that is not of the mesh.
    Originate(Arc<Origination>),
}

impl Policy {
    /// Parses; `field` is the message's path. What is absent has Istio's default.
    pub(super) fn new(wire: Option<&wire::Policy>, field: &str) -> Result<Self, InvalidCluster> {
        let absent = wire::Policy::default();
        let wire = wire.unwrap_or(&absent);
        let duration = |value: Option<prost_types::Duration>, name: &str, default| {
            let invalid = |reason| InvalidCluster::Value { field: format!("{field}.{name}"), reason };
            value.map_or(Ok(default), |value| parse_duration(value).map_err(invalid))
        };
        let maybe = |value: Option<prost_types::Duration>, name: &str| {
            value.map(|value| duration(Some(value), name, Duration::ZERO)).transpose()
        };
        let connect_timeout = duration(wire.connect_timeout, "connect_timeout", CONNECT_TIMEOUT)?;
        let outlier = wire.outlier_detection.as_ref();
        let sni = wire.client_tls.as_ref().map(|tls| tls.sni.as_str());
        let keepalive = wire.tcp_keepalive.as_ref().map(|keepalive| {
            Ok(Keepalive {
                probes: NonZeroU32::new(keepalive.probes),
                time: maybe(keepalive.time, "tcp_keepalive.time")?,
                interval: maybe(keepalive.interval, "tcp_keepalive.interval")?,
            })
        });
        Ok(Self {
            load_balancer: LoadBalancer::new(wire.load_balancer.as_ref(), &format!("{field}.load_balancer"))?,
            connect_timeout: if connect_timeout.is_zero() { CONNECT_TIMEOUT } else { connect_timeout },
            tls: UpstreamTls::new(wire, field)?,
            mesh_sni: sni.filter(|sni| !sni.is_empty()).map(Box::from),
            mesh_names: mesh_names(wire, field)?,
            idle_timeout: duration(wire.idle_timeout, "idle_timeout", IDLE_TIMEOUT)?,
            max_requests_per_connection: NonZeroU32::new(wire.max_requests_per_connection),
            limits: wire.limits.as_ref().map(LimitSettings::new),
            outlier: outlier.map(|o| Outlier::new(o, &format!("{field}.outlier_detection"))).transpose()?,
            locality: wire.locality.as_ref().map(Order::new),
            tcp_idle_timeout: duration(wire.tcp_idle_timeout, "tcp_idle_timeout", IDLE_TIMEOUT)?,
            connections: ConnectionSettings {
                keepalive: keepalive.transpose()?,
                max_duration: maybe(wire.max_connection_duration, "max_connection_duration")?,
                max_streams: NonZeroU32::new(wire.max_concurrent_streams),
            },
        })
    }
}

fn mesh_names(wire: &wire::Policy, field: &str) -> Result<Box<[SpiffeId]>, InvalidCluster> {
    let mesh = matches!(wire.tls(), wire::UpstreamTls::Auto | wire::UpstreamTls::IstioMutual);
    let names = wire.client_tls.iter().filter(|_| mesh).flat_map(|tls| &tls.subject_alt_names);
    let parsed = names.map(|name| {
        let field = format!("{field}.client_tls.subject_alt_names");
        name.parse().map_err(|why: InvalidIdentity| InvalidCluster::Value { field, reason: why.to_string() })
    });
    parsed.collect()
}

impl LoadBalancer {
    fn new(wire: Option<&wire::LoadBalancer>, field: &str) -> Result<Self, InvalidCluster> {
        use wire::load_balancer::Kind;
        let in_range = |value: u64, default: u64, limit: u64, name: &str| match value {
            0 => Ok(default),
            value if value <= limit => Ok(value),
            value => Err(InvalidCluster::Value {
                field: format!("{field}.{name}"),
                reason: format!("{value} is more than {limit}"),
            }),
        };
        Ok(match wire.and_then(|w| w.kind.as_ref()) {
            Some(Kind::RoundRobin(_)) => Self::RoundRobin,
            Some(Kind::LeastRequest(_)) | None => Self::LeastRequest,
            Some(Kind::Random(_)) => Self::Random,
            Some(Kind::RingHash(ring)) => Self::RingHash {
                key: HashKey::new(ring.key.as_ref(), &format!("{field}.ring_hash.key"))?,
                minimum_ring_size: in_range(
                    ring.minimum_ring_size,
                    MINIMUM_RING_SIZE,
                    MAXIMUM_RING_SIZE,
                    "ring_hash.minimum_ring_size",
                )?,
            },
            Some(Kind::Maglev(maglev)) => {
                let name = "maglev.table_size";
                let table_size = in_range(maglev.table_size, TABLE_SIZE, MAXIMUM_TABLE_SIZE, name)?;
                if !is_prime(table_size) {
                    let reason = format!("{table_size} is no prime");
                    return Err(InvalidCluster::Value { field: format!("{field}.{name}"), reason });
                }
                let key = HashKey::new(maglev.key.as_ref(), &format!("{field}.maglev.key"))?;
                Self::Maglev { key, table_size }
            }
            Some(Kind::Passthrough(_)) => Self::Passthrough,
        })
    }
}

impl UpstreamTls {
    fn new(wire: &wire::Policy, field: &str) -> Result<Self, InvalidCluster> {
        let invalid = |name: &str, reason| InvalidCluster::Value { field: format!("{field}.{name}"), reason };
        match wire::UpstreamTls::try_from(wire.tls) {
            Ok(wire::UpstreamTls::Auto) => Ok(Self::Auto),
            Ok(wire::UpstreamTls::Disable) => Ok(Self::Disable),
            Ok(wire::UpstreamTls::IstioMutual) => Ok(Self::IstioMutual),
            Ok(wire::UpstreamTls::Originate) => {
                let settings = wire
                    .client_tls
                    .clone()
                    .ok_or_else(|| InvalidCluster::Missing { field: format!("{field}.client_tls") })?;
                if !settings.sni.is_empty() && ServerName::try_from(settings.sni.as_str()).is_err() {
                    return Err(invalid("client_tls.sni", format!("{:?} is no name", settings.sni)));
                }
                Ok(Self::Originate(Arc::new(Origination::new(settings))))
            }
            Err(_) => Err(invalid("tls", format!("{} is no mode that this version knows", wire.tls))),
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}
