//! Readiness probes, as the kubelet runs them.
//!
//! Two differences: until the first success a probe is repeated several times a second (on one machine nobody wants to
//! wait ten seconds for a start), and a container without a probe is ready when its ports accept connections.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::api::ProcessState;
use super::http::{self, Server};
use super::listener::foreign_listener;
use super::netns;
use super::plan::{Check, Probe};
use super::process::Unit;

/// The pause between attempts before the first success.
const EAGER: Duration = Duration::from_millis(100);
/// How long a connection to loopback may take.
const CONNECT: Duration = Duration::from_secs(1);

/// What makes a container ready.
#[derive(Debug, Clone)]
pub enum Readiness {
    /// The user's probe; where its port is served.
    Probe(Probe, At),
    /// All of these accept connections.
    Accepts(Vec<At>),
}

/// An address, and the network namespace from where it is asked (else from here).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    pub address: SocketAddrV4,
    pub netns: Option<PathBuf>,
}

impl At {
    fn server(&self) -> Server {
        match &self.netns {
            Some(netns) => Server::Within(netns.clone(), self.address),
            None => Server::Tcp(self.address),
        }
    }
}

/// How often a sidecar is asked.
const SIDECAR_PERIOD: Duration = Duration::from_secs(1);

/// The readiness of a sidecar or gateway.
#[must_use]
pub fn sidecar(status: SocketAddrV4) -> Readiness {
    let check = Check::Http {
        port: status.port(),
        path: "/healthz/ready".to_owned(),
        host: None,
        headers: Vec::new(),
    };
    let probe = Probe {
        check,
        delay: Duration::ZERO,
        period: SIDECAR_PERIOD,
        timeout: CONNECT,
        successes: 1,
        failures: 3,
    };
    Readiness::Probe(probe, At { address: status, netns: None })
}

/// Ready or why not.
pub type Verdict = Result<(), String>;

/// Runs the probe of a container for as long as somebody listens; it starts anew with each start of the process.
pub async fn run(readiness: Readiness, unit: Unit, verdict: watch::Sender<Verdict>) {
    let mut status = unit.watch();
    loop {
        let (state, pid, last_exit) = {
            let status = status.borrow_and_update();
            (status.state, status.pid, status.last_exit.clone())
        };
        let why = match last_exit {
            Some(end) if state == ProcessState::Backoff => format!("{} {end}; it starts again", unit.name()),
            _ => format!("{} {}", unit.name(), describe(state)),
        };
        tell(&verdict, Err(why));
        let changed = async {
            let _ = status.wait_for(|s| s.pid != pid || s.state != state).await;
        };
        tokio::select! {
            () = verdict.closed() => return,
            () = changed => {}
            () = watch_one(&readiness, pid, &verdict), if state == ProcessState::Running => {}
        }
        if status.has_changed().is_err() {
            return;
        }
    }
}

fn describe(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Waiting => "waits for its sidecar",
        ProcessState::Running => "has not passed its readiness probe yet",
        ProcessState::Backoff => "died and starts again soon",
        ProcessState::Stopped => "is stopped",
    }
}

/// Probes one life of a process, until cancelled.
async fn watch_one(readiness: &Readiness, pid: Option<i32>, verdict: &watch::Sender<Verdict>) {
    let (period, wanted, allowed) = match readiness {
        Readiness::Probe(probe, _) => {
            sleep(probe.delay).await;
            (probe.period, probe.successes, probe.failures)
        }
        // What has accepted once is believed until its process ends.
        Readiness::Accepts(_) => (Duration::MAX, 1, 1),
    };
    let (mut successes, mut failures, mut once) = (0, 0, false);
    loop {
        let mut checked = check(readiness).await;
        if checked.is_ok() && !once {
            checked = owned(readiness, pid);
        }
        match checked {
            Ok(()) => {
                (successes, failures) = (successes + 1, 0);
                if successes >= wanted {
                    once = true;
                    tell(verdict, Ok(()));
                }
            }
            Err(why) => {
                (successes, failures) = (0, failures + 1);
                if failures >= allowed || !once {
                    tell(verdict, Err(why));
                }
            }
        }
        if once && period == Duration::MAX {
            return std::future::pending().await;
        }
        sleep(if once { period } else { EAGER.min(period) }).await;
    }
}

