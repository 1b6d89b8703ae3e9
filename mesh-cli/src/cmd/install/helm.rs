//! The `helm` program: one call in, its output or its complaint out.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use clap::Args;
use kube::Client;

use crate::cluster::client::kubeconfig;

/// Which cluster, and where in it the control plane is.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The namespace of the control plane
    #[arg(short, long, default_value = "istio-system", value_name = "NAMESPACE")]
    pub namespace: String,
    /// The context of the kubeconfig
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The kubeconfig file [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl Target {
    /// A client of its API server.
    ///
    /// # Errors
    /// When no cluster is configured.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = kubeconfig(self.kubeconfig.as_deref(), self.context.clone()).await?;
        Client::try_from(config).context("a client for the API server")
    }
}

/// Calls Helm.
#[derive(Debug)]
pub struct Helm<'a> {
    target: &'a Target,
}

impl<'a> Helm<'a> {
    /// For releases of `target`.
    #[must_use]
    pub fn new(target: &'a Target) -> Self {
        Self { target }
    }

    /// Runs it with these arguments, the namespace and the cluster.
    ///
    /// # Errors
    /// When there is none, or it fails: with what it said.
    pub async fn run(&self, arguments: &[OsString]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new("helm");
        command.args(arguments).args(["--namespace", &self.target.namespace]);
        if let Some(context) = &self.target.context {
            command.args(["--kube-context", context]);
        }
        if let Some(kubeconfig) = &self.target.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match command.output().await {
            Ok(output) => output,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no helm on PATH: meshctl carries the charts, and Helm (3.14 or newer) renders and installs them"
            ),
            Err(error) => return Err(error).context("cannot run helm"),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let what = arguments.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        bail!("helm {what} failed: {}", complaint(&String::from_utf8_lossy(&output.stderr)))
    }
}

/// What Helm says, without its own log lines.
fn complaint(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| !line.starts_with("level=") && !line.trim().is_empty());
    let text = lines.map(|line| line.trim_start_matches("Error: ")).collect::<Vec<_>>().join("\n");
    if text.is_empty() { "it does not say why".to_owned() } else { text }
}

/// Arguments of one call.
#[derive(Debug, Default, Clone)]
pub struct Arguments(pub Vec<OsString>);

impl Arguments {
    /// With more words.
    #[must_use]
    pub fn with<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.0.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_what_helm_says_and_not_what_it_remarks() {
        let stderr = "level=INFO msg=\"found symbolic link\"\n\nError: values don't meet the schema:\n- at '/pilot': no\n";
        assert_eq!(complaint(stderr), "values don't meet the schema:\n- at '/pilot': no");
        assert_eq!(complaint("level=WARN\n"), "it does not say why");
    }
}
