//! How long each test took: a line in the file that `E2E_TIMES` names, from which `e2e/run` makes its table.

use std::io::Write as _;
use std::time::Duration;

/// Adds a test: its own seconds, those that it waited for others, its name.
pub fn write(name: &str, took: Duration, waited: Duration) {
    let line = format!("{:.0} {:.0} {name}\n", took.as_secs_f64(), waited.as_secs_f64());
    eprint!("{line}");
    let Some(path) = std::env::var_os("E2E_TIMES") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("{}: {error}", path.display());
    }
}
