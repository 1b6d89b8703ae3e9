//! Outlier detection, locality and limits. In: those groups of a traffic policy. Out: findings.

use std::collections::BTreeMap;

use super::super::super::destination_rule::{
    HttpPool, LocalitySetting, OutlierDetection, RetryBudget, TcpKeepalive, TcpPool,
};
use super::super::super::problem::Findings;
use super::super::super::values::Duration;
use super::tell_yet;

/// What Envoy ejects at most when nobody says.
const DEFAULT_EJECTION: u32 = 10;

pub(super) fn outlier_detection(outlier: &OutlierDetection, path: &str, findings: &mut Findings) {
    let positive = [("interval", outlier.interval), ("baseEjectionTime", outlier.base_ejection_time)];
    for (field, time) in positive {
        if time.is_some_and(|time| time.0.as_millis() == 0) {
            findings.error(format!("{path}.{field}"), "too short", "at least 1ms");
        }
    }
    let percents = [
        ("maxEjectionPercent", outlier.max_ejection_percent),
        ("minHealthPercent", outlier.min_health_percent),
    ];
    for (field, percent) in percents {
        if percent.is_some_and(|percent| percent > 100) {
            findings.error(format!("{path}.{field}"), "more than all", "0 to 100");
        }
    }
    if outlier.consecutive_errors.is_some() {
        findings.warning(
            format!("{path}.consecutiveErrors"),
            "consecutiveErrors is the old name",
            "consecutiveGatewayErrors",
        );
    }
    // Envoy's trap: with the default of 10 %, a service of three replicas never ejects anybody.
    if outlier.max_ejection_percent.is_none_or(|percent| percent == 0) {
        findings.warning(
            path,
            format!("maxEjectionPercent is {DEFAULT_EJECTION}: of fewer than 10 endpoints none is ejected"),
            "maxEjectionPercent: 50 lets one of two or three be ejected, 100 all of them",
        );
    }
    let split = outlier.split_external_local_origin_errors == Some(true);
    if outlier.consecutive_local_origin_failures.is_some() && !split {
        findings.warning(
            format!("{path}.consecutiveLocalOriginFailures"),
            "without splitExternalLocalOriginErrors it means nothing: our own failures count as 5xx",
            "splitExternalLocalOriginErrors: true",
        );
    }
    let codes = !outlier.outlier_detection_http_error_codes.is_empty();
    tell_yet(findings, codes, path, "outlierDetectionHttpErrorCodes");
}

pub(super) fn locality(setting: &LocalitySetting, outlier: bool, path: &str, findings: &mut Findings) {
    if !setting.distribute.is_empty()
        && (!setting.failover.is_empty() || !setting.failover_priority.is_empty())
    {
        findings.error(path, "distribute and failover are both set", "one of them");
    }
    for (index, shares) in setting.distribute.iter().enumerate() {
        let path = format!("{path}.distribute[{index}]");
        if shares.from.is_empty() {
            findings.error(
                format!("{path}.from"),
                "whose traffic it is, is missing",
                "region/zone/subzone or *",
            );
        }
        // What is in percent and may be anything: nothing may overflow.
        let sum: u64 = shares.to.values().map(|share| u64::from(*share)).sum();
        if sum != 100 {
            findings.error(format!("{path}.to"), format!("the shares add up to {sum}"), "100");
        }
        zero_shares(&shares.to, &path, findings);
    }
    for (index, failover) in setting.failover.iter().enumerate() {
        let path = format!("{path}.failover[{index}]");
        if failover.from.is_empty() || failover.from == failover.to {
            findings.error(path.clone(), "a region fails over to another one", "from: REGION, to: ANOTHER");
        }
        if failover.from.contains(['/', '*']) || failover.to.contains(['/', '*']) {
            findings.error(path, "not a region", "regions, without zone");
        }
    }
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if label.split('=').next().is_none_or(str::is_empty) {
            findings.error(format!("{path}.failoverPriority[{index}]"), "a label without a name", "");
        }
    }
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    if fails_over && !outlier {
        findings.warning(
            path,
            "without outlierDetection nothing fails over: all localities get traffic alike",
            "outlierDetection beside it",
        );
    }
}

fn zero_shares(to: &BTreeMap<String, u32>, path: &str, findings: &mut Findings) {
    for (locality, _) in to.iter().filter(|(_, share)| **share == 0) {
        findings.error(
            format!("{path}.to"),
            format!("{locality:?} gets nothing"),
            "1 to 100, or leave it out",
        );
    }
}

pub(super) fn tcp_pool(tcp: &TcpPool, path: &str, findings: &mut Findings) {
    if tcp.connect_timeout.is_some_and(|t| t.0.is_zero()) {
        findings.error(format!("{path}.connectTimeout"), "0 lets nothing connect", "at least 1ms");
    }
    if tcp.max_connection_duration.is_some_and(|t| t.0.is_zero()) {
        findings.error(format!("{path}.maxConnectionDuration"), "0 lets nothing live", "at least 1ms");
    }
    not_negative(&[("maxConnections", tcp.max_connections)], path, findings);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        tcp_keepalive(keepalive, &format!("{path}.tcpKeepalive"), findings);
    }
}

fn tcp_keepalive(keepalive: &TcpKeepalive, path: &str, findings: &mut Findings) {
    let whole = |time: Option<Duration>| time.is_some_and(|time| time.0.as_secs() == 0);
    for (field, time) in [("time", keepalive.time), ("interval", keepalive.interval)] {
        if whole(time) {
            findings.error(format!("{path}.{field}"), "the kernel counts whole seconds", "at least 1s");
        }
    }
}

pub(super) fn http_pool(http: &HttpPool, path: &str, findings: &mut Findings) {
    if let Some(policy) = http.h2_upgrade_policy.as_deref()
        && !matches!(policy, "DEFAULT" | "DO_NOT_UPGRADE" | "UPGRADE")
    {
        let expected = "DEFAULT, DO_NOT_UPGRADE or UPGRADE";
        findings.error(format!("{path}.h2UpgradePolicy"), format!("unknown policy {policy:?}"), expected);
    }
    let numbers = [
        ("maxRequestsPerConnection", http.max_requests_per_connection),
        ("http1MaxPendingRequests", http.http1_max_pending_requests),
        ("http2MaxRequests", http.http2_max_requests),
        ("maxRetries", http.max_retries),
        ("maxConcurrentStreams", http.max_concurrent_streams),
    ];
    not_negative(&numbers, path, findings);
    tell_yet(findings, http.h2_upgrade_policy.as_deref() == Some("UPGRADE"), path, "h2UpgradePolicy");
    tell_yet(findings, http.http2_keep_alive.is_some(), path, "http2KeepAlive");
}

fn not_negative(numbers: &[(&str, Option<i64>)], path: &str, findings: &mut Findings) {
    for (field, number) in numbers {
        if number.is_some_and(|number| number < 0) {
            findings.error(format!("{path}.{field}"), "negative", "0 (no limit) or more");
        }
    }
}

pub(super) fn retry_budget(budget: &RetryBudget, path: &str, findings: &mut Findings) {
    if budget.percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        findings.error(format!("{path}.percent"), "not a percentage", "0 to 100");
    }
    tell_yet(findings, budget.budget_interval.is_some(), path, "budgetInterval");
}
