//! What went wrong at the API server, as a person reads it.

use std::error::Error as _;
use std::time::Duration;

/// How long a call may take, waiting for its turn included.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A failed call in one line. The API server's own words where there are any.
pub(super) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        other => {
            let mut text = other.to_string();
            let mut source = other.source();
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text.push_str(": ");
                    text.push_str(&cause_text);
                }
                source = cause.source();
            }
            text
        }
    }
}

/// Whether the API server said that there is no such object.
pub(super) fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// A call with its bound.
pub(super) async fn timed<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::Call(error)),
        Err(_) => Err(Failure::Silent),
    }
}

/// A call that gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The API server, or the way to it, said no.
    #[error("{}", explain(.0))]
    Call(kube::Error),
    /// It said nothing.
    #[error("the API server did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Silent,
}

impl Failure {
    /// Whether the API server answered with this status.
    pub(super) fn is(&self, code: u16) -> bool {
        matches!(self, Self::Call(error) if is_status(error, code))
    }
}
