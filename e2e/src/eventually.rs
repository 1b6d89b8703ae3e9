//! Waiting with a bound, for what other machines do in their own time.

use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Tries until it succeeds; when patience is over, fails with what was seen last.
///
/// # Errors
/// The last attempt's, with what was waited for.
pub async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    within(PATIENCE, what, attempt).await
}

/// As [`eventually`], with a patience of one's own.
///
/// # Errors
/// The last attempt's, with what was waited for.
pub async fn within<T>(
    patience: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + patience;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= until => {
                return Err(seen.context(format!("{what}: not within {patience:?}; last seen")));
            }
            Err(_) => pause(Duration::from_millis(300)).await,
        }
    }
}

/// A wait in real time.
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
