//! The command line: what comes in is `argv`, what goes out is one typed [`Command`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::app::{AppArgs, Fault};
use crate::cluster::ClusterFlags;
use crate::cmd::ca::CaArgs;
use crate::cmd::dashboard::DashboardArgs;
use crate::cmd::describe::DescribeArgs;
use crate::cmd::exec::InsideArgs;
use crate::cmd::install::InstallArgs;
use crate::cmd::proxy_config::ProxyConfigArgs;
use crate::cmd::request::RequestArgs;
use crate::cmd::uninstall::UninstallArgs;

/// Run, look into and explain a mesh.
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    version,
    arg_required_else_help = true,
    after_help = "On this machine: `meshctl up` runs a mesh from YAML files; everything else then talks to it.\n\
        On Kubernetes: --kubeconfig, --context and -n are kubectl's. Without --local or --cluster the mesh of `meshctl up` \
        is meant if one runs here, else the cluster of the kubeconfig."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a mesh on this machine from YAML files (without PATH: a bundled example)
    Up(UpArgs),
    /// Stop a mesh of this machine; leaves no process and no file behind
    Down(DownArgs),
    /// Workloads, instances, certificates, resources and proxies of a running mesh
    #[command(visible_aliases = ["proxy-status", "ps"])]
    Status(StatusArgs),
    /// What a proxy has: listeners, routes, clusters, endpoints, secrets; its log level
    #[command(visible_alias = "pc")]
    ProxyConfig(ProxyConfigArgs),
    /// What applies to a pod or service of a cluster, and why
    Describe(DescribeArgs),
    /// The certificate authority: roots that take each other's place, identities that are refused
    Ca(CaArgs),
    /// Open a port to a pilot's or proxy's pages on a cluster
    Dashboard(DashboardArgs),
    /// End an instance as a pod ends (withdrawn, drained, SIGTERM), or kill it
    Stop(StopArgs),
    /// Bring a stopped instance back
    Start(StartArgs),
    /// Run any program inside an instance, through its sidecar (a mesh of `up --netns`)
    Exec(InsideArgs),
    /// Make an instance of the sample application misbehave (without options: show how it does)
    Fault(FaultArgs),
    /// What an instance, its sidecar, the pilot or the CA has written
    Logs(LogsArgs),
    /// Install the mesh on a cluster (Helm renders the charts that meshctl carries)
    Install(InstallArgs),
    /// Remove it from a cluster
    Uninstall(UninstallArgs),
    /// Send requests as an application of a workload would, or to a gateway from outside
    Request(RequestArgs),
    /// Check YAML files, and what a cluster has (-A), with the parser that `up` and the pilot use
    Validate(ValidateArgs),
    /// Put sidecars into the workloads of YAML files, as the webhook does (YAML on standard output)
    Inject(InjectArgs),
    /// The versions of meshctl and of a running mesh
    Version(VersionArgs),
    /// The sample application
    App(AppArgs),
    /// The processes of a local mesh
    #[command(hide = true, subcommand)]
    Internal(Internal),
}

/// Which running mesh.
#[derive(Debug, Clone, Args)]
pub struct MeshName {
    /// The mesh to talk to
    #[arg(long, default_value = "default", value_name = "NAME", value_parser = mesh_name)]
    pub name: String,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `-o`.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// `meshctl up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// YAML files or directories (default: a bundled example)
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub mesh: MeshName,
    /// Return when everything is ready; the mesh goes on in the background
    #[arg(short, long)]
    pub detach: bool,
    /// How long to wait until everything is ready, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
    /// A directory of this machine that gateways see at PATH, for the certificate files of Gateways; may be repeated
    #[arg(long = "mount", value_name = "PATH=DIR", value_parser = mount)]
    pub mounts: Vec<Mount>,
    /// How long the certificates live, in seconds
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub cert_ttl: u64,
    /// A network namespace per instance, in which all traffic is captured: any program is in the mesh unchanged (root)
    #[arg(
        long,
        long_help = "A network namespace per instance, in which all traffic is captured: any program is in the mesh \
            unchanged. Needs root, iproute2, and nftables or iptables. Programs listen on their container ports, on all \
            addresses; services have their names (/etc/hosts of each instance); annotations traffic.sidecar.istio.io/* \
            and sidecar.istio.io/interceptionMode are followed. `meshctl exec INSTANCE -- CMD` runs a program in an \
            instance. The namespaces reach this machine and each other, and no further"
    )]
    pub netns: bool,
}

