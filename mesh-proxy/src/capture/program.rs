//! Puts rules into force in the current network namespace, or takes them away.
//!
//! In: [`Settings`]. Out: programs that were run (`nft`, `iptables-restore`, for TPROXY `ip`), or what would be run. Twice
//! is as good as once.

use std::fmt;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::loopback;
use super::rules::{Interception, Settings, iptables, nft, rules};

/// Who programs the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `nft`.
    Nftables,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    program: &'static str,
    arguments: Vec<String>,
    input: String,
    /// It may fail: it removes what need not be there.
    optional: bool,
}

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The program is missing.
    #[error("{0} is not installed: {1}")]
    Missing(&'static str, &'static str),
    /// Neither backend works.
    #[error("neither nft nor iptables-restore is installed: install nftables or iptables")]
    NoBackend,
    /// The kernel refused.
    #[error(
        "{0} may not change this network namespace: CAP_NET_ADMIN is needed (run as root; on Kubernetes the container \
             needs securityContext.capabilities.add: [NET_ADMIN])"
    )]
    NotAllowed(&'static str),
    /// The program could not be run.
    #[error("cannot run {0}: {1}")]
    Run(&'static str, io::Error),
    /// The program refused.
    #[error("{program} failed: {said}{rule}")]
    Refused {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
        /// The line of its input that it named.
        rule: NamedRule,
    },
    /// The IPv6 address for connections to the application.
    #[error("cannot give ::6 to the loopback interface: {0}")]
    Address(io::Error),
}

/// A line of the input.
#[derive(Debug, Default)]
pub struct NamedRule(Option<String>);

impl fmt::Display for NamedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |line| write!(f, "; the rule is: {line}"))
    }
}

/// The backend that this machine has: nftables, if `nft` can be run, else iptables.
///
/// # Errors
/// When there is none.
pub fn detect() -> Result<Backend, Failed> {
    let there = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    match (there("nft"), there("iptables-restore")) {
        (true, _) => Ok(Backend::Nftables),
        (false, true) => Ok(Backend::Iptables),
        (false, false) => Err(Failed::NoBackend),
    }
}

/// Puts the rules into force.
///
/// # Errors
/// Which program failed, and why.
pub fn apply(settings: &Settings, backend: Backend) -> Result<(), Failed> {
    let v6 = loopback::has_ipv6();
    if v6 {
        loopback::add_source_address().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Failed::NotAllowed("mesh-proxy capture"),
            _ => Failed::Address(error),
        })?;
    }
    let saved = |v6| if backend == Backend::Iptables { save(v6) } else { Ok(String::new()) };
    let saved = [saved(false)?, if v6 { saved(true)? } else { String::new() }];
    steps(settings, backend, v6, &saved).iter().try_for_each(run)
}

/// Removes the rules.
///
/// # Errors
/// Which program failed, and why.
pub fn clean_up(settings: &Settings, backend: Backend) -> Result<(), Failed> {
    let v6 = loopback::has_ipv6();
    let mut steps: Vec<Step> = match backend {
        Backend::Nftables => vec![Step::new("nft", "-f -", nft::clean_up())],
        Backend::Iptables => {
            let mut steps = vec![iptables_step(false, iptables::clean_up(&save(false)?))];
            if v6 {
                steps.push(iptables_step(true, iptables::clean_up(&save(true)?)));
            }
            steps.retain(|step| !step.input.is_empty());
            steps
        }
    };
    if settings.mode == Interception::Tproxy {
        steps.extend(families(v6).flat_map(|family| unroute(settings, family)));
    }
    steps.iter().try_for_each(run)
}

/// What [`apply`] runs. `saved`: what iptables of each family shows now.
#[must_use]
pub fn steps(settings: &Settings, backend: Backend, v6: bool, saved: &[String; 2]) -> Vec<Step> {
    let rules = rules(settings);
    let mut steps = match backend {
        Backend::Nftables => vec![Step::new("nft", "-f -", nft::table(&rules))],
        Backend::Iptables => {
            let step = |v6: bool| iptables_step(v6, iptables::restore(&rules, v6, &saved[usize::from(v6)]));
            std::iter::once(step(false)).chain(v6.then(|| step(true))).collect()
        }
    };
    if settings.mode == Interception::Tproxy && settings.captures_inbound() {
        for family in families(v6) {
            steps.extend(unroute(settings, family));
            let (mark, table) = (settings.tproxy_mark, settings.tproxy_table);
            steps.push(Step::new("ip", &format!("{family} rule add fwmark {mark} lookup {table}"), ""));
            let route = format!("{family} route replace local default dev lo table {table}");
            steps.push(Step::new("ip", &route, ""));
        }
    }
    steps
}

fn families(v6: bool) -> impl Iterator<Item = &'static str> {
    std::iter::once("-4").chain(v6.then_some("-6"))
}

