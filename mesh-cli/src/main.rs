//! meshctl: run, look into and explain a mesh.
//!
//! `main → args → cmd`: the command line is parsed into typed commands, each command is one file under `cmd/`. The same
//! executable is every process of a local mesh: `meshctl internal proxy|pilot|ca|exec|daemon`.

mod app;
mod args;
mod cluster;
mod cmd;
mod local;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

/// What a shell sees of a program that SIGPIPE ended.
const PIPE_CLOSED: i32 = 128 + 13;

/// `meshctl status | head` ends when its reader does; everything else that panics is told as ever.
fn end_with_the_reader() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // `println!` panics with a text that it has made.
        let message = panic.payload().downcast_ref::<String>().map(String::as_str).unwrap_or_default();
        if message.starts_with("failed printing to std") && message.contains("Broken pipe") {
            std::process::exit(PIPE_CLOSED);
        }
        told(panic);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
    let cli = args::Cli::parse();
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}
