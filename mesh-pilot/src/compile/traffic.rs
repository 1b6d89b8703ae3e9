//! Which DestinationRule is in force for a service, and its traffic policy for the wire.
//!
//! Istio's semantics: the client's namespace (unless it is the root namespace), then the service's, then the root; in one
//! namespace the most specific host; rules of the same host merge their subsets only, and the first traffic policy wins; a
//! rule whose `workloadSelector` selects the client comes before plain ones. Nothing is inherited between them.

mod failover;

use std::sync::Arc;
use std::time::Duration;

use mesh_proto::crd::destination_rule::{
    ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, LoadBalancer, OutlierDetection, RetryBudget,
    SimpleBalancer, Subset, TrafficPolicy,
};
use mesh_proto::crd::{self, Labels};
use mesh_proto::wire::mesh::v1 as wire;

use super::host::{full, names, visible};
use super::{on_wire, spoken};
use crate::snapshot::{Config, Held, MeshOptions};

/// A DestinationRule with its place in the configuration.
pub(super) type Rule = Held<Arc<crd::DestinationRule>>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const MINIMUM_RING_SIZE: u64 = 1024;
const MAGLEV_TABLE_SIZE: u64 = 65537;

/// The rules in force for a host: all of one namespace and one host, oldest first. None: the defaults.
pub(super) fn select<'a>(
    config: &'a Config,
    client: &str,
    labels: &Labels,
    host: &str,
    service_namespace: &str,
) -> Vec<&'a Rule> {
    let root: &str = &config.mesh.root_namespace;
    let own = (client != root).then_some(client);
    let mut namespaces: Vec<&str> = own.into_iter().chain([service_namespace, root]).collect();
    namespaces.dedup();
    for namespace in namespaces {
        let found = select_in(config, namespace, client, labels, host);
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn select_in<'a>(
    config: &'a Config,
    namespace: &str,
    client: &str,
    labels: &Labels,
    host: &str,
) -> Vec<&'a Rule> {
    let candidate = |rule: &'a Arc<Rule>| {
        let spec = &rule.spec.spec;
        let (export_to, default) = (&spec.export_to, &config.options.default_export.destination_rules);
        let exported = visible(export_to.iter().map(String::as_str), default, namespace, client).is_some();
        let selects =
            spec.workload_selector.as_ref().is_none_or(|s| namespace == client && s.selects(labels));
        if *rule.reference.namespace != *namespace || !exported || !selects {
            return None;
        }
        let specificity = names(&full(config, &spec.host, namespace), host)?;
        Some((specificity, rule.as_ref()))
    };
    let candidates: Vec<_> = config.destination_rules.iter().filter_map(candidate).collect();
    let Some(best) = candidates.iter().map(|(specificity, _)| *specificity).max() else { return Vec::new() };
    let rules = candidates.into_iter().filter(|(specificity, _)| *specificity == best).map(|(_, rule)| rule);
    let (selecting, plain): (Vec<_>, Vec<_>) =
        rules.partition(|rule| rule.spec.spec.workload_selector.is_some());
    if selecting.is_empty() { plain } else { selecting }
}

/// The subsets of the rules in force: the first of each name.
pub(super) fn subsets<'a>(rules: &[&'a Rule]) -> Vec<&'a Subset> {
    let mut subsets: Vec<&Subset> = Vec::new();
    for subset in rules.iter().flat_map(|rule| &rule.spec.spec.subsets) {
        if !subsets.iter().any(|known| known.name == subset.name) {
            subsets.push(subset);
        }
    }
    subsets.sort_by(|a, b| a.name.cmp(&b.name));
    subsets
}

/// The rule whose traffic policy is in force, of those that are.
pub(super) fn first_policy<'a>(rules: &[&'a Rule]) -> Option<&'a TrafficPolicy> {
    rules.iter().find_map(|rule| rule.spec.spec.traffic_policy.as_ref())
}

/// The groups of settings that are set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Groups<'a> {
    load_balancer: Option<&'a LoadBalancer>,
    connection_pool: Option<&'a ConnectionPool>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTls>,
    /// A port has none of its own.
    retry_budget: Option<&'a RetryBudget>,
}