/// Whether it was the process itself that answered, and not another program that was first on its port.
fn owned(readiness: &Readiness, pid: Option<i32>) -> Verdict {
    let at = match readiness {
        Readiness::Probe(_, at) => std::slice::from_ref(at),
        Readiness::Accepts(addresses) => addresses,
    };
    // In a namespace of its own there are no others.
    let shared = |at: &At| at.netns.is_none();
    let other = |at: &At| Some((at.address, foreign_listener(shared(at).then_some(at.address)?, pid?)?));
    match at.iter().find_map(other) {
        None => Ok(()),
        Some((at, who)) => Err(format!("another program listens on {at}: {who}")),
    }
}

fn tell(verdict: &watch::Sender<Verdict>, news: Verdict) {
    verdict.send_if_modified(|old| {
        let changed = *old != news;
        *old = news;
        changed
    });
}

async fn check(readiness: &Readiness) -> Verdict {
    match readiness {
        Readiness::Accepts(addresses) => {
            for address in addresses {
                connect(address, CONNECT)
                    .await
                    .map_err(|error| format!("does not listen on {} yet ({error})", address.address))?;
            }
            Ok(())
        }
        Readiness::Probe(probe, at) => match &probe.check {
            Check::Tcp { port } => connect(at, probe.timeout)
                .await
                .map_err(|error| format!("readiness probe of port {port}: {error}")),
            Check::Http { port, path, host, headers } => {
                let host = host.clone().unwrap_or_else(|| at.address.to_string());
                let mut request =
                    Request::get(path).header("host", host).header("user-agent", "kube-probe/mesh");
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                let request =
                    request.body(Bytes::new()).map_err(|error| format!("readiness probe: {error}"))?;
                match http::send(&at.server(), request, probe.timeout).await {
                    Ok(answer) if (200..400).contains(&answer.status.as_u16()) => Ok(()),
                    Ok(answer) => {
                        Err(format!("readiness probe of port {port}{path} answered {}", answer.status))
                    }
                    Err(error) => Err(format!("readiness probe of port {port}{path}: {error:#}")),
                }
            }
        },
    }
}

async fn connect(at: &At, patience: Duration) -> Result<(), String> {
    let connected = async {
        match &at.netns {
            Some(netns) => netns::connect(netns, at.address).await,
            None => TcpStream::connect(at.address).await,
        }
    };
    match timeout(patience, connected).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no connection in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::journal::Journal;
    use crate::local::process::Program;
    use std::sync::Arc;

    #[tokio::test]
    async fn an_answer_of_another_program_is_no_readiness() {
        let place = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(&place.path().join("journal")).unwrap());
        let log = place.path().join("out");
        let recipe = move || {
            Ok(Program {
                program: "/bin/sleep".into(),
                arguments: vec!["100".into()],
                environment: vec![],
                directory: None,
                log: log.clone(),
            })
        };
        let unit = Unit::new("it", journal, Box::new(recipe));
        unit.start();
        let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let at = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
        let (sender, mut verdict) = watch::channel(Ok(()));
        tokio::spawn(run(Readiness::Accepts(vec![At { address: at, netns: None }]), unit.clone(), sender));
        let told = verdict.wait_for(|v| v.as_ref().is_err_and(|why| why.contains("another program")));
        let told = timeout(Duration::from_secs(10), told).await.expect("in time").unwrap().clone();
        assert!(told.unwrap_err().contains(&std::process::id().to_string()));
        unit.kill().await;
    }
}
