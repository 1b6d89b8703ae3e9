//! `meshctl logs`: the file that a process writes into, from its beginning or end, and on.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use crate::args::LogsArgs;
use crate::local::client;

/// The pause between looks with `-f`.
const LOOK: Duration = Duration::from_millis(200);

/// Prints; with `-f` until Ctrl-C or the end of the mesh.
///
/// # Errors
/// When there is nothing of that name.
pub async fn run(args: LogsArgs) -> anyhow::Result<ExitCode> {
    let path = client::log(&args.mesh.name, &args.instance).await?;
    let mut at = print(&path, 0, args.tail)
        .with_context(|| format!("{} has not written anything ({})", args.instance, path.display()))?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        sleep(LOOK).await;
        let Ok(length) = std::fs::metadata(&path).map(|m| m.len()) else {
            return Ok(ExitCode::SUCCESS);
        };
        // Shorter: the supervisor has cut it.
        at = print(&path, if length < at { 0 } else { at }, None)?;
    }
}

/// Prints what is there from `from` on, or the last lines; returns where it ended.
fn print(path: &Path, from: u64, tail: Option<usize>) -> std::io::Result<u64> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    let read = file.read_to_end(&mut text)? as u64;
    let shown = match tail {
        Some(lines) => last_lines(&text, lines),
        None => &text,
    };
    let mut out = std::io::stdout().lock();
    out.write_all(shown)?;
    out.flush()?;
    Ok(from + read)
}

fn last_lines(text: &[u8], lines: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let mut starts = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines.checked_sub(1).map(|skip| starts.nth(skip)) {
        None => &[],
        Some(None) => text,
        Some(Some((newline, _))) => &text[newline + 1..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines() {
        let of = |n| String::from_utf8(last_lines(b"a\nb\nc\n", n).to_vec()).unwrap();
        assert_eq!([of(0), of(1), of(2), of(3), of(9)], ["", "c\n", "b\nc\n", "a\nb\nc\n", "a\nb\nc\n"]);
    }
}
