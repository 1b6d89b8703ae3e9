//! The cluster: `kubectl` and `helm` with a kubeconfig. In: arguments and YAML; out: what they printed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// No single command may take longer.
const COMMAND_PATIENCE: Duration = Duration::from_secs(300);

/// How often kubectl asks an API server that it does not reach: one that is starved or starts again is not what is tested.
const ATTEMPTS: u32 = 8;
/// kubectl's words for not having been heard at all, or not to the end of something that may be said again.
const UNREACHED: [&str; 8] = [
    "Unable to connect to the server",
    "TLS handshake timeout",
    "connection refused",
    "http2: client connection lost",
    "etcdserver: request timed out",
    "error from a previous attempt",
    "unexpected EOF",
    "context deadline exceeded",
];
/// What may be said twice.
const REPEATABLE: [&str; 7] = ["apply", "get", "wait", "rollout", "label", "scale", "delete"];

fn unreached(program: &str, arguments: &[&str], complaint: &str) -> bool {
    program == "kubectl"
        && REPEATABLE.iter().any(|verb| arguments.contains(verb))
        && !arguments.contains(&"restart")
        && UNREACHED.iter().any(|words| complaint.contains(words))
}

/// Where the mesh is installed.
pub const SYSTEM: &str = "istio-system";

/// A cluster that answers.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// The cluster of `KUBECONFIG` with the mesh in it; otherwise why the suite skips.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub async fn find() -> anyhow::Result<Self> {
        let cluster = Self::bare()?;
        let pilot = ["get", "deployment", "mesh-pilot", "-n", SYSTEM, "--request-timeout=30s"];
        cluster
            .kubectl(&pilot)
            .await
            .context("no mesh on the cluster of KUBECONFIG: e2e/run installs it and runs the suite")?;
        Ok(cluster)
    }

    /// The cluster of `KUBECONFIG`, whatever is in it.
    ///
    /// # Errors
    /// When there is none.
    pub fn bare() -> anyhow::Result<Self> {
        let kubeconfig = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
        let kubeconfig = PathBuf::from(kubeconfig.context("KUBECONFIG is not set: no cluster to test on")?);
        anyhow::ensure!(kubeconfig.exists(), "KUBECONFIG: {} is not there", kubeconfig.display());
        Ok(Self { kubeconfig })
    }

    /// A command with the cluster's environment; it ends with its handle.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a program to its end; its standard output.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.fed(program, arguments, "").await
    }

    /// As [`Self::run`], with something on standard input.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub async fn fed(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        for left in (0..ATTEMPTS).rev() {
            let (said, complained) = self.both(program, arguments, input).await?;
            match complained {
                None => return Ok(said),
                Some(complaint) if left > 0 && unreached(program, arguments, &complaint) => {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                Some(complaint) => bail!("{complaint}"),
            }
        }
        bail!("{program}: no attempt is left")
    }

    /// Standard output, and the complaint of a command that failed.
    async fn both(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> anyhow::Result<(String, Option<String>)> {
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{program} cannot be started"))?;
        let mut stdin = child.stdin.take().context("it was asked for")?;
        let work = async {
            let write = async {
                // A program that ends before it has read everything says why itself.
                let _ = stdin.write_all(input.as_bytes()).await;
                drop(stdin);
            };
            let ((), output) = tokio::join!(write, child.wait_with_output());
            output
        };
        let shown = format!("{program} {}", arguments.join(" "));
        let output = tokio::time::timeout(COMMAND_PATIENCE, work)
            .await
            .with_context(|| format!("{shown}: not within {COMMAND_PATIENCE:?}"))??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok((said, None));
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = format!("{shown}: {}\n{said}{complaint}", output.status);
        Ok((said, Some(complaint)))
    }

    /// Standard output and error together, and whether it succeeded: for commands whose failure is looked at.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn told(
        &self,
        program: &str,
        arguments: &[&str],
        input: &str,
    ) -> anyhow::Result<(bool, String)> {
        let (said, complained) = self.both(program, arguments, input).await?;
        Ok((complained.is_none(), complained.unwrap_or(said)))
    }

    /// `kubectl`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("kubectl", arguments).await
    }

    /// `kubectl ... -o json`.
    ///
    /// # Errors
    /// When it fails, or prints no JSON.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}: no JSON", arguments.join(" ")))
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> anyhow::Result<String> {
        self.fed("kubectl", &["apply", "-n", namespace, "-f", "-"], yaml).await
    }

    /// `kubectl rollout status`.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn rolled_out(&self, namespace: &str, what: &str) -> anyhow::Result<()> {
        self.kubectl(&["rollout", "status", what, "-n", namespace, "--timeout=240s"]).await?;
        Ok(())
    }

    /// A command that goes on; its input and output are the caller's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command(program, arguments);
        command.stdin(Stdio::piped());
        command.spawn().with_context(|| format!("{program} cannot be started"))
    }

    /// A shell command on the (first) node of a kind cluster.
    ///
    /// # Errors
    /// When the nodes are no containers of this machine, or the command fails.
    pub async fn on_node(&self, script: &str) -> anyhow::Result<String> {
        let node = self.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).await?;
        self.run("docker", &["exec", &node, "sh", "-c", script]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_heard_is_said_again() {
        let away = "Unable to connect to the server: net/http: TLS handshake timeout";
        assert!(unreached("kubectl", &["-n", "x", "get", "pods"], away));
        assert!(!unreached("kubectl", &["exec", "pod", "--", "order"], away));
        assert!(!unreached("kubectl", &["rollout", "restart", "deployment/x"], away));
        assert!(!unreached("kubectl", &["apply", "-f", "-"], "admission webhook denied the request"));
        assert!(!unreached("helm", &["get", "values"], away));
    }
}