/// `--mount PATH=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// As Gateways say it: absolute.
    pub path: PathBuf,
    /// Where it is.
    pub dir: PathBuf,
}

/// `meshctl down`.
#[derive(Debug, Clone, Args)]
pub struct DownArgs {
    #[command(flatten)]
    pub mesh: MeshName,
}

/// `meshctl status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// All namespaces of a cluster: what is told where no namespace is named
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    #[command(flatten)]
    pub mesh: MeshName,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// `meshctl stop`.
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// An instance (reviews-v2-0), its sidecar (reviews-v2-0/sidecar), a gateway, mesh-pilot or mesh-ca
    #[arg(required = true, value_name = "INSTANCE")]
    pub instances: Vec<String>,
    /// Kill the application and the sidecar at once (SIGKILL), without draining
    #[arg(long)]
    pub kill: bool,
    #[command(flatten)]
    pub mesh: MeshName,
}

/// `meshctl start`.
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// An instance, INSTANCE/sidecar, a gateway, mesh-pilot or mesh-ca
    #[arg(required = true, value_name = "INSTANCE")]
    pub instances: Vec<String>,
    #[command(flatten)]
    pub mesh: MeshName,
}

/// `meshctl fault`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("what").multiple(true).args(["status", "hang", "slow", "close"]))]
pub struct FaultArgs {
    /// An instance (reviews-v2-0)
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// Answer with this status
    #[arg(long, value_name = "N", conflicts_with_all = ["hang", "close"])]
    pub status: Option<u16>,
    /// The share of requests that it happens to, from 0 to 1 [default: 1]
    #[arg(long, value_name = "R", requires = "what")]
    pub rate: Option<f64>,
    /// Never answer
    #[arg(long, conflicts_with = "close")]
    pub hang: bool,
    /// Wait this long before each answer
    #[arg(long, value_name = "SECONDS")]
    pub slow: Option<f64>,
    /// Close the connection instead of answering
    #[arg(long)]
    pub close: bool,
    /// Behave again
    #[arg(long, conflicts_with_all = ["what", "rate"])]
    pub clear: bool,
    #[command(flatten)]
    pub mesh: MeshName,
}

impl FaultArgs {
    /// What is wanted.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let Self { status, rate, hang, slow, close, .. } = *self;
        Fault { status, rate, hang, slow, close }
    }
}

/// `meshctl logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// An instance (its application), INSTANCE/sidecar, a gateway, mesh-pilot, mesh-ca or supervisor
    #[arg(value_name = "INSTANCE")]
    pub instance: String,
    /// Go on printing what is written
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last LINES lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    #[command(flatten)]
    pub mesh: MeshName,
}

