//! `networking.istio.io` DestinationRule, all served versions (they have the same fields).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::meta::{Labels, ObjectMeta, WorkloadSelector};
use super::values::Duration;
use super::virtual_service::PortSelector;

strict! {
    /// Subsets, balancing and connections of a host.
    pub struct DestinationRule {
        /// Checked when the kind is chosen.
        pub api_version: String,
        /// Checked when the kind is chosen.
        pub kind: String,
        /// Name, namespace, age.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: DestinationRuleSpec,
        /// Written by a control plane; not read.
        pub status: Value,
    }

    /// What a DestinationRule wants.
    pub struct DestinationRuleSpec {
        /// Short names are of its own namespace; may be a wildcard.
        pub host: String,
        /// For all subsets.
        pub traffic_policy: Option<TrafficPolicy>,
        /// By name.
        pub subsets: Vec<Subset>,
        /// `*`, `.`, `~` or namespaces. Empty: everywhere.
        pub export_to: Vec<String>,
        /// Client workloads of the same namespace.
        pub workload_selector: Option<WorkloadSelector>,
    }

    /// Some of a host's endpoints.
    pub struct Subset {
        /// What routes call it.
        pub name: String,
        /// What its endpoints have.
        pub labels: Labels,
        /// Replaces the host's, group by group.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// Groups of settings. A group that is set replaces the whole group.
    pub struct TrafficPolicy {
        /// Who gets the next request.
        pub load_balancer: Option<LoadBalancer>,
        /// Connections and their limits.
        pub connection_pool: Option<ConnectionPool>,
        /// Who is taken out.
        pub outlier_detection: Option<OutlierDetection>,
        /// How connections are secured.
        pub tls: Option<ClientTls>,
        /// Replaces all of the above for one port: a group left out is the default.
        pub port_level_settings: Vec<PortPolicy>,
        /// Through a proxy.
        pub tunnel: Option<Tunnel>,
        /// The PROXY protocol upstream.
        pub proxy_protocol: Option<ProxyProtocol>,
        /// Retries as a share of requests.
        pub retry_budget: Option<RetryBudget>,
    }

    /// The settings of one port.
    pub struct PortPolicy {
        /// Of the service.
        pub port: PortSelector,
        /// Who gets the next request.
        pub load_balancer: Option<LoadBalancer>,
        /// Connections and their limits.
        pub connection_pool: Option<ConnectionPool>,
        /// Who is taken out.
        pub outlier_detection: Option<OutlierDetection>,
        /// How connections are secured.
        pub tls: Option<ClientTls>,
    }

    /// One of `simple` and `consistentHash`.
    pub struct LoadBalancer {
        /// LEAST_REQUEST when nothing is set.
        pub simple: Option<SimpleBalancer>,
        /// The same key goes to the same endpoint.
        pub consistent_hash: Option<ConsistentHash>,
        /// Which locality.
        pub locality_lb_setting: Option<LocalitySetting>,
        /// Slow start.
        pub warmup: Option<Warmup>,
        /// Old form of `warmup.duration`.
        pub warmup_duration_secs: Option<Duration>,
    }

    /// A key and a table. `rings` and `ringSize` are a form that only this mesh knows.
    pub struct ConsistentHash {
        /// The key is a header.
        pub http_header_name: Option<String>,
        /// The key is a cookie.
        pub http_cookie: Option<HttpCookie>,
        /// The key is the client's address.
        pub use_source_ip: Option<bool>,
        /// The key is a query parameter.
        pub http_query_parameter_name: Option<String>,
        /// The table is a ring.
        pub ring_hash: Option<RingHash>,
        /// The table is Maglev's.
        pub maglev: Option<Maglev>,
        /// Old form of `ringHash.minimumRingSize`.
        pub minimum_ring_size: Option<u64>,
        /// How many rings: one.
        pub rings: Option<u64>,
        /// The same as `ringHash.minimumRingSize`.
        pub ring_size: Option<u64>,
    }

    /// A cookie as key.
    pub struct HttpCookie {
        /// Its name.
        pub name: String,
        /// Its path, when it is made.
        pub path: Option<String>,
        /// Made when absent and this is set; 0 is a session cookie.
        pub ttl: Option<Duration>,
        /// More attributes of one that is made.
        pub attributes: Vec<CookieAttribute>,
    }

    /// One attribute.
    pub struct CookieAttribute {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: String,
    }

    /// A ring.
    pub struct RingHash {
        /// 1024 when absent.
        pub minimum_ring_size: Option<u64>,
    }

    /// Maglev.
    pub struct Maglev {
        /// 65537 when absent; a prime.
        pub table_size: Option<u64>,
    }

    /// Which locality.
    pub struct LocalitySetting {
        /// Shares.
        pub distribute: Vec<Distribute>,
        /// Where next.
        pub failover: Vec<Failover>,
        /// By labels.
        pub failover_priority: Vec<String>,
        /// On unless false.
        pub enabled: Option<bool>,
    }

    /// Shares of one locality's traffic.
    pub struct Distribute {
        /// Of the client.
        pub from: String,
        /// In percent.
        pub to: std::collections::BTreeMap<String, u32>,
    }

    /// Where next.
    pub struct Failover {
        /// A region.
        pub from: String,
        /// A region.
        pub to: String,
    }

    /// Slow start.
    pub struct Warmup {
        /// How long.
        pub duration: Option<Duration>,
        /// 10 when absent.
        pub minimum_percent: Option<f64>,
        /// 1 when absent.
        pub aggression: Option<f64>,
    }

    /// Connections and their limits.
    pub struct ConnectionPool {
        /// Of connections.
        pub tcp: Option<TcpPool>,
        /// Of requests.
        pub http: Option<HttpPool>,
    }

    /// Of connections.
    pub struct TcpPool {
        /// No limit when absent.
        pub max_connections: Option<i64>,
        /// 10 s when absent.
        pub connect_timeout: Option<Duration>,
        /// Off when absent.
        pub tcp_keepalive: Option<TcpKeepalive>,
        /// No limit when absent.
        pub max_connection_duration: Option<Duration>,
        /// 1 h when absent; 0 is none.
        pub idle_timeout: Option<Duration>,
    }

    /// Keepalive probes.
    pub struct TcpKeepalive {
        /// How many.
        pub probes: Option<u32>,
        /// When the first.
        pub time: Option<Duration>,
        /// How often.
        pub interval: Option<Duration>,
    }

    /// Of requests.
    pub struct HttpPool {
        /// No limit when absent.
        pub http1_max_pending_requests: Option<i64>,
        /// No limit when absent.
        pub http2_max_requests: Option<i64>,
        /// 0: no limit; 1: no keepalive.
        pub max_requests_per_connection: Option<i64>,
        /// No limit when absent.
        pub max_retries: Option<i64>,
        /// 1 h when absent.
        pub idle_timeout: Option<Duration>,
        /// DEFAULT, DO_NOT_UPGRADE, UPGRADE.
        pub h2_upgrade_policy: Option<String>,
        /// The client's protocol is kept.
        pub use_client_protocol: Option<bool>,
        /// Of one connection.
        pub max_concurrent_streams: Option<i64>,
        /// HTTP/2 pings.
        pub http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// HTTP/2 pings.
    pub struct Http2KeepAlive {
        /// How often.
        pub interval: Option<Duration>,
        /// How long an answer may take.
        pub timeout: Option<Duration>,
    }

    /// Who is taken out.
    pub struct OutlierDetection {
        /// Old form of `consecutiveGatewayErrors`.
        pub consecutive_errors: Option<u32>,
        /// Count our own failures apart.
        pub split_external_local_origin_errors: Option<bool>,
        /// Of our own.
        pub consecutive_local_origin_failures: Option<u32>,
        /// 502, 503, 504.
        pub consecutive_gateway_errors: Option<u32>,
        /// 5 when absent.
        #[serde(rename = "consecutive5xxErrors")]
        pub consecutive_5xx_errors: Option<u32>,
        /// 10 s when absent.
        pub interval: Option<Duration>,
        /// 30 s when absent.
        pub base_ejection_time: Option<Duration>,
        /// 10 when absent.
        pub max_ejection_percent: Option<u32>,
        /// 0 when absent.
        pub min_health_percent: Option<u32>,
        /// Which statuses are errors.
        pub outlier_detection_http_error_codes: Vec<u32>,
    }

    /// How connections are secured.
    pub struct ClientTls {
        /// DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL.
        pub mode: ClientTlsMode,
        /// A file.
        pub client_certificate: String,
        /// A file.
        pub private_key: String,
        /// A file.
        pub ca_certificates: String,
        /// A Secret.
        pub credential_name: String,
        /// Whom to expect.
        pub subject_alt_names: Vec<String>,
        /// The server name sent.
        pub sni: String,
        /// Do not verify.
        pub insecure_skip_verify: Option<bool>,
        /// A file.
        pub ca_crl: String,
    }

    /// Through a proxy.
    pub struct Tunnel {
        /// CONNECT or POST.
        pub protocol: String,
        /// Where the tunnel ends.
        pub target_host: String,
        /// Where the tunnel ends.
        pub target_port: u16,
    }

    /// The PROXY protocol upstream.
    pub struct ProxyProtocol {
        /// V1 or V2.
        pub version: String,
    }

    /// Retries as a share of requests.
    pub struct RetryBudget {
        /// 20 when absent.
        pub percent: Option<f64>,
        /// 3 when absent.
        pub min_retry_concurrency: Option<u32>,
        /// Over which time.
        pub budget_interval: Option<Duration>,
    }
}

/// A balancer without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleBalancer {
    /// The default.
    Unspecified,
    /// Old name of LEAST_REQUEST.
    LeastConn,
    /// Any.
    Random,
    /// The address that was asked for.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The less busy of two.
    LeastRequest,
}

/// How connections are secured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// Not.
    #[default]
    Disable,
    /// TLS of the server's own.
    Simple,
    /// With a client certificate of the user's.
    Mutual,
    /// With the mesh's certificates.
    IstioMutual,
}
