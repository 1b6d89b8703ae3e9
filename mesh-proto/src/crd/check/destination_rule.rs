//! DestinationRule.

mod failover;

use std::collections::HashSet;

use super::super::destination_rule::{
    ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, DestinationRuleSpec, LoadBalancer,
    OutlierDetection, SimpleBalancer, TrafficPolicy,
};
use super::super::problem::Findings;
use super::host::{is_host, is_wildcard_host};
use super::{export_to, refuse_yet, tell_yet};
use crate::model::SpiffeId;

/// Envoy's bound on ring sizes.
const MAX_RING: u64 = 8 * 1024 * 1024;
/// Envoy's bound on Maglev's table.
const MAX_MAGLEV: u64 = 5_000_011;

pub(super) fn check(spec: &DestinationRuleSpec, findings: &mut Findings) {
    if spec.host.is_empty() {
        findings.error("spec", "host is missing", "the name of a service");
    } else if !is_wildcard_host(&spec.host) {
        findings.error("spec.host", format!("{:?} is not a host", spec.host), "a DNS name, *.suffix or *");
    }
    export_to(&spec.export_to, "spec.exportTo", findings);
    if let Some(traffic) = &spec.traffic_policy {
        policy(traffic, "spec.trafficPolicy", findings);
    }
    let mut names = HashSet::new();
    for (index, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        if subset.name.is_empty() {
            findings.error(path.clone(), "a subset needs a name", "");
        } else if !names.insert(subset.name.as_str()) {
            findings.error(
                format!("{path}.name"),
                format!("the subset {:?} is there twice", subset.name),
                "",
            );
        }
        if let Some(traffic) = &subset.traffic_policy {
            policy(traffic, &format!("{path}.trafficPolicy"), findings);
        }
    }
}

/// The four groups that a port's settings also have.
struct Groups<'a> {
    load_balancer: Option<&'a LoadBalancer>,
    connection_pool: Option<&'a ConnectionPool>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTls>,
}

fn policy(policy: &TrafficPolicy, path: &str, findings: &mut Findings) {
    let all = Groups {
        load_balancer: policy.load_balancer.as_ref(),
        connection_pool: policy.connection_pool.as_ref(),
        outlier_detection: policy.outlier_detection.as_ref(),
        tls: policy.tls.as_ref(),
    };
    groups(&all, path, findings);
    refuse_yet(findings, policy.tunnel.is_some(), path, "tunnel");
    refuse_yet(findings, policy.proxy_protocol.is_some(), path, "proxyProtocol");
    if let Some(budget) = &policy.retry_budget {
        failover::retry_budget(budget, &format!("{path}.retryBudget"), findings);
    }
    let mut numbers = HashSet::new();
    for (index, port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        if port.port.number == 0 {
            findings.error(format!("{path}.port"), "port.number is missing or 0", "1 to 65535");
        }
        if !numbers.insert(port.port.number) {
            findings.error(format!("{path}.port"), format!("port {} is there twice", port.port.number), "");
        }
        let all = Groups {
            load_balancer: port.load_balancer.as_ref(),
            connection_pool: port.connection_pool.as_ref(),
            outlier_detection: port.outlier_detection.as_ref(),
            tls: port.tls.as_ref(),
        };
        groups(&all, &path, findings);
    }
}

fn groups(groups: &Groups<'_>, path: &str, findings: &mut Findings) {
    if let Some(balancer) = groups.load_balancer {
        let outlier = groups.outlier_detection.is_some();
        load_balancer(balancer, outlier, &format!("{path}.loadBalancer"), findings);
    }
    if let Some(pool) = groups.connection_pool {
        connection_pool(pool, &format!("{path}.connectionPool"), findings);
    }
    if let Some(outlier) = groups.outlier_detection {
        failover::outlier_detection(outlier, &format!("{path}.outlierDetection"), findings);
    }
    if let Some(tls) = groups.tls {
        client_tls(tls, &format!("{path}.tls"), findings);
    }
}