impl<'a> Groups<'a> {
    /// Of a service's port: `portLevelSettings` of that port replace everything, what they leave out is the default.
    pub(super) fn of(policy: Option<&'a TrafficPolicy>, port: u16) -> Self {
        policy.map_or_else(Self::default, |policy| Self::default().overridden(policy, port))
    }

    /// Of a subset: group by group over the service's; its own `portLevelSettings` replace everything again.
    pub(super) fn overridden(self, policy: &'a TrafficPolicy, port: u16) -> Self {
        if let Some(own) = policy.port_level_settings.iter().find(|own| own.port.number == port) {
            return Self {
                load_balancer: own.load_balancer.as_ref(),
                connection_pool: own.connection_pool.as_ref(),
                outlier_detection: own.outlier_detection.as_ref(),
                tls: own.tls.as_ref(),
                retry_budget: policy.retry_budget.as_ref().or(self.retry_budget),
            };
        }
        Self {
            load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
            connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
            outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
            tls: policy.tls.as_ref().or(self.tls),
            retry_budget: policy.retry_budget.as_ref().or(self.retry_budget),
        }
    }

    /// For the wire, every default filled in: the mesh's, then Istio's. `client`: its namespace, whose Secrets are named.
    pub(super) fn complete(self, mesh: &MeshOptions, client: &str) -> wire::Policy {
        let tcp = self.connection_pool.and_then(|pool| pool.tcp.as_ref());
        let http = self.connection_pool.and_then(|pool| pool.http.as_ref());
        let connect = tcp.and_then(|tcp| tcp.connect_timeout).map(|timeout| timeout.0);
        let connect = connect.or(mesh.connect_timeout).unwrap_or(CONNECT_TIMEOUT);
        let idle = http.and_then(|http| http.idle_timeout).map_or(IDLE_TIMEOUT, |timeout| timeout.0);
        let requests = http.and_then(|http| http.max_requests_per_connection).unwrap_or(0);
        let (tls, client_tls) =
            self.tls.map_or((wire::UpstreamTls::Auto, None), |tls| secured(tls, mesh, client));
        wire::Policy {
            load_balancer: Some(wire::LoadBalancer { kind: Some(balancer(self.load_balancer)) }),
            connect_timeout: Some(on_wire(connect)),
            tls: tls.into(),
            idle_timeout: Some(on_wire(idle)),
            max_requests_per_connection: u32::try_from(requests).unwrap_or(u32::MAX),
            limits: failover::limits(self.connection_pool, self.retry_budget),
            outlier_detection: self.outlier_detection.map(failover::outlier_detection),
            locality: failover::locality(
                self.load_balancer
                    .and_then(|balancer| balancer.locality_lb_setting.as_ref())
                    .or(mesh.locality.as_ref()),
                self.outlier_detection.is_some(),
            ),
            tcp_keepalive: tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).map(failover::keepalive),
            max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration).map(|t| on_wire(t.0)),
            tcp_idle_timeout: tcp.and_then(|tcp| tcp.idle_timeout).map(|timeout| on_wire(timeout.0)),
            max_concurrent_streams: failover::streams(self.connection_pool),
            client_tls,
        }
    }
}

