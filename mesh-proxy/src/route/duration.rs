//! Durations on the wire.

use std::time::Duration;

/// A wire duration that isn't negative; else what is wrong with it.
pub(crate) fn parse(duration: prost_types::Duration) -> Result<Duration, String> {
    Duration::try_from(duration).map_err(|_| format!("{duration} is not a duration of zero or more"))
}