/// `meshctl validate`.
#[derive(Debug, Clone, Args)]
pub struct ValidateArgs {
    /// YAML files or directories (- is standard input)
    #[arg(short, long = "file", num_args = 1.., value_name = "FILE", required_unless_present_any = ["all_namespaces", "namespace", "cluster"])]
    pub files: Vec<PathBuf>,
    /// What all namespaces of the cluster have, together with the files
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// `meshctl inject`.
#[derive(Debug, Clone, Args)]
pub struct InjectArgs {
    /// YAML files (- is standard input)
    #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Values of the control plane's chart
    #[arg(long, value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// MeshConfig (default: meshConfig of the values)
    #[arg(long, value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,
    /// The control plane's namespace
    #[arg(short, long, default_value = "istio-system", value_name = "NAMESPACE")]
    pub istio_namespace: String,
    /// The control plane's revision
    #[arg(long, default_value = "default", value_name = "REVISION")]
    pub revision: String,
}

/// `meshctl version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Only this mesh (default: all that run here)
    #[arg(long, value_name = "NAME", value_parser = mesh_name)]
    pub name: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

/// What the supervisor starts.
#[derive(Debug, Subcommand)]
pub enum Internal {
    /// A sidecar or a gateway
    Proxy(ConfigFile),
    /// The control plane
    Pilot(ConfigFile),
    /// The certificate authority
    Ca(ConfigFile),
    /// The supervisor of a detached mesh
    Daemon(UpArgs),
    /// A program of the user that ends with the supervisor
    Exec(ExecArgs),
    /// Whether servers answer; what `helm test` runs
    Check(CheckArgs),
}

/// `internal check URL ...`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// `http://host:port/path`, `tcp://host:port`; with --identity also `ca://host:port`, `pilot://host:port`
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<url::Url>,
    /// Who this pod is: `spiffe://...`
    #[arg(long, value_name = "ID")]
    pub identity: Option<String>,
    /// The namespace of the control plane
    #[arg(long, default_value = "istio-system", value_name = "NAMESPACE")]
    pub control_plane: String,
    /// How long to try, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `--config FILE`.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The JSON file that the supervisor wrote
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `internal exec --parent PID -- CMD ARGS`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// The process that this one ends with
    #[arg(long, value_name = "PID")]
    pub parent: i32,
    /// The network namespace where it runs
    #[arg(long, value_name = "PATH")]
    pub netns: Option<PathBuf>,
    /// What it sees at PATH instead of the machine's file
    #[arg(long, value_name = "PATH=FILE", value_parser = see)]
    pub see: Vec<(String, PathBuf)>,
    /// Its group
    #[arg(long, value_name = "GID")]
    pub group: Option<u32>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<std::ffi::OsString>,
}

fn see(text: &str) -> Result<(String, PathBuf), String> {
    let (path, file) = text.split_once('=').ok_or("expected PATH=FILE")?;
    Ok((path.to_owned(), PathBuf::from(file)))
}

/// Files may come later; the path is a workload's.
fn mount(text: &str) -> Result<Mount, String> {
    let (path, dir) = text.split_once('=').ok_or("expected PATH=DIR")?;
    if !path.starts_with('/') || dir.is_empty() {
        return Err("PATH begins with /, and DIR is a directory of this machine".to_owned());
    }
    Ok(Mount { path: PathBuf::from(path), dir: PathBuf::from(dir) })
}

/// A mesh's name is a directory's name.
fn mesh_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ok = !text.is_empty() && text.len() <= 40 && text.chars().all(allowed) && !text.starts_with('-');
    if ok {
        Ok(text.to_owned())
    } else {
        Err("a mesh's name has lower-case letters, digits and '-', at most 40".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn a_fault_is_one_thing_or_none() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' '));
        for good in ["--status 503 --rate 0.5", "--slow 1 --hang", "--clear", "--close --name a", "--slow 2"]
        {
            assert!(parse(&format!("meshctl fault a-0 {good}")).is_ok(), "{good}");
        }
        assert!(parse("meshctl fault a-0").is_ok());
        for bad in ["--rate 0.5", "--hang --close", "--status 503 --clear", "--clear --rate 1", "--status x"]
        {
            assert!(parse(&format!("meshctl fault a-0 {bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_have_two_sides() {
        let good = Mount { path: "/etc/certs".into(), dir: "certs".into() };
        assert_eq!(mount("/etc/certs=certs"), Ok(good));
        for bad in ["/etc/certs", "etc=certs", "/etc/certs=", "=certs"] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_names_are_directories_names() {
        Cli::command().debug_assert();
        assert!(mesh_name("a-1").is_ok());
        for bad in ["", "..", "a/b", "A", "-a"] {
            assert!(mesh_name(bad).is_err(), "{bad}");
        }
    }
}
