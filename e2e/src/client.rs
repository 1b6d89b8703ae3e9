//! A pod that sends: requests one by one, or a steady load while something happens.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::cluster::Cluster;

/// One answer.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Answer {
    /// 0: none came.
    pub status: u16,
    /// Lower-case names.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// As text.
    #[serde(default)]
    pub body: String,
    /// Why there is none, or only a part.
    pub error: Option<String>,
    /// How long it took.
    #[serde(default)]
    pub millis: u64,
}

impl Answer {
    /// The sample application's JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// Who answered.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.headers.get("instance").map_or("", String::as_str)
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.headers.get("version").map_or("", String::as_str)
    }

    /// The answer, if it is whole and has that status.
    ///
    /// # Errors
    /// When it has not.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        anyhow::ensure!(self.status == status && self.error.is_none(), "expected {status}, got {self:?}");
        Ok(self)
    }
}

/// What a load came to.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    /// Requests.
    pub sent: u64,
    /// Answered 200, whole.
    pub good: u64,
    /// The others.
    pub lost: u64,
    /// The first of them.
    pub losses: Vec<Value>,
    /// Answers by instance.
    pub instances: BTreeMap<String, u64>,
    /// The slowest.
    pub slowest_millis: u64,
}

impl Report {
    /// Nothing was lost, and something was sent.
    ///
    /// # Errors
    /// What was lost.
    pub fn nothing_lost(&self, what: &str, at_least: u64) -> anyhow::Result<()> {
        eprintln!("  {what}: {} sent, {} lost, slowest {} ms", self.sent, self.lost, self.slowest_millis);
        anyhow::ensure!(self.sent >= at_least, "{what}: only {} requests were sent", self.sent);
        anyhow::ensure!(self.lost == 0, "{what}: {} of {} lost: {:#?}", self.lost, self.sent, self.losses);
        Ok(())
    }
}

/// A load that goes on until it is ended.
pub struct Load(Child);

impl Load {
    /// Ends it.
    ///
    /// # Errors
    /// When the client broke.
    pub async fn end(mut self) -> anyhow::Result<Report> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&said)
            .with_context(|| format!("the load said: {said}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Where requests are sent from.
pub struct Client {
    cluster: Cluster,
    place: Place,
}

enum Place {
    Pod {
        namespace: String,
        pod: String,
    },
    /// This machine, for what comes to a gateway from outside.
    Here {
        program: String,
    },
}

impl Client {
    /// A pod of [`crate::workload::client`].
    #[must_use]
    pub fn new(cluster: Cluster, namespace: &str, pod: &str) -> Self {
        Self { cluster, place: Place::Pod { namespace: namespace.to_owned(), pod: pod.to_owned() } }
    }

    /// This machine: `program` is the e2e-client of this build.
    #[must_use]
    pub fn here(cluster: Cluster, program: &str) -> Self {
        Self { cluster, place: Place::Here { program: program.to_owned() } }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        match &self.place {
            Place::Here { program } => self.cluster.command(program, arguments),
            Place::Pod { namespace, pod } => {
                let exec =
                    ["exec", "-i", "-n", namespace, pod, "-c", "client", "--", "/usr/local/bin/e2e-client"];
                self.cluster.command("kubectl", &[&exec, arguments].concat())
            }
        }
    }

    /// One request; options are those of `e2e-client request`.
    ///
    /// # Errors
    /// When the client itself cannot run; a request without an answer is an [`Answer`] with an error.
    pub async fn get(&self, url: &str, options: &[&str]) -> anyhow::Result<Answer> {
        let mut answers = self.many(1, url, options).await?;
        answers.pop().context("one answer")
    }

    /// `count` requests on one connection.
    ///
    /// # Errors
    /// When the client itself cannot run.
    pub async fn many(&self, count: u32, url: &str, options: &[&str]) -> anyhow::Result<Vec<Answer>> {
        let count = count.to_string();
        let arguments = [&["request", url, "-n", &count], options].concat();
        let work = self.command(&arguments).output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(240), work).await??;
        anyhow::ensure!(
            output.status.success(),
            "e2e-client {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        let said = String::from_utf8_lossy(&output.stdout);
        said.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Which instances answer `count` requests, all of them 200.
    ///
    /// # Errors
    /// When one is not.
    pub async fn instances(
        &self,
        count: u32,
        url: &str,
        options: &[&str],
    ) -> anyhow::Result<BTreeSet<String>> {
        let answers = self.many(count, url, options).await?;
        answers.into_iter().map(|answer| Ok(answer.expect(200)?.instance().to_owned())).collect()
    }

    /// Begins a steady load; options are those of `e2e-client load`.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn load(&self, url: &str, options: &[&str]) -> anyhow::Result<Load> {
        let mut command = self.command(&[&["load", url], options].concat());
        command.stdin(Stdio::piped());
        Ok(Load(command.spawn().context("the load cannot be started")?))
    }

    /// What the collector counted.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn counted(&self) -> anyhow::Result<Value> {
        let output = self.command(&["counted"]).output().await?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
