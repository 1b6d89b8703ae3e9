//! Processes of pods, read through the container that is their node: CPU time and resident memory from `/proc`.

use anyhow::{Context as _, ensure};
use e2e::Cluster;

/// One process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Process {
    /// User and system time, microseconds.
    pub cpu: f64,
    /// Resident, MB.
    pub rss: f64,
    /// Resident at most so far, MB.
    pub peak: f64,
}

/// The processes `name` in pods of these UIDs, in their order: a pod of each has one.
pub async fn processes(cluster: &Cluster, name: &str, uids: &[String]) -> anyhow::Result<Vec<Process>> {
    // A cgroup's path has the pod's UID, with underscores where systemd keeps it.
    let script = format!(
        "for p in /proc/[0-9]*; do read -r c < $p/comm && [ \"$c\" = {name} ] || continue; \
         echo \"P $(tr - _ < $p/cgroup | tr '\\n' ' ')\"; cat $p/stat; grep -E '^Vm(RSS|HWM)' $p/status; done 2>/dev/null; getconf CLK_TCK"
    );
    let said = cluster.on_node(&script).await?;
    let ticks: f64 = said.lines().last().unwrap_or_default().trim().parse().context("CLK_TCK of the node")?;
    let blocks: Vec<&str> = said.split("P ").collect();
    uids.iter()
        .map(|uid| {
            let wanted = uid.replace('-', "_");
            let mut found =
                blocks.iter().filter(|block| block.lines().next().is_some_and(|l| l.contains(&wanted)));
            let block =
                found.next().with_context(|| format!("no process {name} of pod {uid} on the node"))?;
            ensure!(found.next().is_none(), "several processes {name} in pod {uid}");
            parse(block, ticks).with_context(|| format!("/proc of {name}: {block}"))
        })
        .collect()
}

fn parse(block: &str, ticks: f64) -> Option<Process> {
    let mut lines = block.lines().skip(1);
    // Fields 14 and 15, counted from after the name in brackets, which may have spaces.
    let fields: Vec<&str> = lines.next()?.rsplit_once(')')?.1.split_whitespace().collect();
    let time = |index: usize| fields.get(index)?.parse::<f64>().ok();
    let kilobytes = |name: &str| {
        let line = block.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    Some(Process {
        cpu: (time(11)? + time(12)?) * 1e6 / ticks,
        rss: kilobytes("VmRSS")? * 1024.0 / 1e6,
        peak: kilobytes("VmHWM")? * 1024.0 / 1e6,
    })
}
