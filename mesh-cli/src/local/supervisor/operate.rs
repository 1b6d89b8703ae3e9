//! `stop` and `start`: finds what a name means and does it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Supervisor;
use crate::local::instance::End;
use crate::local::plan::SYSTEM;
use crate::local::process::Unit;
use crate::local::replicas::{Replicas, Slot};

/// How long pilot, CA and sidecars may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operation {
    /// `reviews-v2-0[.NAMESPACE]`, `INSTANCE/sidecar`, a workload of one instance, `mesh-pilot`, `mesh-ca`.
    pub target: String,
    #[serde(default)]
    pub kill: bool,
}

/// What a name means.
enum Target {
    Process(Unit),
    Instance(Arc<Replicas>, Arc<Slot>),
}

impl Supervisor {
    /// Stops; returns what was done.
    ///
    /// # Errors
    /// When there is nothing of that name.
    pub async fn stop(&self, operation: &Operation) -> anyhow::Result<String> {
        let Operation { target, kill } = operation;
        let how = if *kill { "killed" } else { "stopped" };
        match self.find(target)? {
            Target::Process(unit) if unit.is_stopped() => Ok(format!("{target} was stopped already")),
            Target::Process(unit) => {
                if *kill {
                    unit.kill().await;
                } else {
                    unit.stop(GRACE).await;
                }
                self.context.journal.tell("stopped", format!("{target} is stopped"));
                Ok(format!("{target} {how}"))
            }
            Target::Instance(_, slot) => {
                if slot.is_stopped() && slot.instance().is_none() {
                    return Ok(format!("{} was stopped already", slot.name));
                }
                slot.stop(if *kill { End::Killed } else { End::Drained }).await;
                Ok(format!("{} {how}", slot.name))
            }
        }
    }

    /// Starts what was stopped; returns what was done.
    ///
    /// # Errors
    /// When there is nothing of that name.
    pub async fn start(&self, operation: &Operation) -> anyhow::Result<String> {
        let target = &operation.target;
        match self.find(target)? {
            Target::Process(unit) => {
                unit.start();
                Ok(format!("{target} started"))
            }
            Target::Instance(_, slot) if slot.instance().is_some() && !slot.is_stopped() => {
                Ok(format!("{} runs already", slot.name))
            }
            Target::Instance(replicas, slot) => {
                replicas.start(&slot).await;
                Ok(format!("{} started", slot.name))
            }
        }
    }

    fn find(&self, target: &str) -> anyhow::Result<Target> {
        match target {
            "mesh-pilot" => return Ok(Target::Process(self.pilot.clone())),
            "mesh-ca" => return Ok(Target::Process(self.ca.clone())),
            _ => {}
        }
        let (name, process) = target.split_once('/').map_or((target, None), |(n, p)| (n, Some(p)));
        let (replicas, slot) = self.find_slot(name)?;
        let Some(process) = process else { return Ok(Target::Instance(replicas, slot)) };
        let Some(instance) = slot.instance() else {
            anyhow::bail!("{name} is not running; start it with `meshctl start {name}`");
        };
        let wanted = format!("{}/{process}", slot.name);
        let found = instance.containers.iter().find(|unit| unit.name() == wanted);
        match (process, found) {
            ("sidecar", _) => Ok(Target::Process(instance.sidecar.clone())),
            (_, Some(unit)) => Ok(Target::Process(unit.clone())),
            (_, None) => anyhow::bail!("{name} has no process {process:?}; it has a sidecar"),
        }
    }

    /// An instance by its name, with `.NAMESPACE` where names are not unique; or the only instance of a workload.
    fn find_slot(&self, name: &str) -> anyhow::Result<(Arc<Replicas>, Arc<Slot>)> {
        let workloads = self.workloads.lock();
        let (bare, namespace) = name.rsplit_once('.').map_or((name, None), |(n, ns)| (n, Some(ns)));
        let mut found = Vec::new();
        let mut only = Vec::new();
        for ((ns, workload), replicas) in workloads.iter() {
            if namespace.is_some_and(|wanted| wanted != ns) {
                continue;
            }
            found.extend(replicas.slot(bare).map(|slot| (replicas.clone(), slot)));
            if workload == bare {
                only.extend(replicas.slots().into_iter().map(|slot| (replicas.clone(), slot)));
            }
        }
        let mut found = if found.is_empty() { only } else { found };
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => {
                let mut names: Vec<String> =
                    workloads.values().flat_map(|w| w.slots()).map(|slot| slot.name.clone()).collect();
                names.sort();
                anyhow::bail!(
                    "nothing is named {name:?}; there are: {}, mesh-pilot, mesh-ca",
                    names.join(", ")
                )
            }
            _ => {
                let names: Vec<String> =
                    found.iter().map(|(w, slot)| format!("{}.{}", slot.name, w.wanted().namespace)).collect();
                anyhow::bail!("{name:?} could be any of {}", names.join(", "))
            }
        }
    }

    /// The log files of a name (`logs`): the file of a process, whether it runs or not.
    ///
    /// # Errors
    /// When there is nothing of that name.
    pub fn log_of(&self, target: &str) -> anyhow::Result<std::path::PathBuf> {
        let dir = &self.context.dir;
        if matches!(target, "mesh-pilot" | "mesh-ca" | "supervisor") {
            return Ok(dir.log(target));
        }
        let (name, process) = target.split_once('/').map_or((target, None), |(n, p)| (n, Some(p)));
        let (replicas, slot) = self.find_slot(name)?;
        let namespace = replicas.wanted().namespace;
        let namespace = if namespace.is_empty() { SYSTEM.to_owned() } else { namespace };
        let is_client = replicas.wanted().kind == crate::local::api::WorkloadKind::Client;
        let containers = &replicas.wanted().template.containers;
        let unit = match process {
            // The client is a sidecar alone, a gateway a proxy alone.
            None if is_client => format!("{}/sidecar", slot.name),
            None if containers.len() > 1 => format!("{}/{}", slot.name, containers[0].name),
            None => slot.name.clone(),
            Some("sidecar") if replicas.wanted().kind == crate::local::api::WorkloadKind::Gateway => {
                slot.name.clone()
            }
            Some(process) if process == "sidecar" || containers.iter().any(|c| c.name == process) => {
                // An only container's log has the instance's name.
                let only = containers.len() == 1 && process != "sidecar";
                if only { slot.name.clone() } else { format!("{}/{process}", slot.name) }
            }
            Some(process) => {
                let names = containers.iter().map(|c| c.name.as_str()).chain(["sidecar"]);
                let names: Vec<String> = names.map(|name| format!("{}/{name}", slot.name)).collect();
                anyhow::bail!("{name} has no process {process:?}; there are: {}", names.join(", "))
            }
        };
        Ok(dir.log(&format!("{namespace}.{unit}")))
    }
}
