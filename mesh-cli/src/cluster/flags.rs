//! Which cluster, which namespace, and whether a cluster is meant at all.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::local::dir::StateDir;

/// The mesh's own namespace, where nothing else is said.
const SYSTEM: &str = "istio-system";

/// How a cluster is reached: as kubectl does.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "Where the mesh is (default: the mesh of `meshctl up` if one runs here, else the cluster)"
)]
pub struct Reach {
    /// A local mesh, even if there is a cluster
    #[arg(long, conflicts_with_all = ["cluster", "kubeconfig", "context"])]
    pub local: bool,
    /// The cluster, even if a local mesh runs
    #[arg(long)]
    pub cluster: bool,
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context in it
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The namespace of the control plane
    #[arg(short = 'i', long, value_name = "NAMESPACE", default_value = SYSTEM)]
    pub istio_namespace: String,
}

/// [`Reach`] and the namespace that a command is about.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterFlags {
    #[command(flatten)]
    pub reach: Reach,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Where the mesh is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Local,
    /// On a cluster.
    Cluster,
}

impl Reach {
    /// Which one is meant. `name` is the local mesh's.
    ///
    /// # Errors
    /// When there is neither a local mesh nor a kubeconfig.
    pub fn place(&self, name: &str) -> anyhow::Result<Place> {
        let here = Here { running: StateDir::of(name).is_locked(), kubeconfig: has_kubeconfig() };
        self.decide(name, here)
    }

    fn decide(&self, name: &str, here: Here) -> anyhow::Result<Place> {
        let asked_for_a_cluster = self.cluster || self.kubeconfig.is_some() || self.context.is_some();
        if asked_for_a_cluster {
            return Ok(Place::Cluster);
        }
        if self.local || name != "default" || here.running {
            return Ok(Place::Local);
        }
        if here.kubeconfig {
            return Ok(Place::Cluster);
        }
        bail!(
            "no mesh: none runs on this machine (start one with `meshctl up`), and there is no kubeconfig (give \
             --kubeconfig FILE or set KUBECONFIG)"
        )
    }
}

/// What there is on this machine.
#[derive(Clone, Copy)]
struct Here {
    running: bool,
    kubeconfig: bool,
}

/// Whether there is a way to a cluster without being told one.
#[must_use]
pub fn has_kubeconfig() -> bool {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let at_home = || std::env::home_dir().is_some_and(|home| home.join(".kube/config").is_file());
    named.is_some() || at_home() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_local_mesh_comes_first_and_flags_override() {
        let decide = |reach: Reach, name: &str, running, kubeconfig| {
            reach.decide(name, Here { running, kubeconfig }).ok()
        };
        let none = Reach::default();
        assert_eq!(decide(none.clone(), "default", true, true), Some(Place::Local));
        assert_eq!(decide(none.clone(), "default", false, true), Some(Place::Cluster));
        assert_eq!(decide(none.clone(), "default", true, false), Some(Place::Local));
        assert_eq!(decide(none.clone(), "default", false, false), None);
        // Who names a local mesh means it.
        assert_eq!(decide(none, "other", false, true), Some(Place::Local));
        let local = Reach { local: true, ..Reach::default() };
        assert_eq!(decide(local, "default", false, true), Some(Place::Local));
        let context = Reach { context: Some("kind".to_owned()), ..Reach::default() };
        assert_eq!(decide(context, "default", true, true), Some(Place::Cluster));
        let cluster = Reach { cluster: true, ..Reach::default() };
        assert_eq!(decide(cluster, "default", true, true), Some(Place::Cluster));
    }
}
