//! `mesh-proxy capture`: programs the rules of the current network namespace (an init container's: the pod's).
//! `mesh-proxy sidecar capture`: the same, and then the sidecar goes on without root's rights ([`for_oneself`]).
//!
//! In: flags, with the names that Istio's `istio-iptables` has, or the environment variables of the same meaning. Out: rules
//! in force, once or twice the same; with `--dry-run` what would be run; with `--clean-up` nothing left. What an injector
//! writes: `args: [capture, -p, "15001", -z, "15006", -u, "1337", -g, "1337", -m, REDIRECT, -i, "*", -x, "", -b, "*",
//! -d, "15090,15021,15020", -o, "", -q, "", -c, "", -k, ""]`.
//!
//! | flag | annotation `traffic.sidecar.istio.io/` | default |
//! |---|---|---|
//! | `-i`, `--istio-service-cidr` | `includeOutboundIPRanges` | `*` |
//! | `-x`, `--istio-service-exclude-cidr` | `excludeOutboundIPRanges` | |
//! | `-q`, `--istio-outbound-ports` | `includeOutboundPorts` | |
//! | `-o`, `--istio-local-outbound-ports-exclude` | `excludeOutboundPorts` | |
//! | `-b`, `--istio-inbound-ports` | `includeInboundPorts` | `*` |
//! | `-d`, `--istio-local-exclude-ports` | `excludeInboundPorts` | 15090, 15021, 15020 always |
//! | `-c`, `--istio-exclude-interfaces` | `excludeInterfaces` | |
//! | `-k`, `--kube-virt-interfaces` | `kubevirtInterfaces` | |
//! | `-m`, `--istio-inbound-interception-mode` | `sidecar.istio.io/interceptionMode` | `REDIRECT` |

use std::process::ExitCode;

use super::loopback;
use super::program::{self, Backend};
use super::rules::settings::{self, InvalidSetting};
use super::rules::{Interception, Settings};
use crate::privileges::{self, Keep};

/// Programs the rules that bring this network namespace's TCP traffic to the sidecar.
#[derive(Debug, Clone, clap::Args)]
pub struct Flags {
    /// The proxy's outbound port.
    #[arg(
        short = 'p',
        long = "envoy-port",
        env = "ENVOY_PORT",
        value_name = "PORT",
        default_value_t = 15001
    )]
    outbound_port: u16,
    /// The proxy's inbound port.
    #[arg(short = 'z', long = "inbound-capture-port", env = "INBOUND_CAPTURE_PORT", value_name = "PORT")]
    #[arg(default_value_t = 15006)]
    inbound_port: u16,
    /// The proxy's users, numeric: what they send is not captured.
    #[arg(short = 'u', long = "proxy-uid", env = "PROXY_UID", value_name = "UIDS", default_value = "1337")]
    uids: String,
    /// The proxy's groups, numeric.
    #[arg(short = 'g', long = "proxy-gid", env = "PROXY_GID", value_name = "GIDS", default_value = "1337")]
    gids: String,
    /// REDIRECT, or TPROXY (inbound only): applications see their clients' addresses.
    #[arg(short = 'm', long = "istio-inbound-interception-mode", env = "ISTIO_INBOUND_INTERCEPTION_MODE")]
    #[arg(value_name = "MODE", default_value = "REDIRECT")]
    mode: String,
    /// TPROXY's mark.
    #[arg(short = 't', long = "istio-inbound-tproxy-mark", env = "ISTIO_INBOUND_TPROXY_MARK")]
    #[arg(value_name = "MARK", default_value_t = crate::pool::connect::MARK)]
    tproxy_mark: u32,
    /// TPROXY's routing table.
    #[arg(short = 'r', long = "istio-inbound-tproxy-route-table", env = "ISTIO_INBOUND_TPROXY_ROUTE_TABLE")]
    #[arg(value_name = "TABLE", default_value_t = 133)]
    tproxy_table: u32,
    /// Inbound ports to capture, or *.
    #[arg(short = 'b', long = "istio-inbound-ports", env = "ISTIO_INBOUND_PORTS", value_name = "PORTS")]
    #[arg(default_value = "*")]
    include_inbound: String,
    /// Inbound ports to leave out, where * is captured.
    #[arg(short = 'd', long = "istio-local-exclude-ports", env = "ISTIO_LOCAL_EXCLUDE_PORTS")]
    #[arg(value_name = "PORTS", default_value = "")]
    exclude_inbound: String,
    /// Destinations to capture, or *.
    #[arg(short = 'i', long = "istio-service-cidr", env = "ISTIO_SERVICE_CIDR", value_name = "RANGES")]
    #[arg(default_value = "*")]
    include_outbound: String,
    /// Destinations to leave out.
    #[arg(short = 'x', long = "istio-service-exclude-cidr", env = "ISTIO_SERVICE_EXCLUDE_CIDR")]
    #[arg(value_name = "RANGES", default_value = "")]
    exclude_outbound: String,
    /// Outbound ports to capture whatever the destination.
    #[arg(short = 'q', long = "istio-outbound-ports", env = "ISTIO_OUTBOUND_PORTS", value_name = "PORTS")]
    #[arg(default_value = "")]
    include_outbound_ports: String,
    /// Outbound ports to leave out.
    #[arg(
        short = 'o',
        long = "istio-local-outbound-ports-exclude",
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"
    )]
    #[arg(value_name = "PORTS", default_value = "")]
    exclude_outbound_ports: String,
    /// Interfaces of which nothing is captured.
    #[arg(short = 'c', long = "istio-exclude-interfaces", env = "ISTIO_EXCLUDE_INTERFACES")]
    #[arg(value_name = "NAMES", default_value = "")]
    exclude_interfaces: String,
    /// Interfaces behind which virtual machines are.
    #[arg(short = 'k', long = "kube-virt-interfaces", env = "KUBE_VIRT_INTERFACES", value_name = "NAMES")]
    #[arg(default_value = "")]
    kubevirt_interfaces: String,
    /// Who programs the rules; auto: nft where it is installed.
    #[arg(long, env = "MESH_CAPTURE_BACKEND", value_enum, default_value_t = Choice::Auto)]
    backend: Choice,
    /// Prints what would be run, and changes nothing.
    #[arg(short = 'n', long, env = "DRY_RUN")]
    dry_run: bool,
    /// Removes the rules (of the given mode).
    #[arg(long)]
    clean_up: bool,
}