fn load_balancer(balancer: &LoadBalancer, outlier: bool, path: &str, findings: &mut Findings) {
    let simple = balancer.simple.filter(|simple| *simple != SimpleBalancer::Unspecified);
    if simple.is_some() && balancer.consistent_hash.is_some() {
        findings.error(path, "simple and consistentHash are both set", "one of them");
    }
    if simple == Some(SimpleBalancer::LeastConn) {
        findings.warning(format!("{path}.simple"), "LEAST_CONN is the old name", "LEAST_REQUEST");
    }
    if simple == Some(SimpleBalancer::Passthrough) {
        findings.warning(
            format!("{path}.simple"),
            "PASSTHROUGH chooses nobody: only what is sent to a pod's own address arrives",
            "LEAST_REQUEST, ROUND_ROBIN or RANDOM for requests to the service's name",
        );
    }
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(hash, &format!("{path}.consistentHash"), findings);
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        failover::locality(setting, outlier, &format!("{path}.localityLbSetting"), findings);
    }
    tell_yet(findings, balancer.warmup.is_some(), path, "warmup");
    tell_yet(findings, balancer.warmup_duration_secs.is_some(), path, "warmupDurationSecs");
}

fn consistent_hash(hash: &ConsistentHash, path: &str, findings: &mut Findings) {
    let keys = usize::from(hash.http_header_name.is_some())
        + usize::from(hash.http_cookie.is_some())
        + usize::from(hash.use_source_ip == Some(true))
        + usize::from(hash.http_query_parameter_name.is_some());
    let own = hash.rings.is_some() || hash.ring_size.is_some();
    let expected = "one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName";
    if keys > 1 || (keys == 0 && !own) {
        findings.error(path, format!("{keys} hash keys are set"), expected);
    }
    if hash.http_query_parameter_name.as_deref() == Some("") {
        findings.error(path, "the name of the hash key is empty", "");
    }
    if let Some(name) = &hash.http_header_name
        && http::HeaderName::from_bytes(name.as_bytes()).is_err()
    {
        findings.error(format!("{path}.httpHeaderName"), format!("{name:?} is not the name of a header"), "");
    }
    // A cookie that is made goes into a header: nothing of it may end the value.
    if let Some(cookie) = &hash.http_cookie {
        if http::HeaderName::from_bytes(cookie.name.as_bytes()).is_err() {
            findings.error(
                format!("{path}.httpCookie.name"),
                format!("{:?} is not the name of a cookie", cookie.name),
                "",
            );
        }
        if cookie
            .path
            .as_ref()
            .is_some_and(|path| !path.bytes().all(|b| b.is_ascii_graphic() && b != b';' && b != b','))
        {
            findings.error(
                format!("{path}.httpCookie.path"),
                "not a path",
                "visible characters without ';' and ','",
            );
        }
    }
    let cookie = format!("{path}.httpCookie");
    tell_yet(
        findings,
        hash.http_cookie.as_ref().is_some_and(|c| !c.attributes.is_empty()),
        &cookie,
        "attributes",
    );
    tables(hash, path, findings);
    if own {
        own_form(hash, keys, path, findings);
    }
}

fn tables(hash: &ConsistentHash, path: &str, findings: &mut Findings) {
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        findings.error(path, "ringHash and maglev are both set", "one of them");
    }
    if hash.minimum_ring_size.is_some() {
        findings.warning(
            format!("{path}.minimumRingSize"),
            "minimumRingSize is the old form",
            "ringHash.minimumRingSize",
        );
    }
    let sizes = [
        ("ringHash.minimumRingSize", hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size)),
        ("minimumRingSize", hash.minimum_ring_size),
        ("ringSize", hash.ring_size),
    ];
    for (field, size) in sizes {
        if size.is_some_and(|size| size > MAX_RING) {
            findings.error(
                format!("{path}.{field}"),
                format!("{field} is too large"),
                format!("at most {MAX_RING}"),
            );
        }
    }
    if let Some(size) = hash.maglev.as_ref().and_then(|maglev| maglev.table_size)
        && (size > MAX_MAGLEV || !is_prime(size))
    {
        let message = format!("{size} is not a table size");
        findings.error(
            format!("{path}.maglev.tableSize"),
            message,
            format!("a prime number up to {MAX_MAGLEV}"),
        );
    }
}