fn unroute(settings: &Settings, family: &str) -> [Step; 2] {
    let (mark, table) = (settings.tproxy_mark, settings.tproxy_table);
    [format!("{family} rule del fwmark {mark} lookup {table}"), format!("{family} route flush table {table}")]
        .map(|arguments| Step { optional: true, ..Step::new("ip", &arguments, "") })
}

fn iptables_step(v6: bool, input: String) -> Step {
    let program = if v6 { "ip6tables-restore" } else { "iptables-restore" };
    // Somebody else may hold the lock for a moment.
    Step::new(program, "--noflush --wait 30", input)
}

fn save(v6: bool) -> Result<String, Failed> {
    let program = if v6 { "ip6tables-save" } else { "iptables-save" };
    let output = Command::new(program).output().map_err(|error| not_run(program, error))?;
    if !output.status.success() {
        return Err(refused(program, &output.stderr, ""));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Step {
    fn new(program: &'static str, arguments: &str, input: impl Into<String>) -> Self {
        let arguments = arguments.split(' ').map(str::to_owned).collect();
        Self { program, arguments, input: input.into(), optional: false }
    }
}

/// As a shell would take it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.arguments.join(" "))?;
        if self.optional {
            f.write_str(" || true")?;
        }
        if self.input.is_empty() { writeln!(f) } else { writeln!(f, " <<'END'\n{}END", self.input) }
    }
}

fn run(step: &Step) -> Result<(), Failed> {
    let mut command = Command::new(step.program);
    command.args(&step.arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_run(step.program, error))?;
    if let Some(mut input) = child.stdin.take() {
        // It may have ended without reading: it says why.
        let _ = input.write_all(step.input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| Failed::Run(step.program, error))?;
    if output.status.success() || step.optional {
        return Ok(());
    }
    Err(refused(step.program, &output.stderr, &step.input))
}

fn not_run(program: &'static str, error: io::Error) -> Failed {
    let advice = match program {
        "nft" => "install nftables, or use --backend iptables",
        "ip" => "install iproute2, which TPROXY needs, or use REDIRECT",
        _ => "install iptables, or use --backend nftables",
    };
    match error.kind() {
        io::ErrorKind::NotFound => Failed::Missing(program, advice),
        _ => Failed::Run(program, error),
    }
}

fn refused(program: &'static str, stderr: &[u8], input: &str) -> Failed {
    let said = String::from_utf8_lossy(stderr).trim().to_owned();
    let refusals = ["Operation not permitted", "Permission denied", "you must be root"];
    if refusals.iter().any(|text| said.contains(text)) {
        return Failed::NotAllowed(program);
    }
    let rule =
        NamedRule(named_line(&said).and_then(|n| input.lines().nth(n - 1)).map(|l| l.trim().to_owned()));
    Failed::Refused { program, said, rule }
}

/// The number of the input's line that an error names: `/dev/stdin:12:3-8: Error` or `iptables-restore: line 7 failed`.
fn named_line(said: &str) -> Option<usize> {
    let after = |mark: &str| said.split_once(mark).map(|(_, rest)| rest);
    let rest = after("stdin:").or_else(|| after("line: ")).or_else(|| after("line "))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|line| *line > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_rule_and_what_to_do() {
        let input = "first\n\tsecond rule\n";
        let error = refused("nft", b"/dev/stdin:2:3-8: Error: syntax error", input).to_string();
        assert!(error.ends_with("the rule is: second rule"), "{error}");
        let error = refused("iptables-restore", b"iptables-restore: line 1 failed", input).to_string();
        assert!(error.ends_with("the rule is: first"), "{error}");
        let error =
            refused("nft", b"Error: Could not process rule: Operation not permitted", input).to_string();
        assert!(error.contains("NET_ADMIN"), "{error}");
        let missing = not_run("nft", io::ErrorKind::NotFound.into()).to_string();
        assert!(missing.contains("--backend iptables"), "{missing}");
    }

    #[test]
    fn tproxy_routes_marked_packets_home_in_both_families() {
        let settings = Settings { mode: Interception::Tproxy, ..Settings::default() };
        let steps = steps(&settings, Backend::Nftables, true, &Default::default());
        let text: String = steps.iter().skip(1).map(ToString::to_string).collect();
        assert_eq!(
            text,
            "ip -4 rule del fwmark 1337 lookup 133 || true\nip -4 route flush table 133 || true\n\
             ip -4 rule add fwmark 1337 lookup 133\nip -4 route replace local default dev lo table 133\n\
             ip -6 rule del fwmark 1337 lookup 133 || true\nip -6 route flush table 133 || true\n\
             ip -6 rule add fwmark 1337 lookup 133\nip -6 route replace local default dev lo table 133\n"
        );
    }
}
