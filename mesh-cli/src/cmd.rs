//! One file per command; this one hands each its arguments and the runtime that it wants.

pub mod ca;
mod check;
pub mod dashboard;
pub mod describe;
mod down;
pub mod exec;
mod fault;
mod inject;
mod input;
pub mod install;
mod internal;
mod logs;
mod operate;
pub mod proxy_config;
pub mod request;
pub mod status;
pub mod uninstall;
mod up;
mod validate;
mod version;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::args::{Cli, Command};

/// Runs one command to its end.
///
/// # Errors
/// What the person at the terminal should read.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(args) => block_on(up::run(args)),
        Command::Down(args) => block_on(down::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::ProxyConfig(args) => block_on(proxy_config::run(args)),
        Command::Describe(args) => block_on(describe::run(args)),
        Command::Ca(args) => block_on(ca::run(args)),
        Command::Dashboard(args) => block_on(dashboard::run(args)),
        Command::Stop(args) => block_on(operate::stop(args)),
        Command::Start(args) => block_on(operate::start(args)),
        Command::Exec(args) => block_on(exec::run(args)),
        Command::Fault(args) => block_on(fault::run(args)),
        Command::Logs(args) => block_on(logs::run(args)),
        Command::Install(args) => block_on(install::run(args)),
        Command::Uninstall(args) => block_on(uninstall::run(args)),
        Command::Request(args) => block_on(request::run(args)),
        Command::Validate(args) => block_on(validate::run(args)),
        Command::Inject(args) => inject::run(&args),
        Command::Version(args) => block_on(version::run(args)),
        Command::App(args) => crate::app::run(args),
        Command::Internal(internal) => internal::run(internal),
    }
}

/// Runs a command's future on a runtime of one thread: the main one, which children can be tied to.
fn block_on<F: Future<Output = anyhow::Result<ExitCode>>>(future: F) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(future)
}
