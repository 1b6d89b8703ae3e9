//! A contender: one or more processes on core 0, and the address where requests go in.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A row of the table.
pub struct Contender {
    name: String,
    /// Where requests go in.
    pub entry: SocketAddr,
    /// The Host that requests name.
    pub host: String,
    /// The processes whose CPU counts, with their children.
    pids: Vec<u32>,
    /// Processes that end with this row.
    _children: Vec<Process>,
}

/// A child process that ends when this is dropped.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap_or(i32::MAX));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            pause();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts a program on a core; its output goes to `log`.
    pub fn start(core: u32, program: &Path, arguments: &[&str], log: &Path) -> anyhow::Result<Self> {
        let out = std::fs::File::create(log)?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self(child))
    }

    /// Its process id (taskset executes the program in its own place).
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Contender {
    /// A row whose processes it owns.
    pub fn new(name: &str, entry: SocketAddr, children: Vec<Process>) -> Self {
        let pids = children.iter().map(Process::pid).collect();
        Self { name: name.to_owned(), entry, host: "backend".to_owned(), pids, _children: children }
    }

    /// A row over processes that somebody else ends.
    pub fn over(name: &str, entry: SocketAddr, host: &str, pids: Vec<u32>) -> Self {
        Self { name: name.to_owned(), entry, host: host.to_owned(), pids, _children: Vec::new() }
    }

    /// The row's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its processes and their children.
    pub fn processes(&self) -> Vec<u32> {
        let mut all = self.pids.clone();
        let mut at = 0;
        while at < all.len() {
            let path = format!("/proc/{0}/task/{0}/children", all[at]);
            let children = std::fs::read_to_string(path).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        all
    }
}

/// Whether a program is on the PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).is_file())
}

/// Waits until something accepts connections at `address`.
pub fn wait_for(address: SocketAddr, what: &str) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return Ok(());
        }
        pause();
    }
    bail!("{what} does not listen on {address} after 30 s")
}

/// A loopback port that is free now.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A short wait of a program that has no runtime.
#[allow(clippy::disallowed_methods)] // a benchmark's own patience, not a test's clock
pub fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
