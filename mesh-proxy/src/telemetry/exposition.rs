//! Prometheus' text format, version 0.0.4.

use std::fmt::{self, Write};

use super::Shared;
use super::registry::{Family, Series};
use super::series::{BOUNDS, ConnectionShard, Histogram, HistogramTotal, RequestShard};

/// All metrics of the process.
pub(super) fn render(shared: &Shared) -> String {
    let mut out = String::with_capacity(64 * 1024);
    // Writing to a String does not fail.
    let _ = write_all(shared, &mut out);
    out
}

fn write_all(shared: &Shared, out: &mut String) -> fmt::Result {
    head(out, "istio_build", "gauge", "Version of this proxy.")?;
    writeln!(out, "istio_build{{component=\"proxy\",tag=\"{}\"}} 1", shared.settings.version)?;
    let requests = &shared.requests;
    let name = "istio_requests_total";
    counter(out, name, "Requests that have ended.", requests, RequestShard::requests)?;
    let name = "istio_request_duration_milliseconds";
    histogram(out, name, "Duration of requests.", requests, |shard| &shard.duration)?;
    histogram(out, "istio_request_bytes", "Size of request bodies.", requests, |shard| &shard.request_bytes)?;
    histogram(out, "istio_response_bytes", "Size of answer bodies.", requests, |shard| {
        &shard.response_bytes
    })?;
    let connections = &shared.connections;
    let name = "istio_tcp_connections_opened_total";
    counter(out, name, "Connections opened.", connections, ConnectionShard::opened)?;
    let name = "istio_tcp_connections_closed_total";
    counter(out, name, "Connections closed.", connections, |shard| shard.closed.get())?;
    let name = "istio_tcp_sent_bytes_total";
    counter(out, name, "Bytes sent to clients.", connections, |shard| shard.sent.get())?;
    let name = "istio_tcp_received_bytes_total";
    counter(out, name, "Bytes received from clients.", connections, |shard| shard.received.get())?;
    shared.dry_runs.write(out)?;
    own(shared, out)
}

/// What telemetry has to say about itself.
fn own(shared: &Shared, out: &mut String) -> fmt::Result {
    let series = shared.requests.len() + shared.connections.len();
    let overflowed = shared.requests.overflowed() + shared.connections.overflowed();
    let dropped = shared.log.dropped();
    head(out, "mesh_telemetry_series", "gauge", "Series that exist.")?;
    writeln!(out, "mesh_telemetry_series {series}")?;
    head(out, "mesh_telemetry_series_overflowed_total", "counter", "Series refused at the limit.")?;
    writeln!(out, "mesh_telemetry_series_overflowed_total {overflowed}")?;
    head(out, "mesh_access_log_dropped_total", "counter", "Log lines lost because the output was too slow.")?;
    writeln!(out, "mesh_access_log_dropped_total {dropped}")
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn counter<S>(
    out: &mut String,
    name: &str,
    help: &str,
    family: &Family<S>,
    value: impl Fn(&S) -> u64 + Copy,
) -> fmt::Result {
    let mut result = head(out, name, "counter", help);
    family.for_each(|labels, series| {
        result = result.and_then(|()| writeln!(out, "{name}{{{labels}}} {}", series.sum(value)));
    });
    result
}

fn histogram<S>(
    out: &mut String,
    name: &str,
    help: &str,
    family: &Family<S>,
    value: impl Fn(&S) -> &Histogram + Copy,
) -> fmt::Result {
    let mut result = head(out, name, "histogram", help);
    family.for_each(|labels, series| {
        result = result.and_then(|()| one_histogram(out, name, labels, series, value));
    });
    result
}

fn one_histogram<S>(
    out: &mut String,
    name: &str,
    labels: &str,
    series: &Series<S>,
    value: impl Fn(&S) -> &Histogram,
) -> fmt::Result {
    let mut total = HistogramTotal::default();
    series.shards().for_each(|shard| total.add(value(shard)));
    let mut count = 0;
    for (bucket, bound) in total.buckets.iter().zip(BOUNDS) {
        count += bucket;
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
    }
    count += total.buckets[BOUNDS.len()];
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{name}_sum{{{labels}}} {}", total.thousandths as f64 / 1000.0)?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}
