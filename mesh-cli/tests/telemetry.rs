//! Metrics and access logs agree with what was sent.

use super::support::{BASE, Mesh, eventually, raw};

/// The sum of `istio_requests_total` over the series that hold all of `labels`.
fn total(metrics: &str, labels: &[&str]) -> f64 {
    let series = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let chosen = series.filter(|line| labels.iter().all(|label| line.contains(label)));
    chosen.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn scrape(mesh: &Mesh, workload: &str) -> String {
    raw(
        mesh.address(workload, "metrics"),
        b"GET /stats/prometheus HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    )
}

#[test]
fn counts_labels_and_log() {
    let mesh = Mesh::up(&[("base.yaml", BASE)], &[]);
    mesh.request(&["http://api:8080/status/201", "-n", "37", "--from", "web"]);
    let labels = [
        r#"reporter="source""#,
        r#"source_workload="web""#,
        r#"source_workload_namespace="default""#,
        r#"source_principal="spiffe://cluster.local/ns/default/sa/web""#,
        r#"source_app="web""#,
        r#"source_version="v1""#,
        r#"source_canonical_service="web""#,
        r#"source_canonical_revision="v1""#,
        r#"destination_workload="api-"#,
        r#"destination_workload_namespace="default""#,
        r#"destination_principal="spiffe://cluster.local/ns/default/sa/api""#,
        r#"destination_app="api""#,
        r#"destination_service="api.default.svc.cluster.local""#,
        r#"destination_service_name="api""#,
        r#"destination_service_namespace="default""#,
        r#"destination_canonical_service="api""#,
        r#"request_protocol="http""#,
        r#"response_code="201""#,
        r#"response_flags="-""#,
        r#"connection_security_policy="unknown""#,
    ];
    eventually("the client's sidecar counts every request", || {
        let metrics = scrape(&mesh, "web");
        let counted = total(&metrics, &labels);
        if (counted - 37.0).abs() < f64::EPSILON { Ok(()) } else { Err(format!("{counted}:\n{metrics}")) }
    });
    let inbound = [
        r#"reporter="destination""#,
        r#"source_workload="web""#,
        r#"source_version="v1""#,
        r#"source_principal="spiffe://cluster.local/ns/default/sa/web""#,
        r#"response_code="201""#,
        r#"destination_service_name="api""#,
        r#"connection_security_policy="mutual_tls""#,
    ];
    eventually("the servers' sidecars count the same", || {
        let all = ["api-v1", "api-v2"].map(|workload| scrape(&mesh, workload));
        let counted: f64 = all.iter().map(|metrics| total(metrics, &inbound)).sum();
        if (counted - 37.0).abs() < f64::EPSILON {
            Ok(())
        } else {
            Err(format!("{counted}:\n{}", all.join("\n")))
        }
    });
    for name in [
        "istio_request_duration_milliseconds_bucket",
        "istio_request_bytes_sum",
        "istio_response_bytes_count",
    ] {
        assert!(scrape(&mesh, "web").contains(name), "{name}");
    }
    access_log(&mesh);
}

fn access_log(mesh: &Mesh) {
    let wanted = "\"GET /status/201 HTTP/1.1\" 201 - via_upstream";
    eventually("the access log", || {
        let log = mesh.must(&["logs", "web-0/sidecar"]) + &mesh.must(&["logs", "web-1/sidecar"]);
        let line = log.lines().find(|line| line.contains(wanted)).map(str::to_owned);
        let line = line.ok_or_else(|| log.clone())?;
        if line.contains("outbound|8080||api.default.svc.cluster.local") { Ok(()) } else { Err(line) }
    });
    mesh.request(&["http://nobody.invalid/", "--from", "web"]);
    mesh.request(&["http://api:8080/", "--from", "web"]);
}
