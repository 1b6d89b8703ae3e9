//! `meshctl up`: a mesh on this machine, in the foreground or, with `--detach`, as a daemon of its own.

mod console;

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mesh_proto::crd;

use crate::args::{Mount, UpArgs};
use crate::local::client;
use crate::local::dir::StateDir;
use crate::local::process::MYSELF;
use crate::local::supervisor::{Settings, Supervisor};
use console::Console;

/// What a daemon writes when it runs; anything else is why it does not.
const RUNS: &str = "runs";

/// Runs a mesh.
///
/// # Errors
/// When it cannot start.
pub async fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let settings = settings(&args)?;
    problems(&settings.paths);
    if args.detach { detach(&args, &settings).await } else { foreground(&args, settings).await }
}

fn settings(args: &UpArgs) -> anyhow::Result<Settings> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).ok().filter(|path| path.exists()).with_context(|| {
            format!("{} does not exist; `meshctl up` without a path runs a bundled example", path.display())
        })
    };
    let paths = args.paths.iter().map(absolute).collect::<anyhow::Result<Vec<_>>>()?;
    // The daemon's directory is this one; files may still be missing.
    let place = |mount: &Mount| Ok(Mount { path: mount.path.clone(), dir: std::path::absolute(&mount.dir)? });
    let mounts = args.mounts.iter().map(place).collect::<std::io::Result<Vec<_>>>()?;
    let (name, cert_ttl, netns) = (args.mesh.name.clone(), args.cert_ttl, args.netns);
    Ok(Settings { name, paths, mounts, cert_ttl, netns })
}

/// What is wrong with the files, before anything starts. It stops nothing: the rest of them runs.
fn problems(paths: &[PathBuf]) {
    for problem in crd::validate_files(paths).problems {
        anstream::eprintln!("{problem}");
    }
}

async fn foreground(args: &UpArgs, settings: Settings) -> anyhow::Result<ExitCode> {
    let supervisor = Supervisor::new(settings)?;
    let events = supervisor.journal().subscribe();
    let console = Console::new(&args.mesh.name, &args.paths);
    let patience = Duration::from_secs(args.timeout);
    let printing = tokio::spawn(console.live(supervisor.clone(), events, patience));
    supervisor.run().await?;
    // Its last line says that the mesh has ended.
    let _ = tokio::time::timeout(Duration::from_secs(1), printing).await;
    Ok(ExitCode::SUCCESS)
}

async fn detach(args: &UpArgs, settings: &Settings) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(MYSELF);
    command.arg0("meshctl").args(["internal", "daemon", "--name", &settings.name]);
    command.arg("--cert-ttl").arg(settings.cert_ttl.to_string()).args(&settings.paths);
    if settings.netns {
        command.arg("--netns");
    }
    for Mount { path, dir } in &settings.mounts {
        let mut mount = path.clone().into_os_string();
        mount.push("=");
        mount.push(dir);
        command.arg("--mount").arg(mount);
    }
    let mut daemon = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the supervisor")?;
    let mut told = String::new();
    if let Some(mut stdout) = daemon.stdout.take() {
        stdout.read_to_string(&mut told)?;
    }
    if told.trim() != RUNS {
        let _ = daemon.wait();
        bail!("{}", if told.trim().is_empty() { "the supervisor died at once" } else { told.trim() });
    }
    let console = Console::new(&args.mesh.name, &args.paths);
    let name = settings.name.clone();
    tokio::select! {
        ready = console.until_ready(Duration::from_secs(args.timeout)) => {
            ready?;
            Ok(ExitCode::SUCCESS)
        }
        signal = mesh_proto::runtime::shutdown::signal() => {
            println!("{}: stopping mesh {name}", signal?);
            client::down(&name).await?;
            // As a shell reports a process that SIGINT ended.
            Ok(ExitCode::from(130))
        }
    }
}

/// The supervisor of a detached mesh: a session of its own, its output in its log.
///
/// # Errors
/// When the control socket cannot be made.
pub fn daemon(args: UpArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async move {
        let _ = nix::unistd::setsid();
        let made = settings(&args).and_then(Supervisor::new);
        let mut stdout = std::io::stdout();
        let supervisor = match made {
            Ok(supervisor) => supervisor,
            Err(error) => {
                writeln!(stdout, "{error:#}")?;
                return Ok(ExitCode::FAILURE);
            }
        };
        writeln!(stdout, "{RUNS}")?;
        stdout.flush()?;
        // The one who started it reads to the end: from here on output goes to the log.
        let log = StateDir::of(&args.mesh.name).log("supervisor");
        let log = std::fs::File::options().append(true).create(true).open(log)?;
        nix::unistd::dup2_stdout(&log)?;
        nix::unistd::dup2_stderr(&log)?;
        supervisor.run().await?;
        Ok(ExitCode::SUCCESS)
    })
}
