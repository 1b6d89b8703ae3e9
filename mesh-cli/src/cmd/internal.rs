//! `meshctl internal`: the processes that the supervisor starts by executing itself.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use anyhow::Context as _;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::args::{ExecArgs, Internal};
use crate::local::netns;
use crate::local::process::MYSELF;

/// Becomes one of them.
///
/// # Errors
/// Whatever ends it.
pub fn run(internal: Internal) -> anyhow::Result<ExitCode> {
    match internal {
        Internal::Proxy(file) => mesh_proxy::app::run(mesh_proxy::config::Config::read(&file.config)?)?,
        Internal::Pilot(file) => mesh_pilot::run(mesh_pilot::Config::read(&file.config)?)?,
        Internal::Ca(file) => mesh_ca::run(mesh_ca::config::Config::read(&file.config)?)?,
        Internal::Daemon(args) => return super::up::daemon(args),
        Internal::Exec(args) => return Err(exec(args)),
        Internal::Check(args) => return super::block_on(super::check::run(args)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes a program of the user, which the kernel kills when the supervisor's thread ends. Returns only on failure.
fn exec(args: ExecArgs) -> anyhow::Error {
    let prepare = || {
        if let Some(netns) = &args.netns {
            netns::enter(netns).with_context(|| format!("cannot enter {}", netns.display()))?;
        }
        if !args.see.is_empty() {
            let files: Vec<_> = args.see.iter().map(|(over, file)| (file.as_path(), over.as_str())).collect();
            netns::see_as(&files).context("cannot mount the pod's files")?;
        }
        // Before the signal is asked for: the kernel forgets it when credentials change.
        if let Some(group) = args.group {
            nix::unistd::setgroups(&[group.into()])?;
            nix::unistd::setgid(group.into())?;
        }
        prctl::set_pdeathsig(Signal::SIGKILL).context("cannot tie the program to its supervisor")?;
        // It may have died before: then the signal will never come.
        anyhow::ensure!(nix::unistd::getppid().as_raw() == args.parent, "the supervisor is gone");
        args.command.split_first().context("no program")
    };
    match prepare() {
        Ok((program, arguments)) => {
            let mut command = std::process::Command::new(program);
            command.args(arguments);
            if program == MYSELF {
                command.arg0("meshctl");
            }
            let error = command.exec();
            // One line: the last one of a log is told as the reason of its end.
            anyhow::anyhow!(
                "cannot run {}: {error} (it is looked for in PATH; relative paths start where `meshctl up` was run)",
                program.to_string_lossy()
            )
        }
        Err(error) => error,
    }
}
