//! Limits, outlier detection and locality for the wire, with Istio's and Envoy's defaults filled in.

use std::time::Duration;

use mesh_proto::crd::destination_rule::{
    ConnectionPool, HttpPool, LocalitySetting, OutlierDetection, RetryBudget, TcpKeepalive, TcpPool,
};
use mesh_proto::wire::mesh::v1 as wire;

use super::super::on_wire;

const CONSECUTIVE: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
const MAX_EJECTION_PERCENT: u32 = 10;
const BUDGET_PERCENT: f64 = 20.0;
const BUDGET_RETRIES: u32 = 3;

/// `None`: nothing is limited. 0 is no limit, as in Istio.
pub(super) fn limits(pool: Option<&ConnectionPool>, budget: Option<&RetryBudget>) -> Option<wire::Limits> {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let of_http = |field: fn(&HttpPool) -> Option<i64>| http.and_then(field).and_then(limit);
    let limits = wire::Limits {
        max_connections: tcp.and_then(|tcp: &TcpPool| tcp.max_connections).and_then(limit),
        max_pending_requests: of_http(|http| http.http1_max_pending_requests),
        max_requests: of_http(|http| http.http2_max_requests),
        max_retries: of_http(|http| http.max_retries),
        retry_budget: budget.map(|budget| wire::RetryBudget {
            percent: budget.percent.unwrap_or(BUDGET_PERCENT),
            min_retry_concurrency: budget.min_retry_concurrency.unwrap_or(BUDGET_RETRIES),
        }),
    };
    (limits != wire::Limits::default()).then_some(limits)
}

/// A limit; 2^32 - 1, Istio's default, is as good as none.
fn limit(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|number| *number != 0 && *number != u32::MAX)
}

/// Streams of one connection; 0: the proxy's own limit.
pub(super) fn streams(pool: Option<&ConnectionPool>) -> u32 {
    let http = pool.and_then(|pool| pool.http.as_ref());
    http.and_then(|http| http.max_concurrent_streams).and_then(limit).unwrap_or(0)
}

pub(super) fn keepalive(keepalive: &TcpKeepalive) -> wire::TcpKeepalive {
    wire::TcpKeepalive {
        probes: keepalive.probes.unwrap_or(0),
        time: keepalive.time.map(|time| on_wire(time.0)),
        interval: keepalive.interval.map(|time| on_wire(time.0)),
    }
}

pub(super) fn outlier_detection(outlier: &OutlierDetection) -> wire::OutlierDetection {
    let percent = outlier.max_ejection_percent.filter(|percent| *percent != 0);
    let local = outlier.consecutive_local_origin_failures.filter(|failures| *failures != 0);
    wire::OutlierDetection {
        consecutive_5xx: outlier.consecutive_5xx_errors.unwrap_or(CONSECUTIVE),
        consecutive_gateway: outlier.consecutive_gateway_errors.or(outlier.consecutive_errors).unwrap_or(0),
        split_local_origin: outlier.split_external_local_origin_errors.unwrap_or(false),
        consecutive_local_origin: local.unwrap_or(CONSECUTIVE),
        interval: Some(on_wire(outlier.interval.map_or(INTERVAL, |time| time.0))),
        base_ejection_time: Some(on_wire(outlier.base_ejection_time.map_or(BASE_EJECTION_TIME, |t| t.0))),
        max_ejection_percent: percent.unwrap_or(MAX_EJECTION_PERCENT),
        min_health_percent: outlier.min_health_percent.unwrap_or(0),
    }
}

/// Shares count always; failing over needs outlier detection, which turns it on by itself (Istio's mesh-wide default).
pub(super) fn locality(setting: Option<&LocalitySetting>, outlier: bool) -> Option<wire::LocalityPolicy> {
    if setting.is_some_and(|setting| setting.enabled == Some(false)) {
        return None;
    }
    let absent = LocalitySetting::default();
    let setting = setting.unwrap_or(&absent);
    if setting.distribute.is_empty() && !outlier {
        return None;
    }
    let shares = setting.distribute.iter();
    let failover = setting.failover.iter();
    Some(wire::LocalityPolicy {
        distribute: shares
            .map(|shares| wire::LocalityShares { from: shares.from.clone(), to: shares.to.clone() })
            .collect(),
        failover: failover
            .map(|to| wire::LocalityFailover { from: to.from.clone(), to: to.to.clone() })
            .collect(),
        failover_priority: setting.failover_priority.clone(),
    })
}
