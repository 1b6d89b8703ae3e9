//! What people read: tables, lines, errors.

use std::fmt::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::OwoColorize as _;

use crate::cmd::status::Status;
use crate::local::api::{Instance, InstanceState, Mesh, ProcessState, Workload, WorkloadKind};
use crate::local::net::port;
use crate::local::pilot::{ProxyStatus, ResourceStatus};

/// Prints an error with its causes, each on a line of its own.
pub fn error(error: &anyhow::Error) {
    anstream::eprintln!("{} {error}", "error:".red().bold());
    for cause in error.chain().skip(1) {
        anstream::eprintln!("  because: {cause}");
    }
}

/// A table without lines.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    table
}

/// The table of `up`: each workload, its instances, identity, addresses.
#[must_use]
pub fn workloads(mesh: &Mesh) -> String {
    let mut all = table(&["WORKLOAD", "INSTANCE", "STATE", "ADDRESS", "IDENTITY"]);
    for workload in &mesh.workloads {
        for (index, instance) in workload.instances.iter().enumerate() {
            let first = index == 0;
            all.add_row([
                if first { name(workload) } else { String::new() },
                instance.name.clone(),
                state(instance.state).to_owned(),
                addresses(workload, instance),
                if first { workload.identity.clone() } else { String::new() },
            ]);
        }
    }
    all.trim_fmt()
}

fn name(workload: &Workload) -> String {
    format!("{}.{}", workload.name, workload.namespace)
}

/// What listens where.
fn addresses(workload: &Workload, instance: &Instance) -> String {
    match workload.kind {
        WorkloadKind::Gateway => match instance.gateway.as_ref().map(|g| g.port_offset) {
            None => instance.pod_ip.to_string(),
            Some(0) => format!("{} (its Gateways' ports)", instance.pod_ip),
            Some(offset) => format!("{} (its Gateways' ports; +{offset} below 1024)", instance.pod_ip),
        },
        WorkloadKind::Client if instance.place.is_none() => {
            format!("{} (its proxy for requests)", instance.http_proxy)
        }
        _ if instance.ports.is_empty() => instance.pod_ip.to_string(),
        _ => {
            let ports: Vec<String> = instance.ports.iter().map(|p| p.listen.port().to_string()).collect();
            format!("{}:{}", instance.pod_ip, ports.join(","))
        }
    }
}

fn state(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Starting => "starting",
        InstanceState::Ready => "ready",
        InstanceState::Unready => "not ready",
        InstanceState::Draining => "draining",
        InstanceState::Stopped => "stopped",
        InstanceState::Failed => "cannot start",
    }
}

/// `meshctl status`.
pub fn status(status: &Status) {
    let mesh = &status.mesh;
    let ready = if mesh.ready { "ready" } else { "starting" };
    println!(
        "mesh {} ({ready}), {}, process {}, meshctl {}",
        mesh.name, mesh.network, mesh.pid, mesh.version
    );
    println!("\n{}", instances(status));
    println!("\n{}", processes(mesh));
    match &status.pilot {
        Some(pilot) => {
            println!("\n{}", resources(&pilot.resources));
            println!("\n{}", proxies(&pilot.proxies));
            println!("\nmetrics: http://ADDRESS:{}/stats/prometheus of each instance", port::METRICS);
        }
        None => {
            let why = status.pilot_error.as_deref().unwrap_or_default();
            println!("\nthe pilot does not answer ({why}); proxies go on with what they have");
        }
    }
    println!(
        "protocolDetectionTimeout: {} s (how long clients of ports that declare no protocol may be silent; a server that speaks \
         first is heard by plaintext clients after 0.3 s, by mesh clients at once)",
        status.detection
    );
    for notice in &mesh.notices {
        println!("note: {notice}");
    }
}

fn instances(status: &Status) -> String {
    let mut all = table(&["INSTANCE", "WORKLOAD", "STATE", "ADDRESS", "IDENTITY", "CERTIFICATE", "RESTARTS"]);
    for workload in &status.mesh.workloads {
        for instance in &workload.instances {
            let mut told = state(instance.state).to_owned();
            if let Some(reason) = &instance.reason {
                let _ = write!(told, ": {reason}");
            }
            let restarts: u32 =
                instance.containers.iter().chain([&instance.sidecar]).map(|p| p.restarts).sum();
            all.add_row([
                instance.name.clone(),
                name(workload),
                told,
                addresses(workload, instance),
                workload.identity.clone(),
                certificate(status, &format!("{}/{}", workload.namespace, instance.name)),
                restarts.to_string(),
            ]);
        }
    }
    all.trim_fmt()
}

fn certificate(status: &Status, instance: &str) -> String {
    match status.certificates.get(instance).and_then(|told| told["seconds_left"].as_u64()) {
        Some(0) => "expired".to_owned(),
        Some(left) => format!("{} left", span(left)),
        None => "-".to_owned(),
    }
}

/// A time in the unit that one would use.
#[must_use]
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn processes(mesh: &Mesh) -> String {
    let mut all = table(&["CONTROL PLANE", "STATE", "PROCESS", "RESTARTS", "LAST END"]);
    for process in &mesh.control_plane {
        let state = match process.state {
            ProcessState::Waiting => "waiting",
            ProcessState::Running => "running",
            ProcessState::Backoff => "starts again soon",
            ProcessState::Stopped => "stopped",
        };
        all.add_row([
            process.name.clone(),
            state.to_owned(),
            process.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            process.restarts.to_string(),
            process.last_exit.clone().unwrap_or_default(),
        ]);
    }
    all.trim_fmt()
}

/// How each configuration resource stands.
#[must_use]
pub fn resources(resources: &[ResourceStatus]) -> String {
    if resources.is_empty() {
        return "no configuration resources".to_owned();
    }
    let mut all = table(&["RESOURCE", "STATE", "PROXIES", "WHERE", "WHY"]);
    for resource in resources {
        let which = if resource.namespace.is_empty() {
            format!("{} {}", resource.kind, resource.name)
        } else {
            format!("{} {}/{}", resource.kind, resource.namespace, resource.name)
        };
        let observers = resource.observers;
        let why: Vec<&str> = [resource.message.as_str()]
            .into_iter()
            .chain(resource.warnings.iter().map(String::as_str))
            .collect();
        all.add_row([
            which,
            resource.state.replace('_', " "),
            format!("{}/{}", observers.acked, observers.subscribed),
            resource.location.clone(),
            why.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "),
        ]);
    }
    all.trim_fmt()
}

/// Who is connected, and has what.
#[must_use]
pub fn proxies(proxies: &[ProxyStatus]) -> String {
    let mut all = table(&["PROXY", "CONNECTED", "CONFIGURATION", "REFUSES"]);
    for proxy in proxies {
        let refused: Vec<String> =
            proxy.rejected.iter().map(|r| format!("{}: {}", r.resource, r.reason)).collect();
        let configuration =
            if proxy.synced { "newest".to_owned() } else { format!("{} not acknowledged", proxy.pending) };
        all.add_row([
            format!("{}/{}", proxy.namespace, proxy.name),
            if proxy.connected { "yes" } else { "no" }.to_owned(),
            if proxy.connected { configuration } else { "unknown".to_owned() },
            refused.join("; "),
        ]);
    }
    all.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_in_the_unit_that_one_would_use() {
        let told: Vec<String> = [5, 119, 120, 7199, 86_400, 200_000].map(span).to_vec();
        assert_eq!(told, ["5 s", "119 s", "2 min", "119 min", "24 h", "2 d"]);
    }
}
