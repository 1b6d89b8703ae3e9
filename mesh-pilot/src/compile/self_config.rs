//! `self/self`: what a proxy is told about its own workload.

use std::time::Duration;

use mesh_proto::wire::mesh::v1 as wire;

use super::endpoints::{PodPort, facts, ports};
use super::external::external;
use super::policy::{deny_all, peer_policy};
use super::{authentication, authorization, features, holds, on_wire, spoken, trust_domains};
use crate::snapshot::{Compiled, Config, Outbound, Pod};

/// How long a plaintext client of a PERMISSIVE port may say nothing before the application is asked to speak first. Mesh
/// clients speak first always. Long enough that a busy client's TLS hello is not mistaken for silence.
pub const PROTOCOL_DETECTION_TIMEOUT: Duration = Duration::from_secs(2);

/// The workload's identity, ports and merged policy.
#[must_use]
pub fn self_config(config: &Config, pod: &Pod) -> Option<Compiled<wire::SelfConfig>> {
    let policy = peer_policy(config, pod);
    let outbound = match config.options.outbound {
        Outbound::AllowAny => wire::OutboundPolicy::OutboundAllowAny,
        Outbound::RegistryOnly => wire::OutboundPolicy::OutboundRegistryOnly,
    };
    let port = |port: PodPort| wire::InboundPort {
        port: u32::from(port.number),
        protocol: port.protocol.into(),
        name: port.name,
        services: port.services,
    };
    let authorization = authorization::policies(config, pod);
    let external_authorization = external(config, pod);
    let (jwt_rules, of_tokens) = authentication::jwt_rules(config, pod);
    let mut message = wire::SelfConfig {
        identity: pod.identity.to_string(),
        facts: Some(facts(pod)),
        labels: pod.labels.clone(),
        service_account: pod.service_account.to_string(),
        mtls: policy.mode.into(),
        mtls_by_port: policy.by_port.into_iter().map(|(port, mode)| (port, mode.into())).collect(),
        mtls_origin: policy.origin,
        ports: ports(pod).into_iter().map(port).collect(),
        protocol_detection_timeout: Some(on_wire(
            config.options.detection_timeout.unwrap_or(PROTOCOL_DETECTION_TIMEOUT),
        )),
        outbound_policy: outbound.into(),
        // MeshConfig's accessLogFile is empty by default; who starts a proxy may switch its log on (the local mesh does).
        access_log: config.options.access_log,
        cluster_domain: config.mesh.cluster_domain.to_string(),
        requires: Vec::new(),
        deny_all: deny_all(config, pod),
        locality: pod.locality.to_string(),
        authorization: authorization.enforced,
        watched_authorization: authorization.watched,
        deny_reason_header: config.options.deny_reason_header,
        path_normalization: config.options.path_normalization.into(),
        jwt_rules,
        external_authorization,
        mesh_tls: spoken(&config.options.mesh_tls),
        trust_domains: aliases(config),
    };
    message.requires = features::of_self(&message);
    let revisions = policy.revisions.into_iter().chain(authorization.revisions).chain(of_tokens);
    Some(Compiled { message, holds: holds(revisions) })
}

/// All names of our trust domain, where it has several.
fn aliases(config: &Config) -> Vec<String> {
    let names: Vec<String> = trust_domains(config).map(ToString::to_string).collect();
    if names.len() > 1 { names } else { Vec::new() }
}
