//! The harness: a mesh from YAML texts, requests as JSON, waiting with a bound.

pub mod sniff;

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a change may take to show everywhere, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Two workloads with a Service each: `web` (2 replicas) and `api` (v1, v2), all protocols.
pub const BASE: &str = include_str!("support/base.yaml");

/// A running mesh with files of its own. Ends with `meshctl down`.
pub struct Mesh {
    name: String,
    dir: tempfile::TempDir,
}

/// One JSON line of `meshctl request`.
pub type Answer = Value;

/// Runs meshctl.
pub fn meshctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("meshctl can be started")
}

/// What a command printed, both streams.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Tries until it holds or patience is over; then fails with what was seen last.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(seen) => {
                assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}; last seen: {seen}");
            }
        }
        pause(Duration::from_millis(100));
    }
}

/// A wait between two looks at real processes.
#[allow(clippy::disallowed_methods)] // other processes do not share our clock
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

impl Mesh {
    /// Starts a mesh from files (name, text) and waits until everything is ready.
    pub fn up(files: &[(&str, &str)], options: &[&str]) -> Self {
        Self::up_with(files, options, &[])
    }

    /// The same with variables of the environment.
    pub fn up_with(files: &[(&str, &str)], options: &[&str], variables: &[(&str, &OsStr)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mesh = Self { name, dir: tempfile::tempdir().expect("a temporary directory") };
        for (file, text) in files {
            mesh.write(file, text);
        }
        let dir = mesh.dir.path().display().to_string();
        let arguments = [&["up", &dir, "--detach", "--name", &mesh.name], options].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
        let output = command.output().expect("meshctl can be started");
        assert!(output.status.success(), "meshctl up failed:\n{}", text(&output));
        mesh
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the user's files are.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Writes (or replaces) a file of the user.
    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        std::fs::write(&path, text).expect("the directory is ours");
        path
    }

    /// Deletes one.
    pub fn delete(&self, file: &str) {
        std::fs::remove_file(self.dir.path().join(file)).expect("the file is there");
    }

    /// Runs a command of meshctl against this mesh.
    pub fn run(&self, arguments: &[&str]) -> Output {
        meshctl(&[arguments, &["--name", &self.name]].concat())
    }

    /// Runs one that has to succeed; what it printed.
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "meshctl {} failed:\n{}", arguments.join(" "), text(&output));
        text(&output)
    }

    /// `meshctl request -o json ARGUMENTS`: every answer, in order.
    pub fn request(&self, arguments: &[&str]) -> Vec<Answer> {
        let output = self.run(&[&["request", "-o", "json"], arguments].concat());
        let answers = String::from_utf8_lossy(&output.stdout);
        let answers: Vec<Answer> =
            answers.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(!answers.is_empty(), "no answer to {arguments:?}:\n{}", text(&output));
        answers
    }

    /// One request.
    pub fn one(&self, arguments: &[&str]) -> Answer {
        self.request(arguments).remove(0)
    }

    /// The statuses of `count` requests.
    pub fn statuses(&self, arguments: &[&str]) -> Vec<u64> {
        self.request(arguments).iter().map(|answer| answer["status"].as_u64().unwrap_or_default()).collect()
    }

    /// Waits until a request is answered as `wanted` says.
    pub fn until(&self, what: &str, arguments: &[&str], wanted: impl Fn(&Answer) -> bool) -> Answer {
        eventually(what, || {
            let answer = self.one(arguments);
            if wanted(&answer) { Ok(answer) } else { Err(answer.to_string()) }
        })
    }

    /// `meshctl status -o json`.
    pub fn status(&self) -> Value {
        let output = self.run(&["status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
    }

    /// Whether the text of `meshctl status` holds `wanted`, soon.
    pub fn status_says(&self, wanted: &str) -> String {
        eventually(&format!("status says {wanted:?}"), || {
            let output = self.must(&["status"]);
            if output.contains(wanted) { Ok(output) } else { Err(output) }
        })
    }

    /// Every instance of a workload: the supervisor's own words.
    pub fn instances(&self, workload: &str) -> Vec<Value> {
        let status = self.status();
        let workloads =
            status["mesh"]["workloads"].as_array().or_else(|| status["workloads"].as_array()).cloned();
        let workloads = workloads.unwrap_or_else(|| panic!("no workloads in {status}"));
        let found = workloads.iter().find(|w| w["name"] == workload);
        found
            .and_then(|w| w["instances"].as_array().cloned())
            .unwrap_or_else(|| panic!("no workload {workload} in {status}"))
    }

    /// An address of an instance, by the field's name.
    pub fn address(&self, workload: &str, field: &str) -> SocketAddr {
        let instance = self.instances(workload).remove(0);
        let text = instance[field].as_str().unwrap_or_else(|| panic!("no {field} in {instance}"));
        text.parse().unwrap_or_else(|error| panic!("{field} {text}: {error}"))
    }

    /// An instance's pod address.
    pub fn pod_ip(&self, workload: &str) -> Ipv4Addr {
        let instance = self.instances(workload).remove(0);
        instance["pod_ip"]
            .as_str()
            .and_then(|ip| ip.parse().ok())
            .unwrap_or_else(|| panic!("no pod_ip in {instance}"))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in ["mesh-pilot", "supervisor"] {
                let log = self.run(&["logs", what, "--tail", "30"]);
                eprintln!("--- {what}\n{}", text(&log));
            }
        }
        let _ = meshctl(&["down", "--name", &self.name]);
    }
}

/// Sends raw bytes, returns everything that comes back until the other side closes (or five seconds pass).
pub fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
    // The other side may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The body of an answer of the sample application.
pub fn body(answer: &Answer) -> Value {
    let text = answer["body"].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// How many answers each instance gave.
pub fn by_instance(answers: &[Answer]) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for answer in answers {
        *counts.entry(answer["instance"].as_str().unwrap_or("-").to_owned()).or_default() += 1;
    }
    counts
}