/// A backend as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    Auto,
    Nftables,
    Iptables,
}

impl Flags {
    /// What they ask for.
    ///
    /// # Errors
    /// Names the flag.
    pub fn settings(&self) -> Result<Settings, InvalidSetting> {
        Ok(Settings {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            uids: settings::ids("--proxy-uid", &self.uids)?,
            gids: settings::ids("--proxy-gid", &self.gids)?,
            mode: settings::mode("--istio-inbound-interception-mode", &self.mode)?,
            tproxy_mark: self.tproxy_mark,
            tproxy_table: self.tproxy_table,
            include_inbound: settings::ports("--istio-inbound-ports", &self.include_inbound)?,
            exclude_inbound_ports: settings::port_list("--istio-local-exclude-ports", &self.exclude_inbound)?,
            include_outbound: settings::ranges("--istio-service-cidr", &self.include_outbound)?,
            exclude_outbound: settings::range_list("--istio-service-exclude-cidr", &self.exclude_outbound)?,
            include_outbound_ports: settings::port_list(
                "--istio-outbound-ports",
                &self.include_outbound_ports,
            )?,
            exclude_outbound_ports: settings::port_list(
                "--istio-local-outbound-ports-exclude",
                &self.exclude_outbound_ports,
            )?,
            exclude_interfaces: settings::interfaces("--istio-exclude-interfaces", &self.exclude_interfaces)?,
            kubevirt_interfaces: settings::interfaces("--kube-virt-interfaces", &self.kubevirt_interfaces)?,
        })
    }

    fn backend(&self) -> Result<Backend, program::Failed> {
        match self.backend {
            Choice::Nftables => Ok(Backend::Nftables),
            Choice::Iptables => Ok(Backend::Iptables),
            // Nothing is run: a machine without either may ask.
            Choice::Auto if self.dry_run => Ok(program::detect().unwrap_or(Backend::Nftables)),
            Choice::Auto => program::detect(),
        }
    }
}

/// `sysexits.h`: the command was used incorrectly.
const USAGE: u8 = 64;

/// Does what the flags say.
#[must_use]
pub fn run(flags: &Flags) -> ExitCode {
    let settings = match flags.settings() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("mesh-proxy capture: {error}");
            return ExitCode::from(USAGE);
        }
    };
    let done = flags.backend().and_then(|backend| {
        if flags.dry_run {
            let steps = program::steps(&settings, backend, loopback::has_ipv6(), &Default::default());
            steps.iter().for_each(|step| print!("{step}"));
            return Ok(());
        }
        if flags.clean_up {
            return program::clean_up(&settings, backend);
        }
        apply(&settings, backend)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-proxy capture: {error}");
            ExitCode::FAILURE
        }
    }
}

fn apply(settings: &Settings, backend: Backend) -> Result<(), program::Failed> {
    program::apply(settings, backend)?;
    println!("mesh-proxy capture: rules are in force ({backend:?}): {settings:?}");
    Ok(())
}

/// Why a sidecar may not go on.
#[derive(Debug, thiserror::Error)]
pub enum NotForOneself {
    /// The flags.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// No rules would be in force.
    #[error(
        "--dry-run and --clean-up (DRY_RUN) leave the pod without rules: its traffic would bypass the sidecar"
    )]
    NoRules,
    /// Others' rules.
    #[error("--proxy-uid {uid} and --proxy-gid {gid}: a sidecar that goes on as user and group {user} needs these alone: its own traffic would be captured, or others' would pass it by", user = privileges::USER)]
    Ids {
        /// As told.
        uid: String,
        /// As told.
        gid: String,
    },
    /// The rules are not in force.
    #[error(transparent)]
    Rules(#[from] program::Failed),
    /// It is root still.
    #[error("the rules are in force, but root's rights cannot be given up: {0}")]
    Rights(#[from] privileges::Failed),
}

/// Programs the rules, then gives up root's rights but for what they need to be served. For a process without threads,
/// before it reads or opens anything else: from here on it is the proxy's user.
///
/// # Errors
/// What failed; the process must end then.
pub fn for_oneself(flags: &Flags) -> Result<(), NotForOneself> {
    let settings = flags.settings()?;
    if flags.dry_run || flags.clean_up {
        return Err(NotForOneself::NoRules);
    }
    // Nobody else's traffic passes by: of an application with such a user or group all would.
    if settings.uids != [privileges::USER] || settings.gids != [privileges::USER] {
        return Err(NotForOneself::Ids { uid: flags.uids.clone(), gid: flags.gids.clone() });
    }
    apply(&settings, flags.backend()?)?;
    let transparent = settings.mode == Interception::Tproxy;
    Ok(privileges::drop_for_good(if transparent { Keep::NetAdmin } else { Keep::Nothing })?)
}