fn own_form(hash: &ConsistentHash, keys: usize, path: &str, findings: &mut Findings) {
    let key = if keys == 0 { "useSourceIp: true, " } else { "" };
    let size = hash.ring_size.map_or(1024, |size| size);
    findings.warning(
        path,
        "rings and ringSize are a form that only this mesh knows",
        format!("the standard form: consistentHash: {{{key}ringHash: {{minimumRingSize: {size}}}}}"),
    );
    if hash.rings.is_some_and(|rings| rings != 1) {
        findings.error(format!("{path}.rings"), "there is one ring", "1");
    }
    if hash.ring_size == Some(0) {
        findings.error(format!("{path}.ringSize"), "an empty ring holds nobody", "at least 1");
    }
    if hash.ring_hash.is_some() || hash.maglev.is_some() || hash.minimum_ring_size.is_some() {
        findings.error(path, "ringSize contradicts ringHash, maglev or minimumRingSize", "one of them");
    }
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|d| d * d <= number).all(|d| !number.is_multiple_of(d))
}

fn connection_pool(pool: &ConnectionPool, path: &str, findings: &mut Findings) {
    if let Some(tcp) = &pool.tcp {
        failover::tcp_pool(tcp, &format!("{path}.tcp"), findings);
    }
    if let Some(http) = &pool.http {
        failover::http_pool(http, &format!("{path}.http"), findings);
    }
}

fn client_tls(tls: &ClientTls, path: &str, findings: &mut Findings) {
    let files = !tls.client_certificate.is_empty() || !tls.private_key.is_empty();
    if !tls.sni.is_empty() && !is_host(&tls.sni) {
        findings.error(format!("{path}.sni"), format!("{:?} is not a host", tls.sni), "a DNS name");
    }
    match tls.mode {
        ClientTlsMode::Simple => {
            if files {
                findings.error(
                    path,
                    "SIMPLE shows no certificate",
                    "MUTUAL, or no clientCertificate and privateKey",
                );
            }
            outside(tls, path, findings);
        }
        ClientTlsMode::Mutual => {
            let both = !tls.client_certificate.is_empty() && !tls.private_key.is_empty();
            if tls.credential_name.is_empty() && !both {
                let expected = "clientCertificate and privateKey, or credentialName";
                findings.error(path, "MUTUAL needs a certificate and its key", expected);
            }
            outside(tls, path, findings);
        }
        ClientTlsMode::IstioMutual => {
            if files || !tls.ca_certificates.is_empty() || !tls.credential_name.is_empty() {
                findings.error(path, "ISTIO_MUTUAL uses the mesh's certificates", "no certificate fields");
            }
            for (index, name) in tls.subject_alt_names.iter().enumerate() {
                if let Err(why) = name.parse::<SpiffeId>() {
                    let expected = "an identity of the mesh: certificates there have no other name";
                    findings.error(format!("{path}.subjectAltNames[{index}]"), why.to_string(), expected);
                }
            }
            refuse_yet(findings, !tls.ca_crl.is_empty(), path, "caCrl");
            refuse_yet(findings, tls.insecure_skip_verify == Some(true), path, "insecureSkipVerify");
        }
        ClientTlsMode::Disable => {
            let quiet = ClientTls { mode: ClientTlsMode::Disable, ..ClientTls::default() };
            if *tls != quiet {
                findings.warning(path, "with mode DISABLE the other fields mean nothing", "");
            }
        }
    }
}

/// What is wrong with a locality setting that stands for the whole mesh (MeshConfig): nothing if empty.
#[must_use]
pub fn locality(
    setting: &super::super::destination_rule::LocalitySetting,
) -> Vec<super::super::problem::Finding> {
    let mut findings = Findings::default();
    failover::locality(setting, true, "localityLbSetting", &mut findings);
    findings.0
}

/// TLS to servers that are not of the mesh.
fn outside(tls: &ClientTls, path: &str, findings: &mut Findings) {
    let files = [&tls.client_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl];
    if !tls.credential_name.is_empty() && files.iter().any(|file| !file.is_empty()) {
        findings.error(path, "credentialName and files are both set", "one of them");
    }
    if tls.credential_name.contains('/') {
        let message = format!("{:?} is not the name of a Secret", tls.credential_name);
        findings.error(format!("{path}.credentialName"), message, "a name; its namespace is the gateway's");
    }
    if tls.insecure_skip_verify == Some(true) {
        let files = !tls.ca_certificates.is_empty() || !tls.ca_crl.is_empty();
        if files || !tls.subject_alt_names.is_empty() {
            let message = "insecureSkipVerify contradicts caCertificates, caCrl and subjectAltNames";
            findings.error(path, message, "one of them");
        }
        findings.warning(format!("{path}.insecureSkipVerify"), "whoever answers is taken for the server", "");
    }
}
