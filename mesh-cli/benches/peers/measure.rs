//! One measurement: wrk for some seconds, CPU time of the contender before and after, memory at the end.

use std::fmt;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::Settings;
use crate::contender::Contender;

/// What one measurement gave.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// User and system time of all its threads, microseconds per completed request.
    pub cpu_micros: f64,
    /// Requests per second.
    pub rate: f64,
    /// Resident memory of all its processes under load, MB.
    pub rss: f64,
    /// Requests that wrk counted.
    pub requests: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.1} us/request  {:7.0} requests/s  {:5.1} MB", self.cpu_micros, self.rate, self.rss)
    }
}

/// Measures one contender once.
pub fn one(settings: &Settings, contender: &Contender) -> anyhow::Result<Sample> {
    let processes = contender.processes();
    let before = cpu_nanos(&processes);
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1"])
        .args([format!("-c{}", settings.connections), format!("-d{}s", settings.seconds)])
        .args(["-H", &format!("Host: {}", contender.host), &format!("http://{}/", contender.entry)])
        .output()
        .context("cannot run wrk")?;
    let after = cpu_nanos(&contender.processes());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        bail!("not every request was answered well:\n{text}");
    }
    let requests: u64 = field(&text, " requests in ")
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("wrk said:\n{text}"))?;
    let rate = text.split("Requests/sec:").nth(1).and_then(|rest| rest.split_whitespace().next());
    if requests == 0 {
        bail!("no request was answered:\n{text}");
    }
    Ok(Sample {
        cpu_micros: after.saturating_sub(before) as f64 / 1000.0 / requests as f64,
        rate: rate.and_then(|rate| rate.parse().ok()).unwrap_or_default(),
        rss: rss_mb(&processes),
        requests,
    })
}

/// The word before `mark`.
fn field<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split(mark).next()?.split_whitespace().last().filter(|_| text.contains(mark))
}

/// Time on a CPU of every thread, in nanoseconds (first field of schedstat). Threads that ended are lost: none of ours do.
fn cpu_nanos(processes: &[u32]) -> u64 {
    let threads = processes
        .iter()
        .filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok())
        .flatten()
        .flatten();
    let nanos = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum()
}

/// Resident memory of some processes, MB.
pub fn rss_mb(processes: &[u32]) -> f64 {
    let kib = processes.iter().filter_map(|pid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    });
    kib.sum::<f64>() / 1024.0
}