/// How connections are secured. Istio's semantics: `credentialName` is a Secret of the client's own namespace, with the
/// certificate (MUTUAL) and the CA.
fn secured(
    tls: &ClientTls,
    mesh: &MeshOptions,
    namespace: &str,
) -> (wire::UpstreamTls, Option<wire::ClientTls>) {
    use wire::{ca_certificates::Source as CaSource, key_pair::Source as KeySource};
    let secret = (!tls.credential_name.is_empty()).then(|| format!("{namespace}/{}", tls.credential_name));
    let mutual = match tls.mode {
        ClientTlsMode::Disable => return (wire::UpstreamTls::Disable, None),
        ClientTlsMode::IstioMutual => {
            let named = wire::ClientTls {
                sni: tls.sni.to_ascii_lowercase(),
                subject_alt_names: tls.subject_alt_names.clone(),
                ..wire::ClientTls::default()
            };
            return (wire::UpstreamTls::IstioMutual, (named != wire::ClientTls::default()).then_some(named));
        }
        ClientTlsMode::Simple => false,
        ClientTlsMode::Mutual => true,
    };
    let files = || wire::FileKeyPair {
        certificate_chain: tls.client_certificate.clone(),
        private_key: tls.private_key.clone(),
    };
    let shown = || secret.clone().map_or_else(|| KeySource::Files(files()), KeySource::Secret);
    let ca = match &secret {
        Some(secret) => Some(CaSource::Secret(secret.clone())),
        None => (!tls.ca_certificates.is_empty()).then(|| CaSource::File(tls.ca_certificates.clone())),
    };
    let message = wire::ClientTls {
        key_pair: mutual.then(|| wire::KeyPair { source: Some(shown()) }),
        ca: ca.map(|source| wire::CaCertificates { source: Some(source) }),
        sni: tls.sni.to_ascii_lowercase(),
        subject_alt_names: tls.subject_alt_names.clone(),
        insecure_skip_verify: tls.insecure_skip_verify == Some(true),
        parameters: spoken(&mesh.tls_defaults),
        crl: (!tls.ca_crl.is_empty())
            .then(|| wire::CaCertificates { source: Some(CaSource::File(tls.ca_crl.clone())) }),
    };
    (wire::UpstreamTls::Originate, Some(message))
}

/// The Secrets that a rule names.
pub(crate) fn credentials(rule: &crd::DestinationRule) -> impl Iterator<Item = &ClientTls> {
    let subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let policies = rule.spec.traffic_policy.iter().chain(subsets);
    let all = policies.flat_map(|policy| {
        policy.port_level_settings.iter().filter_map(|port| port.tls.as_ref()).chain(&policy.tls)
    });
    all.filter(|tls| !tls.credential_name.is_empty())
}

fn balancer(balancer: Option<&LoadBalancer>) -> wire::load_balancer::Kind {
    use wire::load_balancer::Kind;
    let empty = wire::Empty {};
    if let Some(hash) = balancer.and_then(|balancer| balancer.consistent_hash.as_ref()) {
        let key = Some(hash_key(hash));
        if let Some(maglev) = &hash.maglev {
            return Kind::Maglev(wire::Maglev {
                key,
                table_size: maglev.table_size.unwrap_or(MAGLEV_TABLE_SIZE),
            });
        }
        let standard = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
        let size = standard.or(hash.minimum_ring_size).or(hash.ring_size).unwrap_or(MINIMUM_RING_SIZE);
        return Kind::RingHash(wire::RingHash { key, minimum_ring_size: size });
    }
    match balancer.and_then(|balancer| balancer.simple) {
        Some(SimpleBalancer::RoundRobin) => Kind::RoundRobin(empty),
        Some(SimpleBalancer::Random) => Kind::Random(empty),
        Some(SimpleBalancer::Passthrough) => Kind::Passthrough(empty),
        Some(SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn | SimpleBalancer::Unspecified)
        | None => Kind::LeastRequest(empty),
    }
}

/// Without a key (the user's own form) the key is the client's address.
fn hash_key(hash: &ConsistentHash) -> wire::HashKey {
    use wire::hash_key::Kind;
    let cookie = |cookie: &crd::destination_rule::HttpCookie| wire::HashCookie {
        name: cookie.name.clone(),
        path: cookie.path.clone().unwrap_or_default(),
        ttl: cookie.ttl.map(|ttl| on_wire(ttl.0)),
    };
    let kind = if let Some(name) = &hash.http_header_name {
        Kind::Header(name.to_ascii_lowercase())
    } else if let Some(name) = &hash.http_query_parameter_name {
        Kind::Query(name.clone())
    } else if let Some(named) = &hash.http_cookie {
        Kind::Cookie(cookie(named))
    } else {
        Kind::SourceIp(wire::Empty {})
    };
    wire::HashKey { kind: Some(kind) }
}
